"""RecBole 1.2.1: knowledge-aware recommenders. KGAT, KGIN and MCCLK are left out: they need dgl or torch_scatter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ringpull import Schema, Sparse
from tests.zoo_libraries.libraries.recbole_data import build, interaction
from tests.zoo_libraries.model import DIM, ZooModel

SCHEMA = Schema([Sparse("user_id"), Sparse("item_id")])


def _ask(module: nn.Module, given: Mapping[str, Tensor]) -> Any:
    return module.predict(interaction(dict(given)))


def _model(name: str, **settings: Any) -> ZooModel:
    return ZooModel(
        name=name,
        build=lambda: build(name, "knowledge", **settings),
        schema=SCHEMA,
        ask=_ask,
        options={"method": "predict"},
    )


MODELS = [
    _model("CFKG"),
    _model("CKE", kg_embedding_size=DIM),
    _model("KGCN"),
    _model("KGNNLS"),
    _model("KTUP", kg_embedding_size=DIM),
    _model("MKR"),
    _model("RippleNet"),
]
