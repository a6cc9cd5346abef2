"""The workload: Predict requests made by a seed from what a model says of itself (`GetModel`).

A feature's ids are zipf-distributed over the rows of its table (`TableInfo.features` says which), or over ids given; a
share of them is replaced by ids that no table has. A feature with many values gets bags of Poisson lengths. Numbers are
uniform in [0, 1). Features that match a pattern of `context` are carried once per request, the others per candidate.

Invariant: equal model, options and seed make equal requests. Every feature draws from a random stream of its own, so a
changed option of one leaves the others' values alone.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.errors import InvalidInput
from ringpull.inference.proto import ringpull_pb2 as pb
from ringpull.inference.schema.columns import Column, Ragged
from ringpull.inference.wire.codec import PredictCall, as_call
from ringpull.loadtest.ids import IdRange, Ids, typed, unknown_ids
from ringpull.loadtest.options import WorkloadOptions
from ringpull.loadtest.zipf import Zipf

IDS_WITHOUT_A_TABLE: Final = 1000
"""Number of ids of a feature without a table: its embedding is in the dense program, or it has none."""


@dataclass(frozen=True, slots=True)
class FeatureStream:
    """One feature's endless, seeded stream of columns."""

    info: pb.FeatureInfo
    ids: Ids
    zipf: Zipf
    bag: float
    unknown: float
    rng: np.random.Generator

    def column(self, rows: int) -> Column:
        """Return the next `rows` rows."""
        if self.info.kind == "dense":
            width = max(self.info.width, 1)
            numbers = self.rng.random((rows, width), np.float32)
            return numbers if width > 1 else numbers.reshape(rows)
        if not self.info.many:
            return self._draw(rows)
        lengths = self.rng.poisson(self.bag, rows)
        if self.info.max_length:
            lengths = np.minimum(lengths, self.info.max_length)
        offsets = np.zeros(rows + 1, np.int64)
        np.cumsum(lengths, out=offsets[1:])
        count = int(offsets[-1])
        weights = self.rng.random(count, np.float32) if self.info.weighted else None
        return Ragged(self._draw(count), offsets, weights)

    def _draw(self, count: int) -> NDArray[Any]:
        known = self.ids.take(self.zipf.draw(self.rng, count))
        values = typed(self.info.name, known, self.info.dtype)
        if self.unknown > 0:
            strange = self.rng.random(count) < self.unknown
            values[strange] = unknown_ids(self.rng, int(strange.sum()), self.info.dtype)
        return values


@dataclass(frozen=True, slots=True)
class Workload:
    """The requests of one model."""

    model: pb.Model
    options: WorkloadOptions
    streams: dict[str, FeatureStream] = field(init=False)
    context: tuple[str, ...] = field(init=False)
    """Features that a request carries once."""
    candidate: tuple[str, ...] = field(init=False)
    """Features that it carries once per candidate."""

    def __post_init__(self) -> None:
        names = [info.name for info in self.model.features]
        mentioned = {*self.options.ids, *self.options.replay_columns}
        for setting in (self.options.zipf, self.options.bag, self.options.unknown):
            mentioned |= set(setting.by_name)
        if strangers := sorted(mentioned - set(names)):
            raise InvalidInput(
                f"model {self.model.name} has no feature {', '.join(strangers)}; it has {', '.join(names)}"
            )
        context = tuple(name for name in names if any(fnmatchcase(name, each) for each in self.options.context))
        if len(context) == len(names):
            raise InvalidInput(f"--context {','.join(self.options.context)} takes every feature; candidates need one")
        object.__setattr__(self, "context", context)
        object.__setattr__(self, "candidate", tuple(name for name in names if name not in context))
        object.__setattr__(self, "streams", {info.name: self._stream(info) for info in self.model.features})

    def calls(self) -> Iterator[PredictCall]:
        """Yield requests without end, always the same ones."""
        while True:
            yield as_call(
                self.model.name,
                {name: self.streams[name].column(self.options.candidates) for name in self.candidate},
                {name: self.streams[name].column(1) for name in self.context},
            )

    def _stream(self, info: pb.FeatureInfo) -> FeatureStream:
        ids = self.options.ids.get(info.name) or IdRange(0, self._rows(info.name))
        return FeatureStream(
            info=info,
            ids=ids,
            zipf=Zipf(ids.count, self.options.zipf.of(info.name)),
            bag=self.options.bag.of(info.name),
            unknown=self.options.unknown.of(info.name) if info.kind != "dense" else 0.0,
            rng=np.random.default_rng([self.options.seed, zlib.crc32(info.name.encode())]),
        )

    def _rows(self, feature: str) -> int:
        """The rows of the smallest table that looks this feature up; every id below is in all of them."""
        rows = [table.rows for table in self.model.tables if feature in table.features and table.rows]
        return min(rows, default=IDS_WITHOUT_A_TABLE)
