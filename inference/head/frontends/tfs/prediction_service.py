"""`tensorflow.serving.PredictionService`, over the predictor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import grpc.aio
import numpy as np
from numpy.typing import NDArray

from ringpull.inference.head.access import Access
from ringpull.inference.head.aside import LONG_BYTES
from ringpull.inference.head.catalog import ServedVersion
from ringpull.inference.head.frontends.grpc.methods import Receive, authorization_of, parse
from ringpull.inference.head.frontends.grpc.service import MAY_DESCRIBE
from ringpull.inference.head.frontends.parts import Parts
from ringpull.inference.head.frontends.plans import Plans
from ringpull.inference.head.frontends.tensors import check_sizes, columns_of
from ringpull.inference.head.frontends.tfs import messages
from ringpull.inference.head.frontends.tfs.examples import columns_of_input, examples_of, size_of_input
from ringpull.inference.head.frontends.tfs.kept_texts import KeptTexts
from ringpull.inference.head.frontends.tfs.metadata import SIGNATURE_DEF, signature_map
from ringpull.inference.head.frontends.tfs.model_specs import Named, named_by
from ringpull.inference.head.frontends.tfs.signatures import (
    DEFAULT,
    answered_as,
    class_labels,
    classified_output,
    for_each_row,
    outputs_of,
    regressed_output,
    values_of,
    version_of,
)
from ringpull.inference.head.frontends.tfs.tensor_codec import planned_columns, read_tensors, shapes_of, write_tensor
from ringpull.inference.head.predictor import OpenCall
from ringpull.inference.head.request.inference_request import InferenceRequest
from ringpull.inference.head.request.received import Limits, ReceivedColumns, check_count
from ringpull.inference.model.manifest import ProgramOutput
from ringpull.inference.prediction import Prediction
from ringpull.inference.schema.kinds import Feature
from ringpull.ps.errors import InvalidInput

BYTES_OF_TENSOR: Final = 256
"""Bytes of a message that take as long to read as a tensor, however short."""
BYTES_OF_RESULT: Final = 64
"""Bytes that take as long to read as a value or a class to write: some 1 us."""
BYTES_OF_STRING: Final = 64
"""Bytes that take as long to read as a string of a tensor."""
EASE: Final = 4
"""Times that a message is read as fast as JSON of its length, but for its strings."""
MAX_UNCHECKED_BYTES: Final = 64 << 10
"""Longest message whose tensors are read without a look at their shapes first."""


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
        self._metadata = KeptTexts(_metadata_reply)
        self._plans = Plans()
        self._receiving = parts.predictor.receiving_at_door if at_door else parts.predictor.receiving

    async def predict(self, receive: Receive, context: grpc.aio.ServicerContext) -> Any:
        """Answer with outputs of the rows of tensors."""
        with self._open(context) as call:
            request, named, nbytes = await self._received(messages.PredictRequest, receive, context, call)
            signature = request.model_spec.signature_name
            served = version_of(self._catalog, *named)
            outputs = outputs_of(served, signature, request.output_filter)
            features, limits = served.loaded.schema.features, self._predictor.limits
            check_count(len(request.inputs), limits.max_columns)
            columns = planned_columns(request.inputs, served, limits, self._plans) if nbytes <= LONG_BYTES else None
            if columns is None:
                strings = sum(len(each.string_val) for each in request.inputs.values())
                work = max(nbytes // EASE, BYTES_OF_TENSOR * len(request.inputs), BYTES_OF_STRING * strings)
                columns = await call.aside(work, lambda: _columns(request.inputs, features, limits, nbytes))
            prediction = await call.predict(_request(columns, named, served, outputs))
            work = sum(values.nbytes for values in prediction.outputs.values())
            return await call.aside(work, lambda: _outputs_reply(signature, prediction))

    async def classify(self, receive: Receive, context: grpc.aio.ServicerContext) -> Any:
        """Answer with classes and their scores, for each example."""
        with self._open(context) as call:
            request, named, nbytes = await self._received(messages.ClassificationRequest, receive, context, call)
            signature = request.model_spec.signature_name
            served = version_of(self._catalog, *named)
            output = classified_output(served, signature)
            prediction, scores = await self._predicted(call, request.input, nbytes, named, served, output)
            work = BYTES_OF_RESULT * scores.size
            return await call.aside(work, lambda: _classes_reply(signature, prediction, scores, class_labels(output)))

    async def regress(self, receive: Receive, context: grpc.aio.ServicerContext) -> Any:
        """Answer with a value for each example."""
        with self._open(context) as call:
            request, named, nbytes = await self._received(messages.RegressionRequest, receive, context, call)
            signature = request.model_spec.signature_name
            served = version_of(self._catalog, *named)
            output = regressed_output(served, signature)
            prediction, scores = await self._predicted(call, request.input, nbytes, named, served, output)
            return await call.aside(BYTES_OF_RESULT * scores.size, lambda: _values_reply(signature, prediction, scores))

    async def get_model_metadata(self, body: bytes, context: grpc.aio.ServicerContext) -> Any:
        """Tell the signatures of a version."""
        self._access.admit(authorization_of(context), *MAY_DESCRIBE)
        request = parse(messages.GetModelMetadataRequest, body)
        served = version_of(self._catalog, *named_by(request))
        if not request.metadata_field:
            raise InvalidInput("metadata_field: GetModelMetadataRequest must specify at least one metadata_field")
        for field in request.metadata_field:
            if field != SIGNATURE_DEF:
                raise InvalidInput(f"metadata_field: Metadata field {field} is not supported; {SIGNATURE_DEF} is")
        return await self._metadata.of(served)

    def _open(self, context: grpc.aio.ServicerContext) -> OpenCall:
        return self._predictor.open(
            context.time_remaining(), authorization=authorization_of(context), access=self._access
        )

    async def _received(
        self, kind: Any, receive: Receive, context: grpc.aio.ServicerContext, call: OpenCall
    ) -> tuple[Any, Named, int]:
        """Return the message of an open call, the version that it names, and its length in bytes."""
        body = await call.within_deadline(receive(), context.peer(), among=self._receiving)
        nbytes = len(body)
        call.received(nbytes)
        request = await call.aside(nbytes // EASE, lambda: parse(kind, body))
        return request, named_by(request), nbytes

    async def _predicted(
        self, call: OpenCall, given: Any, nbytes: int, named: Named, served: ServedVersion, output: ProgramOutput
    ) -> tuple[Prediction, NDArray[np.float32]]:
        """Score the examples of an `Input`; return the answer, and its output with a row for each example."""
        features, limits = served.loaded.schema.features, self._predictor.limits
        work = size_of_input(given, features, nbytes)
        columns = await call.aside(work, lambda: columns_of_input(given, features, limits))
        prediction = await call.predict(_request(columns, named, served, (output.name,)))
        return prediction, for_each_row(prediction.outputs[output.name], len(examples_of(given)))


def _columns(inputs: Mapping[str, Any], features: Sequence[Feature], limits: Limits, nbytes: int) -> ReceivedColumns:
    """Return the tensors of a message of so many bytes as columns."""
    if nbytes > MAX_UNCHECKED_BYTES:
        check_sizes(shapes_of(inputs), features, limits)
    return columns_of(read_tensors(inputs), features, limits)


def _request(
    columns: ReceivedColumns, named: Named, served: ServedVersion, outputs: tuple[str, ...]
) -> InferenceRequest:
    """Return what the predictor is asked, of the version whose columns these are."""
    return InferenceRequest(
        columns=columns,
        model=named.model,
        # Who asks for no version gets the live one, in whose place a lighter one may answer under load.
        version=served.key[1] if named.version or named.label else 0,
        outputs=outputs,
        served=served,
    )


def _outputs_reply(signature: str, prediction: Prediction) -> bytes:
    reply = messages.PredictResponse()
    _name_version(reply.model_spec, signature, prediction)
    for name, values in prediction.outputs.items():
        write_tensor(reply.outputs[answered_as(signature, name)], values)
    return bytes(reply.SerializeToString())


def _classes_reply(signature: str, prediction: Prediction, scores: NDArray[np.float32], labels: Sequence[str]) -> bytes:
    reply = messages.ClassificationResponse()
    _name_version(reply.model_spec, signature, prediction)
    for row in scores:
        classes = reply.result.classifications.add().classes
        for label, score in zip(labels, row.tolist(), strict=True):
            classes.add(label=label, score=score)
    return bytes(reply.SerializeToString())


def _values_reply(signature: str, prediction: Prediction, scores: NDArray[np.float32]) -> bytes:
    reply = messages.RegressionResponse()
    _name_version(reply.model_spec, signature, prediction)
    for value in values_of(scores).tolist():
        reply.result.regressions.add(value=value)
    return bytes(reply.SerializeToString())


def _metadata_reply(served: ServedVersion) -> bytes:
    model, version = served.key
    reply = messages.GetModelMetadataResponse(model_spec={"name": model, "version": {"value": version}})
    reply.metadata[SIGNATURE_DEF].Pack(signature_map(served))
    return bytes(reply.SerializeToString())


def _name_version(answered: Any, signature: str, prediction: Prediction) -> None:
    """Tell by which version and signature a request was answered."""
    answered.name = prediction.model
    answered.version.value = prediction.version
    answered.signature_name = signature or DEFAULT
