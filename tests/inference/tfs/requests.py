"""Requests of TensorFlow Serving's protocol for the small model, and how they are refused."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

import grpc.aio
import pytest

from tests.inference.served import ROWS
from tests.inference.small_model import columns_of
from tests.inference.tfs.tensors import tensors

SPEC = {"name": "ranker"}
INPUTS = tensors(columns_of(ROWS))


def signed(name: str) -> dict[str, Any]:
    return {**SPEC, "signature_name": name}


def example(row: dict[str, Any]) -> dict[str, Any]:
    """A row as the fields of a `tf.Example`."""
    features = {}
    for name, value in row.items():
        if name == "tags":
            features[name] = {"int64_list": {"value": [tag for tag, _ in value]}}
            features["tags_weights"] = {"float_list": {"value": [weight for _, weight in value]}}
            continue
        values = value if isinstance(value, list) else [value]
        kind = "float_list" if name in ("age", "price") else "int64_list"
        features[name] = {kind: {"value": values}}
    return {"features": {"feature": features}}


async def refusal(call: Awaitable[Any]) -> tuple[str, str]:
    """Return code and message of a call that is refused."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code().name, caught.value.details()
