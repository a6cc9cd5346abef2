"""Functions that a document defines itself, read when they are used."""

from __future__ import annotations

from typing import Final

from ringpull.inference.importers.pmml.document import Element
from ringpull.inference.importers.pmml.expressions import (
    EXPRESSIONS,
    Call,
    DefinedFunction,
    Functions,
    fields_of,
    no_functions,
    parts_of,
    read_declared,
    read_expression,
)

MAX_DEPTH: Final = 100
"""Functions within each other."""
MAX_PARTS: Final = 20_000
"""Expressions that a call of a function may be made of, those of the functions that it calls counted in."""


class DefinedFunctions:
    """The functions of a dictionary of transformations, and of those around it."""

    def __init__(self, parent: Element | None, outer: Functions = no_functions) -> None:
        """Take the `DefineFunction`s of an element.

        Raises:
            InvalidInput: Two have one name.
        """
        self._outer = outer
        self._elements: dict[str, Element] = {}
        self._known: dict[str, DefinedFunction] = {}
        self._open: list[str] = []
        for each in [] if parent is None else parent.all("DefineFunction"):
            name = each.attribute("name")
            if name in self._elements:
                raise each.refusal(f"is the second one called {name[:80]!r}")
            self._elements[name] = each

    def __call__(self, name: str) -> DefinedFunction | None:
        """Return the function of a name, or None.

        Raises:
            InvalidInput: It calls itself, or has what is not known here.
        """
        if name not in self._elements:
            return self._outer(name)
        if name not in self._known:
            element = self._elements[name]
            if name in self._open:
                raise element.refusal(f"{name[:80]!r} calls itself: {' -> '.join([*self._open[-9:], name])[:800]}")
            if len(self._open) >= MAX_DEPTH:
                raise element.refusal(f"{name[:80]!r} lies {MAX_DEPTH} functions deep; no deeper ones are read")
            self._open.append(name)
            self._known[name] = self._read(name, element)
            self._open.pop()
        return self._known[name]

    def _read(self, name: str, element: Element) -> DefinedFunction:
        inner = element.only("ParameterField", *EXPRESSIONS)
        parameters = {each.attribute("name"): read_declared(each) for each in inner if each.tag == "ParameterField"}
        bodies = [each for each in inner if each.tag != "ParameterField"]
        if len(bodies) != 1 or len(parameters) != len(inner) - 1:
            raise element.refusal(f"{name[:80]!r} has not one expression, and parameters of different names")
        expression = read_expression(bodies[0], element.get("dataType"), self)
        for field, line in fields_of(expression).items():
            if field not in parameters:
                raise element.refusal(f"{name[:80]!r} names {field[:80]!r} in line {line}, which is no parameter of it")
        parts = parts_of(expression)
        called = [each.function for each in parts if isinstance(each, Call)]
        depth = 1 + max((each.depth for each in called), default=0)
        total = len(parts) + sum(each.parts for each in called)
        if depth > MAX_DEPTH or total > MAX_PARTS:
            raise element.refusal(
                f"{name[:80]!r} is made of {total} expressions, {depth} functions deep; at most {MAX_PARTS} and"
                f" {MAX_DEPTH} are computed"
            )
        return DefinedFunction(
            name, tuple(parameters.items()), expression, read_declared(element), depth, total, element.line
        )
