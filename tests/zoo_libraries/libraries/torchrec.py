"""torchrec 1.8.0: DLRM and its kin over an EmbeddingBagCollection, with a KeyedJaggedTensor of sparse features."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torchrec.models.deepfm import SimpleDeepFMNN
from torchrec.models.dlrm import DLRM, DLRM_DCN, DLRM_Projection
from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from ringpull import Dense, Schema, Sparse
from tests.zoo_libraries.model import DIM, ROWS, ZooModel

FEATURES = ("site", "clicked", "genres")
NUMBERS = 4
SCHEMA = Schema([*(Sparse(name, many=True) for name in FEATURES), Dense("numbers", width=NUMBERS)])


def _bags(pooling: PoolingType = PoolingType.SUM) -> EmbeddingBagCollection:
    """Return two tables, one of which serves two features."""
    tables = [
        EmbeddingBagConfig(
            name="t1", embedding_dim=DIM, num_embeddings=ROWS, feature_names=["site", "clicked"], pooling=pooling
        ),
        EmbeddingBagConfig(
            name="t2", embedding_dim=DIM, num_embeddings=ROWS, feature_names=["genres"], pooling=pooling
        ),
    ]
    return EmbeddingBagCollection(tables=tables)


def _jagged(given: Mapping[str, Tensor]) -> KeyedJaggedTensor:
    lengths = torch.cat([given[f"{name}_offsets"].diff() for name in FEATURES])
    return KeyedJaggedTensor(keys=list(FEATURES), values=torch.cat([given[name] for name in FEATURES]), lengths=lengths)


def _ask(module: nn.Module, given: Mapping[str, Tensor]) -> Any:
    return module(given["numbers"], _jagged(given))


def _model(name: str, build: Callable[[], nn.Module]) -> ZooModel:
    return ZooModel(
        name=name,
        build=build,
        schema=SCHEMA,
        ask=_ask,
        options={"arguments": {"dense_features": "numbers", "sparse_features": {name: name for name in FEATURES}}},
    )


LAYERS: dict[str, Any] = {
    "dense_in_features": NUMBERS,
    "dense_arch_layer_sizes": [32, DIM],
    "over_arch_layer_sizes": [16, 1],
}

MODELS = [
    _model("DLRM", lambda: DLRM(_bags(), **LAYERS)),
    _model("DLRM (mean)", lambda: DLRM(_bags(PoolingType.MEAN), **LAYERS)),
    _model(
        "DLRM_Projection",
        lambda: DLRM_Projection(
            _bags(),
            **LAYERS,
            interaction_branch1_layer_sizes=[32, 2 * DIM],
            interaction_branch2_layer_sizes=[32, 2 * DIM],
        ),
    ),
    _model("DLRM_DCN", lambda: DLRM_DCN(_bags(), **LAYERS, dcn_num_layers=2, dcn_low_rank_dim=8)),
    _model(
        "SimpleDeepFMNN",
        lambda: SimpleDeepFMNN(
            num_dense_features=NUMBERS,
            embedding_bag_collection=_bags(),
            hidden_layer_size=32,
            deep_fm_dimension=8,
        ),
    ),
]
