"""The operators' client: the coordinator's verbs over the gRPC of any head, or at its operators' door.

with OperationsClient("localhost:8500") as operations:
    operations.call(Publish(model="ranker", version=7))
    operations.call(GetChange()).phase

What only looks is asked where the client was told to. What changes the deployment has to go through the door: the head
says where that is. If it cannot be reached from here, a token may be let in at the port itself.
"""

from __future__ import annotations

import os
import time
from threading import Lock
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import grpc

from ringpull import __version__
from ringpull.inference.client import stubs
from ringpull.inference.client.channels import open_channel
from ringpull.inference.client.credentials import Credentials
from ringpull.inference.client.door import CONNECT_TIMEOUT_S, UNIX, how_to_open, ways, why_unreachable
from ringpull.inference.client.numbers import timeout
from ringpull.inference.client.targets import parse_target
from ringpull.inference.proto import operations_pb2 as pb
from ringpull.inference.proto import ringpull_pb2 as public_pb
from ringpull.ps.errors import Forbidden, InvalidInput, RingpullError, Unauthenticated
from ringpull.router.control.coordinator_state import VALUES
from ringpull.router.control.operations import (
    VERBS,
    Control,
    ControlChange,
    GetChange,
    GetStatus,
    ListMembers,
    PlanRebalance,
    Publish,
    Rebalance,
    RestartMember,
    Rollback,
)
from ringpull.router.control.verbs import Request, Role

__all__ = [
    "Control",
    "ControlChange",
    "GetChange",
    "GetStatus",
    "ListMembers",
    "OperationsClient",
    "PlanRebalance",
    "Publish",
    "Rebalance",
    "RestartMember",
    "Rollback",
]

R = TypeVar("R")

TIMEOUT_S: Final = 40.0
"""Longest wait for a head, above its own for the coordinator: its answer says more than a deadline."""

_CALL: Final = stubs.Rpc.of(pb.DESCRIPTOR.services_by_name["Operations"].methods_by_name["Call"])


class OperationsClient:
    """Connection to one head, for operators. Thread-safe.

    Args:
        target: HOST:PORT of a head's gRPC port, or the address of its door: HOST:PORT or unix:/PATH.
        timeout_s: Longest wait for each answer.
        admin: Address of the door, where it is known; else the head is asked. Also where the head tells nothing to
            whoever shows no token.
        tls_ca, tls_cert, tls_key, token, credentials: As of `Client`.

    Raises:
        InvalidInput: An argument cannot be used; the message names it.
    """

    def __init__(
        self,
        target: str,
        *,
        timeout_s: float = TIMEOUT_S,
        admin: str = "",
        tls_ca: str | os.PathLike[str] | None = None,
        tls_cert: str | os.PathLike[str] | None = None,
        tls_key: str | os.PathLike[str] | None = None,
        token: str | None = None,
        credentials: grpc.ChannelCredentials | Credentials | None = None,
    ) -> None:
        self.target = parse_target(target)
        self.timeout_s = timeout("timeout_s", timeout_s)
        self.credentials = Credentials.of(credentials, tls_ca, tls_cert, tls_key, token)
        self._known = admin
        self._lock = Lock()
        self._channels: dict[str, Any] = {}
        self._channel(self.target)
        self._door = ""
        """Address that takes what changes the deployment; empty: not known yet."""

    def call(self, request: Request[R], *, within_s: float | None = None) -> R:
        """Have the coordinator carry out a request; return its reply.

        Args:
            within_s: Longest wait; None: what the connection was made with.

        Raises:
            RingpullError: What `OperatorVerbs.call` says.
            InvalidInput: Also where the deployment is of another build of ringpull.
            Forbidden: The request changes the deployment, and neither its door can be reached from here nor is a token
                shown that may do that; the message says what would be right.
        """
        verb = VERBS.of(request)
        message = pb.OperationRequest(build=__version__, verb=verb.name, request=VALUES.to_json(verb.request, request))
        answer = self._ask(_CALL, message, self._until_s(within_s), changes=verb.role is Role.OPERATE)
        try:
            return VALUES.from_json(verb.reply, answer.reply)
        except InvalidInput as exc:
            raise InvalidInput(f"the deployment is of another build: {verb.name}: {exc}") from exc

    def models(self) -> list[public_pb.Model]:
        """Return the live version of every model, as `Client.models` does; also at the door.

        Raises:
            RingpullError: As of `Client.models`.
        """
        reply = self._ask(stubs.LIST_MODELS, public_pb.ListModelsRequest(), self._until_s(None), changes=False)
        return list(reply.models)

    def close(self) -> None:
        """Close the connections."""
        for channel in self._channels.values():
            channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<OperationsClient {self.target}{f' door {self._door}' if self._door else ''}>"

    # -- which way -----------------------------------------------------------------------------------------------------

    def _ask(self, rpc: stubs.Rpc, message: Any, until_s: float, *, changes: bool) -> Any:
        """Ask where that is answered.

        Raises:
            RingpullError: As of `call`.
        """
        if not changes:
            try:
                return self._ask_at(self.target, rpc, message, until_s)
            except (Unauthenticated, Forbidden):
                # Whoever shows no token is told nothing at the port; at the door none is needed.
                if not self._known or why_unreachable(self._known, self._connect_s(until_s)):
                    raise
                return self._ask_at(self._known, rpc, message, until_s)
        door = self._door
        if not door or why_unreachable(door, self._connect_s(until_s)):
            # The head that was asked before may be away, and another one answer at the port.
            door = self._door = self._find_door(until_s)
        return self._ask_at(door, rpc, message, until_s)

    def _find_door(self, until_s: float) -> str:
        """Return the address to ask for a change of the deployment.

        Raises:
            Forbidden: There is none that would take it.
            Unavailable: The head cannot be reached.
        """
        if self.target.startswith(UNIX):
            return self.target
        try:
            told = self._told_by(self.target, until_s)
        except (Unauthenticated, Forbidden):
            told = public_pb.ClusterStatus(admin=self._known)
            if not self._known:
                return self.target  # which says what it takes
        if told is None or told.at_door:
            return self.target
        reason = "it has no door for operators"
        for address in ways(told.admin, self.target) if told.admin else ():
            why = why_unreachable(address, self._connect_s(until_s)) or self._is_another(address, told, until_s)
            if not why:
                return address
            reason = f"the operators' door of {self.target}, {told.admin}, cannot be reached from here: {why}"
        if self.credentials.token:
            return self.target
        raise Forbidden(f"{self.target}: {reason}; {how_to_open(told.head)}")

    def _told_by(self, address: str, until_s: float) -> public_pb.ClusterStatus | None:
        """Return what the head at an address tells of itself; None: it has no such verb."""
        message = public_pb.GetStatusRequest(head_only=True)
        try:
            told: public_pb.ClusterStatus = self._ask_at(address, stubs.GET_STATUS, message, until_s)
        except InvalidInput:
            return None
        return told

    def _is_another(self, address: str, told: public_pb.ClusterStatus, until_s: float) -> str:
        """Return why a port is not the door that was told of; empty: it is. 127.0.0.1 is another machine elsewhere."""
        if address.startswith(UNIX) or not told.head:
            return ""  # Its path names the deployment; or it was not told of by the head.
        try:
            there = self._told_by(address, until_s)
        except RingpullError as exc:
            return str(exc)
        if there is not None and there.at_door and _names(there) == _names(told):
            return ""
        return f"{address} is not its door, as seen from here"

    def _ask_at(self, address: str, rpc: stubs.Rpc, message: Any, until_s: float) -> Any:
        try:
            call = rpc.on(self._channel(address))
            return call(message, timeout=self._left_s(until_s), metadata=self.credentials.metadata)
        except grpc.RpcError as exc:
            if exc.code() is grpc.StatusCode.UNIMPLEMENTED:
                raise InvalidInput(
                    f"{address} is not served by this build of ringpull, {__version__}: {exc.details()};"
                    " operate it with the ringpull that serves it"
                ) from exc
            raise stubs.error_of(address, exc, self.credentials) from exc
        except ValueError as exc:  # grpc's answer to a call on a closed channel
            raise RingpullError(f"{address}: {exc}") from exc

    def _channel(self, address: str) -> Any:
        with self._lock:
            if address not in self._channels:
                self._channels[address] = open_channel(grpc, address, self.credentials)
            return self._channels[address]

    def _until_s(self, within_s: float | None) -> float:
        return time.monotonic() + (self.timeout_s if within_s is None else timeout("within_s", within_s))

    @classmethod
    def _connect_s(cls, until_s: float) -> float:
        return min(CONNECT_TIMEOUT_S, cls._left_s(until_s))

    @staticmethod
    def _left_s(until_s: float) -> float:
        return max(0.0, until_s - time.monotonic())


def _names(told: public_pb.ClusterStatus) -> str:
    """Return what tells a deployment from others: several heads of one may stand behind an address."""
    return told.deployment or told.head
