"""GeneralRegressionModel: parameters, each a product of factors and covariates, and a link to the score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ringpull.inference.importers.pmml.document import Element

LINKS: Final = (
    *("identity", "log", "logc", "logit", "probit", "cloglog", "loglog", "cauchit", "negbin", "oddspower", "power"),
)
_TYPES: Final = ("regression", "generalLinear", "generalizedLinear", "multinomialLogistic", "ordinalMultinomial")
_CUMULATIVE: Final = ("logit", "probit", "cloglog", "loglog", "cauchit")


@dataclass(frozen=True, slots=True)
class Cell:
    """One factor's value, or one covariate's exponent, of a parameter."""

    field: str
    value: str | None
    """Value of a factor for which it is 1, else 0; None: it is a covariate."""
    exponent: float
    line: int


@dataclass(frozen=True, slots=True)
class Beta:
    """Coefficient of a parameter, for one class or for all."""

    parameter: str
    target: str | None
    beta: float
    line: int


@dataclass(frozen=True, slots=True)
class GeneralRegression:
    """A general regression."""

    kind: str
    parameters: tuple[str, ...]
    cells: dict[str, tuple[Cell, ...]]
    """Cells whose product a parameter is, by its name; without any it is 1."""
    betas: tuple[Beta, ...]
    link: str
    """Link of the score; of an ordinal model that of the cumulative probabilities."""
    power: float
    """Parameter of the link or of the distribution, where it has one."""
    offset: float
    offset_field: str | None
    trials: float
    reference: str | None
    """Class without coefficients."""
    classes: tuple[str, ...]
    """Classes of the target, in order."""
    line: int


def read_general_regression(element: Element, classes: tuple[str, ...]) -> GeneralRegression:
    """Read a GeneralRegressionModel.

    Raises:
        InvalidInput: It has what is not known here.
    """
    kind = element.choice("modelType", _TYPES)
    parts = ("ParameterList", "FactorList", "CovariateList", "PPMatrix", "PCovMatrix", "ParamMatrix")
    element.only("MiningSchema", "Output", "Targets", "LocalTransformations", *parts)
    if "trialsVariable" in element.attributes:
        raise element.refusal("has a trialsVariable, which is not known here")
    parameters = tuple(each.attribute("name") for each in element.need("ParameterList").only("Parameter"))
    factors = _names(element.first("FactorList"))
    covariates = _names(element.first("CovariateList"))
    declared = factors | covariates
    cells: dict[str, list[Cell]] = {each: [] for each in parameters}
    matrix = element.first("PPMatrix")
    for each in [] if matrix is None else matrix.only("PPCell"):
        field, parameter = each.attribute("predictorName"), each.attribute("parameterName")
        if parameter not in cells or field not in declared:
            raise each.refusal(f"is of {parameter!r} and {field!r}, one of which is not declared")
        if field in factors:
            cells[parameter].append(Cell(field, each.attribute("value"), 1.0, each.line))
        else:
            cells[parameter].append(Cell(field, None, each.number("value"), each.line))
    betas = []
    for each in element.need("ParamMatrix").only("PCell"):
        beta = Beta(
            each.attribute("parameterName"), each.attributes.get("targetCategory"), each.number("beta"), each.line
        )
        if beta.parameter not in cells:
            raise each.refusal(f"is of {beta.parameter!r}, which is not declared")
        betas.append(beta)
    link = "identity"
    if kind == "generalizedLinear":
        link = element.choice("linkFunction", LINKS)
    elif kind == "ordinalMultinomial":
        link = element.choice("cumulativeLink", _CUMULATIVE, "logit")
    power = element.number("distParameter" if link == "negbin" else "linkParameter", 1.0)
    classes = _classes(element, betas, classes)
    made = GeneralRegression(
        kind=kind,
        parameters=parameters,
        cells={name: tuple(each) for name, each in cells.items()},
        betas=tuple(betas),
        link=link,
        power=power,
        offset=element.number("offsetValue", 0.0),
        offset_field=element.attributes.get("offsetVariable"),
        trials=element.number("trialsValue", 1.0),
        reference=element.attributes.get("targetReferenceCategory", _without_betas(betas, classes)),
        classes=classes,
        line=element.line,
    )
    _check(element, made)
    return made


def _names(element: Element | None) -> set[str]:
    found = set()
    for each in [] if element is None else element.only("Predictor"):
        for inner in each.only("Categories"):
            inner.only("Category")  # a contrast matrix beside it is another coding
        if "contrastMatrixType" in each.attributes:
            raise each.refusal("has a contrastMatrixType, which is not known here")
        found.add(each.attribute("name"))
    return found


def _classes(element: Element, betas: list[Beta], classes: tuple[str, ...]) -> tuple[str, ...]:
    if element.get("functionName") != "classification":
        return ()
    named = [each.target for each in betas if each.target is not None]
    reference = element.attributes.get("targetReferenceCategory")
    others = dict.fromkeys([*named, *([] if reference is None else [reference])])
    return tuple(dict.fromkeys([*classes, *others]))


def _without_betas(betas: list[Beta], classes: tuple[str, ...]) -> str | None:
    """Return the only class that no coefficient is of."""
    named = {each.target for each in betas}
    others = [each for each in classes if each not in named]
    return others[0] if len(others) == 1 else None


def _check(element: Element, made: GeneralRegression) -> None:
    of_classes = element.get("functionName") == "classification"
    if of_classes and made.kind in ("regression", "generalLinear"):
        raise element.refusal(f"is of classes, modelType={made.kind!r}")
    if not of_classes and made.kind in ("multinomialLogistic", "ordinalMultinomial"):
        raise element.refusal(f"is of numbers, modelType={made.kind!r}")
    if of_classes and len(made.classes) < 2:
        raise element.refusal("names fewer than two classes; the target's <DataField> is to list its values")
    if of_classes and made.kind == "generalizedLinear" and len(made.classes) != 2:
        raise element.refusal(f"is generalizedLinear, and has {len(made.classes)} classes")
    if made.kind == "multinomialLogistic" and made.reference is None:
        raise element.refusal("has no targetReferenceCategory, and coefficients of all classes, or of too few")
