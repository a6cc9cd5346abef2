"""RegressionModel: sums of coefficients, one for each class, and what makes a score of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ringpull.inference.importers.pmml.document import Element

_METHODS: Final = ("none", "softmax", "logit", "probit", "cloglog", "loglog", "cauchit", "exp", "simplemax")


@dataclass(frozen=True, slots=True)
class NumericTerm:
    """A number to a power, times a coefficient."""

    field: str
    exponent: float
    coefficient: float
    line: int


@dataclass(frozen=True, slots=True)
class CategoricalTerm:
    """A coefficient where a field has a value."""

    field: str
    value: str
    coefficient: float
    line: int


@dataclass(frozen=True, slots=True)
class ProductTerm:
    """Product of fields, times a coefficient."""

    fields: tuple[str, ...]
    coefficient: float
    line: int


@dataclass(frozen=True, slots=True)
class RegressionTable:
    """One sum."""

    target: str | None
    intercept: float
    numbers: tuple[NumericTerm, ...]
    categories: tuple[CategoricalTerm, ...]
    products: tuple[ProductTerm, ...]


@dataclass(frozen=True, slots=True)
class Regression:
    """A regression, or one sum for each class."""

    tables: tuple[RegressionTable, ...]
    method: str
    line: int

    @property
    def classes(self) -> tuple[str, ...]:
        """Classes of the tables, in their order."""
        return tuple(each.target or "" for each in self.tables)


def read_regression(element: Element, classes: tuple[str, ...]) -> Regression:
    """Read a RegressionModel.

    Raises:
        InvalidInput: It has what is not known here.
    """
    method = element.choice("normalizationMethod", _METHODS, "none")
    found = element.only("MiningSchema", "Output", "Targets", "LocalTransformations", "RegressionTable")
    tables = tuple(_read_table(each) for each in found if each.tag == "RegressionTable")
    if element.get("functionName") == "classification":
        named = [each.target for each in tables]
        if len(tables) < 2 or None in named or len(set(named)) < len(named):
            raise element.refusal("has not one <RegressionTable> for each class, by targetCategory")
        if method == "exp":
            raise element.refusal("has normalizationMethod='exp', which classes do not have")
    elif len(tables) != 1 or method == "simplemax":
        raise element.refusal(f"is a regression of {len(tables)} tables, normalizationMethod={method!r}")
    return Regression(tables, method, element.line)


def _read_table(element: Element) -> RegressionTable:
    numbers, categories, products = [], [], []
    for each in element.only("NumericPredictor", "CategoricalPredictor", "PredictorTerm"):
        coefficient = each.number("coefficient")
        if each.tag == "NumericPredictor":
            numbers.append(NumericTerm(each.attribute("name"), each.number("exponent", 1.0), coefficient, each.line))
        elif each.tag == "CategoricalPredictor":
            categories.append(CategoricalTerm(each.attribute("name"), each.attribute("value"), coefficient, each.line))
        else:
            fields = tuple(inner.attribute("field") for inner in each.only("FieldRef"))
            products.append(ProductTerm(fields, coefficient, each.line))
    target, intercept = element.attributes.get("targetCategory"), element.number("intercept")
    return RegressionTable(target, intercept, tuple(numbers), tuple(categories), tuple(products))
