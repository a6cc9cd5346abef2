"""TensorFlow Serving's API over gRPC."""

from __future__ import annotations

import grpc.aio

from ringpull.inference.head.access import ANY_ROLE, Access
from ringpull.inference.head.frontends.grpc.methods import Service, authorization_of
from ringpull.inference.head.frontends.parts import Parts
from ringpull.inference.head.frontends.tfs.messages import MODEL_SERVICE, PREDICTION_SERVICE
from ringpull.inference.head.frontends.tfs.model_service import ModelService
from ringpull.inference.head.frontends.tfs.prediction_service import PredictionService


def services(parts: Parts, access: Access, *, at_door: bool) -> list[Service]:
    """Return what is answered over gRPC.

    Args:
        access: Rule of who may have what there.
        at_door: Whether they are to be served at the operators' door.
    """

    def admit(context: grpc.aio.ServicerContext) -> None:
        access.admit(authorization_of(context), *ANY_ROLE)

    models = ModelService(parts, access, door="admin" if at_door else "grpc")
    return [
        Service(
            PREDICTION_SERVICE,
            PredictionService(parts, access, at_door=at_door),
            admit,
            receiving=("Predict", "Classify", "Regress"),
        ),
        Service(MODEL_SERVICE, models, admit, own={"HandleReloadConfigRequest": models.admit_operator}),
    ]
