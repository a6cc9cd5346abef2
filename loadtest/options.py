"""Options of the workload, which both load tools have, and how they are written on a command line.

A setting per feature is a list: a value for all, and others for some, as in `--zipf 1.05,item_id=1.3`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Generic, TypeVar

from ringpull.inference.errors import InvalidInput
from ringpull.loadtest.ids import Ids, parse_ids

T = TypeVar("T")

MAX_SEED: Final = 2**63 - 1
MAX_MADE: Final = 1_000_000
"""Requests that are made, and rows of one: more than any memory, or head, takes."""

DEFAULT_CONTEXT: Final = ("user*", "context*")


@dataclass(frozen=True, slots=True)
class PerFeature(Generic[T]):
    """A value for every feature, and others for some."""

    default: T
    by_name: Mapping[str, T] = field(default_factory=dict)

    def of(self, feature: str) -> T:
        return self.by_name.get(feature, self.default)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadOptions:
    """Options of the requests. Equal options and an equal model give equal requests, byte for byte."""

    seed: int = 0
    requests: int = 512
    """Number of different ones that are made; they are sent in turns."""
    candidates: int = 128
    """Rows of a request."""
    context: tuple[str, ...] = DEFAULT_CONTEXT
    """Patterns (`user*`) of the features that a request carries once, for all its candidates."""
    zipf: PerFeature[float] = PerFeature(1.05)
    """Exponent of the ids' distribution; 0 is uniform."""
    bag: PerFeature[float] = PerFeature(10.0)
    """Mean length of a feature with many values; lengths are Poisson's, cut at what the feature allows."""
    unknown: PerFeature[float] = PerFeature(0.01)
    """Share of ids that no table has."""
    ids: Mapping[str, Ids] = field(default_factory=dict)
    """Known ids by feature; those of other features are the row numbers of their tables."""
    replay: Path | None = None
    """Recorded file whose requests are sent instead: see `ringpull.loadtest.replay`."""
    replay_columns: Mapping[str, str] = field(default_factory=dict)
    """Column of the recorded file by the feature it holds, where the names differ."""

    def __post_init__(self) -> None:
        for name in ("requests", "candidates"):
            if getattr(self, name) < 1:
                raise InvalidInput(f"--{name} is {getattr(self, name)}; it must be 1 or more")
            if getattr(self, name) > MAX_MADE:
                raise InvalidInput(f"--{name} is {getattr(self, name)}; it must be {MAX_MADE:,} or less")
        if not 0 <= self.seed <= MAX_SEED:
            raise InvalidInput(f"--seed is {self.seed}; it must be from 0 to {MAX_SEED}")
        for feature, share in [("", self.unknown.default), *self.unknown.by_name.items()]:
            if not 0 <= share <= 1:
                raise InvalidInput(f"--unknown {feature}: {share} is no share; it must be from 0 to 1")
        for feature, length in [("", self.bag.default), *self.bag.by_name.items()]:
            if not 0 <= length < 1e6:
                raise InvalidInput(f"--bag {feature}: {length} is no mean length; it must be 0 or more")


def parse_options(
    *,
    seed: int = 0,
    requests: int = 512,
    candidates: int = 128,
    context: str = "",
    zipf: str = "",
    bag: str = "",
    unknown: str = "",
    ids: str = "",
    replay: str | Path | None = None,
    replay_columns: str = "",
) -> WorkloadOptions:
    """Read options as command lines give them: lists with commas of `VALUE` or `FEATURE=VALUE`; empty: the default.

    Raises:
        InvalidInput: One is not written so; the message names the option.
    """
    defaults = WorkloadOptions()
    return WorkloadOptions(
        seed=seed,
        requests=requests,
        candidates=candidates,
        context=tuple(_split(context)) or defaults.context,
        zipf=_per_feature("--zipf", zipf, defaults.zipf),
        bag=_per_feature("--bag", bag, defaults.bag),
        unknown=_per_feature("--unknown", unknown, defaults.unknown),
        ids={feature: parse_ids(feature, text) for feature, text in _pairs("--ids", ids).items()},
        replay=Path(replay) if replay else None,
        replay_columns=_pairs("--replay-columns", replay_columns),
    )


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _per_feature(option: str, texts: str, default: PerFeature[float]) -> PerFeature[float]:
    everywhere, by_name = default.default, dict(default.by_name)
    for text in _split(texts):
        feature, equals, value = text.rpartition("=")
        try:
            number = float(value)
        except ValueError as exc:
            raise InvalidInput(f"{option} {text!r}: write a number, or FEATURE=NUMBER") from exc
        if equals:
            by_name[feature] = number
        else:
            everywhere = number
    return PerFeature(everywhere, by_name)


def _pairs(option: str, texts: str) -> dict[str, str]:
    pairs = {}
    for text in _split(texts):
        feature, equals, value = text.partition("=")
        if not (feature and equals and value):
            raise InvalidInput(f"{option} {text!r}: write FEATURE=VALUE")
        pairs[feature] = value
    return pairs
