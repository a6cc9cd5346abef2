"""The messages of the Open Inference Protocol, in a descriptor pool of their own."""

from __future__ import annotations

from typing import Any, Final

from ringpull.inference.proto.own_pool import OwnPool

POOL: Final = OwnPool("open_inference")
SERVICE: Final = POOL.service("inference.GRPCInferenceService")


def message(name: str) -> Any:
    """Return the class of a message of the protocol."""
    return POOL.message(f"inference.{name}")


ModelInferRequest: Final = message("ModelInferRequest")
ModelInferResponse: Final = message("ModelInferResponse")
