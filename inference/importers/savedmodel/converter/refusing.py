"""The errors that a converter answers with: what is wrong, of which kind, for the process that asked."""

from __future__ import annotations

from typing import Final, Literal

Kind = Literal["invalid", "corrupt", "refused"]
"""Who must act: the caller, whoever keeps the files, or whoever made the model."""

MAX_LINES: Final = 3
MAX_CHARS: Final = 600
"""Length of what is repeated of an error."""


class Refused(Exception):
    """Raised when a SavedModel cannot be read or converted. The message names the place and what helps."""

    def __init__(self, kind: Kind, message: str) -> None:
        super().__init__(message)
        self.kind: Kind = kind


def brief(error: BaseException) -> str:
    """Return the first words of an error of TensorFlow or a converter, whose messages may have pages."""
    text = str(error).strip() or type(error).__name__
    kept = "\n".join(text.splitlines()[:MAX_LINES])
    return kept if len(kept) <= MAX_CHARS else kept[:MAX_CHARS] + "..."
