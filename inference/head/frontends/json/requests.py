"""Predictions as people ask for them, in JSON: the forms of `ringpull.inference.wire.request_json`."""

from __future__ import annotations

from ringpull.inference.head.request.inference_request import InferenceRequest
from ringpull.inference.head.request.received import Limits, ReceivedColumns
from ringpull.inference.wire.json_reading import parse_json
from ringpull.inference.wire.request_json import call_of
from ringpull.ps.errors import InvalidInput


def read_request(body: bytes, model: str, limits: Limits) -> InferenceRequest:
    """Return what a body asks for.

    Args:
        model: Model that the path names; empty: the body does.

    Raises:
        InvalidInput: It is no such request; the message names the field or the feature.
        LimitExceeded: It is larger than `limits`.
    """
    said = parse_json(body)
    if model and isinstance(said, dict):
        named = said.get("model") or model
        if named != model:
            raise InvalidInput(
                f"model: is {named!r:.80}; the path names {model!r:.80}: leave it out, or ask for the same"
            )
        said["model"] = model
    try:
        call = call_of(said)
        columns = ReceivedColumns.of_columns(call.features, call.context, limits)
    except UnicodeEncodeError as exc:
        raise InvalidInput(f"request: {exc.object!r:.80} is no text: it holds half a character") from exc
    if not call.model:
        raise InvalidInput("model: is missing; it must name a model, in the body or as /v1/predict/MODEL")
    return InferenceRequest(
        columns=columns,
        model=call.model,
        version=call.version or 0,
        label=call.label,
        outputs=call.outputs,
        with_timings=call.with_timings,
        with_unknown=call.with_unknown,
        request_id=call.request_id,
    )
