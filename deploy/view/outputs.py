"""Outputs of a model for people: name, shape of a row, and the names of classes, as a head and a manifest tell them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

SHOWN_CLASSES: Final = 5


class Output(Protocol):
    """Output of a version, of a manifest or of a head's answer."""

    @property
    def name(self) -> str:
        """Name of it."""

    @property
    def shape(self) -> Sequence[int]:
        """Shape of one row."""

    @property
    def classes(self) -> Sequence[str]:
        """Names of the classes whose scores a row holds; none: they are not known."""


def output_text(output: Output) -> str:
    """Return an output as text: `score`, `tasks[2]`, `probabilities[2: no, yes]`."""
    shape = ", ".join(map(str, output.shape))
    if output.classes:
        more = ", ..." if len(output.classes) > SHOWN_CLASSES else ""
        shape += f": {', '.join(output.classes[:SHOWN_CLASSES])}{more}"
    return f"{output.name}[{shape}]" if shape else output.name
