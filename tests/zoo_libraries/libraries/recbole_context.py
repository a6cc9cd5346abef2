"""RecBole 1.2.1: context-aware recommenders: one table for all token fields, told apart by offsets, and one pooled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ringpull import IdSequence, Schema, Sparse
from tests.zoo_libraries.libraries.recbole_data import CATEGORIES, build, interaction
from tests.zoo_libraries.model import ROWS, ZooModel

TAGS = 3
IDS = {"user_id": ROWS, "item_id": ROWS, "job": CATEGORIES + 1, "kind": CATEGORIES + 1, "tags": CATEGORIES + 1}
SCHEMA = Schema([Sparse("user_id"), Sparse("item_id"), Sparse("job"), Sparse("kind"), IdSequence("tags", length=TAGS)])


def _ask(module: nn.Module, given: Mapping[str, Tensor]) -> Any:
    return module.predict(interaction(dict(given)))


def _model(name: str, **settings: Any) -> ZooModel:
    return ZooModel(
        name=name,
        build=lambda: build(name, "context", **settings),
        schema=SCHEMA,
        ask=_ask,
        ids=IDS,
        options={"method": "predict"},
    )


MLP = {"mlp_hidden_size": [32, 16]}

MODELS = [
    _model("LR"),
    _model("FM"),
    _model("AFM"),
    _model("NFM", **MLP),
    _model("FNN", **MLP),
    _model("PNN", **MLP),
    _model("WideDeep", **MLP),
    _model("DeepFM", **MLP),
    _model("xDeepFM", **MLP, cin_layer_size=[16, 16]),
    _model("DCN", **MLP),
    _model("DCNV2", **MLP),
    _model("AutoInt", **MLP),
    _model("FFM", fields=None),
    _model("FwFM", fields=None),
    _model("FiGNN"),
    _model("DSSM", **MLP, double_tower=True),
    _model("EulerNet", order_list=[16]),
    _model("KD_DAGFM", phase="teacher_training", teacher_network="CrossNet", t_depth=2, type="inner", depth=2),
]
