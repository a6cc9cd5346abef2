"""Predict calls and predictions as Python values, and as the messages of the public contract.

How a head reads a request's message is in `ringpull.inference.head.frontends.grpc.decoding`: clients need no kernels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import numpy as np

from ringpull.inference.prediction import Filled, FillReason, Prediction, Timings, Unknown
from ringpull.inference.proto import ringpull_pb2 as pb
from ringpull.inference.schema.columns import Column, as_column
from ringpull.inference.wire.column_codec import encode_column
from ringpull.inference.wire.messages import decode_tensor, packed_message, write_tensor
from ringpull.inference.wire.packing import pack
from ringpull.ps.errors import InvalidInput

_REASONS: Final[dict[FillReason, pb.Filled.Reason]] = {
    "absent": pb.Filled.ABSENT,
    "missing": pb.Filled.MISSING,
    "unavailable": pb.Filled.UNAVAILABLE,
    "degraded": pb.Filled.DEGRADED,
    "beyond": pb.Filled.BEYOND,
}
_REASON_NAMES: Final[dict[int, FillReason]] = {int(number): reason for reason, number in _REASONS.items()}


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class PredictCall:
    """A call as a client makes it. Columns are checked against each other and the schema when they are prepared."""

    model: str
    version: int | None = None
    """Version asked for; None: the live one."""
    features: Mapping[str, Column]
    """Columns with one entry per candidate row."""
    context: Mapping[str, Column] = field(default_factory=dict)
    """Columns of one row, which stands for every candidate."""
    outputs: tuple[str, ...] = ()
    """Names of outputs; empty: all."""
    with_timings: bool = False
    with_unknown: bool = False
    request_id: str = ""
    label: str = ""
    """Label of the version asked for, instead of `version`; empty: none."""

    @property
    def rows(self) -> int:
        """Number of candidate rows, those of the first feature (the head checks the others); 0 without any."""
        return len(next(iter(self.features.values()), ()))


def as_call(
    model: str,
    features: Mapping[str, Any],
    context: Mapping[str, Any] | None = None,
    *,
    version: int | None = None,
    outputs: Sequence[str] | None = None,
    with_timings: bool = False,
    with_unknown: bool = False,
    request_id: str = "",
    label: str | None = None,
) -> PredictCall:
    """Return a call whose columns may be given as Python scalars and lists. See `as_column`.

    Raises:
        InvalidInput: A column's values are no column, or `version` or `outputs` is not what it should be.
    """
    if isinstance(outputs, str):
        raise InvalidInput(f"outputs is the string {outputs!r}; it must be a list of names")
    check_texts(model=model, request_id=request_id, label="" if label is None else label)
    return PredictCall(
        model=model,
        version=checked_version(version),
        features={name: as_column(name, values) for name, values in features.items()},
        context={name: as_column(name, values) for name, values in (context or {}).items()},
        outputs=tuple(outputs or ()),
        with_timings=with_timings,
        with_unknown=with_unknown,
        request_id=request_id,
        label=label or "",
    )


def checked_version(version: object) -> int | None:
    """Return a version to ask for, or None: the live one.

    Raises:
        InvalidInput: It is not a number that a version can have.
    """
    if version is None:
        return None
    if isinstance(version, bool) or not isinstance(version, int | np.integer) or not 1 <= version < 2**63:
        raise InvalidInput(f"version is {version!r}; it must be from 1 to 2^63 - 1, or None for the live one")
    return int(version)


def check_texts(**texts: object) -> None:
    """Check texts of a request, by the names of their arguments.

    Raises:
        InvalidInput: One is no text.
    """
    for name, text in texts.items():
        if not isinstance(text, str):
            raise InvalidInput(f"{name} is {text!r:.80}; it must be a text")


def encode_request(call: PredictCall) -> pb.PredictRequest:
    """Return the call as a message, its columns packed.

    Raises:
        InvalidInput: A column cannot be sent; the message names the feature. Or a name is no text.
    """
    try:
        return _encode_request(call)
    except UnicodeEncodeError as exc:
        raise InvalidInput(f"request: {exc.object!r} is no text: it holds half a character") from exc


def _encode_request(call: PredictCall) -> pb.PredictRequest:
    return pb.PredictRequest(
        model=call.model,
        version=call.version or 0,
        outputs=call.outputs,
        with_timings=call.with_timings,
        with_unknown=call.with_unknown,
        request_id=call.request_id,
        label=call.label,
        packed=packed_message(
            pack(
                {name: encode_column(name, column) for name, column in call.features.items()},
                {name: encode_column(name, column) for name, column in call.context.items()},
            )
        ),
    )


def encode_response(prediction: Prediction, *, typed: bool = False) -> pb.PredictResponse:
    """Return a prediction as a message, tensors typed or raw."""
    message = pb.PredictResponse(model=prediction.model, version=prediction.version, request_id=prediction.request_id)
    # Most answers have nothing else to say: fields that are left out cost nothing, and empty ones do.
    if prediction.filled:
        message.filled.extend(
            [pb.Filled(feature=f.feature, reason=_REASONS[f.reason], values=f.values) for f in prediction.filled]
        )
    if prediction.unknown:
        message.unknown.extend(
            [
                pb.Unknown(feature=each.feature, ids=each.ids, rows=() if each.rows is None else each.rows.tolist())
                for each in prediction.unknown
            ]
        )
    if prediction.timings is not None:
        message.timings.CopyFrom(pb.Timings(**asdict(prediction.timings)))
    if prediction.degraded:
        message.degraded.extend(prediction.degraded)
    for name, values in prediction.outputs.items():
        write_tensor(message.outputs[name], values, typed=typed)
    return message


def decode_response(message: pb.PredictResponse) -> Prediction:
    """Return a message's prediction, its arrays freshly allocated.

    Raises:
        ProtocolError: A tensor's numbers do not fit its shape.
    """
    timings = message.timings
    return Prediction(
        outputs={name: decode_tensor(name, message.outputs[name]) for name in sorted(message.outputs)},
        version=message.version,
        filled=tuple(
            # A reason that only a newer server knows still says that the values were not the request's own.
            Filled(each.feature, _REASON_NAMES.get(each.reason, "missing"), each.values)
            for each in message.filled
        ),
        timings=Timings(**{name: getattr(timings, name) for name in Timings.__slots__})
        if message.HasField("timings")
        else None,
        model=message.model,
        request_id=message.request_id,
        degraded=tuple(message.degraded),
        unknown=tuple(
            # An unknown id is in some row: none are told where they were not asked for.
            Unknown(each.feature, each.ids, np.array(each.rows, np.int64) if each.rows else None)
            for each in message.unknown
        ),
    )
