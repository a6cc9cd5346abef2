"""RecBole 1.2.1: general recommenders, which score a user and an item in `predict(interaction)`.

Its traditional ones (ADMMSLIM, AsymKNN, EASE, ItemKNN, Pop, Random, SLIMElastic) are left out: they count or solve,
with scipy, and hold no weights of torch. So is LDiffRec, which needs a file of trained vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ringpull import Schema, Sparse
from tests.zoo_libraries.libraries.recbole_data import SMALL_ROWS, build, interaction
from tests.zoo_libraries.model import DIM, ROWS, ZooModel

SCHEMA = Schema([Sparse("user_id"), Sparse("item_id")])


def _ask(module: nn.Module, given: Mapping[str, Tensor]) -> Any:
    return module.predict(interaction(dict(given)))


def _once_predicted(module: nn.Module) -> None:
    """Score a row: the model then keeps what it propagated, for all rows that follow."""
    with torch.no_grad():
        module.predict(interaction({"user_id": torch.tensor([1]), "item_id": torch.tensor([1])}))


def _model(
    name: str,
    once: tuple[str, ...] = (),
    rows: int = ROWS,
    prepare: Callable[[nn.Module], None] | None = None,
    **settings: Any,
) -> ZooModel:
    return ZooModel(
        name=name,
        build=lambda: build(name, "general", rows, **settings),
        schema=SCHEMA,
        ask=_ask,
        ids={"user_id": rows, "item_id": rows},
        options={"method": "predict", **({"once": once} if once else {})},
        prepare=prepare,
    )


def _autoencoder(name: str, **settings: Any) -> ZooModel:
    return _model(name, rows=SMALL_ROWS, mlp_hidden_size=[32], latent_dimension=16, **settings)


GRAPH = ("forward",)
"""What graph models compute of their weights alone, for all users and items, before they look any up."""

MODELS = [
    _model("BPR"),
    _model("ConvNCF", embedding_size=64, cnn_channels=[1, 8, 8], cnn_kernels=[4, 4], cnn_strides=[4, 4]),
    _model("DMF", rows=SMALL_ROWS, user_hidden_size_list=[32, 16], item_hidden_size_list=[32, 16]),
    _model("ENMF"),
    _model("FISM"),
    _model("NAIS"),
    _model("NeuMF", mf_embedding_size=DIM, mlp_embedding_size=DIM, mlp_hidden_size=[32, 16]),
    _model("NNCF", rows=SMALL_ROWS),
    _model("LINE"),
    _model("SimpleX"),
    _model("NCEPLRec", rows=SMALL_ROWS, rank=16),
    _model("LightGCN", GRAPH),
    _model("NGCF", GRAPH, hidden_size_list=[16, 16]),
    _model("DGCF", GRAPH),
    _model("SGL", prepare=_once_predicted),
    _model("NCL", GRAPH, num_clusters=10),
    _model("SpectralCF", GRAPH, rows=SMALL_ROWS),
    _model("GCMC", rows=SMALL_ROWS),
    _autoencoder("CDAE"),
    _autoencoder("MultiDAE"),
    _autoencoder("MultiVAE"),
    _autoencoder("MacridVAE", encoder_hidden_size=[32], kfac=3),
    _autoencoder("RaCT"),
    _autoencoder("RecVAE", hidden_dimension=32),
    _autoencoder("DiffRec", dims_dae=[32]),
]
