"""torchfm 0.7.0: one matrix of ids, one table for all fields, told apart by offsets."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torchfm.model.afi import AutomaticFeatureInteractionModel
from torchfm.model.afm import AttentionalFactorizationMachineModel
from torchfm.model.afn import AdaptiveFactorizationNetwork
from torchfm.model.dcn import DeepCrossNetworkModel
from torchfm.model.dfm import DeepFactorizationMachineModel
from torchfm.model.ffm import FieldAwareFactorizationMachineModel
from torchfm.model.fm import FactorizationMachineModel
from torchfm.model.fnfm import FieldAwareNeuralFactorizationMachineModel
from torchfm.model.fnn import FactorizationSupportedNeuralNetworkModel
from torchfm.model.lr import LogisticRegressionModel
from torchfm.model.ncf import NeuralCollaborativeFiltering
from torchfm.model.nfm import NeuralFactorizationMachineModel
from torchfm.model.pnn import ProductNeuralNetworkModel
from torchfm.model.wd import WideAndDeepModel
from torchfm.model.xdfm import ExtremeDeepFactorizationMachineModel

from ringpull import Schema, Sparse
from tests.zoo_libraries.model import DIM, ROWS, ZooModel

FIELDS = ("user", "item", "place")
DIMS = [ROWS] * len(FIELDS)
SCHEMA = Schema([Sparse(name) for name in FIELDS], stacks={"x": FIELDS})
MLP = (32, 16)


def _model(name: str, build: Callable[[], nn.Module]) -> ZooModel:
    return ZooModel(
        name=name,
        build=build,
        schema=SCHEMA,
        ask=lambda module, given: module(torch.stack([given[field] for field in FIELDS], dim=1)),
    )


MODELS = [
    _model("LR", lambda: LogisticRegressionModel(DIMS)),
    _model("FM", lambda: FactorizationMachineModel(DIMS, DIM)),
    _model("FFM", lambda: FieldAwareFactorizationMachineModel(DIMS, DIM)),
    _model("FNN", lambda: FactorizationSupportedNeuralNetworkModel(DIMS, DIM, MLP, 0.2)),
    _model("WD", lambda: WideAndDeepModel(DIMS, DIM, MLP, 0.2)),
    _model("IPNN", lambda: ProductNeuralNetworkModel(DIMS, DIM, MLP, 0.2, method="inner")),
    _model("OPNN", lambda: ProductNeuralNetworkModel(DIMS, DIM, MLP, 0.2, method="outer")),
    _model("DCN", lambda: DeepCrossNetworkModel(DIMS, DIM, 3, MLP, 0.2)),
    _model("NFM", lambda: NeuralFactorizationMachineModel(DIMS, DIM, MLP, (0.2, 0.2))),
    _model("NCF", lambda: NeuralCollaborativeFiltering(DIMS, 0, 1, DIM, MLP, 0.2)),
    _model("FNFM", lambda: FieldAwareNeuralFactorizationMachineModel(DIMS, DIM, MLP, (0.2, 0.2))),
    _model("DeepFM", lambda: DeepFactorizationMachineModel(DIMS, DIM, MLP, 0.2)),
    _model("xDeepFM", lambda: ExtremeDeepFactorizationMachineModel(DIMS, DIM, MLP, 0.2, (16, 16))),
    _model("AFM", lambda: AttentionalFactorizationMachineModel(DIMS, DIM, 16, (0.2, 0.2))),
    _model("AutoInt", lambda: AutomaticFeatureInteractionModel(DIMS, DIM, 32, 2, 2, MLP, (0, 0.1, 0.1))),
    _model("AFN", lambda: AdaptiveFactorizationNetwork(DIMS, DIM, 32, MLP, (0.2, 0.2))),
]
