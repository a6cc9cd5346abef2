"""The operators' client: `router.control.operations.Operations` over the gRPC of any head.

with OperationsClient("localhost:8500") as operations:
    operations.submit(Publish(model="ranker", version=7))
    operations.change().phase
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, Final, Self

import grpc

from ringpull.inference.client import stubs
from ringpull.inference.proto import operations_codec as codec
from ringpull.inference.proto import operations_pb2 as pb
from ringpull.ps.errors import RingpullError
from ringpull.router.control.events import Member
from ringpull.router.control.moves import MovePlan
from ringpull.router.control.operations import ChangeStatus, Control, DeploymentStatus, MemberState, Rebalance, Request

TIMEOUT_S: Final = 40.0
"""Above what a head waits for the coordinator: its answer says more than a deadline."""

_METHODS: Final = pb.DESCRIPTOR.services_by_name["Operations"].methods_by_name
_SUBMIT: Final = stubs.Rpc.of(_METHODS["Submit"])
_GET_CHANGE: Final = stubs.Rpc.of(_METHODS["GetChange"])
_CONTROL: Final = stubs.Rpc.of(_METHODS["ControlChange"])
_PLAN: Final = stubs.Rpc.of(_METHODS["PlanRebalance"])
_GET_FACTS: Final = stubs.Rpc.of(_METHODS["GetFacts"])
_GET_MEMBERS: Final = stubs.Rpc.of(_METHODS["GetMembers"])
_RESTART: Final = stubs.Rpc.of(_METHODS["RestartMember"])


class OperationsClient:
    """A connection to one head, for operators. Thread-safe. Every verb raises what `Operations` says.

    Args:
        target: HOST:PORT of a head's gRPC port.
        timeout_s: Of each call.
    """

    def __init__(self, target: str, *, timeout_s: float = TIMEOUT_S) -> None:
        self.target = target
        self.timeout_s = timeout_s
        self._channel = grpc.insecure_channel(target, stubs.CHANNEL_OPTIONS)

    def submit(self, request: Request) -> ChangeStatus:
        """Begin a change; return its status as it begins."""
        return codec.decode_status(self._call(_SUBMIT, codec.encode_request(request)))

    def change(self) -> ChangeStatus:
        """Return the change under way, or how the last one ended."""
        return codec.decode_status(self._call(_GET_CHANGE, pb.GetChangeRequest()))

    def control(self, verb: Control) -> ChangeStatus:
        """Hold the change under way, go on with it, or give it up."""
        return codec.decode_status(self._call(_CONTROL, pb.ControlRequest(verb=verb.value)))

    def plan(self, request: Rebalance) -> MovePlan:
        """Return what a rebalance would move; nothing moves."""
        return codec.decode_plan(self._call(_PLAN, codec.encode_rebalance(request)))

    def status(self) -> DeploymentStatus:
        """Return what plans are made from."""
        return codec.decode_facts(self._call(_GET_FACTS, pb.GetFactsRequest()))

    def members(self) -> tuple[MemberState, ...]:
        """Return how every shard and head of the world that serves is."""
        return codec.decode_members(self._call(_GET_MEMBERS, pb.GetMembersRequest()))

    def restart(self, member: Member, incarnation: str, *, drain_s: float, force: bool = False) -> None:
        """Have one process answer what it has in flight and end, to be started anew: see `OperatorVerbs.restart`."""
        request = pb.RestartRequest(
            role=member.role, number=member.id, incarnation=incarnation, drain_s=drain_s, force=force
        )
        self._call(_RESTART, request)

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def _call(self, method: stubs.Rpc, request: Any) -> Any:
        try:
            return method.on(self._channel)(request, timeout=self.timeout_s)
        except grpc.RpcError as exc:
            raise stubs.error_of(self.target, exc) from exc
        except ValueError as exc:  # grpc's answer to a call on a closed channel
            raise RingpullError(f"{self.target}: {exc}") from exc

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<OperationsClient {self.target}>"
