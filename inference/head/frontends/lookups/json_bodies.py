"""Bodies of look-ups over HTTP: what is asked for in JSON, and the rows as JSON.

    {"keys": [7, 9], "pooling": "mean", "offsets": [0, 2], "weights": [...], "as": "text", "request_id": "..."}
    {"model": "feed", "version": 3, "rows": [[0.5, 1.0]], "found": [true], "missing": 0}

Only `keys` must be there. A row of bytes is `{"b64": "..."}`, or by `as` its text, or its JSON as it is: null where the
table does not have the key, and as JSON where the row is empty.
"""

from __future__ import annotations

from base64 import b64encode
from codecs import BOM_UTF8
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.head.frontends.lookups.messages import KEY_TYPES, hashed
from ringpull.inference.head.request.rows_by_key import RowLimits, RowsAnswer, RowsRequest
from ringpull.inference.wire.json_reading import parse_json
from ringpull.inference.wire.json_writing import NUMBER_BYTES, JsonWriter, plain
from ringpull.inference.wire.lookup_codec import encode_keys, read_offsets, read_pooling, read_weights
from ringpull.ps.bytes_rows import BytesRows
from ringpull.ps.errors import InvalidInput

FIELDS: Final = ("keys", "pooling", "offsets", "weights", "as", "request_id")
ROW_BYTES: Final = 16
"""Bytes of JSON for each row besides its values: brackets or quotes, and whether it was found."""
LISTS: Final = ("keys", "offsets", "weights")


@dataclass(frozen=True, slots=True)
class AskedRows:
    """Body of a request."""

    request: RowsRequest
    form: str | None
    """Form in which rows of bytes are wanted, a name of `FORMS`; None: it is not said."""

    @classmethod
    def read(cls, body: Any, limits: RowLimits, *, model: str, table: str, version: int, label: str) -> AskedRows:
        """Read what a body says.

        Raises:
            InvalidInput: It is no such request; the message names the field.
            LimitExceeded: There are too many keys.
        """
        if not isinstance(body, dict) or "keys" not in body:
            raise InvalidInput('the body must be an object with "keys", as in {"keys": [7, 9]}')
        if unknown := sorted(set(body) - set(FIELDS)):
            raise InvalidInput(f"the body has an unknown field {unknown[0]!r:.80}; it takes {', '.join(FIELDS)}")
        for name in LISTS:
            given = body.get(name)
            if not isinstance(given, list) and (given is not None or name == "keys"):
                raise InvalidInput(f"{name}: must be a list, not {type(given).__name__}")
            limits.check_keys(len(given or ()) - (name == "offsets"))
        form, request_id = body.get("as"), body.get("request_id", "")
        if form is not None and not (isinstance(form, str) and form in FORMS):
            raise InvalidInput(f"as: is {form!r:.80}; it must be one of {', '.join(FORMS)}")
        if not isinstance(request_id, str):
            raise InvalidInput(f"request_id: must be a string, not {type(request_id).__name__}")
        column = encode_keys(body["keys"])
        offsets, weights = body.get("offsets"), body.get("weights")
        request = RowsRequest(
            model=model,
            table=table,
            version=version,
            label=label,
            keys=hashed(column),
            key_type=KEY_TYPES[column.dtype] if column.values else None,
            pooling=read_pooling(body.get("pooling")),
            offsets=None if offsets is None else read_offsets(offsets),
            weights=None if weights is None else read_weights(weights),
            request_id=request_id,
        )
        return cls(request, form)

    def reply(self, answer: RowsAnswer, out: JsonWriter) -> bytes:
        """Return the body of the answer. NaN and Infinity are bare, as over TensorFlow Serving's API.

        Raises:
            InvalidInput: Rows are not what `as` says.
            LimitExceeded, DeadlineExceeded: See `JsonWriter.write`.
        """
        rows = answer.rows
        if not isinstance(rows, BytesRows) and self.form is not None:
            raise InvalidInput(f"as: table {self.request.table} has vectors, which have no other form than numbers")
        out.write(plain({"model": answer.model, "version": answer.version})[:-1] + b',"rows":')
        if isinstance(rows, BytesRows):
            self._write(rows, answer, out)
        else:
            out.array(rows)
        if answer.found is not None:
            out.write(b',"found":')
            out.array(answer.found)
        rest = {"missing": answer.missing} | ({"lost": answer.lost} if answer.lost else {})
        out.write(b"," + plain(rest)[1:])
        return out.to_bytes()

    def _write(self, rows: BytesRows, answer: RowsAnswer, out: JsonWriter) -> None:
        form = self.form or "b64"
        written = FORMS[form]
        out.write(b"[")
        for place in range(len(rows)):
            row, found = rows[place], answer.found is None or bool(answer.found[place])
            if place:
                out.write(b",")
            if (form != "b64" and not found) or (form == "json" and not row):
                out.write(b"null")
                continue
            try:
                out.write(written(row))
            except (UnicodeDecodeError, InvalidInput) as exc:
                raise InvalidInput(f"as: the row of keys[{place}] is no {form}: {exc!s:.200}") from exc
        out.write(b"]")


def json_bytes(rows: NDArray[np.float32] | BytesRows) -> int:
    """Return how many bytes rows have in JSON, or nearly so."""
    values = rows.data.nbytes * 4 // 3 if isinstance(rows, BytesRows) else rows.size * NUMBER_BYTES
    return values + ROW_BYTES * len(rows)


def _b64(row: bytes) -> bytes:
    return b'{"b64":"' + b64encode(row) + b'"}'


def _text(row: bytes) -> bytes:
    return plain(row.decode())


def _json(row: bytes) -> bytes:
    parse_json(row)
    return row.removeprefix(BOM_UTF8)


FORMS: Final[dict[str, Callable[[bytes], bytes]]] = {"b64": _b64, "text": _text, "json": _json}
"""Forms of rows of bytes, by name. A row's own JSON is checked, and stays as it is: its numbers, and names twice."""
