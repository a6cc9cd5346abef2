"""Places in the user's code: where an error came from, or what the interpreter is at."""

from __future__ import annotations

import linecache
import re
import sys
import sysconfig
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Final

import numpy as np
import torch
from torch import fx

import ringpull.ps.errors

_STANDARD: Final = str(Path(sysconfig.get_path("stdlib")))
_SITE: Final = ("site-packages", "dist-packages")
_OTHERS: Final = (
    str(Path(torch.__file__).parent),
    str(Path(np.__file__).parent),
    str(Path(ringpull.ps.errors.__file__).parents[1]),  # of ringpull itself
)
_FRAME: Final = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in (?P<function>\S+)')


@dataclass(frozen=True, slots=True)
class Place:
    """One line of the user's code."""

    file: str
    line: int
    function: str

    @property
    def source(self) -> str:
        """The line as it is written; empty where there is no file."""
        return linecache.getline(self.file, self.line).strip()

    def __str__(self) -> str:
        source = f": `{self.source}`" if self.source else ""
        return f"{Path(self.file).name}:{self.line}, in {self.function}{source}"


def place_of_error(error: BaseException) -> Place | None:
    """Return the innermost line of the user's code that an error, or one that it came of, passed."""
    for each in errors_of(error):
        frames = traceback.extract_tb(each.__traceback__)
        for frame in reversed(frames):
            if is_users(frame.filename):
                return Place(frame.filename, frame.lineno or 0, frame.name)
    return None


def place_of_node(node: fx.Node) -> Place | None:
    """Return the line of the user's code that a node of a captured graph comes from, where torch noted it."""
    found = None
    for frame in _FRAME.finditer(str(node.meta.get("stack_trace") or "")):
        if is_users(frame["file"]):
            found = Place(frame["file"], int(frame["line"]), frame["function"])
    return found


def written_at(node: fx.Node) -> str:
    """Return where the user wrote what a node does, as in ` (ranker.py:37, in forward)`; "" when torch does not say."""
    place = place_of_node(node)
    return "" if place is None else f" ({Path(place.file).name}:{place.line}, in {place.function})"


def place_now() -> Place | None:
    """Return the innermost line of the user's code that is under way."""
    for frame in _outwards(sys._getframe(1)):
        if is_users(frame.f_code.co_filename):
            return Place(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name)
    return None


def errors_of(error: BaseException) -> Iterable[BaseException]:
    """Return an error and those that it came of, the first cause first."""
    chain: list[BaseException] = []
    each: BaseException | None = error
    while each is not None and each not in chain:
        chain.append(each)
        each = each.__cause__ or each.__context__
    return reversed(chain)


def is_users(file: str) -> bool:
    """Whether a file is the user's, or of a library whose module it is: not torch's, numpy's, Python's or ours."""
    if file.startswith(("<eval_with_key>", "<frozen", "<__array_function__", *_OTHERS)):
        return False
    return not file.startswith(_STANDARD) or any(part in _SITE for part in Path(file).parts)


def _outwards(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back
