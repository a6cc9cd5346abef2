"""TensorFlow Serving's API over HTTP: predict, classify and regress, the status of a model and its metadata.

An application of its own below `/v1/models/`, so that every method comes here and what is no request of this API is
answered as TensorFlow Serving does it. Columns go to the one predictor; errors are rendered where all of HTTP's are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ringpull.inference.head.catalog import ServedVersion
from ringpull.inference.head.frontends.grpc.service import MAY_DESCRIBE
from ringpull.inference.head.frontends.http.bodies import open_call, receive_unpacked
from ringpull.inference.head.frontends.http.gate import authorization_of
from ringpull.inference.head.frontends.parts import Parts
from ringpull.inference.head.frontends.tensors import columns_of
from ringpull.inference.head.frontends.tfs import rest_answers
from ringpull.inference.head.frontends.tfs.kept_texts import KeptTexts
from ringpull.inference.head.frontends.tfs.metadata import model_status, signature_map
from ringpull.inference.head.frontends.tfs.rest_paths import RestPath
from ringpull.inference.head.frontends.tfs.rest_requests import (
    Tensors,
    example_tensors,
    object_of,
    predict_tensors,
    signature_of,
)
from ringpull.inference.head.frontends.tfs.signatures import (
    answered_as,
    class_labels,
    classified_output,
    for_each_row,
    outputs_of,
    regressed_output,
    values_of,
    version_of,
)
from ringpull.inference.head.request.inference_request import InferenceRequest
from ringpull.inference.head.request.received import Limits
from ringpull.inference.schema.kinds import MadeFeature
from ringpull.inference.wire.json_reading import parse_json
from ringpull.ps.errors import InvalidInput

Outputs = Mapping[str, NDArray[np.float32]]

JSON: Final = "application/json"
BYTES_OF_NUMBER: Final = 32
"""Bytes of JSON that take as long to read as a number to write: some 0.5 us."""


class Question(NamedTuple):
    """A request as it goes to the predictor, and how its answer is written."""

    request: InferenceRequest
    written: Callable[[Outputs], str]
    rows: int | None
    """Rows that were sent, each of which gets an answer; None: they came in columns."""


class RestApi:
    """The API as an ASGI application."""

    def __init__(self, parts: Parts) -> None:
        """Take the parts of the head that it answers for."""
        self._predictor = parts.predictor
        self._catalog = parts.catalog
        self._parts = parts
        self._metadata = KeptTexts(lambda served: rest_answers.metadata(*served.key, signature_map(served)).encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request; what it raises is rendered by the application that this is mounted in."""
        request = Request(scope, receive, send)
        path = RestPath.read(request.method, _raw_path(scope))
        if path.verb in ("status", "metadata"):
            text: str | bytes = await self._described(path, request)
        else:
            text = await self._answered(path, request)
        await Response(text, media_type=JSON)(scope, receive, send)

    async def _described(self, path: RestPath, request: Request) -> str | bytes:
        """Return the status of a model, or its metadata."""
        self._predictor.access.admit(authorization_of(request.scope), *MAY_DESCRIBE)
        if path.verb == "status":
            return rest_answers.status(model_status(self._catalog, path.model, path.version, path.label))
        served = version_of(self._catalog, path.model, path.version, path.label)
        return await self._metadata.of(served)

    async def _answered(self, path: RestPath, request: Request) -> str:
        """Return the answer to a prediction."""
        with open_call(self._parts, request) as call:
            body = await receive_unpacked(request, call)
            served = version_of(self._catalog, path.model, path.version, path.label)
            question = await call.aside(len(body), lambda: read_question(path, served, body, call.limits))
            outputs = (await call.predict(question.request)).outputs
            if question.rows is not None:
                outputs = {name: for_each_row(values, question.rows) for name, values in outputs.items()}
            count = sum(values.size for values in outputs.values())
            return await call.aside(BYTES_OF_NUMBER * count, lambda: question.written(outputs))


def read_question(path: RestPath, served: ServedVersion, body: bytes, limits: Limits) -> Question:
    """Return what a prediction's body asks for.

    Raises:
        InvalidInput: It is no JSON, not shaped as it has to be, or asks for an output that
            does not fit the verb. Or the version has tables only.
        UnmetCondition: The model has no such signature.
        LimitExceeded: It is larger than `limits`.
    """
    document = object_of(_json_of(body))
    signature = signature_of(document)
    features = {each.name: each for each in served.loaded.schema.features if not isinstance(each, MadeFeature)}
    tensors: Tensors
    written: Callable[[Outputs], str]
    if path.verb == "predict":
        # In the order of the export: answers are the same to the character, whichever head makes them.
        outputs = outputs_of(served, signature) or tuple(each.name for each in served.loaded.manifest.outputs)
        tensors, rows = predict_tensors(document, features, limits)
        answer = rest_answers.columns if rows is None else rest_answers.predictions
        written = lambda given: answer({answered_as(signature, name): each for name, each in given.items()})  # noqa: E731
    elif path.verb == "classify":
        scores = classified_output(served, signature)
        outputs, labels = (scores.name,), class_labels(scores)
        tensors, rows = example_tensors(document, features, limits)
        written = lambda given: rest_answers.classes(given[scores.name], labels)  # noqa: E731
    else:
        value = regressed_output(served, signature)
        outputs = (value.name,)
        tensors, rows = example_tensors(document, features, limits)
        written = lambda given: rest_answers.regressions(values_of(given[value.name]))  # noqa: E731
    request = InferenceRequest(
        columns=columns_of(tensors, features.values(), limits),
        model=path.model,
        # Who asks for no version gets the live one, in whose place a lighter one may answer under load.
        version=served.key[1] if path.version or path.label else 0,
        outputs=outputs,
        served=served,
    )
    return Question(request, written, rows)


def _json_of(body: bytes) -> object:
    if not body:
        raise InvalidInput("JSON Parse error: The document is empty")
    try:
        return parse_json(body)
    except InvalidInput as exc:
        raise InvalidInput(f"JSON Parse error: {exc}") from exc


def _raw_path(scope: Scope) -> str:
    """Return the path as it came: a name may hold an escaped slash or colon."""
    raw = scope.get("raw_path")
    return quote(scope["path"]) if raw is None else raw.decode("latin-1")
