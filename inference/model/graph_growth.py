"""How large the numbers and sums become that a text of a graph has sympy or Python compute.

Few characters say a number that fills the memory, and sympy computes it as soon as it reads it: `Pow(2, Pow(2, 64))`.
It multiplies sums out, too, where one is divided by another: a power of a sum has more terms than fit anywhere. So
powers and shifts are by small constants, or by a symbol, which sympy leaves as they stand; and all that is multiplied
stays within bounds.
"""

from __future__ import annotations

import ast
import math
from typing import Final, NamedTuple

MAX_EXPONENT: Final = 64
"""Largest power and shift, and largest number of digits of a rounding."""

MAX_BITS: Final = 4096
"""Largest number that constants of a text may come to, in bits; sizes have 64."""

MAX_TERMS: Final = 4096
"""Largest number of terms of a sum, once everything is multiplied out."""

POWERS: Final = frozenset({"Pow", "PowByNatural", "FloatPow"})
SHIFTS: Final = frozenset({"LShift"})
_ROUNDING: Final = "RoundDecimal"
_NUMBERS: Final = ("Integer", "Float", "Rational")
_BITS_OF_FLOAT: Final = 64


class _Growth(NamedTuple):
    bits: int
    terms: int


class _TooLargeError(Exception):
    pass


def growth_fault(tree: ast.AST) -> str | None:
    """Return what in a text, which is of its language, would become too large; None: nothing."""
    try:
        _growth(tree)
    except _TooLargeError as exc:
        return str(exc)
    except RecursionError:
        return "too deep a nest"
    return None


def _growth(node: ast.AST) -> _Growth:
    match node:
        case ast.Constant(value=value):
            found = _Growth(_bits_of(value), 1)
        case ast.Call(func=ast.Name(id="Symbol")) | ast.Name():
            return _Growth(1, 1)
        case ast.Call(func=ast.Name(id="Float"), args=[ast.Constant(value=str(text))]):
            found = _Growth(_bits_of(float(text)), 1)
        case ast.Call(func=ast.Name(id=name), args=[base, exponent]) if name in POWERS | SHIFTS:
            found = _power(base, exponent, node, shifts=name in SHIFTS)
        case ast.BinOp(left=base, op=ast.Pow() | ast.LShift(), right=exponent):
            found = _power(base, exponent, node, shifts=isinstance(node.op, ast.LShift))
        case ast.Call(func=ast.Name(id=name), args=args):
            if name == _ROUNDING and len(args) > 1 and _constant(args[1]) is None:
                raise _large("rounding", node)
            found = (_product if name == "Mul" else _sum)([_growth(each) for each in args])
        case ast.BinOp(left=left, op=op, right=right):
            parts = [_growth(left), _growth(right)]
            found = _product(parts) if isinstance(op, ast.Mult) else _sum(parts)
        case _:
            found = _sum([_growth(each) for each in ast.iter_child_nodes(node) if isinstance(each, ast.expr)])
    if found.bits > MAX_BITS or found.terms > MAX_TERMS:
        raise _large("number or sum", node)
    return found


def _sum(parts: list[_Growth]) -> _Growth:
    """Return the growth of a sum, and of whatever else is no larger than all of its parts one behind the other."""
    return _Growth(sum(each.bits for each in parts), max(1, sum(each.terms for each in parts)))


def _product(parts: list[_Growth]) -> _Growth:
    return _Growth(sum(each.bits for each in parts), math.prod(each.terms for each in parts))


def _power(base: ast.AST, exponent: ast.AST, node: ast.AST, *, shifts: bool) -> _Growth:
    if any(_is_power(each) for each in ast.walk(base)):
        raise _large("power", node)
    parts, by = _growth(base), _constant(exponent)
    if by is None:
        if not _is_of_symbol(exponent):
            raise _large("power", node)
        return _Growth(parts.bits + 1, parts.terms)
    if shifts:
        return _Growth(parts.bits + by, parts.terms)
    return _Growth(parts.bits * max(1, by), parts.terms ** max(1, by))


def _is_power(node: ast.AST) -> bool:
    return (isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow | ast.LShift)) or (
        isinstance(node, ast.Name) and node.id in POWERS | SHIFTS
    )


def _constant(node: ast.AST) -> int | None:
    """Return the size of a plain constant, rounded up; None: it is none, or too large for an exponent."""
    match node:
        case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=operand):
            return _constant(operand)
        case ast.Call(func=ast.Name(id=name), args=args) if name in _NUMBERS:
            sizes = [_constant(each) for each in args]
            if None in sizes or len(sizes) > 2:
                return None
            return max((each for each in sizes if each is not None), default=None)
        case ast.Constant(value=value) if isinstance(value, int | float | str):
            try:
                size = abs(float(value))
            except (ValueError, OverflowError):
                return None
            return math.ceil(size) if size <= MAX_EXPONENT else None
    return None


def _is_of_symbol(node: ast.AST) -> bool:
    """Return whether an exponent is a symbol, or one and a small constant: their product, sum or difference."""
    match node:
        case ast.Call(func=ast.Name(id="Mul" | "Add"), args=[left, right]):
            pass
        case ast.BinOp(left=left, op=ast.Mult() | ast.Add() | ast.Sub(), right=right):
            pass
        case _:
            return _is_symbol(node)
    return (_is_symbol(left) and _constant(right) is not None) or (_is_symbol(right) and _constant(left) is not None)


def _is_symbol(node: ast.AST) -> bool:
    match node:
        case ast.Call(func=ast.Name(id="Symbol")) | ast.Subscript():
            return True
        case ast.Call(func=ast.Attribute(value=ast.Subscript())):
            return True
        case ast.Name(id=name):
            return name[-1:].isdigit()
    return False


def _bits_of(value: object) -> int:
    if isinstance(value, float):
        return _BITS_OF_FLOAT + (abs(math.frexp(value)[1]) if math.isfinite(value) else MAX_BITS)
    return abs(value).bit_length() if isinstance(value, int) else 1


def _large(what: str, node: ast.AST) -> _TooLargeError:
    return _TooLargeError(f"a large {what} at character {getattr(node, 'col_offset', 0)}")
