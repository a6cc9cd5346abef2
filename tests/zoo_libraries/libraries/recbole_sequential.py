"""RecBole 1.2.1: sequential recommenders, which score an item after a history in `predict(interaction)`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ringpull import IdSequence, Schema, Sparse
from tests.zoo_libraries.libraries.recbole_data import LENGTH, build, interaction
from tests.zoo_libraries.model import ZooModel

SCHEMA = Schema([Sparse("user_id"), Sparse("item_id"), IdSequence("item_id_list", length=LENGTH, never_empty=True)])
"""RecBole never feeds an empty history, and many of its models look at its last item."""

WITH_NEGATIVES = Schema(
    [
        Sparse("user_id"),
        Sparse("item_id"),
        IdSequence("item_id_list", length=LENGTH, never_empty=True),
        IdSequence("neg_item_id_list", length=LENGTH, never_empty=True),
    ]
)

BACKWARDS = Schema(
    [
        Sparse("user_id"),
        Sparse("item_id"),
        IdSequence("inverse_item_id_list", length=LENGTH, pad_side="left", never_empty=True),
    ]
)


def _fields(given: Mapping[str, Tensor]) -> Any:
    names = {"item_id_list_lengths": "item_length"}
    return interaction({names.get(name, name): tensor for name, tensor in given.items()})


def _ask(module: nn.Module, given: Mapping[str, Tensor]) -> Any:
    return module.predict(_fields(given))


def _ask_all(module: nn.Module, given: Mapping[str, Tensor]) -> Any:
    return module.full_sort_predict(_fields(given))


def _model(name: str, schema: Schema = SCHEMA, **settings: Any) -> ZooModel:
    return ZooModel(
        name=name,
        build=lambda: build(name, "sequential", **settings),
        schema=schema,
        ask=_ask,
        options={"method": "predict", **({} if name in WITHOUT_LENGTHS else {"arguments": LENGTHS})},
    )


def _all_items(name: str, **settings: Any) -> ZooModel:
    return ZooModel(
        name=f"{name} (all items)",
        build=lambda: build(name, "sequential", **settings),
        schema=SCHEMA,
        ask=_ask_all,
        options={"method": "full_sort_predict", "arguments": LENGTHS},
    )


LENGTHS = {"item_length": "item_id_list_lengths"}
"""Key that RecBole reads, and what the schema calls it."""
WITHOUT_LENGTHS = ("Caser", "NextItNet", "HGN", "NPE", "SHAN")
"""Models that do not read it."""
HEADS: dict[str, Any] = {"hidden_size": 16, "inner_size": 32, "n_heads": 2, "n_layers": 2}
MODELS = [
    _model("GRU4Rec", hidden_size=32),
    _model("NARM", hidden_size=32),
    _model("STAMP"),
    _model("SASRec", **HEADS),
    _model("BERT4Rec", **HEADS),
    _model("Caser"),
    _model("NextItNet"),
    _model("FPMC"),
    _model("FOSSIL"),
    _model("HGN"),
    _model("HRM"),
    _model("NPE"),
    _model("TransRec"),
    _model("SHAN", BACKWARDS, INVERSE_ITEM_SEQ="inverse_item_id_list"),
    _model("SRGNN"),
    _model("GCSAN", **HEADS),
    _model("LightSANs", **HEADS),
    _model("CORE", **HEADS),
    _model("FEARec", **HEADS),
    _model("SINE"),
    _model("RepeatNet", hidden_size=16),
    _model(
        "S3Rec",
        selected_features=["kind"],
        item_attribute="kind",
        pretrain_epochs=0,
        train_stage="pretrain",
        pre_model_path="",
        **HEADS,
    ),
    _model("SASRecF", selected_features=["kind"], pooling_mode="sum", **HEADS),
    _model("FDSA", selected_features=["kind"], pooling_mode="mean", **HEADS),
    _model("GRU4RecF", selected_features=["kind"], hidden_size=32),
    _all_items("GRU4RecCPR", hidden_size=32),
    _all_items("SASRecCPR", **HEADS),
    _model("DIN"),
    _model("DIEN", WITH_NEGATIVES),
    _all_items("SASRec", **HEADS),
    _all_items("GRU4Rec", hidden_size=32),
    _all_items("STAMP"),
]
