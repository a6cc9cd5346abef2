"""`inference.GRPCInferenceService`, as coroutines for `ringpull.inference.head.frontends.grpc.methods`."""

from __future__ import annotations

from typing import Any, Final, NoReturn

import grpc
import grpc.aio

from ringpull.inference.head.access import ANY_ROLE, Access
from ringpull.inference.head.frontends.grpc.methods import Receive, authorization_of, parse
from ringpull.inference.head.frontends.oip.infer_calls import EASE, version_of
from ringpull.inference.head.frontends.oip.infer_messages import read_message
from ringpull.inference.head.frontends.oip.messages import ModelInferRequest, message
from ringpull.inference.head.frontends.oip.models import Models
from ringpull.inference.head.frontends.oip.repository import Asker, load, reading, unload
from ringpull.inference.head.frontends.parts import Parts
from ringpull.ps.errors import NotFound, Unavailable, Unsupported
from ringpull.router.control.verbs import Role

MAY_DESCRIBE: Final = (Role.READ, Role.PREDICT)
"""Roles that may ask what a model takes and gives, and how it fares."""


class OipService:
    """Methods of the service."""

    def __init__(self, parts: Parts, access: Access, *, at_door: bool) -> None:
        """Prepare the methods.

        Args:
            access: Rule of who may ask here.
            at_door: Whether this is the operators' door.
        """
        self._parts = parts
        self._predictor = parts.predictor
        self._models = Models(parts)
        self._access = access
        self._door = "admin" if at_door else "grpc"
        self._receiving = parts.predictor.receiving_at_door if at_door else parts.predictor.receiving

    def admit(self, context: grpc.aio.ServicerContext) -> None:
        """Let in whoever is known at all, before a message of theirs is received."""
        self._access.admit(authorization_of(context), *ANY_ROLE)

    def admit_operator(self, verb: str, context: grpc.aio.ServicerContext) -> None:
        """Let in whoever is known at all to ask for an operators' verb; whoever is not is told of."""
        self._parts.operators.admit(
            verb,
            authorization=authorization_of(context),
            access=self._access,
            peer=context.peer(),
            door=self._door,
        )

    async def model_infer(self, receive: Receive, context: grpc.aio.ServicerContext) -> Any:
        """Score the rows of a request."""
        shown = authorization_of(context)
        with self._predictor.open(context.time_remaining(), authorization=shown, access=self._access) as call:
            body = await call.within_deadline(receive(), context.peer(), among=self._receiving)
            call.received(len(body))
            asked = await call.aside(
                len(body) // EASE, lambda: read_message(parse(ModelInferRequest, body), call.limits)
            )
            answer = await self._models.infer(asked, call)
            return answer.message(asked.request_id)

    async def model_stream_infer(self, body: bytes, context: grpc.aio.ServicerContext) -> NoReturn:
        """Refuse."""
        raise Unsupported("requests are not taken as a stream; call ModelInfer for each")

    async def server_live(self, body: bytes, context: grpc.aio.ServicerContext) -> Any:
        """Tell that something answers here."""
        return message("ServerLiveResponse")(live=True)

    async def server_ready(self, body: bytes, context: grpc.aio.ServicerContext) -> Any:
        """Tell that requests are welcome: a head that stops takes no calls."""
        return message("ServerReadyResponse")(ready=True)

    async def model_ready(self, body: bytes, context: grpc.aio.ServicerContext) -> Any:
        """Tell whether a version is served."""
        request = parse(message("ModelReadyRequest"), body)
        number = version_of(request.version)
        try:
            self._models.check_served(request.name, number)
        except (NotFound, Unavailable):
            return message("ModelReadyResponse")(ready=False)
        return message("ModelReadyResponse")(ready=True)

    async def server_metadata(self, body: bytes, context: grpc.aio.ServicerContext) -> Any:
        """Describe the head."""
        self._access.admit(authorization_of(context), *MAY_DESCRIBE)
        return message("ServerMetadataResponse")(**self._models.server())

    async def model_metadata(self, body: bytes, context: grpc.aio.ServicerContext) -> Any:
        """Describe what a version takes and gives."""
        self._access.admit(authorization_of(context), *MAY_DESCRIBE)
        request = parse(message("ModelMetadataRequest"), body)
        return message("ModelMetadataResponse")(**self._models.metadata(request.name, version_of(request.version)))

    async def model_config(self, body: bytes, context: grpc.aio.ServicerContext) -> Any:
        """Describe a version as a configuration."""
        self._access.admit(authorization_of(context), *MAY_DESCRIBE)
        request = parse(message("ModelConfigRequest"), body)
        config = self._models.config(request.name, version_of(request.version))
        return message("ModelConfigResponse")(config=config)

    async def model_statistics(self, body: bytes, context: grpc.aio.ServicerContext) -> Any:
        """Tell the counts of a version, of a model's versions, or of all."""
        self._access.admit(authorization_of(context), *MAY_DESCRIBE)
        request = parse(message("ModelStatisticsRequest"), body)
        told = await self._models.statistics(request.name, version_of(request.version))
        return message("ModelStatisticsResponse")(**told)

    async def repository_index(self, body: bytes, context: grpc.aio.ServicerContext) -> Any:
        """List what is served."""
        self._access.admit(authorization_of(context), *MAY_DESCRIBE)
        parse(message("RepositoryIndexRequest"), body)
        return message("RepositoryIndexResponse")(models=self._models.index())

    async def repository_model_load(self, body: bytes, context: grpc.aio.ServicerContext) -> Any:
        """Serve a model, or the newest version of one."""
        asker = self._asker(context)
        with reading(self._parts, "load", "", asker):
            request = parse(message("RepositoryModelLoadRequest"), body)
        await load(self._parts, request.model_name, request.parameters, asker)
        return message("RepositoryModelLoadResponse")()

    async def repository_model_unload(self, body: bytes, context: grpc.aio.ServicerContext) -> Any:
        """Serve a model no more."""
        asker = self._asker(context)
        with reading(self._parts, "unload", "", asker):
            request = parse(message("RepositoryModelUnloadRequest"), body)
        await unload(self._parts, request.model_name, request.parameters, asker)
        return message("RepositoryModelUnloadResponse")()

    async def system_shared_memory_status(self, body: bytes, context: grpc.aio.ServicerContext) -> Any:
        """List no regions."""
        request = parse(message("SharedMemoryStatusRequest"), body)
        if request.name:
            raise NotFound(f"no shared memory {request.name[:40]!r} is registered: none ever is here")
        return message("SharedMemoryStatusResponse")()

    async def system_shared_memory_register(self, body: bytes, context: grpc.aio.ServicerContext) -> NoReturn:
        """Refuse."""
        raise Unsupported("shared memory is not used here; send tensors in the request")

    async def system_shared_memory_unregister(self, body: bytes, context: grpc.aio.ServicerContext) -> Any:
        """Do nothing: as clients ask for it before they begin, it must not fail."""
        return message("SharedMemoryUnregisterResponse")()

    cuda_shared_memory_status = system_shared_memory_status
    cuda_shared_memory_register = system_shared_memory_register
    cuda_shared_memory_unregister = system_shared_memory_unregister

    async def trace_setting(self, body: bytes, context: grpc.aio.ServicerContext) -> NoReturn:
        """Refuse."""
        raise Unsupported("what is traced and logged is set where a head is started")

    log_settings = trace_setting

    def _asker(self, context: grpc.aio.ServicerContext) -> Asker:
        return Asker(
            authorization=authorization_of(context),
            access=self._access,
            peer=context.peer(),
            door=self._door,
            timeout_s=context.time_remaining(),
        )
