"""Errors of a dense program, as they are told: its last words, and that a newer torch wrote it where it did.

A program of a newer torch is read like any other: most are of a form that older ones know. Where one fails, whatever
torch or our own checks say of it, the reason that helps is that it was written by a newer one.
"""

from __future__ import annotations

import re
from importlib.metadata import version
from typing import Final

MAX_WORDS: Final = 300
"""Characters of a program's own message that are told."""

_OF_ONNXRUNTIME: Final = re.compile(
    r"\[ONNXRuntimeError\] : \d+ : \w+ : |/onnxruntime_src/\S+:\d+ [^()]*\((?:[^()]|\([^()]*\))*\)(?: const)? "
)
"""What onnxruntime puts before and within a message: the number of the error, and where in its source it was raised."""

_SAID: Final = re.compile(rb'"torch_version": ?"([0-9A-Za-z.+_-]{1,64})"')
_NUMBERS: Final = re.compile(r"(\d{1,6})\.(\d{1,6})(?:\.(\d{1,6}))?")


def exported_with(content: bytes) -> str:
    """Return the version of torch that a program's archive says it was written by; empty: it does not say.

    Nothing else is read of the archive, whose graph lies in it as it is: it need not be one that this build knows.
    """
    said = _SAID.search(content)
    return "" if said is None else said[1].decode("ascii")


def newer_torch(writer: str) -> str:
    """Return what to tell of a program that failed, if a newer torch than this one wrote it; else nothing.

    Args:
        writer: What `exported_with` returned.
    """
    here = version("torch")  # as installed: torch itself is not needed for that
    if _numbers(writer) <= _numbers(here):
        return ""
    wrote, has = writer.partition("+")[0], here.partition("+")[0]
    return (
        f"exported with torch {wrote}; this server has {has}, which does not read it: install torch {wrote} or newer"
        f" where it is served, or export it with torch {has}"
    )


def _numbers(said: str) -> tuple[int, int, int]:
    found = _NUMBERS.match(said)
    if found is None:
        return 0, 0, 0
    major, minor, patch = found.groups(default="0")
    return int(major), int(minor), int(patch)


def last_words(error: BaseException) -> str:
    """Return the kind of an error and the last line of its message: of a scripted program's, all else is its trace."""
    kind, lines = type(error).__name__, str(error).split("\n")
    words = next((line.strip() for line in reversed(lines) if line.strip()), "")
    words = _OF_ONNXRUNTIME.sub("", words)
    if not words.startswith(f"{kind}:"):
        words = f"{kind}: {words}" if words else kind
    return words if len(words) <= MAX_WORDS else f"{words[:MAX_WORDS]}..."
