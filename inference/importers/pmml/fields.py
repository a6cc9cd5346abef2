"""Fields of PMML: what a data dictionary says of values, and how a model treats missing, invalid and outlying ones."""

from __future__ import annotations

from ctypes import c_float
from dataclasses import dataclass
from typing import Final, Literal, overload

from ringpull.inference.importers.pmml.document import Element

NUMBER_TYPES: Final = ("integer", "float", "double")
_TYPES: Final = (*NUMBER_TYPES, "string", "boolean")
TIMES: Final = (
    *("date", "time", "dateTime", "dateDaysSince[0]", "dateDaysSince[1960]", "dateDaysSince[1970]", "timeSeconds"),
    *("dateDaysSince[1980]", "dateTimeSecondsSince[0]", "dateTimeSecondsSince[1960]", "dateTimeSecondsSince[1970]"),
    "dateTimeSecondsSince[1980]",
)
"""Types of fields that no model that is read may take."""
_INPUTS: Final = ("active", "supplementary", "group", "order", "frequencyWeight", "analysisWeight")
_TARGETS: Final = ("predicted", "target")

LARGE: Final = 10_000
"""Values of a category above which coefficients by value become a table of their own, whose rows are float32."""

Outliers = Literal["asIs", "asMissingValues", "asExtremeValues"]
Invalid = Literal["returnInvalid", "asIs", "asMissing", "asValue"]


@dataclass(frozen=True, slots=True)
class Interval:
    """Numbers between two margins, either of which may be None: open."""

    low: float | None
    high: float | None
    low_closed: bool
    high_closed: bool

    def holds(self, number: float) -> bool:
        """Whether a number lies within."""
        above = self.low is None or number > self.low or (self.low_closed and number == self.low)
        return above and (self.high is None or number < self.high or (self.high_closed and number == self.high))

    def single(self) -> Interval:
        """Return it with margins of float32, as float32 numbers are compared with."""
        return Interval(as_single(self.low), as_single(self.high), self.low_closed, self.high_closed)


@overload
def as_single(number: float) -> float: ...
@overload
def as_single(number: float | None) -> float | None: ...
def as_single(number: float | None) -> float | None:
    """Return the float32 nearest to a number; None of None."""
    return None if number is None else c_float(number).value


@dataclass(frozen=True, slots=True)
class DataField:
    """One field of a data dictionary."""

    name: str
    line: int
    categorical: bool
    """Whether its values are compared as they are: categories, in an order or none."""
    ordinal: bool
    data_type: str
    """One of string, boolean, integer, float, double, or of `TIMES`."""
    valid: tuple[str, ...]
    """Values that are valid, as texts; none: all are, but for `invalid` and what lies outside of `intervals`."""
    texts: tuple[str, ...]
    """The same as they are written: names of classes."""
    missing: tuple[str, ...]
    invalid: tuple[str, ...]
    intervals: tuple[Interval, ...]

    @property
    def is_number(self) -> bool:
        """Whether its values are numbers to count with."""
        return not self.categorical


@dataclass(frozen=True, slots=True)
class MiningField:
    """How a model takes one field."""

    name: str
    line: int
    missing: str | None
    """Value that stands in for a missing one."""
    missing_refused: bool
    """Whether a row is invalid that has none."""
    invalid: Invalid
    invalid_value: str | None
    outliers: Outliers
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class MiningSchema:
    """What a model takes, and what it predicts."""

    inputs: tuple[MiningField, ...]
    target: str | None


def read_interval(element: Element) -> Interval:
    """Read an `Interval`.

    Raises:
        InvalidInput: Its closure is not known.
    """
    closure = element.choice("closure", ("openOpen", "openClosed", "closedOpen", "closedClosed"))
    return Interval(
        element.maybe("leftMargin"),
        element.maybe("rightMargin"),
        closure.startswith("closed"),
        closure.endswith("Closed"),
    )


def canonical(data_type: str, text: str) -> str:
    """Return a value as it is compared: numbers and booleans in one way of writing, texts as they are."""
    if data_type in NUMBER_TYPES:
        try:
            number = float(text)
        except ValueError:
            return text
        return str(int(number)) if number.is_integer() and abs(number) < 2**63 else repr(number)
    return text.strip().lower() if data_type == "boolean" else text


def read_dictionary(pmml: Element) -> dict[str, DataField]:
    """Read the data dictionary of a document.

    Raises:
        InvalidInput: It has what is not known here.
    """
    found: dict[str, DataField] = {}
    for element in pmml.need("DataDictionary").only("DataField", "Taxonomy"):
        if element.tag == "Taxonomy":
            raise element.refusal("is not known here")
        made = _data_field(element)
        if made.name in found:
            raise element.refusal(f"is the second one called {made.name!r}")
        found[made.name] = made
    return found


def _data_field(element: Element) -> DataField:
    kind = element.choice("optype", ("categorical", "ordinal", "continuous"))
    data_type = element.choice("dataType", (*_TYPES, *TIMES))
    if data_type in TIMES:
        kind = "categorical"  # a model that takes it is refused, others may be of the same dictionary
    if kind == "continuous" and data_type not in NUMBER_TYPES:
        raise element.refusal(f"is continuous, and of type {data_type}")
    values: dict[str, dict[str, str]] = {"valid": {}, "missing": {}, "invalid": {}}
    intervals = []
    for child in element.only("Value", "Interval"):
        if child.tag == "Interval":
            intervals.append(read_interval(child))
            continue
        known = values[child.choice("property", tuple(values), "valid")]
        value = canonical(data_type, child.attribute("value"))
        known.setdefault(value, child.get("value"))
        if kind == "continuous":
            child.number("value")
    return DataField(
        name=element.attribute("name"),
        line=element.line,
        categorical=kind != "continuous",
        ordinal=kind == "ordinal",
        data_type=data_type,
        valid=tuple(values["valid"]),
        texts=tuple(values["valid"].values()),
        missing=tuple(values["missing"]),
        invalid=tuple(values["invalid"]),
        intervals=tuple(intervals),
    )


def read_mining_schema(model: Element) -> MiningSchema:
    """Read the mining schema of a model.

    Raises:
        InvalidInput: It has what is not known here, or two targets.
    """
    inputs, targets = [], []
    for element in model.need("MiningSchema").only("MiningField"):
        usage = element.choice("usageType", (*_INPUTS, *_TARGETS), "active")
        if usage in _TARGETS:
            targets.append(element)
        elif usage == "active":
            inputs.append(_mining_field(element))
    if len(targets) > 1:
        raise targets[1].refusal("is the second target; models of one are read")
    return MiningSchema(tuple(inputs), targets[0].attribute("name") if targets else None)


def _mining_field(element: Element) -> MiningField:
    treatment: Invalid = element.choice(  # type: ignore[assignment]
        "invalidValueTreatment", ("returnInvalid", "asIs", "asMissing", "asValue"), "returnInvalid"
    )
    outliers: Outliers = element.choice(  # type: ignore[assignment]
        "outliers", ("asIs", "asMissingValues", "asExtremeValues"), "asIs"
    )
    instead = element.attribute("invalidValueReplacement") if treatment == "asValue" else None
    low, high = element.maybe("lowValue"), element.maybe("highValue")
    if outliers != "asIs" and (low is None or high is None):
        raise element.refusal(f"has outliers={outliers!r}, and not both of lowValue and highValue")
    return MiningField(
        name=element.attribute("name"),
        line=element.line,
        missing=element.attributes.get("missingValueReplacement"),
        missing_refused=element.get("missingValueTreatment") == "returnInvalid",
        invalid=treatment,
        invalid_value=instead,
        outliers=outliers,
        low=low,
        high=high,
    )
