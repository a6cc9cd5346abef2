"""Operators' requests and what they are told, as messages of `operations.proto` and back.

The dataclasses are those of `router.control.operations`; what does not fit them is `InvalidInput` naming the field.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from ringpull.inference.proto import operations_pb2 as pb
from ringpull.ps.errors import CorruptData, InvalidInput
from ringpull.ps.ring import SlotRange
from ringpull.ps.spec import ALL, Replicas
from ringpull.router.control.change import Kind, Phase
from ringpull.router.control.coordinator_state import spec_from_dict, spec_to_dict
from ringpull.router.control.events import Member
from ringpull.router.control.moves import MovePlan, TableMove
from ringpull.router.control.observed import TableTraffic
from ringpull.router.control.operations import (
    ChangeStatus,
    Control,
    DeploymentStatus,
    Latency,
    MemberState,
    Publish,
    Rebalance,
    Request,
    Rollback,
)


def encode_request(request: Request) -> pb.ChangeRequest:
    """Return a request as its message."""
    match request:
        case Publish():
            publish = pb.Publish(model=request.model, version=request.version, folder=request.folder, keep=request.keep)
            return pb.ChangeRequest(publish=publish)
        case Rollback():
            return pb.ChangeRequest(rollback=pb.Rollback(model=request.model, version=request.version))
        case Rebalance():
            return pb.ChangeRequest(rebalance=encode_rebalance(request))


def decode_request(message: pb.ChangeRequest) -> Request:
    """Read a request.

    Raises:
        InvalidInput: A field is wrong.
    """
    match message.WhichOneof("request"):
        case "publish":
            publish = message.publish
            keep = publish.keep if publish.HasField("keep") else None
            return Publish(
                model=_model(publish.model), version=_version(publish.version), folder=publish.folder, keep=keep
            )
        case "rollback":
            return Rollback(model=_model(message.rollback.model), version=_version(message.rollback.version))
        case "rebalance":
            return decode_rebalance(message.rebalance)
    raise InvalidInput("request: there is none; give publish, rollback or rebalance")


def encode_rebalance(request: Rebalance) -> pb.Rebalance:
    """Return a rebalance as its message."""
    return pb.Rebalance(
        shards=request.shards,
        replicas={table: str(copies) for table, copies in request.replicas.items()},
        drain_node=request.drain_node,
        bytes_per_s=request.bytes_per_s,
    )


def decode_rebalance(message: pb.Rebalance) -> Rebalance:
    """Read a rebalance.

    Raises:
        InvalidInput: A number of copies is none.
    """
    return Rebalance(
        shards=message.shards if message.HasField("shards") else None,
        replicas={table: _copies(table, text) for table, text in message.replicas.items()},
        drain_node=message.drain_node,
        bytes_per_s=message.bytes_per_s if message.HasField("bytes_per_s") else None,
    )


def decode_control(message: pb.ControlRequest) -> Control:
    """Read what is to be done with a change.

    Raises:
        InvalidInput: It is none of the verbs.
    """
    try:
        return Control(message.verb)
    except ValueError as exc:
        verbs = ", ".join(each.value for each in Control)
        raise InvalidInput(f"verb is {message.verb!r}; it must be one of {verbs}") from exc


def encode_status(status: ChangeStatus) -> pb.ChangeStatus:
    """Return a status as its message."""
    return pb.ChangeStatus(
        id=status.id,
        kind=status.kind.value,
        subject=status.subject,
        phase="" if status.phase is None else status.phase.value,
        paused=status.paused,
        members_done=status.members_done,
        members=status.members,
        copied_bytes=status.copied_bytes,
        bytes_to_copy=status.bytes_to_copy,
        before=pb.Latency(p50_ms=status.before.p50_ms, p99_ms=status.before.p99_ms),
        now=pb.Latency(p50_ms=status.now.p50_ms, p99_ms=status.now.p99_ms),
        trouble=status.trouble,
        error=status.error,
    )


def decode_status(message: pb.ChangeStatus) -> ChangeStatus:
    """Read a status.

    Raises:
        InvalidInput: Kind or phase is unknown to this build.
    """
    try:
        kind, phase = Kind(message.kind), Phase(message.phase) if message.phase else None
    except ValueError as exc:
        raise InvalidInput(f"the deployment is of another build: {exc}") from exc
    return ChangeStatus(
        id=message.id,
        kind=kind,
        subject=message.subject,
        phase=phase,
        paused=message.paused,
        members_done=message.members_done,
        members=message.members,
        copied_bytes=message.copied_bytes,
        bytes_to_copy=message.bytes_to_copy,
        before=Latency(message.before.p50_ms, message.before.p99_ms),
        now=Latency(message.now.p50_ms, message.now.p99_ms),
        trouble=message.trouble,
        error=message.error,
    )


def encode_plan(plan: MovePlan) -> pb.MovePlan:
    """Return a plan as its message."""
    return pb.MovePlan(
        moves=[
            pb.TableMove(
                shard=move.shard,
                model=move.model,
                version=move.version,
                table=move.table,
                ranges=[pb.SlotRange(begin=slots.begin, end=slots.end) for slots in move.ranges],
                rows=move.rows,
                bytes=move.bytes,
            )
            for move in plan.moves
        ],
        streamed=plan.streamed,
        least_bytes=plan.min_bytes,
        shard_bytes_before=plan.shard_bytes_before,
        shard_bytes_after=plan.shard_bytes_after,
    )


def decode_plan(message: pb.MovePlan) -> MovePlan:
    """Read a plan.

    Raises:
        InvalidInput: A range is none.
    """
    return MovePlan(
        moves=tuple(
            TableMove(
                move.shard,
                move.model,
                move.version,
                move.table,
                tuple(SlotRange(slots.begin, slots.end) for slots in move.ranges),
                move.rows,
                move.bytes,
            )
            for move in message.moves
        ),
        streamed=message.streamed,
        min_bytes=message.least_bytes,
        shard_bytes_before=dict(message.shard_bytes_before),
        shard_bytes_after=dict(message.shard_bytes_after),
    )


def encode_facts(status: DeploymentStatus) -> pb.Facts:
    """Return facts as their message."""
    return pb.Facts(
        world=json.dumps(spec_to_dict(status.spec)),
        resident_bytes=status.resident_bytes,
        nodes=status.nodes,
        requests=status.requests,
        traffic={
            table: pb.TableTraffic(keys=each.keys, bags=each.bags, missing=each.missing)
            for table, each in status.traffic.items()
        },
    )


def decode_facts(message: pb.Facts) -> DeploymentStatus:
    """Read facts.

    Raises:
        InvalidInput: The world is none that this build knows.
    """
    try:
        spec = spec_from_dict(json.loads(message.world))
    except (CorruptData, InvalidInput, KeyError, TypeError, ValueError, AttributeError) as exc:
        raise InvalidInput(f"the deployment is of another build: its world cannot be read: {exc}") from exc
    return DeploymentStatus(
        spec=spec,
        resident_bytes=dict(message.resident_bytes),
        nodes=dict(message.nodes),
        requests=message.requests,
        traffic={table: TableTraffic(each.keys, each.bags, each.missing) for table, each in message.traffic.items()},
    )


def encode_members(members: Iterable[MemberState]) -> pb.Members:
    """Return how members are as a message."""
    return pb.Members(
        members=[
            pb.MemberState(
                role=each.member.role, number=each.member.id, incarnation=each.incarnation, lacks=each.missing
            )
            for each in members
        ]
    )


def decode_members(message: pb.Members) -> tuple[MemberState, ...]:
    """Read how members are.

    Raises:
        InvalidInput: A role is unknown to this build.
    """
    return tuple(
        MemberState(decode_member(each.role, each.number), each.incarnation, each.lacks) for each in message.members
    )


def decode_member(role: str, number: int) -> Member:
    """Read who is meant.

    Raises:
        InvalidInput: The role is none.
    """
    if role == "shard":
        return Member("shard", number)
    if role == "head":
        return Member("head", number)
    raise InvalidInput(f"role is {role!r}; it must be shard or head")


def _model(name: str) -> str:
    if not name:
        raise InvalidInput("model is empty; it must be the name of a served model")
    return name


def _version(number: int) -> int:
    if number < 0:
        raise InvalidInput(f"version is {number}; it must be 1 or more, or 0 to choose")
    return number


def _copies(table: str, text: str) -> Replicas:
    if text == ALL:
        return ALL
    if not text.isascii() or not text.isdecimal() or len(text) > 6:
        raise InvalidInput(f"replicas of {table} is {text!r}; it must be a number or {ALL!r}")
    return int(text)
