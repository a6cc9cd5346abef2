"""The two small languages in the graph of an exported program: sizes for sympy, and guards for Python.

    Mul(Integer(2), Symbol('s17', positive=True, integer=True))     a size, as sympy's `srepr` writes it
    L['x'].size()[0] == 2*L['y'].size()[0]                          a guard: a condition on sizes of inputs

Both are evaluated by torch as Python, with all of Python in reach. What is outside of these languages is a fault.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from typing import Final

from ringpull.inference.model.graph_growth import POWERS, SHIFTS, growth_fault

MAX_CHARACTERS: Final = 20_000
"""Longest text of a size or a guard; exported programs have some hundreds."""

MAX_PRECISION: Final = 256
"""Largest number in a keyword: the bits of a float."""

_SYMBOL: Final = re.compile(r"[A-Za-z_]{1,8}[0-9]{1,6}", re.ASCII)
_NUMBER: Final = re.compile(r"[-+]?[0-9.]{1,40}(e[-+]?[0-9]{1,3})?", re.ASCII)
_KEY: Final = re.compile(r"[\w .\-]{1,200}", re.ASCII)
_LINE: Final = re.compile(r"[\w .\[\]()'<>=!+\-*/%,&|~^]*", re.ASCII)
_NAMED: Final = ("Symbol", "Float")
_FUNCTIONS: Final = (
    POWERS
    | SHIFTS
    | {
        *("Add", "Mul", "Integer", "Rational", "Max", "Min", "Abs", "Mod", "floor", "ceiling"),
        *("And", "Or", "Not", "Equality", "Unequality", "Eq", "Ne", "Ge", "Gt", "Le", "Lt", "GreaterThan", "LessThan"),
        *("StrictGreaterThan", "StrictLessThan", "Piecewise", "ExprCondPair", "Tuple"),
        *(
            "FloorDiv",
            "ModularIndexing",
            "Where",
            "PythonMod",
            "CleanDiv",
            "CeilToInt",
            "FloorToInt",
            "CeilDiv",
            "RShift",
        ),
        *(
            "FloatTrueDiv",
            "IntTrueDiv",
            "IsNonOverlappingAndDenseIndicator",
            "TruncToFloat",
            "TruncToInt",
            "RoundToInt",
        ),
        *("RoundDecimal", "ToFloat", "Identity"),
    }
)
_CONSTANTS: Final = frozenset({"true", "false", "oo", "nan", "int_oo"})
_CALLED: Final = frozenset({"max", "min", "abs", "float", "int", "IsNonOverlappingAndDenseIndicator"})
_METHODS: Final = frozenset({"size", "stride", "storage_offset", "dim", "numel"})
_OF_MATH: Final = frozenset({"ceil", "floor", "trunc", "sqrt", "isnan", "inf"})
_ARITHMETIC: Final = (
    *(ast.Expression, ast.Load, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.operator, ast.unaryop),
    *(ast.boolop, ast.cmpop),
)


def size_fault(text: str) -> str | None:
    """Return what in a text is no expression of sizes; None: nothing."""
    return _fault(text, _size_part)


def guard_fault(text: str) -> str | None:
    """Return what in a text is no condition on sizes of inputs; None: nothing."""
    if not _LINE.fullmatch(text):
        return "a sign that no guard has"
    return _fault(text, _guard_part)


def _fault(text: str, is_part: Callable[[ast.AST], bool]) -> str | None:
    if len(text) > MAX_CHARACTERS:
        return f"more than {MAX_CHARACTERS} characters"
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as exc:
        return str(exc)
    for node in _walk(tree):
        if not (isinstance(node, _ARITHMETIC) or is_part(node)) or isinstance(
            node, ast.Is | ast.IsNot | ast.In | ast.NotIn
        ):
            return f"{type(node).__name__} at character {getattr(node, 'col_offset', 0)}"
    return growth_fault(tree)


def _walk(tree: ast.AST) -> list[ast.AST]:
    """Return every node but names of functions and symbols and keys of inputs, which the node above answers for."""
    nodes, todo = [], [tree]
    while todo:
        node = todo.pop()
        nodes.append(node)
        if isinstance(node, ast.Call):
            if not (isinstance(node.func, ast.Name) and node.func.id in _NAMED):
                todo += node.args
            if isinstance(node.func, ast.Attribute):
                todo.append(node.func.value)
        elif isinstance(node, ast.Subscript):
            if not isinstance(node.value, ast.Name):
                todo.append(node.value)
        elif not isinstance(node, ast.Attribute):
            todo += ast.iter_child_nodes(node)
    return nodes


def _size_part(node: ast.AST) -> bool:
    match node:
        case ast.Constant(value=value):
            return type(value) in (int, float, bool)
        case ast.Name(id=name):
            return name in _CONSTANTS or bool(_SYMBOL.fullmatch(name))
        case ast.Call(func=ast.Name(id=made), args=[ast.Constant(value=str(value))]) if made in _NAMED:
            form = _SYMBOL if made == "Symbol" else _NUMBER
            return bool(form.fullmatch(value)) and all(_is_plain(each) for each in node.keywords)
        case ast.Call(func=ast.Name(id=name), args=args):
            if name in POWERS | SHIFTS and len(args) != 2:
                return False
            return name in _FUNCTIONS and not node.keywords
        case ast.Tuple():
            return True
    return False


def _is_plain(keyword: ast.keyword) -> bool:
    value = keyword.value.value if isinstance(keyword.value, ast.Constant) else None
    return keyword.arg is not None and type(value) in (bool, int) and 0 <= value <= MAX_PRECISION  # type: ignore[operator]


def _guard_part(node: ast.AST) -> bool:
    match node:
        case ast.Constant(value=value):
            return type(value) in (int, float, bool)
        case ast.Subscript(value=ast.Name(id="L"), slice=ast.Constant(value=str(key))):
            return bool(_KEY.fullmatch(key))
        case ast.Subscript(value=ast.Call() | ast.Attribute() | ast.Subscript(), slice=ast.Constant(value=place)):
            return type(place) is int or (isinstance(place, str) and bool(_KEY.fullmatch(place)))
        case ast.Attribute(value=ast.Name(id="math"), attr=name):
            return name in _OF_MATH
        case ast.Call(func=ast.Name(id=name)):
            return name in _CALLED and not node.keywords
        case ast.Call(func=ast.Attribute(value=ast.Name(id="math"), attr=name)):
            return name in _OF_MATH and not node.keywords
        case ast.Call(func=ast.Attribute(value=ast.Subscript(), attr=name)):
            return name in _METHODS and not node.keywords
        case ast.Name(id="math"):  # of a call, which answers for it
            return True
    return False
