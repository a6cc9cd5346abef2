"""The verbs of the public contract, as coroutines for `ringpull.inference.head.frontends.grpc.methods`.

Predict, and Lookup and TopK alike: admit (under overload a call ends here), receive, parse, decode and check (what does
not fit ends here), score, look up or rank, encode.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import grpc.aio
from google.protobuf.message import Message

from ringpull.inference.head.access import ANY_ROLE, Access, Unasked
from ringpull.inference.head.catalog import Catalog, ServedVersion
from ringpull.inference.head.frontends.grpc.decoding import all_typed, decode_request
from ringpull.inference.head.frontends.grpc.methods import Receive, authorization_of, parse
from ringpull.inference.head.frontends.lookups.messages import decode_lookup, keys_are_typed
from ringpull.inference.head.frontends.metadata import describe_served
from ringpull.inference.head.frontends.top_k.answering import answered
from ringpull.inference.head.frontends.top_k.messages import decode_top_k, is_typed
from ringpull.inference.head.predictor import Predictor
from ringpull.inference.head.request.inference_request import check_version
from ringpull.inference.proto import ringpull_pb2 as pb
from ringpull.inference.wire.codec import encode_response
from ringpull.inference.wire.lookup_codec import encode_rows
from ringpull.inference.wire.top_k_codec import encode_answer
from ringpull.router.control.verbs import Role

MAY_DESCRIBE: Final = (Role.READ, Role.PREDICT)
"""Roles that may ask what a model takes and gives: whoever predicts has to know."""


class PredictorService:
    """`ringpull.v1.Predictor`."""

    def __init__(
        self, predictor: Predictor, catalog: Catalog, access: Access | None = None, *, at_door: bool = False
    ) -> None:
        """Prepare the verbs.

        Args:
            access: Rule of who may ask here, as at a door; None: the predictor's.
            at_door: Whether this is the operators' door.
        """
        self._predictor = predictor
        self._catalog = catalog
        self.access: Final = access or predictor.access
        """Rule of who may ask here."""
        self.receiving: Final = predictor.receiving_at_door if at_door else predictor.receiving
        """Calls that are being received here."""

    def admit(self, context: grpc.aio.ServicerContext) -> None:
        """Let in whoever is known at all, before a message of theirs is received.

        Raises:
            Unauthenticated: The caller has to show a token that is known here.
        """
        self.access.admit(authorization_of(context), *ANY_ROLE)

    async def predict(self, receive: Receive, context: grpc.aio.ServicerContext) -> Message:
        """Score the rows of a request."""
        shown = authorization_of(context)
        with self._predictor.open(context.time_remaining(), authorization=shown, access=self.access) as call:
            body = await call.within_deadline(receive(), context.peer(), among=self.receiving)
            call.received(len(body))
            message, limits = parse(pb.PredictRequest, body), self._predictor.limits
            # Packed columns are read where they lie; others value by value, of which there may be millions.
            beside = 0 if message.HasField("packed") else len(body)
            prediction = await call.predict(await call.aside(beside, lambda: decode_request(message, limits)))
            return encode_response(prediction, typed=all_typed(message))

    async def lookup(self, receive: Receive, context: grpc.aio.ServicerContext) -> Message:
        """Return rows of a table by their keys."""
        shown = authorization_of(context)
        with self._predictor.open(
            context.time_remaining(), authorization=shown, access=self.access, verb="lookup"
        ) as call:
            body = await call.within_deadline(receive(), context.peer(), among=self.receiving)
            call.received(len(body))
            message = parse(pb.LookupRequest, body)
            answer = await call.rows(decode_lookup(message, self._predictor.row_limits))
            return encode_rows(answer, typed=keys_are_typed(message))

    async def top_k(self, receive: Receive, context: grpc.aio.ServicerContext) -> Message:
        """Return the rows of a table with the largest scores."""
        shown = authorization_of(context)
        with self._predictor.open(
            context.time_remaining(), authorization=shown, access=self.access, verb="top_k"
        ) as call:
            body = await call.within_deadline(receive(), context.peer(), among=self.receiving)
            call.received(len(body))
            message = parse(pb.TopKRequest, body)
            asked = await call.aside(len(body), lambda: decode_top_k(message, self._predictor.limits))
            return encode_answer(await answered(call, asked), typed=is_typed(message))

    async def get_model(self, body: bytes, context: grpc.aio.ServicerContext) -> Message:
        """Describe one version of a model."""
        self.access.admit(authorization_of(context), *MAY_DESCRIBE)
        request = parse(pb.GetModelRequest, body)
        check_version(request.version)
        return self._describe(self._catalog.get(request.model, request.version, request.label))

    async def list_models(self, body: bytes, context: grpc.aio.ServicerContext) -> Message:
        """Describe the live version of every model."""
        self.access.admit(authorization_of(context), *MAY_DESCRIBE)
        parse(pb.ListModelsRequest, body)
        return await self.models()

    async def models(self) -> pb.ListModelsResponse:
        """Return the live version of every model."""
        return pb.ListModelsResponse(models=[self._describe(served) for served in self._catalog.live()])

    def _describe(self, served: ServedVersion) -> pb.Model:
        return describe_served(served, self._catalog)


class AdminService:
    """`ringpull.v1.Admin`."""

    def __init__(
        self,
        status: Callable[[], Awaitable[pb.ClusterStatus]],
        access: Access | None = None,
        *,
        head_only: Callable[[], pb.ClusterStatus] = pb.ClusterStatus,
        at_door: bool = False,
    ) -> None:
        """Take what tells the status.

        Args:
            status: Returns the cluster as the head sees it.
            access: Rule of who may ask; None: anyone.
            head_only: Returns what the head knows of itself, at once.
            at_door: Whether this is the operators' door.
        """
        self._status = status
        self._access = access or Unasked()
        self._head_only = head_only
        self._at_door = at_door

    async def get_status(self, body: bytes, context: grpc.aio.ServicerContext) -> Message:
        """Describe the cluster, or the head alone."""
        self._access.admit(authorization_of(context), Role.READ)
        request = parse(pb.GetStatusRequest, body)
        status = self._head_only() if request.head_only else await self._status()
        status.at_door = self._at_door
        return status
