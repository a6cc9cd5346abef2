"""The verbs of `ringpull.v1.Writer`: admit, receive, parse, decode and check, have the rows written, encode."""

from __future__ import annotations

from typing import Final
from urllib.parse import unquote

import grpc.aio
from google.protobuf.message import Message

from ringpull.inference.head.access import ANY_ROLE, Access, Unasked
from ringpull.inference.head.frontends.grpc.methods import Receive, Service, authorization_of, parse
from ringpull.inference.head.frontends.parts import Parts
from ringpull.inference.head.frontends.writer.messages import decode_push, encode_pushed, is_raw
from ringpull.inference.head.predictor import Predictor
from ringpull.inference.proto import writer_pb2 as pb
from ringpull.ps.errors import UnmetCondition

RAW_SHARE: Final = 16
"""Bytes of a message of raw arrays that take as long as one of other work on the event loop: a push of 1,024 rows of 64
numbers is read and checked in 60 us, and two ways to a thread and back would take longer."""

SERVICE: Final = pb.DESCRIPTOR.services_by_name["Writer"]


class WriterService:
    """`ringpull.v1.Writer`."""

    def __init__(self, predictor: Predictor, access: Access, *, at_door: bool = False) -> None:
        """Prepare the verbs.

        Args:
            access: Rule of who may ask here, as at a door.
            at_door: Whether this is the operators' door.
        """
        self._predictor = predictor
        self._access = access
        self._receiving = predictor.receiving_at_door if at_door else predictor.receiving

    def admit(self, context: grpc.aio.ServicerContext) -> None:
        """Let in whoever is known at all, before a message of theirs is received.

        Raises:
            Unauthenticated: The caller has to show a token that is known here.
        """
        self._access.admit(authorization_of(context), *ANY_ROLE)

    async def push(self, receive: Receive, context: grpc.aio.ServicerContext) -> Message:
        """Write rows of a table by their keys."""
        shown = authorization_of(context)
        with self._predictor.open(
            context.time_remaining(), authorization=shown, access=self._access, verb="push"
        ) as call:
            body = await call.within_deadline(receive(), context.peer(), among=self._receiving)
            call.received(len(body))
            message = parse(pb.PushRequest, body)
            nbytes = len(body) // RAW_SHARE if is_raw(message) else len(body)
            request = await call.aside(nbytes, lambda: decode_push(message))
            return encode_pushed(await call.push(request, nbytes))

    async def route(self, body: bytes, context: grpc.aio.ServicerContext) -> Message:
        """Tell how rows are pushed to shards themselves, or why they are not."""
        asked = parse(pb.RouteRequest, body)
        if not isinstance(self._access, Unasked):
            return pb.RouteResponse(reason="callers are asked who they are here, and not by shards")
        try:
            route = self._predictor.push_routes.route(asked.model, host_of_peer(context.peer()))
        except UnmetCondition as exc:
            return pb.RouteResponse(reason=str(exc))
        if route.edition == (asked.term, asked.epoch, asked.version):
            return pb.RouteResponse(same=True)
        return pb.RouteResponse(
            lineage=route.lineage, version=route.version, tables=route.tables, shard_map=route.packed_map
        )


def host_of_peer(peer: str) -> str:
    """Return the IP address in gRPC's words for a peer; empty: it has none, or is on this machine."""
    kind, _, address = unquote(peer).partition(":")
    if kind not in ("ipv4", "ipv6"):
        return ""
    return address.rpartition(":")[0].strip("[]").partition("%")[0]


def services(parts: Parts, access: Access, *, at_door: bool) -> list[Service]:
    """Return what is answered over gRPC.

    Args:
        access: Rule of who may have what there.
        at_door: Whether they are to be served at the operators' door.
    """
    return [writer_service_of(parts.predictor, access, at_door=at_door)]


def writer_service_of(predictor: Predictor, access: Access, *, at_door: bool = False) -> Service:
    """Return the service, over a predictor."""
    methods = WriterService(predictor, access, at_door=at_door)
    return Service(SERVICE, methods, methods.admit, receiving=("Push",))
