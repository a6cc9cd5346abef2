"""Predictions as people read them, in JSON that everybody reads: a number that is not finite is null."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.head.frontends.http.errors import json_bytes
from ringpull.inference.prediction import Prediction

CHUNK_NUMBERS: Final = 4_096
"""Numbers that are written at a time: some 3 ms, in which Python's lock is held."""
BYTES_OF_NUMBER: Final = 32
"""Bytes of JSON that take as long to read as a number to write."""


def reading_bytes(prediction: Prediction) -> int:
    """Return how many bytes of JSON take as long to read as this answer to write."""
    return BYTES_OF_NUMBER * sum(values.size for values in prediction.outputs.values())


def answer_text(prediction: Prediction) -> bytes:
    """Return the answer as JSON: model, version, outputs by name, and what the prediction says of itself."""
    told: dict[str, Any] = {
        "filled": [asdict(each) for each in prediction.filled],
        "unknown": [
            {"feature": each.feature, "ids": each.ids} | ({} if each.rows is None else {"rows": each.rows.tolist()})
            for each in prediction.unknown
        ],
        "degraded": list(prediction.degraded),
        "request_id": prediction.request_id,
    }
    if prediction.timings is not None:
        told["timings"] = asdict(prediction.timings)
    names = json_bytes({"model": prediction.model, "version": prediction.version})
    outputs = ",".join(f"{json.dumps(name)}:{_rows(values)}" for name, values in prediction.outputs.items())
    return b'%s,"outputs":{%s},%s' % (names[:-1], outputs.encode(), json_bytes(told)[1:])


def _rows(values: NDArray[np.float32]) -> str:
    """Return an output (B, ...) as JSON."""
    return f"[{','.join(_chunks(values))}]"


def _chunks(values: NDArray[np.float32]) -> Iterator[str]:
    step = max(1, CHUNK_NUMBERS * len(values) // max(1, values.size))
    for at in range(0, len(values), step):
        chunk = values[at : at + step]
        finite = np.isfinite(chunk)
        told: NDArray[Any] = chunk
        if not finite.all():
            told = chunk.astype(object)
            told[~finite] = None
        yield json.dumps(told.tolist(), separators=(",", ":"))[1:-1]
