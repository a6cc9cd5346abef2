"""Diagnosis of a module that cannot be traced: which line of it, what kind of thing that is, and what to write instead.

torch's own errors speak of guards, symbols and fake tensors, which its users never wrote.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from ringpull.inference.export.diagnosis.places import Place, errors_of, place_of_error
from ringpull.ps.errors import ExportError, RingpullError

BRANCH: Final = (
    "this decides by the values of a tensor, which a traced program cannot: a batch holds rows of several requests."
    " Compute both and choose by row, as with torch.where or a product with the mask"
)
ASSERT: Final = (
    "this asserts something of the values of a tensor, which a traced program cannot look at. Leave it out where the"
    " module is in evaluation mode (`if self.training:`); requests are held against the schema and the rows there are"
)
NUMBER: Final = (
    "this makes a Python number or list of a tensor's values, which a traced program does not know. Keep it a tensor,"
    " one value per row"
)
NUMPY: Final = (
    "numpy is given a tensor, whose values a traced program does not know yet. Use torch's function of the same kind,"
    " or compute constants in __init__"
)
PACKED: Final = (
    "this takes a packed sequence apart, whose steps have as many rows as the values of a tensor say. Recurrent layers"
    " take one as it is; a loop over its steps must be one over the padded sequence, with a mask of its lengths"
)
_DATA: Final = (
    "GuardOnDataDependentSymNode",
    "DataDependentOutputException",
    "data-dependent",
    "Dynamic control flow",
    "dynamic control flow",
    "local_scalar_dense",
)
_BRANCHES: Final = re.compile(
    r"^(if|elif|while|assert)\b|\bif\b.*\belse\b|(?<![.\w])(any|all|max|min|sorted)\(|\b(and|or|not)\b"
)


def refusal(error: Exception, described: str, run: Callable[[], object]) -> ExportError:
    """Return the error to raise where a module could not be traced.

    Args:
        error: What came of tracing it.
        described: How the module is called.
        run: Runs it as it is, on the same arguments: what fails so, too, is no matter of tracing.
    """
    try:
        run()
    except RingpullError as own:
        return own if isinstance(own, ExportError) else ExportError(f"{described}: {own}")
    except Exception as own:  # the module's, of any root
        return ExportError(
            f"{described} fails on made-up rows of the schema, also untraced{at_place(place_of_error(own))}:"
            f" {first_line(own)}. It must take rows as the schema makes them: ids from 0, numbers 0, full sequences"
        )
    place = place_of_error(error)
    return ExportError(f"{described} cannot be traced{at_place(place)}: {_explained(error, place)}")


@contextmanager
def named_errors(described: str, doing: str) -> Iterator[None]:
    """Name module and step where an error of torch's comes out of it, which torch raises of many roots.

    Raises:
        ExportError: An error came that is not ours.
    """
    try:
        yield
    except (RingpullError, OSError):
        raise
    except Exception as error:
        raise ExportError(
            f"{described}: {doing} fails{at_place(place_of_error(error))}: {first_line(error)}"
        ) from error


def first_line(error: BaseException) -> str:
    """Return an error's type and the first line of its message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _explained(error: Exception, place: Place | None) -> str:
    """Return what kind of thing could not be traced, in plain words, and what to do about it."""
    source = place.source if place is not None else ""
    text = "\n".join(f"{type(each).__name__}: {each}" for each in errors_of(error))
    if re.search(r"pack_padded_sequence|packed_sequence", source + text):
        return PACKED
    if "numpy" in text or re.search(r"\b(np|numpy)\.", source):
        return NUMPY
    if any(each in text for each in _DATA):
        if source.startswith("assert"):
            return ASSERT
        return BRANCH if _BRANCHES.search(source) else NUMBER
    return f"{first_line(error)}. torch.export must be able to trace the module's evaluation"


def at_place(place: Place | None) -> str:
    """Return a place, to stand within a message; empty where there is none."""
    return "" if place is None else f", at {place}"
