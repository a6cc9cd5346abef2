"""Outputs of an inference, as bytes and as the values that JSON has."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.head.frontends.oip.datatypes import BYTES, LENGTH_BYTES
from ringpull.inference.head.frontends.oip.messages import ModelInferResponse
from ringpull.inference.prediction import Prediction
from ringpull.inference.wire.json_writing import JsonWriter, plain
from ringpull.ps.bytes_rows import BytesRows
from ringpull.ps.errors import InvalidInput

DATATYPES = {"float32": "FP32", "bool": "BOOL"}


class Output(NamedTuple):
    """Tensor of a reply."""

    name: str
    values: NDArray[Any] | BytesRows
    """float32 or bool of any shape, or rows of bytes, (N,)."""

    @property
    def datatype(self) -> str:
        """Datatype as the protocol calls it."""
        return BYTES if isinstance(self.values, BytesRows) else DATATYPES[self.values.dtype.name]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape; the first dimension is the row."""
        return (len(self.values),) if isinstance(self.values, BytesRows) else self.values.shape

    @property
    def nbytes(self) -> int:
        """Bytes of its values; those of rows of bytes with their lengths."""
        values = self.values
        return values.data.nbytes + LENGTH_BYTES * len(values) if isinstance(values, BytesRows) else values.nbytes

    def raw(self) -> bytes:
        """Return its values as bytes."""
        return _behind_lengths(self.values) if isinstance(self.values, BytesRows) else self.values.tobytes()

    def write(self, out: JsonWriter) -> None:
        """Append its values to JSON, as a flat list. NaN is bare, as these servers write it: it stands in rows that a
        degraded answer leaves out.

        Raises:
            InvalidInput: They are bytes that are no text, which JSON cannot hold.
            LimitExceeded, DeadlineExceeded: See `JsonWriter.write`.
        """
        if not isinstance(self.values, BytesRows):
            out.array(self.values.ravel())
            return
        out.write(b"[")
        for place in range(len(self.values)):
            try:
                out.write(b"," * (place > 0) + plain(self.values[place].decode()))
            except UnicodeDecodeError as exc:
                raise InvalidInput(f"output {self.name}: its rows are no text; ask for it with binary_data") from exc
        out.write(b"]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Reply to an inference."""

    model: str
    version: int
    outputs: tuple[Output, ...]

    @classmethod
    def of(cls, prediction: Prediction) -> Answer:
        """Return a prediction as a reply."""
        outputs = tuple(Output(name, values) for name, values in prediction.outputs.items())
        return cls(model=prediction.model, version=prediction.version, outputs=outputs)

    def message(self, request_id: str) -> Any:
        """Return it as a `ModelInferResponse`, its values as bytes.

        Args:
            request_id: Id that the caller gave; empty: none.
        """
        reply = ModelInferResponse(
            model_name=self.model,
            model_version=str(self.version),
            id=request_id,
            raw_output_contents=[each.raw() for each in self.outputs],
        )
        for each in self.outputs:
            reply.outputs.add(name=each.name, datatype=each.datatype, shape=each.shape)
        return reply


def named(outputs: Iterable[Output], names: Iterable[str]) -> Iterator[Output]:
    """Yield outputs by name, in the order of the names.

    Raises:
        InvalidInput: There is none of a name.
    """
    known = {each.name: each for each in outputs}
    for name in names:
        if name not in known:
            raise InvalidInput(f"output {name}: there is none of that name; there are: {', '.join(known)}")
        yield known[name]


def _behind_lengths(rows: BytesRows) -> bytes:
    """Return rows of bytes end to end, each behind its length."""
    lengths = np.diff(rows.offsets)
    begins = rows.offsets[:-1] + LENGTH_BYTES * np.arange(len(rows))
    out = np.empty(rows.data.size + LENGTH_BYTES * len(rows), np.uint8)
    is_row = np.ones(out.size, np.bool_)
    places = (begins[:, None] + np.arange(LENGTH_BYTES)).ravel()
    is_row[places] = False
    out[places] = lengths.astype("<u4").view(np.uint8)
    out[is_row] = rows.data
    return out.tobytes()
