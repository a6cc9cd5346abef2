"""The schema of a model's features: what a request must carry, and what becomes of it before the model sees it.

A schema is a value and part of the model: each version has it as JSON, and training, export and serving all use it.

    schema = Schema([
        Sparse("user_id"), Sparse("zip", dtype="string", transforms=[Hash(10_000)]),
        Sparse("genres", many=True), IdSequence("history", length=50), Dense("age", transforms=[Log()], missing=30.0),
    ])
    arguments = schema.arguments(schema.prepare(columns, rows=128))
"""

from __future__ import annotations

import collections.abc
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from numpy.typing import NDArray

from ringpull.inference.schema import features as preparing
from ringpull.inference.schema.arguments import Argument, arguments_of, assemble
from ringpull.inference.schema.columns import Column
from ringpull.inference.schema.features import Prepared, PreparedRequests
from ringpull.inference.schema.kinds import KINDS, Computed, Cross, Dense, Feature, IdSequence, MadeFeature, Sparse
from ringpull.inference.schema.schema_json import read_schema, write_schema
from ringpull.inference.schema.transforms import ValueType, Vocabulary
from ringpull.ps.errors import InvalidInput
from ringpull.ps.spec import check_name

__all__ = ["Cross", "Dense", "Feature", "IdSequence", "Schema", "Sparse"]


@dataclass(frozen=True)
class Schema:
    """The features of a model, and the stacks it takes them in."""

    features: collections.abc.Sequence[Feature]
    """Features in the order in which they are prepared; a Cross may come anywhere."""
    stacks: Mapping[str, collections.abc.Sequence[str]] = field(default_factory=dict)
    """Features side by side, by argument name: single-valued Sparse or Cross as (B, F), Dense as (B, sum w), or all
    of these, IdSequence and NAME_lengths of one, as one matrix of floats."""
    _by_name: dict[str, Feature] = field(init=False, repr=False, compare=False)
    _arguments: dict[str, Argument] = field(init=False, repr=False, compare=False)
    _places: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        features = tuple(self.features)
        if not features or not all(isinstance(feature, KINDS) for feature in features):
            raise InvalidInput("a schema needs at least one feature, each Sparse, Dense, IdSequence or Cross")
        stacks = {name: tuple(members) for name, members in self.stacks.items()}
        by_name: dict[str, Feature] = {}
        # What is made of others needs them first.
        for feature in sorted(features, key=lambda each: isinstance(each, MadeFeature)):
            if feature.name in by_name:
                raise InvalidInput(f"feature {feature.name}: declared twice")
            by_name[feature.name] = feature
        _check_crosses(by_name)
        _check_stacks(by_name, stacks)
        places = {feature.name: place for place, feature in enumerate(features)}
        for name, value in {
            "features": features,
            "stacks": stacks,
            "_by_name": by_name,
            "_places": places,
        }.items():
            object.__setattr__(self, name, value)
        object.__setattr__(self, "_arguments", arguments_of(by_name, stacks))

    @classmethod
    def without_features(cls) -> Schema:
        """Return the schema of what predicts nothing: a version of tables alone."""
        schema = object.__new__(cls)
        object.__setattr__(schema, "features", ())
        for name in ("stacks", "_by_name", "_arguments", "_places"):
            object.__setattr__(schema, name, {})
        return schema

    def get(self, name: str) -> Feature | None:
        """Return the feature called `name`, or None."""
        return self._by_name.get(name)

    def __getitem__(self, name: str) -> Feature:
        """Return the feature called `name`; KeyError when there is none."""
        return self._by_name[name]

    def place(self, name: str) -> int:
        """Return the place of the feature called `name` among `features`; KeyError when there is none."""
        return self._places[name]

    def prepare(self, columns: Mapping[str, Any], rows: int) -> Prepared:
        """Prepare every feature from columns of `rows` rows.

        Args:
            columns: Columns by feature name; crosses are not sent. A column is (B,) or (B, w), or `Ragged`; lists, and
                what says itself as an array, are taken as `as_column` takes them.
            rows: B, at least 1.

        Raises:
            InvalidInput: A feature is unknown, absent without a missing rule, or its column has the wrong type, shape
                or number of rows, offsets that do not add up, or NaN without a missing rule. The message names it.
        """
        return preparing.prepare(self._by_name, columns, rows)

    def without(self, names: Collection[str]) -> dict[str, Feature]:
        """Return all features but these, by name, in the order in which they are prepared."""
        return {name: feature for name, feature in self._by_name.items() if name not in names}

    def prepare_requests(
        self,
        candidates: Mapping[str, Column],
        context: Mapping[str, Column],
        row_counts: Collection[int],
        features: Mapping[str, Feature] | None = None,
    ) -> PreparedRequests:
        """Prepare requests end to end: one, or several whose columns are of the same names.

        A row of a context column stands for all candidate rows of its request. Each feature is prepared once, in the
        part it was sent in. An absent feature with a missing rule is prepared with the context; a cross belongs to the
        context when all its parts do.

        Args:
            candidates: Columns of as many rows as `row_counts` adds up to.
            context: Columns of a row per request.
            row_counts: Candidate rows of each request, each at least 1.
            features: Features to prepare, of `without`; None: all.

        Raises:
            InvalidInput: As `prepare`; or a feature is sent in both parts, or a context column has not one row per
                request.
        """
        chosen = self._by_name if features is None else features
        return preparing.prepare_requests(chosen, candidates, context, tuple(row_counts))

    def argument_names(self) -> dict[str, Argument]:
        """Return all arguments a model of this schema may take, by name, and what each is made of."""
        return dict(self._arguments)

    def arguments(self, prepared: Prepared, names: Collection[str] | None = None) -> dict[str, NDArray[Any]]:
        """Return the arguments of the model's forward: `names` (its parameters), or all there are.

        The shapes are in `ringpull.inference.schema.arguments`. Arrays may share memory with `prepared`.

        Raises:
            InvalidInput: A name is no argument of this schema.
        """
        chosen: dict[str, NDArray[Any]] = {}
        for name in self._arguments if names is None else names:
            argument = self._arguments.get(name)
            if argument is None:
                raise InvalidInput(
                    f"argument {name}: the schema makes no such argument; it makes {', '.join(self._arguments)}"
                )
            chosen[name] = assemble(argument, self._by_name, prepared)
        return chosen

    def for_serving(self, raw_features: Collection[str] | Mapping[str, ValueType]) -> Schema:
        """Return the schema that gives raw ids for these features, whose tables are keyed by raw ids.

        A feature whose last transform is a Vocabulary loses it. One without transforms was trained on row numbers: raw
        ids come in their place, of the type that a mapping gives (its own when `raw_features` is no mapping).

        Raises:
            InvalidInput: A feature is unknown, or is not one whose ids can be replaced by raw ones.
        """
        types = raw_features if isinstance(raw_features, Mapping) else dict.fromkeys(raw_features)
        raw = {name: _raw_feature(self, name, value_type) for name, value_type in types.items()}
        return Schema([raw.get(feature.name, feature) for feature in self.features], self.stacks)

    def with_computed(self, computed: Collection[Computed]) -> Schema:
        """Return the schema with more features that the server makes."""
        return Schema([*self.features, *computed], self.stacks) if computed else self

    def to_json(self) -> str:
        """Return the schema as JSON, on one line."""
        return write_schema(self.features, self.stacks)

    @classmethod
    def from_json(cls, text: str | bytes) -> Schema:
        """Read what `to_json` wrote.

        Raises:
            InvalidInput: It is not such JSON; the message names the feature and field.
        """
        features, stacks = read_schema(text)
        return cls(features, stacks)


def _check_crosses(features: Mapping[str, Feature]) -> None:
    for feature in features.values():
        if isinstance(feature, MadeFeature):
            for part in feature.of:
                found = features.get(part)
                if not isinstance(found, Sparse) or found.many:
                    raise InvalidInput(
                        f"feature {feature.name}: crosses {part!r}, which is not a single-valued Sparse feature"
                    )


def _check_stacks(features: Mapping[str, Feature], stacks: Mapping[str, tuple[str, ...]]) -> None:
    for name, members in stacks.items():
        check_name("stack", name)
        if not members:
            raise InvalidInput(f"stack {name}: has no features")
        for member in members:
            feature = features.get(member)
            if feature is None and not isinstance(features.get(member.removesuffix("_lengths")), IdSequence):
                raise InvalidInput(f"stack {name}: no feature is called {member!r}")
            if isinstance(feature, Sparse) and feature.many:
                raise InvalidInput(
                    f"stack {name}: {member} has any number of ids per row, which are no columns; declare it IdSequence"
                )


def _raw_feature(schema: Schema, name: str, value_type: ValueType | None) -> Feature:
    """Return the feature `name` as it is served when its ids are raw ones."""
    feature = schema.get(name)
    if not isinstance(feature, Sparse | IdSequence):
        raise InvalidInput(
            f"feature {name}: the schema has no Sparse or IdSequence feature of this name to look up by raw ids"
        )
    transforms = feature.transforms
    computed = [each.name for each in schema.features if isinstance(each, Computed) and name in each.of]
    if computed:
        raise InvalidInput(
            f"feature {name}: the model also looks up {computed[0]}, which it computes of its row numbers; raw ids can"
            " not take their place"
        )
    if transforms and isinstance(transforms[-1], Vocabulary):
        return replace(feature, transforms=transforms[:-1])
    if transforms:
        raise InvalidInput(
            f"feature {name}: its ids come from {transforms[-1]!r}; raw ids can only take a Vocabulary's place"
        )
    crosses = [each.name for each in schema.features if isinstance(each, MadeFeature) and name in each.of]
    if crosses or feature.missing not in (None, ()):
        other = f"the cross {crosses[0]}" if crosses else "its missing rule"
        raise InvalidInput(
            f"feature {name}: {other} was made for row numbers; give the feature a Vocabulary to serve raw ids"
        )
    return replace(feature, dtype=value_type or feature.dtype)
