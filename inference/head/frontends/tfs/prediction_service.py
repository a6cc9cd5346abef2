"""`tensorflow.serving.PredictionService`, over the predictor."""

from __future__ import annotations

from typing import Any

import grpc.aio
import numpy as np
from numpy.typing import NDArray

from ringpull.inference.head.access import Access
from ringpull.inference.head.catalog import ServedVersion
from ringpull.inference.head.frontends.grpc.methods import Receive, authorization_of, parse
from ringpull.inference.head.frontends.grpc.service import MAY_DESCRIBE
from ringpull.inference.head.frontends.parts import Parts
from ringpull.inference.head.frontends.tensors import columns_of
from ringpull.inference.head.frontends.tfs import messages
from ringpull.inference.head.frontends.tfs.examples import columns_of_input, examples_of, size_of_input
from ringpull.inference.head.frontends.tfs.metadata import SIGNATURE_DEF, signature_map
from ringpull.inference.head.frontends.tfs.signatures import (
    DEFAULT,
    class_labels,
    classified_output,
    outputs_of,
    regressed_output,
    values_of,
    version_of,
)
from ringpull.inference.head.frontends.tfs.tensor_codec import read_tensors, write_tensor
from ringpull.inference.head.predictor import InferenceRequest, OpenCall
from ringpull.inference.head.request.received import check_count
from ringpull.inference.model.manifest import ProgramOutput
from ringpull.inference.prediction import Prediction
from ringpull.ps.errors import InvalidInput


class PredictionService:
    """The verbs, as coroutines for `ringpull.inference.head.frontends.grpc.methods`."""

    def __init__(self, parts: Parts, access: Access, *, at_door: bool) -> None:
        """Prepare the verbs.

        Args:
            access: Rule of who may ask here.
            at_door: Whether this is the operators' door.
        """
        self._predictor = parts.predictor
        self._catalog = parts.catalog
        self._access = access
        self._receiving = parts.predictor.receiving_at_door if at_door else parts.predictor.receiving

    async def predict(self, receive: Receive, context: grpc.aio.ServicerContext) -> Any:
        """Answer with outputs of the rows of tensors."""
        with self._open(context) as call:
            request = await self._received(messages.PredictRequest, receive, context, call)
            spec = request.model_spec
            served = self._version(spec)
            outputs = outputs_of(served, spec.signature_name, request.output_filter)
            features, limits = served.loaded.schema.features, self._predictor.limits
            check_count(len(request.inputs), limits.max_columns)
            prediction = await call.predict(
                InferenceRequest(
                    columns=columns_of(read_tensors(request.inputs), features, limits),
                    model=spec.name,
                    version=_number(spec, served),
                    outputs=outputs,
                )
            )
            reply = messages.PredictResponse()
            _name_version(reply.model_spec, spec, prediction)
            for name, values in prediction.outputs.items():
                write_tensor(reply.outputs[name], values)
            return reply

    async def classify(self, receive: Receive, context: grpc.aio.ServicerContext) -> Any:
        """Answer with classes and their scores, for each example."""
        with self._open(context) as call:
            request = await self._received(messages.ClassificationRequest, receive, context, call)
            served = self._version(request.model_spec)
            output = classified_output(served, request.model_spec.signature_name)
            prediction, scores = await self._predicted(call, request, served, output)
            reply = messages.ClassificationResponse()
            _name_version(reply.model_spec, request.model_spec, prediction)
            labels = class_labels(output)
            for row in scores.tolist():
                classes = reply.result.classifications.add().classes
                for label, score in zip(labels, row, strict=True):
                    classes.add(label=label, score=score)
            return reply

    async def regress(self, receive: Receive, context: grpc.aio.ServicerContext) -> Any:
        """Answer with a value for each example."""
        with self._open(context) as call:
            request = await self._received(messages.RegressionRequest, receive, context, call)
            served = self._version(request.model_spec)
            output = regressed_output(served, request.model_spec.signature_name)
            prediction, scores = await self._predicted(call, request, served, output)
            reply = messages.RegressionResponse()
            _name_version(reply.model_spec, request.model_spec, prediction)
            for value in values_of(scores).tolist():
                reply.result.regressions.add(value=value)
            return reply

    async def get_model_metadata(self, body: bytes, context: grpc.aio.ServicerContext) -> Any:
        """Tell the signatures of a version."""
        self._access.admit(authorization_of(context), *MAY_DESCRIBE)
        request = parse(messages.GetModelMetadataRequest, body)
        served = self._version(_spec(request))
        if not request.metadata_field:
            raise InvalidInput("metadata_field: GetModelMetadataRequest must specify at least one metadata_field")
        for field in request.metadata_field:
            if field != SIGNATURE_DEF:
                raise InvalidInput(f"metadata_field: Metadata field {field} is not supported; {SIGNATURE_DEF} is")
        model, version = served.key
        reply = messages.GetModelMetadataResponse(model_spec={"name": model, "version": {"value": version}})
        reply.metadata[SIGNATURE_DEF].Pack(signature_map(served))
        return reply

    def _open(self, context: grpc.aio.ServicerContext) -> OpenCall:
        return self._predictor.open(
            context.time_remaining(), authorization=authorization_of(context), access=self._access
        )

    async def _received(self, kind: Any, receive: Receive, context: grpc.aio.ServicerContext, call: OpenCall) -> Any:
        """Return the message of an open call."""
        body = await call.within_deadline(receive(), context.peer(), among=self._receiving)
        call.received(len(body))
        request = parse(kind, body)
        _spec(request)
        return request

    def _version(self, spec: Any) -> ServedVersion:
        return version_of(self._catalog, spec.name, spec.version.value, spec.version_label)

    async def _predicted(
        self, call: OpenCall, request: Any, served: ServedVersion, output: ProgramOutput
    ) -> tuple[Prediction, NDArray[np.float32]]:
        """Score the examples of a request; return the answer, and its output."""
        features, limits = served.loaded.schema.features, self._predictor.limits
        columns = await call.aside(
            size_of_input(request.input, features), lambda: columns_of_input(request.input, features, limits)
        )
        spec = request.model_spec
        prediction = await call.predict(
            InferenceRequest(columns=columns, model=spec.name, version=_number(spec, served), outputs=(output.name,))
        )
        scores, examples = prediction.outputs[output.name], len(examples_of(request.input))
        return prediction, scores if len(scores) == examples else np.repeat(scores, examples, axis=0)


def _spec(request: Any) -> Any:
    if not request.HasField("model_spec"):
        raise InvalidInput("model_spec: Missing ModelSpec")
    return request.model_spec


def _number(spec: Any, served: ServedVersion) -> int:
    """Return the version that a request is for: that of its label, too, so that no other one answers."""
    return served.key[1] if spec.version_label else int(spec.version.value)


def _name_version(answered: Any, asked: Any, prediction: Prediction) -> None:
    """Tell by which version and signature a request was answered."""
    answered.name = prediction.model
    answered.version.value = prediction.version
    answered.signature_name = asked.signature_name or DEFAULT
