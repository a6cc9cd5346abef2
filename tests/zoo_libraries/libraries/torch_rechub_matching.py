"""torch-rechub 0.9.0: matching models, which score an item and negatives for training, or give a tower's vectors
(`mode`, as their library sets it to serve), and a generative one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch_rechub.models.matching as matching
from torch import nn
from torch_rechub.basic.features import SequenceFeature, SparseFeature
from torch_rechub.models.generative.hstu import HSTUModel
from torch_rechub.models.matching import dssm_senet

from ringpull import IdSequence, Schema, Sparse
from tests.zoo_libraries.libraries.torch_rechub import history, sparse
from tests.zoo_libraries.model import DIM, ROWS, ZooModel

LENGTH = 6
NEGATIVES = 3
TOWER = {"dims": [32, DIM], "activation": "prelu"}


def _negatives() -> list[SequenceFeature]:
    return [SequenceFeature("others", vocab_size=ROWS, embed_dim=DIM, pooling="concat", shared_with="item")]


def _session() -> SequenceFeature:
    return SequenceFeature("history", vocab_size=ROWS, embed_dim=DIM, pooling="concat", padding_idx=0)


def _clicked() -> list[SequenceFeature]:
    return [
        SequenceFeature("recent", vocab_size=ROWS, embed_dim=DIM, pooling="mean", shared_with="item", padding_idx=0)
    ]


KINDS = {
    **{name: Sparse(name) for name in ("user", "place", "item", "other")},
    "history": IdSequence("history", length=LENGTH, never_empty=True),
    "seq": IdSequence("seq", length=LENGTH),
    "recent": IdSequence("recent", length=LENGTH),
    "others": IdSequence("others", length=NEGATIVES, never_empty=True),
}


def _ask(module: nn.Module, given: Mapping[str, Any]) -> Any:
    return module(dict(given))


def _open_gates(module: nn.Module) -> None:
    """Make the gates of SENet positive: with few features, most random ones are closed for all rows."""
    for name, weight in module.named_parameters():
        if "senet" in name:
            weight.data.abs_()


def _model(
    name: str,
    features: tuple[str, ...],
    build: Callable[[], nn.Module],
    mode: str | None = None,
    prepare: Callable[[nn.Module], None] | None = None,
) -> ZooModel:
    def with_mode() -> nn.Module:
        module = build()
        module.mode = mode
        return module

    schema = Schema([KINDS[each] for each in features])
    return ZooModel(name=name, build=with_mode, schema=schema, ask=_ask, prepare=prepare)


def _sasrec() -> nn.Module:
    seq = SequenceFeature("seq", vocab_size=ROWS, embed_dim=DIM, pooling="concat", padding_idx=0)
    return matching.SASRec([seq], max_len=LENGTH, item_feature=SparseFeature("item", ROWS, embed_dim=DIM))


def _dssm(kind: Callable[..., nn.Module]) -> nn.Module:
    return kind([*sparse("user", "place"), *_clicked()], sparse("item"), dict(TOWER), dict(TOWER))


def _multi_interest(kind: Callable[..., nn.Module], **more: Any) -> nn.Module:
    return kind(sparse("user"), history(), sparse("item"), _negatives(), **more)


SCORED = ("user", "history", "item", "others")
SERVED = ("user", "history")

MODELS = [
    _model("DSSM", ("user", "place", "recent", "item"), lambda: _dssm(matching.DSSM)),
    _model("DSSM (SENet)", ("user", "place", "recent", "item"), lambda: _dssm(dssm_senet.DSSM), prepare=_open_gates),
    _model(
        "FaceBookDSSM",
        ("user", "recent", "item", "other"),
        lambda: matching.FaceBookDSSM(
            [*sparse("user"), *_clicked()],
            sparse("item"),
            [SparseFeature("other", ROWS, embed_dim=DIM, shared_with="item")],
            dict(TOWER),
            dict(TOWER),
        ),
    ),
    _model(
        "YoutubeDNN",
        ("user", "recent", "item", "others"),
        lambda: matching.YoutubeDNN([*sparse("user"), *_clicked()], sparse("item"), _negatives(), dict(TOWER)),
    ),
    _model(
        "YoutubeSBC (user)",
        ("user", "recent"),
        lambda: matching.YoutubeSBC(
            [*sparse("user"), *_clicked()], sparse("item"), [], dict(TOWER), dict(TOWER), batch_size=64
        ),
        mode="user",
    ),
    _model(
        "GRU4Rec (user)",
        SERVED,
        lambda: _multi_interest(matching.GRU4Rec, user_params=dict(TOWER)),
        mode="user",
    ),
    _model("MIND", SCORED, lambda: _multi_interest(matching.MIND, max_length=LENGTH)),
    _model("MIND (user)", SERVED, lambda: _multi_interest(matching.MIND, max_length=LENGTH), mode="user"),
    _model("ComirecDR", SCORED, lambda: _multi_interest(matching.ComirecDR, max_length=LENGTH)),
    _model("ComirecSA", SCORED, lambda: _multi_interest(matching.ComirecSA)),
    _model("ComirecSA (user)", SERVED, lambda: _multi_interest(matching.ComirecSA), mode="user"),
    _model(
        "SINE",
        ("history", "item", "others"),
        lambda: matching.SINE(["history"], ["item"], ["others"], ROWS, DIM, 32, 10, 4, LENGTH),
    ),
    _model(
        "NARM",
        ("history", "item"),
        lambda: matching.NARM(_session(), 24, 0.1, 0.1, SparseFeature("item", ROWS, embed_dim=DIM)),
    ),
    _model("NARM (all items)", ("history",), lambda: matching.NARM(_session(), 24, 0.1, 0.1)),
    _model(
        "STAMP",
        ("history", "item"),
        lambda: matching.STAMP(_session(), 0.05, 0.002, SparseFeature("item", ROWS, embed_dim=DIM)),
    ),
    _model("STAMP (all items)", ("history",), lambda: matching.STAMP(_session(), 0.05, 0.002)),
    _model("SASRec (user)", ("seq",), _sasrec, mode="user"),
    ZooModel(
        name="HSTU",
        build=lambda: HSTUModel(ROWS, d_model=DIM, n_heads=2, n_layers=2, dqk=8, dv=8, max_seq_len=LENGTH),
        schema=Schema([KINDS["history"]]),
        ask=lambda module, given: module(given["history"]),
        options={"arguments": {"x": "history"}},
    ),
]
