"""The kinds of feature a schema declares: Sparse, Dense, IdSequence, Cross. Values; `features` applies them.

A fifth, `Computed`, is what an export adds where a model puts several ids together before it looks them up.

Invariant: a feature that could be constructed is consistent. Its transforms fit each other and its kind (ids at the end
for Sparse and IdSequence, numbers for Dense), and its missing rule is a raw value of its type: it stands in for what
the request did not say, and then goes through the transforms like any other value.
"""

from __future__ import annotations

import collections.abc
import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from ringpull.inference.schema.key_expressions import KeyExpression
from ringpull.inference.schema.transforms import (
    INTEGER_BOUNDS,
    VALUE_TYPES,
    Normalize,
    Transform,
    ValueType,
    Vocabulary,
    is_integer,
    is_number,
)
from ringpull.ps.errors import InvalidInput
from ringpull.ps.hashing import check_texts
from ringpull.ps.spec import check_name

MAX_WIDTH = 65_536

Missing = int | float | str | tuple[()]


@dataclass(frozen=True, slots=True)
class Sparse:
    """Ids that are looked up in a table: one per row, or with `many` a bag of any length."""

    KIND: ClassVar[str] = "sparse"

    name: str
    dtype: ValueType = "int64"
    """Type of the raw values. `float32` needs a transform that makes ids of them."""
    many: bool = False
    weighted: bool = False
    """Whether every value comes with a weight (`many` only)."""
    transforms: tuple[Transform, ...] = ()
    missing: Missing | None = None
    """Value that stands in for an absent column, an empty string or NaN; with `many`, also for an empty row. With
    `many`, `()` means that an absent column is empty rows. None: absent is an error, and so is NaN."""
    max_length: int | None = None
    """Values of a row that are kept, the last ones (`many` only)."""
    include_last_offset: bool = True
    """Whether the argument NAME_offsets has B+1 entries, or B (`nn.EmbeddingBag(include_last_offset=False)`)."""
    never_empty: bool = False
    """Whether a row without values is refused by name (`many` only). A missing rule fills it first."""
    beyond: int | None = None
    """Id, after transforms, that takes the place of one that the model has no row for, where it looks it up in its
    dense program. None: such a request is refused."""

    def __post_init__(self) -> None:
        _check_ids(self, many=self.many)
        _check_flags(self, "many", "weighted", "include_last_offset", "never_empty")
        if not self.many and (self.weighted or self.max_length is not None or self.never_empty):
            raise InvalidInput(
                f"feature {self.name}: weighted, max_length and never_empty are for features with many=True"
            )
        if self.max_length is not None:
            _check_size(self.name, "max_length", self.max_length)


@dataclass(frozen=True, slots=True)
class Dense:
    """Numbers that go to the dense program as they are: `width` of them per row."""

    KIND: ClassVar[str] = "dense"

    name: str
    width: int = 1
    transforms: tuple[Transform, ...] = ()
    missing: float | None = None
    """Value that stands in for an absent column or NaN; NaN itself, for a model that takes it, as trees do. None: both
    are errors."""
    flat: bool = False
    """Whether the argument NAME is (B,), not (B, 1); of a width of 1 only."""

    def __post_init__(self) -> None:
        check_name("feature", self.name)
        _check_size(self.name, "width", self.width)
        if isinstance(self.missing, float) and math.isnan(self.missing):
            object.__setattr__(self, "missing", math.nan)  # one object, so that equal features are equal
        else:
            _check_missing(self.name, "float32", self.missing, many=False)
        _check_flags(self, "flat")
        if self.flat and self.width != 1:
            raise InvalidInput(f"feature {self.name}: flat is for a width of 1; width is {self.width}")
        if _final_type(self, "float32") != "float32":
            raise InvalidInput(f"feature {self.name}: its transforms make ids; declare it Sparse with dtype float32")
        for transform in self.transforms:
            if isinstance(transform, Normalize) and not transform.widths <= {self.width}:
                raise InvalidInput(
                    f"feature {self.name}: Normalize has {transform.widths} values; width is {self.width}"
                )


@dataclass(frozen=True, slots=True)
class IdSequence:
    """Ids in an order that means something (a history): the last `length` of each row, padded to it for the model."""

    KIND: ClassVar[str] = "sequence"

    name: str
    length: int
    dtype: ValueType = "int64"
    pad: int = 0
    """Id at padded places, after transforms."""
    pad_side: Literal["right", "left"] = "right"
    transforms: tuple[Transform, ...] = ()
    missing: Missing | None = None
    """Value that stands in, as for a Sparse feature with `many`."""
    never_empty: bool = False
    """Whether a row without ids is refused by name."""
    beyond: int | None = None
    """Id that takes the place of one without a row, as for a Sparse feature."""

    def __post_init__(self) -> None:
        _check_ids(self, many=True)
        _check_flags(self, "never_empty")
        _check_size(self.name, "length", self.length)
        _check_int64(self.name, "pad", self.pad)
        if self.pad_side not in ("right", "left"):
            raise InvalidInput(f"feature {self.name}: pad_side is {self.pad_side!r}; it must be 'right' or 'left'")


@dataclass(frozen=True, slots=True)
class Cross:
    """One id per row made of several single-valued Sparse features: their keys hashed together into `buckets` ids.

    It is made of what the features' transforms give, a final Vocabulary left out: so a cross is the same whether its
    parts are looked up by vocabulary number or by raw id.
    """

    KIND: ClassVar[str] = "cross"

    name: str
    of: tuple[str, ...]
    """Features it is made of, two or more; their order matters."""
    buckets: int

    def __post_init__(self) -> None:
        check_name("feature", self.name)
        object.__setattr__(self, "of", _parts(self.name, self.of))
        if not is_integer(self.buckets) or not 1 <= self.buckets < 2**63:
            raise InvalidInput(f"feature {self.name}: buckets is {self.buckets!r}; it must be from 1 to 2^63 - 1")


@dataclass(frozen=True, slots=True)
class Computed:
    """One id per row that a model's own expression makes of several single-valued features; see `KeyExpression`.

    It is made of their prepared ids, as the model took them when it was trained. An export declares it; by hand there
    is `Cross`.
    """

    KIND: ClassVar[str] = "computed"

    name: str
    of: tuple[str, ...]
    """Features it is made of, two or more, in the order in which the expression numbers them."""
    key: KeyExpression

    def __post_init__(self) -> None:
        check_name("feature", self.name)
        object.__setattr__(self, "of", _parts(self.name, self.of))
        if not isinstance(self.key, KeyExpression) or self.key.features != tuple(range(len(self.of))):
            raise InvalidInput(f"feature {self.name}: key must be an expression of the ids of {len(self.of)} features")


SentFeature = Sparse | Dense | IdSequence
"""A feature that a request carries."""
MadeFeature = Cross | Computed
"""A feature that the server makes of others: nobody sends it."""
Feature = Sparse | Dense | IdSequence | Cross | Computed
KINDS: tuple[type[Feature], ...] = (Sparse, Dense, IdSequence, Cross, Computed)


def _parts(name: str, given: object) -> tuple[str, ...]:
    """Return the features that another is made of."""
    if isinstance(given, str) or not isinstance(given, collections.abc.Sequence):
        raise InvalidInput(f"feature {name}: of is {given!r}; it must be a list of feature names")
    if len(given) < 2 or not all(isinstance(part, str) for part in given) or len(set(given)) < len(given):
        raise InvalidInput(f"feature {name}: of is {tuple(given)!r}; it must name two or more different features")
    return tuple(given)


def _check_ids(feature: Sparse | IdSequence, *, many: bool) -> None:
    """Check what Sparse and IdSequence have in common: name, dtype, missing rule, and transforms that end in ids."""
    check_name("feature", feature.name)
    if feature.dtype not in VALUE_TYPES:
        raise InvalidInput(
            f"feature {feature.name}: dtype is {feature.dtype!r}; it must be one of {', '.join(VALUE_TYPES)}"
        )
    _check_missing(feature.name, feature.dtype, feature.missing, many=many)
    if _final_type(feature, feature.dtype) == "float32":
        raise InvalidInput(f"feature {feature.name}: float32 values are not ids; add Bucketize, or declare it Dense")
    if feature.beyond is not None:
        _check_int64(feature.name, "beyond", feature.beyond)
    if feature.never_empty is True and feature.missing == ():
        raise InvalidInput(
            f"feature {feature.name}: missing=() stands rows without values in, which never_empty refuses; give"
            " another missing rule, or none"
        )


def _final_type(feature: SentFeature, value_type: ValueType) -> ValueType:
    """Return the type of the values after the transforms, each of which must accept what the one before gives."""
    transforms: Any = feature.transforms
    if not isinstance(transforms, tuple | list) or not all(isinstance(each, Transform) for each in transforms):
        raise InvalidInput(f"feature {feature.name}: transforms is {transforms!r}; it must be a list of transforms")
    object.__setattr__(feature, "transforms", tuple(transforms))
    for place, transform in enumerate(transforms):
        if isinstance(transform, Vocabulary) and place + 1 < len(transforms):
            raise InvalidInput(f"feature {feature.name}: Vocabulary must be the last transform")
        if not transform.accepts(value_type):
            raise InvalidInput(f"feature {feature.name}: {transform!r} does not take {value_type} values")
        value_type = transform.gives(value_type)
    return value_type


def _check_missing(name: str, value_type: ValueType, missing: object, *, many: bool) -> None:
    if missing is None or (many and missing == ()):
        return
    if value_type in INTEGER_BOUNDS:
        low, high = INTEGER_BOUNDS[value_type]
        fits = is_integer(missing) and low <= missing <= high
    else:
        fits = isinstance(missing, str) if value_type == "string" else is_number(missing)
        if isinstance(missing, str) and fits:
            check_texts(f"feature {name}: missing", [missing])
    if not fits:
        raise InvalidInput(
            f"feature {name}: missing is {missing!r}; it must be a {value_type} value" + (", or ()" if many else "")
        )


def _check_flags(feature: SentFeature, *flags: str) -> None:
    for flag in flags:
        if not isinstance(getattr(feature, flag), bool):
            raise InvalidInput(
                f"feature {feature.name}: {flag} is {getattr(feature, flag)!r}; it must be true or false"
            )


def _check_int64(name: str, what: str, number: object) -> None:
    low, high = INTEGER_BOUNDS["int64"]
    if not is_integer(number) or not low <= number <= high:
        raise InvalidInput(f"feature {name}: {what} is {number!r}; it must be an int64")


def _check_size(name: str, what: str, size: object) -> None:
    if not is_integer(size) or not 1 <= size <= MAX_WIDTH:
        raise InvalidInput(f"feature {name}: {what} is {size!r}; it must be from 1 to {MAX_WIDTH}")
