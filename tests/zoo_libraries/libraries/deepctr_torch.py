"""deepctr-torch 0.3.0: one float matrix X, whose columns are ids, padded histories, their lengths and numbers."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ringpull import Dense, IdSequence, Schema, Sparse
from tests.zoo_libraries.model import DIM, ROWS, ZooModel

sys.modules.setdefault("requests", types.ModuleType("requests"))  # by which it asks the package index for news
import deepctr_torch.models as models  # noqa: E402
from deepctr_torch.inputs import DenseFeat, SparseFeat, VarLenSparseFeat, build_input_features  # noqa: E402

LENGTH = 6
SPARSE = [SparseFeat(name, ROWS, DIM) for name in ("user", "item", "place")]
DENSE = [DenseFeat("age", 1), DenseFeat("prices", 2)]
GENRES = VarLenSparseFeat(SparseFeat("genres", ROWS, DIM), LENGTH, "mean")
"""A history that is pooled with the mask `ids != 0`."""
TAGS = VarLenSparseFeat(SparseFeat("tags", ROWS, DIM), LENGTH, "sum", length_name="tags_lengths")
"""A history that is pooled with a mask of its length, which is a column too."""
CLICKED = VarLenSparseFeat(
    SparseFeat("hist_item", ROWS, DIM, embedding_name="item"), LENGTH, length_name="hist_item_lengths"
)
FEATURES = {
    "user": Sparse("user"),
    "item": Sparse("item"),
    "place": Sparse("place"),
    "age": Dense("age"),
    "prices": Dense("prices", width=2),
    "genres": IdSequence("genres", length=LENGTH),
    "tags": IdSequence("tags", length=LENGTH),
    "hist_item": IdSequence("hist_item", length=LENGTH),
}

PLAIN = [*SPARSE, *DENSE]
POOLED = [*SPARSE, GENRES, TAGS, *DENSE]
EMBEDDED = [*SPARSE, GENRES, TAGS]
HISTORY = [*SPARSE, CLICKED, *DENSE]
SMALL = {"dnn_hidden_units": (32, 16)}


def _matrix(columns: list[Any], given: Mapping[str, Tensor]) -> Tensor:
    """Return X as the library's documentation builds it: np.concatenate of columns in the order of its index."""
    parts = [given[name].float() for name in build_input_features(columns)]
    return torch.cat([part if part.dim() == 2 else part.unsqueeze(1) for part in parts], dim=1)


def _model(name: str, columns: list[Any], build: Callable[[], nn.Module]) -> ZooModel:
    index = list(build_input_features(columns))
    features = [FEATURES[each] for each in index if each in FEATURES]
    return ZooModel(
        name=name,
        build=build,
        schema=Schema(features, stacks={"X": index}),
        ask=lambda module, given: module(_matrix(columns, given)),
    )


MODELS = [
    *(
        _model(
            name, columns, lambda name=name, columns=columns, more=more: getattr(models, name)(columns, columns, **more)
        )
        for name, columns, more in (
            ("WDL", POOLED, SMALL),
            ("DeepFM", POOLED, SMALL),
            ("xDeepFM", POOLED, {**SMALL, "cin_layer_size": (16, 16)}),
            ("AFM", EMBEDDED, {}),
            ("DIFM", POOLED, SMALL),
            ("IFM", POOLED, SMALL),
            ("AutoInt", POOLED, SMALL),
            ("DCN", POOLED, SMALL),
            ("DCNMix", POOLED, SMALL),
            ("FiBiNET", POOLED, SMALL),
            ("NFM", POOLED, SMALL),
            ("AFN", PLAIN, {"afn_dnn_hidden_units": (32, 16)}),
            ("ONN", PLAIN, SMALL),
            ("CCPM", SPARSE, SMALL),
        )
    ),
    *(
        _model(name, columns, lambda name=name, columns=columns, more=more: getattr(models, name)(columns, **more))
        for name, columns, more in (
            ("PNN", POOLED, SMALL),
            ("MLR", PLAIN, {}),
            ("SharedBottom", POOLED, {"bottom_dnn_hidden_units": (32, 16)}),
            ("ESMM", POOLED, {"tower_dnn_hidden_units": (32, 16)}),
            ("MMOE", POOLED, {"expert_dnn_hidden_units": (32, 16)}),
            ("PLE", POOLED, {"expert_dnn_hidden_units": (32, 16)}),
            ("DIN", HISTORY, {**SMALL, "history_feature_list": ["item"]}),
            ("DIEN", HISTORY, {**SMALL, "history_feature_list": ["item"], "gru_type": "GRU"}),
        )
    ),
    _model(
        "DIEN (AUGRU)",
        HISTORY,
        lambda: models.DIEN(HISTORY, history_feature_list=["item"], gru_type="AUGRU", **SMALL),
    ),
]
