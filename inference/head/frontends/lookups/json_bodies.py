"""Bodies of look-ups over HTTP: what is asked for in JSON, and the rows as JSON.

    {"keys": [7, 9], "pooling": "mean", "offsets": [0, 2], "weights": [...], "as": "text", "request_id": "..."}
    {"model": "feed", "version": 3, "rows": [[0.5, 1.0]], "found": [true], "missing": 0}

Only `keys` must be there. A row of bytes is `{"b64": "..."}`, or by `as` its text, or the value that is its JSON: null
where the table does not have the key.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from ringpull.inference.head.frontends.lookups.messages import KEY_TYPES, hashed
from ringpull.inference.head.request.rows_by_key import RowLimits, RowsAnswer, RowsRequest
from ringpull.inference.wire.lookup_codec import encode_keys, read_offsets, read_pooling, read_weights
from ringpull.ps.bytes_rows import BytesRows
from ringpull.ps.errors import InvalidInput

FIELDS: Final = ("keys", "pooling", "offsets", "weights", "as", "request_id")
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

    def reply(self, answer: RowsAnswer) -> bytes:
        """Return the body of the answer. NaN and Infinity are bare, as over TensorFlow Serving's API.

        Raises:
            InvalidInput: Rows are not what `as` says.
        """
        rows = answer.rows
        if isinstance(rows, BytesRows):
            shown = self._shown(rows, answer)
        elif self.form is not None:
            raise InvalidInput(f"as: table {self.request.table} has vectors, which have no other form than numbers")
        else:
            shown = rows.tolist()
        reply: dict[str, Any] = {"model": answer.model, "version": answer.version, "rows": shown}
        if answer.found is not None:
            reply["found"] = answer.found.tolist()
        reply["missing"] = answer.missing
        if answer.lost:
            reply["lost"] = answer.lost
        try:
            return json.dumps(reply, separators=(",", ":"), ensure_ascii=False).encode()
        except UnicodeEncodeError:  # a row's own JSON has half a character, escaped
            return json.dumps(reply, separators=(",", ":")).encode()

    def _shown(self, rows: BytesRows, answer: RowsAnswer) -> list[Any]:
        form = self.form or "b64"
        written = FORMS[form]
        shown: list[Any] = []
        for place, row in enumerate(rows):
            if form != "b64" and answer.found is not None and not answer.found[place]:
                shown.append(None)
                continue
            try:
                shown.append(written(row))
            except (ValueError, RecursionError) as exc:
                raise InvalidInput(f"as: the row of keys[{place}] is no {form}: {exc!s:.200}") from exc
        return shown


def _b64(row: bytes) -> dict[str, str]:
    return {"b64": b64encode(row).decode("ascii")}


FORMS: Final[dict[str, Callable[[bytes], Any]]] = {"b64": _b64, "text": bytes.decode, "json": json.loads}
"""Forms of rows of bytes, by name."""
