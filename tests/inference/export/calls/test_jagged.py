"""Features by key in one jagged object, whose own code no graph can hold: a stand-in keeps each feature apart."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ringpull.inference.export.model import export_model
from ringpull.inference.schema.columns import Ragged
from ringpull.inference.schema.kinds import Dense, Sparse
from ringpull.inference.schema.schema import Schema
from ringpull.ps.errors import ExportError, InvalidInput
from tests.inference.export.calls.served import export_and_compare, table_names

pytestmark = pytest.mark.medium

SCHEMA = Schema(
    [Dense("dense", width=3), Sparse("f1", many=True), Sparse("f2", many=True, weighted=True), Sparse("single")]
)
COLUMNS: dict[str, Any] = {
    "dense": np.arange(12, dtype=np.float32).reshape(4, 3) / 10,
    "f1": Ragged(np.arange(1, 8), np.array([0, 2, 3, 7, 7])),
    "f2": Ragged(np.arange(2, 8), np.array([0, 0, 1, 3, 6]), np.linspace(-1, 2, 6, dtype=np.float32)),
    "single": np.array([3, 0, 9, 1]),
}


class Multistream(type):
    """A metaclass, as such a class has one, which hides what the constructor takes."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        return super().__call__(*args, **kwargs)


class KeyedRagged(metaclass=Multistream):
    """Bags by key, which splits its values by sizes of the request: this is the oracle, and cannot be traced."""

    def __init__(
        self, keys: list[str], values: Tensor, weights: Tensor | None = None, lengths: Tensor | None = None
    ) -> None:
        assert lengths is not None
        self._keys, self._values, self._weights, self._lengths = keys, values, weights, lengths

    def keys(self) -> list[str]:
        return self._keys

    def inverse_indices_or_none(self) -> None:
        return None

    def to_dict(self) -> dict[str, Any]:
        by_key = self._lengths.view(len(self._keys), -1)
        sizes = by_key.sum(1).tolist()
        parts = torch.split(self._values, sizes)
        weights = [None] * len(sizes) if self._weights is None else torch.split(self._weights, sizes)
        return {key: One(*each) for key, *each in zip(self._keys, parts, by_key, weights, strict=True)}

    def __getitem__(self, key: str) -> Any:
        return self.to_dict()[key]

    def split(self, segments: list[int]) -> list[KeyedRagged]:
        raise NotImplementedError

    def dist_labels(self) -> list[str]:
        return []


class One:
    def __init__(self, values: Tensor, lengths: Tensor, weights: Tensor | None) -> None:
        self._values, self._lengths, self._weights = values, lengths, weights

    def values(self) -> Tensor:
        return self._values

    def offsets(self) -> Tensor:
        return torch.cat([self._lengths.new_zeros(1), self._lengths.cumsum(0)])

    def weights(self) -> Tensor:
        assert self._weights is not None
        return self._weights


class Collection(nn.Module):
    def __init__(self, names: list[str], weighted: bool = False) -> None:
        super().__init__()
        self.names, self.weighted = names, weighted
        self.bags = nn.ModuleDict(
            {name: nn.EmbeddingBag(12, 4, mode="sum", include_last_offset=True) for name in names}
        )

    def forward(self, features: KeyedRagged) -> Tensor:
        assert isinstance(features, KeyedRagged)
        assert features.inverse_indices_or_none() is None
        found = features.to_dict()
        return torch.cat(list(self.pooled(found)), dim=1)

    def pooled(self, found: Any) -> Iterator[Tensor]:
        for name in self.names:
            one = found[name]
            yield self.bags[name](one.values(), one.offsets(), one.weights() if self.weighted else None)


class Ranker(nn.Module):
    def __init__(self, collection: Collection) -> None:
        super().__init__()
        self.sparse = collection
        self.out = nn.Linear(3 + 4 * len(collection.names), 1)

    def forward(self, dense: Tensor, sparse_features: KeyedRagged) -> Tensor:
        return torch.sigmoid(self.out(torch.cat([dense, self.sparse(sparse_features)], dim=1)))

    def optional(self, dense: Tensor, sparse_features: KeyedRagged | None = None) -> Tensor:
        assert sparse_features is not None
        return self(dense, sparse_features)

    def of_batch(self, batch: Any) -> Tensor:
        return self(batch.dense_features, batch.sparse_features)

    def unannotated(self, dense: Tensor, features) -> Tensor:  # type: ignore[no-untyped-def]
        return self(dense, features)

    def in_parts(self, dense: Tensor, sparse_features: KeyedRagged) -> Tensor:
        first, second = sparse_features.split([1, 1])
        assert isinstance(first, KeyedRagged)
        assert (first.keys(), second.keys()) == (["f1"], ["f2"])
        assert sparse_features.keys() == ["f1", "f2"]
        pooled = [
            next(self.sparse.pooled(first)),
            self.sparse.bags["f2"](second["f2"].values(), second["f2"].offsets()),
        ]
        return self.out(torch.cat([dense, *pooled], dim=1))

    def unknown(self, sparse_features: KeyedRagged) -> Tensor:
        return self.out(torch.zeros(3, len(sparse_features.dist_label_sizes())))  # type: ignore[attr-defined]


def keyed(made: dict[str, Tensor], keys: dict[str, str], weighted: bool = False) -> KeyedRagged:
    lengths = [
        made[f"{name}_offsets"].diff() if f"{name}_offsets" in made else torch.ones_like(made[name])
        for name in keys.values()
    ]
    weights = torch.cat([made[f"{name}_weights"] for name in keys.values()]) if weighted else None
    return KeyedRagged(list(keys), torch.cat([made[name] for name in keys.values()]), weights, torch.cat(lengths))


BOTH = {"f1": "f1", "f2": "f2"}


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("forward", {}),
        ("optional", {}),
        ("forward", {"sparse_features": ["f2", "f1"]}),
        ("of_batch", {"dense_features": "dense", "sparse_features": KeyedRagged}),
        ("of_batch", {"batch": {"dense_features": "dense", "sparse_features": (KeyedRagged, ["f1", "f2"])}}),
        ("unannotated", {"features": KeyedRagged}),
        ("in_parts", {}),
    ],
)
def test_bags_by_key_are_pooled_pulls(tmp_path: Path, method: str, arguments: dict[str, Any]) -> None:
    module = Ranker(Collection(["f1", "f2"]))
    ask = (
        module if method != "in_parts" else lambda dense, keyed: module.out(torch.cat([dense, module.sparse(keyed)], 1))
    )
    report = export_and_compare(
        module,
        SCHEMA,
        tmp_path,
        COLUMNS,
        lambda made: ask(made["dense"], keyed(made, BOTH)),
        method=method,
        arguments=arguments,
    )
    assert table_names(report) == ["sparse.bags.f1", "sparse.bags.f2"]
    assert {pooling for table in report.tables for pooling in table.poolings} == {"sum"}


def test_keys_are_called_as_the_module_calls_them(tmp_path: Path) -> None:
    module = Ranker(Collection(["cat_0", "cat_1"]))
    keys = {"cat_0": "f2", "cat_1": "single"}
    report = export_and_compare(
        module,
        SCHEMA,
        tmp_path,
        COLUMNS,
        lambda made: module(made["dense"], keyed(made, keys)),
        arguments={"sparse_features": keys},
    )
    assert "sparse.bags.cat_0" in table_names(report)


def test_weights_of_ids_travel_with_them(tmp_path: Path) -> None:
    module = Ranker(Collection(["f2"], weighted=True))
    report = export_and_compare(
        module,
        SCHEMA,
        tmp_path,
        COLUMNS,
        lambda made: module(made["dense"], keyed(made, {"f2": "f2"}, weighted=True)),
    )
    assert [lookup.weighted for lookup in report.manifest.lookups] == [True]


@pytest.mark.parametrize(
    ("method", "arguments", "error", "match"),
    [
        (
            "forward",
            {"sparse_features": ["f3"]},
            ExportError,
            "no Sparse feature 'f3' for key 'f3'; it has f1, f2, single",
        ),
        ("forward", {"sparse_features": {"a": "f1"}}, ExportError, "reads 'f1' of its features by key, which are a"),
        (
            "forward",
            {"sparse_features": {"a": ["f1"]}},
            InvalidInput,
            "must be a list of features, or a dict of features",
        ),
        ("unknown", {}, ExportError, "takes 'dist_label_sizes' of features by key"),
    ],
)
def test_what_a_stand_in_cannot_be(
    tmp_path: Path, method: str, arguments: dict[str, Any], error: type[Exception], match: str
) -> None:
    module = Ranker(Collection(["f1", "f2"]))
    with pytest.raises(error, match=match):
        export_model(module, SCHEMA, tmp_path / "model", 1, method=method, arguments=arguments, quiet=True)


def test_a_schema_without_bags(tmp_path: Path) -> None:
    with pytest.raises(
        ExportError, match="'sparse_features' is KeyedRagged, of features with any number of ids per row"
    ):
        export_model(Ranker(Collection(["f1"])), Schema([Dense("dense", width=3)]), tmp_path / "model", 1, quiet=True)


def test_weights_that_the_schema_does_not_make(tmp_path: Path) -> None:
    module = Ranker(Collection(["f1"], weighted=True))
    with pytest.raises(ExportError, match="feature f1: the module takes weights of it; declare it with weighted=True"):
        export_model(module, SCHEMA, tmp_path / "model", 1, quiet=True)
