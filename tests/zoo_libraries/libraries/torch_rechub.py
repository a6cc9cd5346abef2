"""torch-rechub 0.9.0: ranking and multi-task models, whose forward takes one dict of features by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch_rechub.models.multi_task as multi_task
import torch_rechub.models.ranking as ranking
from torch import nn
from torch_rechub.basic.features import DenseFeature, SequenceFeature, SparseFeature

from ringpull import Dense, IdSequence, Schema, Sparse
from tests.zoo_libraries.model import DIM, ROWS, ZooModel

LENGTH = 6
MLP: dict[str, Any] = {"dims": [32, 16], "dropout": 0.2, "activation": "prelu"}
TASKS = ["classification", "classification"]
TOWERS = [{"dims": [8]}, {"dims": [8]}]


def sparse(*names: str) -> list[SparseFeature]:
    """Return features of one id a row. They keep their embedding, so that each model needs its own."""
    return [SparseFeature(name, vocab_size=ROWS, embed_dim=DIM) for name in names]


def pooled() -> list[SequenceFeature]:
    """Return padded histories that are pooled: a mean and a sum of what is not padding, and a mean of all places."""
    return [
        SequenceFeature("genres", vocab_size=ROWS, embed_dim=DIM, pooling="mean", padding_idx=0),
        SequenceFeature("tags", vocab_size=ROWS, embed_dim=DIM, pooling="sum", padding_idx=0),
        SequenceFeature("recent", vocab_size=ROWS, embed_dim=DIM, pooling="mean", shared_with="item"),
    ]


def dense() -> list[DenseFeature]:
    """Return a number."""
    return [DenseFeature("age")]


def history(name: str = "history") -> list[SequenceFeature]:
    """Return a padded history of items, vector by vector."""
    return [SequenceFeature(name, vocab_size=ROWS, embed_dim=DIM, pooling="concat", shared_with="item", padding_idx=0)]


KINDS = {
    **{name: Sparse(name) for name in ("user", "item", "place")},
    **{name: IdSequence(name, length=LENGTH) for name in ("genres", "tags", "recent", "history", "not_clicked")},
    "age": Dense("age"),
}
ALL = ("user", "item", "place", "genres", "tags", "recent", "age")


def _model(name: str, features: tuple[str, ...], build: Callable[[], nn.Module], **more: Any) -> ZooModel:
    return ZooModel(
        name=name,
        build=build,
        schema=Schema([KINDS[each] for each in features]),
        ask=_ask,
        **more,
    )


def _ask(module: nn.Module, given: Mapping[str, Any]) -> Any:
    return module(dict(given))


def _embedded() -> list[Any]:
    return [*sparse("user", "item", "place"), *pooled()]


def _ffm(kind: Callable[..., nn.Module], **more: Any) -> nn.Module:
    linear = [SparseFeature(name, vocab_size=ROWS, embed_dim=1) for name in ("user", "item", "place")]
    crossed = [SparseFeature(name, vocab_size=ROWS * 3, embed_dim=DIM) for name in ("user", "item", "place")]
    return kind(linear, crossed, embed_dim=DIM, mlp_params=dict(MLP), **more)


IDS = ("user", "item", "place")
HISTORY = ("user", "age", "history", "item")

MODELS = [
    _model("WideDeep", ALL, lambda: ranking.WideDeep([*sparse("user"), *dense()], _embedded(), MLP)),
    _model("DeepFM", ALL, lambda: ranking.DeepFM([*_embedded(), *dense()], sparse("user", "item"), MLP)),
    _model("DCN", ALL, lambda: ranking.DCN([*_embedded(), *dense()], 2, MLP)),
    _model("DCNv2", ALL, lambda: ranking.DCNv2([*_embedded(), *dense()], 2, MLP)),
    _model("EDCN", ALL[:-1], lambda: ranking.EDCN(_embedded(), 2, {"dropout": 0.2, "activation": "relu"})),
    _model("AFM", ALL[:-1], lambda: ranking.AFM(_embedded(), DIM)),
    _model("FiBiNet", IDS, lambda: ranking.FiBiNet(sparse(*IDS), MLP)),
    _model("DeepFFM", IDS, lambda: _ffm(ranking.DeepFFM)),
    _model("FatDeepFFM", IDS, lambda: _ffm(ranking.FatDeepFFM, reduction_ratio=1)),
    _model("AutoInt", (*IDS, "age"), lambda: ranking.AutoInt(sparse(*IDS), dense(), mlp_params=MLP)),
    _model(
        "BST",
        HISTORY,
        lambda: ranking.BST([*sparse("user"), *dense()], history(), sparse("item"), MLP, max_seq_len=LENGTH + 1),
    ),
    _model(
        "DIN",
        ("user", "place", "history", "item"),
        lambda: ranking.DIN(
            sparse("user", "place"),
            history(),
            sparse("item"),
            {"dims": [32, 16]},
            {"dims": [16], "activation": "dice"},
        ),
    ),
    _model(
        "DIEN",
        ("user", "history", "not_clicked", "item"),
        lambda: ranking.DIEN(sparse("user"), history(), history("not_clicked"), sparse("item"), {"dims": [32, 16]}),
    ),
    _model(
        "SharedBottom",
        ALL,
        lambda: multi_task.SharedBottom([*_embedded(), *dense()], TASKS, {"dims": [32, 16]}, TOWERS),
    ),
    _model(
        "ESMM",
        ALL[:-1],
        lambda: multi_task.ESMM([*sparse("user"), *pooled()], sparse("item", "place"), {"dims": [16]}, {"dims": [16]}),
    ),
    _model("MMOE", ALL, lambda: multi_task.MMOE([*_embedded(), *dense()], TASKS, 3, {"dims": [32, 16]}, TOWERS)),
    _model("PLE", ALL, lambda: multi_task.PLE([*_embedded(), *dense()], TASKS, 2, 2, 1, {"dims": [32, 16]}, TOWERS)),
    _model("AITM", ALL[:-1], lambda: multi_task.AITM(_embedded(), 2, {"dims": [32, 32]}, TOWERS)),
]
