"""Paths of TensorFlow Serving's REST API: which model, which version of it, and what is asked.

    POST /v1/models/NAME[/versions/N|/labels/L]:predict|classify|regress
    GET  /v1/models/NAME[/versions/N|/labels/L][/metadata]

They are matched whatever their case; names and labels keep theirs, and may hold URL escapes. What is no such path, or
comes by another method, is a malformed request to TensorFlow Serving, and so it is here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote_to_bytes

from ringpull.ps.errors import InvalidInput, NotFound
from ringpull.ps.text.version_number import MAX_VERSION

_MODEL: Final = r"/v1/models/([^/:]+)(?:/versions/([0-9]+)|/labels/([^/:]+))?"
_VERBS: Final = re.compile(_MODEL + r":(classify|regress|predict)", re.IGNORECASE)
_LOOKS: Final = re.compile(_MODEL + r"(?:/(metadata))?", re.IGNORECASE)
_MAX_DIGITS: Final = 19
"""Digits of the largest version."""
_SHOWN_CHARS: Final = 200
"""Characters of a path that an error shows."""


@dataclass(frozen=True, slots=True)
class RestPath:
    """What a path names."""

    model: str
    version: int
    """Version asked for; 0: none is named."""
    label: str
    """Label of the version asked for; empty: none."""
    verb: str
    """One of predict, classify, regress, status, metadata."""

    @classmethod
    def read(cls, method: str, path: str) -> RestPath:
        """Return what a request names.

        Args:
            method: Method of the request, in capitals.
            path: Path as it came, its escapes in it, without a query.

        Raises:
            InvalidInput: It is none of these paths, the method is another one, a version is beyond int64, or an
                escape is not UTF-8.
            NotFound: The version is 0.
        """
        found = None
        if method == "POST":
            found = _VERBS.fullmatch(path)
        elif method in ("GET", "HEAD"):
            found = _LOOKS.fullmatch(path)
        if found is None:
            shown = path if len(path) <= _SHOWN_CHARS else f"{path[:_SHOWN_CHARS]}..."
            raise InvalidInput(f"Malformed request: {method} {shown}")
        model, digits, label, verb = found.groups()
        model = _decoded("model name", model)
        version = 0 if digits is None else numbered(model, digits)
        return cls(
            model,
            version,
            _decoded("model version label", label or ""),
            (verb or "status").lower(),
        )


def numbered(model: str, digits: str) -> int:
    """Return the version of a model that a path names: decimal digits.

    Raises:
        InvalidInput: It is beyond int64, or no number.
        NotFound: It is 0.
    """
    number = digits.isascii() and digits.isdecimal() and len(digits) <= _MAX_DIGITS
    version = int(digits) if number else MAX_VERSION + 1
    if version > MAX_VERSION:
        raise InvalidInput(f"Failed to convert version: {digits[:_SHOWN_CHARS]} to numeric.")
    if version == 0:
        # Elsewhere here it stands for the live one, and no version has it.
        raise NotFound(f"Servable not found for request: Specific({model}, 0)")
    return version


def _decoded(what: str, text: str) -> str:
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeDecodeError as exc:
        raise InvalidInput(f"Failed to decode {what}: {text[:_SHOWN_CHARS]}") from exc
