"""Row counts made constants: `len(x)`, `int(x.shape[0])`, a loop over rows, numpy: found with their line.

A module is traced with some number of rows, for which torch takes a symbol. Code that needs a number gets the one of
the trace, and from there on the graph is right for that number alone. Nothing fails then, so where it happened is seen
by tracing once more and watching when the symbol stops being one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import RLock
from typing import Any, Final

from torch import Tensor
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from ringpull.inference.export.diagnosis.places import Place, place_now
from ringpull.ps.errors import ExportError

_WATCHED: Final = ("evaluate_expr", "guard_or_defer_runtime_assert")
"""Methods of torch's by which a symbol becomes a number, or is known to be above or below one."""
_FREE_FROM: Final = 3
"""Largest lower bound that torch itself gives sizes: of rows 2, and of offsets one more."""
_ONE_AT_A_TIME = RLock()


def made_constant(described: str, trace_again: Callable[[], object]) -> ExportError:
    """Return the error of a module whose graph is right for the traced number of rows alone."""
    place = _find(trace_again)
    at = "" if place is None else f", at {place}"
    return ExportError(
        f"{described} makes the number of rows a constant{at}: a batch that is served has any number of rows. len(x),"
        " int(x.shape[0]), a loop over rows and numpy need a number: take x.shape[0] as it is, as a size of torch's"
        " functions (torch.zeros(x.shape[0], 8), x.new_ones, expand), and compute all rows at once"
    )


def made_bounded(described: str, low: int, high: int | None, trace_again: Callable[[], object]) -> ExportError:
    """Return the error of a module whose graph is right for some numbers of rows: it branches on that."""
    place = _find(trace_again)
    at = "" if place is None else f", at {place}"
    only = f"{low} rows or more" if high is None else f"{low} to {high} rows"
    return ExportError(
        f"{described} decides by the number of rows{at}: what was traced is right for {only}, and a batch that is"
        " served has any number. Compute the same whatever the number of rows is"
    )


def check_rows_free(program: ExportedProgram, described: str, trace_again: Callable[[], object]) -> None:
    """Check that a program works for any number of rows.

    Raises:
        ExportError: It works for some; the message names the line that makes it so.
    """
    names = {spec.arg.name for spec in program.graph_signature.input_specs if spec.kind is InputKind.USER_INPUT}
    for node in program.graph.nodes:
        value = node.meta.get("val")
        if node.op != "placeholder" or node.name not in names or not isinstance(value, Tensor) or not value.dim():
            continue
        size = value.shape[0]
        low, high = (size, size) if isinstance(size, int) else _range(size.node.shape_env, size.node.expr)
        if low == high:
            raise made_constant(described, trace_again)
        if low > _FREE_FROM or high is not None:
            raise made_bounded(described, low, high, trace_again)


def _find(trace_again: Callable[[], object]) -> Place | None:
    """Trace again and return the first line of the user's code that a symbol loses its freedom at."""
    found: list[Place] = []
    with _watching(found):
        try:
            trace_again()
        except Exception:  # of any root; what was seen until then counts
            return found[0] if found else None
    return found[0] if found else None


@contextmanager
def _watching(found: list[Place]) -> Iterator[None]:
    def watched(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            before = _bound_symbols(self)
            result = original(self, *args, **kwargs)
            if not _bound_symbols(self) <= before and (place := place_now()) is not None:
                found.append(place)
            return result

        return call

    with _ONE_AT_A_TIME:  # what torch has is read when no other watch has replaced it
        originals = {name: getattr(ShapeEnv, name) for name in _WATCHED if hasattr(ShapeEnv, name)}
        try:
            for name, original in originals.items():
                setattr(ShapeEnv, name, watched(original))
            yield
        finally:
            for name, original in originals.items():
                setattr(ShapeEnv, name, original)


def _bound_symbols(environment: Any) -> set[Any]:
    """Return the symbols of sizes of arguments that are numbers by now, or bounded by more than torch's own rules."""
    symbols = [each for each in environment.var_to_range if str(each).startswith("s")]
    return {each for each in symbols if _is_bound(environment, each)}


def _is_bound(environment: Any, symbol: Any) -> bool:
    if getattr(environment.replacements.get(symbol), "is_number", False):
        return True
    low, high = _range(environment, symbol)
    return low > _FREE_FROM or high is not None


def _range(environment: Any, expression: Any) -> tuple[int, int | None]:
    """Return the least and the most that an expression may be; no most where it is as high as numbers go."""
    bounds = environment.bound_sympy(expression)
    low = int(bounds.lower) if bounds.lower.is_number and bounds.lower.is_finite is not False else 0
    high = bounds.upper
    free = str(high) == "int_oo" or high.is_finite is False or not high.is_number or int(high) >= 2**31
    return low, None if free else int(high)
