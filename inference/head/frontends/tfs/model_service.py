"""`tensorflow.serving.ModelService`: states of versions, and the list of models that are served."""

from __future__ import annotations

from typing import Any

import grpc.aio

from ringpull.inference.head.access import Access
from ringpull.inference.head.frontends.grpc.methods import authorization_of, parse
from ringpull.inference.head.frontends.grpc.service import MAY_DESCRIBE
from ringpull.inference.head.frontends.parts import Parts
from ringpull.inference.head.frontends.tfs import messages
from ringpull.inference.head.frontends.tfs.metadata import model_status
from ringpull.inference.head.frontends.tfs.model_specs import named_by
from ringpull.inference.head.frontends.tfs.reload_config import models_of


class ModelService:
    """The verbs, as coroutines for `ringpull.inference.head.frontends.grpc.methods`."""

    def __init__(self, parts: Parts, access: Access, *, door: str) -> None:
        """Prepare the verbs.

        Args:
            access: Rule of who may ask what here.
            door: Name of this way in, for the audit log.
        """
        self._parts = parts
        self._access = access
        self._door = door

    def admit_operator(self, context: grpc.aio.ServicerContext) -> None:
        """Let in whoever is known at all to ask for a reload; whoever is not is told of."""
        self._parts.operators.admit(
            "serve",
            authorization=authorization_of(context),
            access=self._access,
            peer=context.peer(),
            door=self._door,
        )

    async def get_model_status(self, body: bytes, context: grpc.aio.ServicerContext) -> Any:
        """Tell the states of the versions of a model, or of one."""
        self._access.admit(authorization_of(context), *MAY_DESCRIBE)
        request = parse(messages.GetModelStatusRequest, body)
        return model_status(self._parts.catalog, *named_by(request))

    async def handle_reload_config_request(self, body: bytes, context: grpc.aio.ServicerContext) -> Any:
        """Serve the models of a list, and no others."""
        shown = authorization_of(context)
        with self._parts.operators.reading(
            "serve",
            f"{len(body)} bytes",
            authorization=shown,
            access=self._access,
            peer=context.peer(),
            door=self._door,
        ):
            request = models_of(parse(messages.ReloadConfigRequest, body).config)
        await self._parts.operators.change(
            request,
            authorization=shown,
            access=self._access,
            peer=context.peer(),
            door=self._door,
            timeout_s=context.time_remaining(),
        )
        return messages.ReloadConfigResponse(status=messages.StatusProto(error_code="OK"))
