"""Degrade steps: what a model would rather leave out under load than refuse requests. Values, declared at export.

    export_model(module, schema, "models/ranker", 5, degrade=[CutBags(50), UseDefault("tags"), CapCandidates(64)])

The order is the model's: a head takes the first step first, and gives it back last. At level n the first n steps are in
force together. They are part of the version, in its manifest, each as `{"kind": ..., its fields}`.

Every step has a phrase. A reply that the step changed holds it (`Prediction.degraded`), and metrics count by it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from dataclasses import fields as dataclass_fields
from typing import Any, ClassVar, Final

from ringpull.inference.schema.fields import Fields
from ringpull.ps.errors import InvalidInput
from ringpull.ps.spec import check_name

MAX_STEPS: Final = 32
"""Degrade steps of one version."""

MAX_INT64: Final = 2**63 - 1


@dataclass(frozen=True, slots=True, init=False)
class UseDefault:
    """Look up no ids of these features: each counts as unknown, as its table's default vector.

    `UseDefault("history", "tags")`. Nothing is pulled for them. Pooling and padding stay as they are: a mean of n
    default vectors is one, a sum is n of them, an empty bag is zeros.
    """

    KIND: ClassVar[str] = "use_default"

    features: tuple[str, ...]

    def __init__(self, *features: str) -> None:
        if not features:
            raise InvalidInput("UseDefault: features is empty; name those that shall take their default vector")
        _check_features(self, features)
        object.__setattr__(self, "features", features)

    @property
    def phrase(self) -> str:
        """Phrase of replies that the step changed."""
        return f"default vectors for {', '.join(self.features)}"


@dataclass(frozen=True, slots=True, init=False)
class CutBags:
    """Keep only the last `most` values of every row of these features.

    `CutBags(50)` cuts all features that have a list per row, `CutBags(50, "history")` only this one.
    """

    KIND: ClassVar[str] = "cut_bags"

    most: int
    features: tuple[str, ...]
    """Features that are cut; empty: all that have a list per row."""

    def __init__(self, most: int, *features: str) -> None:
        _check_count(self, "most", most)
        _check_features(self, features)
        object.__setattr__(self, "most", most)
        object.__setattr__(self, "features", features)

    @property
    def phrase(self) -> str:
        """Phrase of replies that the step changed."""
        return f"cut {', '.join(self.features) or 'bags'} to {self.most}"


@dataclass(frozen=True, slots=True)
class CapCandidates:
    """Score only the first `most` candidates of a request; the outputs of the others are NaN.

    Outputs keep the request's rows: whoever zips them with the candidates stays right, and NaN is no score.
    """

    KIND: ClassVar[str] = "cap_candidates"

    most: int

    def __post_init__(self) -> None:
        _check_count(self, "most", self.most)

    @property
    def phrase(self) -> str:
        """Phrase of replies that the step changed."""
        return f"scored the first {self.most} candidates"


@dataclass(frozen=True, slots=True)
class UseVersion:
    """Let another, lighter version of the model answer, while it is open and takes the same requests.

    Only requests that name no version: who asks for one gets it. The version must give the same outputs; features that
    it does not take are left out.
    """

    KIND: ClassVar[str] = "use_version"

    version: int

    def __post_init__(self) -> None:
        _check_count(self, "version", self.version)

    @property
    def phrase(self) -> str:
        """Phrase of replies that the step changed."""
        return f"answered by version {self.version}"


Step = UseDefault | CutBags | CapCandidates | UseVersion
STEPS: Final[tuple[type[Step], ...]] = (UseDefault, CutBags, CapCandidates, UseVersion)


def plain_steps(steps: Iterable[Step]) -> list[dict[str, Any]]:
    """Return steps as the JSON values of a manifest."""
    return [{"kind": step.KIND, **asdict(step)} for step in steps]


def read_steps(fields: Fields, name: str) -> tuple[Step, ...]:
    """Return the steps in the field `name` of a manifest.

    Raises:
        CorruptData: A step is of a kind this build does not know, or is not what it should be; the message names it.
    """
    known = {cls.KIND: [each.name for each in dataclass_fields(cls)] for cls in STEPS}
    return tuple(_read(each) for each in fields.variants(name, known))


def _read(fields: Fields) -> Step:
    kind = fields.text("kind")
    try:
        if kind == UseDefault.KIND:
            return UseDefault(*fields.texts("features"))
        if kind == CutBags.KIND:
            return CutBags(fields.integer("most", 1, MAX_INT64), *fields.texts("features"))
        if kind == CapCandidates.KIND:
            return CapCandidates(fields.integer("most", 1, MAX_INT64))
        return UseVersion(fields.integer("version", 1, MAX_INT64))
    except InvalidInput as exc:
        raise fields.error("features", str(exc)) from exc


def _check_features(step: Step, features: Sequence[object]) -> None:
    for feature in features:
        if not isinstance(feature, str):
            raise InvalidInput(f"{type(step).__name__}: features has {feature!r}; it must be names of features")
        check_name("feature", feature)
    if len(set(features)) < len(features):
        raise InvalidInput(f"{type(step).__name__}: features names one twice: {', '.join(map(str, features))}")


def _check_count(step: Step, name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_INT64:
        raise InvalidInput(f"{type(step).__name__}: {name} is {value!r}; it must be a whole number from 1")
