"""The operators' client: the coordinator's verbs over the gRPC of any head.

with OperationsClient("localhost:8500") as operations:
    operations.call(Publish(model="ranker", version=7))
    operations.call(GetChange()).phase
"""

from __future__ import annotations

import os
from types import TracebackType
from typing import Final, Self, TypeVar

import grpc

from ringpull import __version__
from ringpull.inference.client import stubs
from ringpull.inference.client.channels import open_channel
from ringpull.inference.client.credentials import Credentials
from ringpull.inference.client.numbers import timeout
from ringpull.inference.client.targets import parse_target
from ringpull.inference.proto import operations_pb2 as pb
from ringpull.ps.errors import InvalidInput, RingpullError
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
from ringpull.router.control.verbs import Request

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
        target: HOST:PORT of a head's gRPC port.
        timeout_s: Longest wait for each answer.
        tls_ca, tls_cert, tls_key, token, credentials: As of `Client`.

    Raises:
        InvalidInput: An argument cannot be used; the message names it.
    """

    def __init__(
        self,
        target: str,
        *,
        timeout_s: float = TIMEOUT_S,
        tls_ca: str | os.PathLike[str] | None = None,
        tls_cert: str | os.PathLike[str] | None = None,
        tls_key: str | os.PathLike[str] | None = None,
        token: str | None = None,
        credentials: grpc.ChannelCredentials | Credentials | None = None,
    ) -> None:
        self.target = parse_target(target)
        self.timeout_s = timeout("timeout_s", timeout_s)
        self.credentials = Credentials.of(credentials, tls_ca, tls_cert, tls_key, token)
        self._channel = open_channel(grpc, self.target, self.credentials)

    def call(self, request: Request[R], *, within_s: float | None = None) -> R:
        """Have the coordinator carry out a request; return its reply.

        Args:
            within_s: Longest wait; None: what the connection was made with.

        Raises:
            RingpullError: What `OperatorVerbs.call` says.
            InvalidInput: Also where the deployment is of another build of ringpull.
        """
        verb = VERBS.of(request)
        message = pb.OperationRequest(build=__version__, verb=verb.name, request=VALUES.to_json(verb.request, request))
        try:
            answer = _CALL.on(self._channel)(
                message,
                timeout=self.timeout_s if within_s is None else timeout("within_s", within_s),
                metadata=self.credentials.metadata,
            )
        except grpc.RpcError as exc:
            if exc.code() is grpc.StatusCode.UNIMPLEMENTED:
                raise InvalidInput(
                    f"{self.target} is not served by this build of ringpull, {__version__}: {exc.details()};"
                    " operate it with the ringpull that serves it"
                ) from exc
            raise stubs.error_of(self.target, exc, self.credentials) from exc
        except ValueError as exc:  # grpc's answer to a call on a closed channel
            raise RingpullError(f"{self.target}: {exc}") from exc
        try:
            return VALUES.from_json(verb.reply, answer.reply)
        except InvalidInput as exc:
            raise InvalidInput(f"the deployment is of another build: {verb.name}: {exc}") from exc

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<OperationsClient {self.target}>"
