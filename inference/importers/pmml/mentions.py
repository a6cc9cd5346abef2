"""Values that a document mentions, by the field that they may be of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from itertools import islice
from typing import Final

from ringpull.inference.importers.pmml.document import Element
from ringpull.inference.importers.pmml.expressions import EXPRESSIONS
from ringpull.inference.importers.pmml.fields import DataField, canonical

_RENAMINGS: Final = 8
"""Derived fields and parameters in a row through which a value is followed back to a field that has it."""
_BESIDE: Final = 64
"""Elements beside a constant among which the field is that it is compared with."""


def mentioned_values(pmml: Element, dictionary: Mapping[str, DataField]) -> dict[str, list[str]]:
    """Return the values of categorical fields that a document mentions anywhere, as texts, by field.

    A superset does no harm: what is not mentioned is a value that nothing tells from others.
    """
    found: dict[str, dict[str, None]] = {
        name: dict.fromkeys(("false", "true") if each.data_type == "boolean" else each.valid)
        for name, each in dictionary.items()
        if each.categorical
    }
    made_of = _made_of(pmml)

    @cache
    def origins(name: str) -> list[str]:
        """Return the categorical fields that one is made of."""
        reached, newest = {name}, {name}
        for _ in range(_RENAMINGS):
            newest = {each for one in newest if one not in found for each in made_of.get(one, ())} - reached
            reached |= newest
        return [each for each in reached if each in found]

    def mention(name: str, value: str) -> None:
        for each in origins(name):
            found[each][canonical(dictionary[each].data_type, value)] = None

    for element in pmml.walk():
        name = element.get("field") or element.get("name") or element.get("predictorName")
        for attribute in ("value", "missingValueReplacement", "invalidValueReplacement"):
            if attribute in element.attributes and name:
                mention(name, element.attributes[attribute])
        if element.tag == "SimpleSetPredicate":
            for value in element.need("Array").array():
                mention(name, value)
        elif element.tag == "MapValues":
            _mention_cells(element, mention)
        elif element.tag == "Apply" and (constants := element.all("Constant")):
            fields = {each.get("field") for each in islice(element.walk(), _BESIDE) if each.get("field")}
            for constant in constants:
                for each in fields:
                    mention(each, constant.text)
    return {name: list(values) for name, values in found.items()}


def _made_of(pmml: Element) -> dict[str, set[str]]:
    """Return what derived fields, and parameters of functions, are made of, by name."""
    found: dict[str, set[str]] = {}
    parameters: dict[str, list[str]] = {}
    for element in pmml.walk():
        if element.tag == "DerivedField":
            found.setdefault(element.get("name"), set()).update(_fields(element))
        elif element.tag == "DefineFunction":
            parameters[element.get("name")] = [each.get("name") for each in element.all("ParameterField")]
    for element in pmml.walk() if parameters else ():
        own = parameters.get(element.get("function"), []) if element.tag == "Apply" else []
        arguments = [each for each in element.children if each.tag in EXPRESSIONS] if own else []
        for parameter, argument in zip(own, arguments, strict=False):
            found.setdefault(parameter, set()).update(_fields(argument))
    return found


def _fields(element: Element) -> set[str]:
    return {each.get("field") for each in element.walk() if each.get("field")}


def _mention_cells(element: Element, mention: Callable[[str, str], None]) -> None:
    columns = {each.get("column"): each.get("field") for each in element.all("FieldColumnPair")}
    for table in element.all("InlineTable"):
        for row in table.all("row"):
            for cell in row.children:
                if cell.tag in columns:
                    mention(columns[cell.tag], cell.text)
