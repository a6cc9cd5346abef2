"""Asking the user's module, or the plain model that was captured of it, for its outputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ringpull.inference.export.calls.ready import ready
from ringpull.inference.export.diagnosis.quiet import quiet_torch
from ringpull.inference.model.manifest import ProgramOutput
from ringpull.ps.errors import ExportError, RingpullError
from ringpull.ps.spec import Float32Array

Outputs = dict[str, Float32Array]
"""Outputs by name; the first dimension is the row."""


class Asked(Protocol):
    """A model: a `Call` of the user's, or a `PlainModel`."""

    @property
    def described(self) -> str:
        """What it is called in errors."""

    @property
    def owner(self) -> nn.Module:
        """The module whose device it runs on."""

    @property
    def module(self) -> nn.Module:
        """The module that is put in evaluation mode."""

    def run(self, tensors: Mapping[str, Tensor]) -> Any:
        """Return its outputs for the schema's arguments by name."""


def ask_module(
    asked: Asked,
    arguments: Mapping[str, NDArray[Any]],
    outputs: Iterable[ProgramOutput],
    *,
    doing: str = "self-check",
    rows_described: str = "made-up rows",
) -> Outputs:
    """Return what a model gives, in evaluation mode, for the schema's arguments.

    Raises:
        ExportError: The module fails; `doing` and `rows_described` say at what, in the message.
    """
    device = next((each.device for each in [*asked.owner.parameters(), *asked.owner.buffers()]), torch.device("cpu"))
    tensors = {name: torch.from_numpy(np.array(values)).to(device) for name, values in arguments.items()}
    with ready(asked.module), quiet_torch():
        try:
            leaves = tree_leaves(asked.run(tensors))
        except RingpullError:  # ours, of rows that cannot be rounded
            raise
        except Exception as exc:  # the module's own error, on arguments that the schema says are right
            raise ExportError(
                f"{doing}: {asked.described} fails on {rows_described}: {type(exc).__name__}: {exc}. If they"
                " are not valid for it: declare never_empty=True where a list may not be empty, give check_columns like"
                " those it was trained on, or skip the check with check_rows=0"
            ) from exc
    pairs = zip(outputs, leaves, strict=True)
    return {output.name: leaf.to("cpu", torch.float32).numpy() for output, leaf in pairs}
