"""The wrapper that a user would have to write for a model that is not taken as it is: features by name.

It is made of the oracle's call, and counts against the exporter: a model that only goes with it is "wrapped".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from tests.zoo_libraries.model import Ask


def wrap(module: nn.Module, ask: Ask, arguments: Sequence[str]) -> nn.Module:
    """Return a module whose forward takes tensors called `arguments`, and calls `module` with them."""
    names = ", ".join(arguments)
    given = ", ".join(f"{name!r}: {name}" for name in arguments)
    scope: dict[str, Callable[..., Any]] = {}
    exec(f"def forward(self, {names}): return self.ask(self.module, {{{given}}})", scope)
    made = type("Wrapped", (nn.Module,), {"forward": scope["forward"]})()
    made.module, made.ask = module, ask
    return made
