"""One symbol for the number of rows while a module is traced, instead of one per argument.

`torch.export` gives each dimension of each argument a symbol of its own and finds out later, one guard after the other,
that those of a thousand arguments are the same number: three quarters of the time of a trace. The arguments of a module
are of one batch, so their sizes are the same from the start, which torch can do ("duck sizing") but does not offer for
dimensions that are asked to be dynamic.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from threading import RLock, get_ident
from typing import Any

from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv

_ONE_AT_A_TIME = RLock()
"""Held while torch is patched."""


@contextmanager
def one_symbol_each(sizes: Collection[int]) -> Iterator[None]:
    """Trace with one symbol for all dynamic dimensions of a size, for each of these sizes.

    Other dynamic dimensions have a symbol each, also where two have one size by chance. In a torch whose internals are
    others than those known, traces take longer and are the same.
    """
    with _ONE_AT_A_TIME:  # what torch has is read when no other trace has patched it
        original: Any = getattr(ShapeEnv, "create_symbol", None)
        dynamic, duck = getattr(DimDynamic, "DYNAMIC", None), getattr(DimDynamic, "DUCK", None)
        if original is None or dynamic is None or duck is None:
            yield
            return
        own = get_ident()

        def create_symbol(self: Any, val: Any, source: Any, dynamic_dim: Any = duck, *args: Any, **kwargs: Any) -> Any:
            shared = dynamic_dim is dynamic and isinstance(val, int) and val in sizes and get_ident() == own
            return original(self, val, source, duck if shared else dynamic_dim, *args, **kwargs)

        ShapeEnv.create_symbol = create_symbol  # type: ignore[method-assign]
        try:
            yield
        finally:
            ShapeEnv.create_symbol = original  # type: ignore[method-assign]
