"""Descriptions of a head and its models as the protocol has them: metadata, configuration, statistics, the index.

Each is a dictionary with the fields' names of the protocol, which are the same in its messages and in its JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple

from ringpull import __version__
from ringpull.inference.head.catalog import Catalog
from ringpull.inference.head.frontends.tensors import OFFSETS, WEIGHTS
from ringpull.inference.head.metrics.model_counts import ModelCounts
from ringpull.inference.model.version import LoadedVersion
from ringpull.inference.schema.kinds import Dense, Feature, IdSequence, MadeFeature

PLATFORM: Final = "ringpull"
EXTENSIONS: Final = ("binary_tensor_data", "model_configuration", "model_repository", "statistics")
"""Extensions of the protocol, by Triton's names for them, that a head has."""

ANY: Final = -1
"""Dimension of any size."""

CLASSES: Final = "_classes"
"""Ending of the parameter of a configuration that is a JSON list of the names of an output's classes."""

DATATYPES: Final = {"int64": "INT64", "uint64": "UINT64", "float32": "FP32", "string": "BYTES"}
"""Datatype of each type of a feature's raw values."""

Description = dict[str, Any]


class Tensor(NamedTuple):
    """Input or output of a model."""

    name: str
    datatype: str
    shape: list[int]
    optional: bool = False
    classes: tuple[str, ...] = ()
    """Names of the classes whose scores a row holds."""


class Signature(NamedTuple):
    """Name, versions and tensors of what can be asked for as a model."""

    name: str
    versions: list[int]
    """Served versions, ascending."""
    inputs: list[Tensor]
    outputs: list[Tensor]

    @classmethod
    def of(cls, loaded: LoadedVersion, versions: list[int]) -> Signature:
        """Return the signature of a version, given all served ones of its model."""
        outputs = [
            Tensor(each.name, "FP32", [ANY, *each.shape], classes=each.classes) for each in loaded.manifest.outputs
        ]
        return cls(loaded.manifest.model, versions, list(inputs_of(loaded.schema.features)), outputs)


def server() -> Description:
    """Return the metadata of a head."""
    return {"name": PLATFORM, "version": __version__, "extensions": list(EXTENSIONS)}


def inputs_of(features: Iterable[Feature]) -> Iterator[Tensor]:
    """Yield the tensors that stand for features. Crosses have none: nobody sends them."""
    for feature in features:
        if isinstance(feature, MadeFeature):
            continue
        optional = feature.missing is not None
        if isinstance(feature, Dense):
            yield Tensor(feature.name, "FP32", [ANY, feature.width] if feature.width > 1 else [ANY], optional)
            continue
        yield Tensor(feature.name, DATATYPES[feature.dtype], [ANY], optional)
        if isinstance(feature, IdSequence) or feature.many:
            weighted = not isinstance(feature, IdSequence) and feature.weighted
            # Without offsets each row has as many values as the tensor's second dimension, or one.
            yield Tensor(feature.name + OFFSETS, "INT64", [ANY], optional or not weighted)
            if weighted:
                yield Tensor(feature.name + WEIGHTS, "FP32", [ANY], optional)


def metadata(signature: Signature) -> Description:
    """Return the metadata of a model."""

    def told(tensors: list[Tensor]) -> list[Description]:
        return [{"name": each.name, "datatype": each.datatype, "shape": each.shape} for each in tensors]

    return {
        "name": signature.name,
        "versions": [str(each) for each in signature.versions],
        "platform": PLATFORM,
        "inputs": told(signature.inputs),
        "outputs": told(signature.outputs),
    }


def config(signature: Signature) -> Description:
    """Return the configuration of a model, which is what can be told of it: it is made by no file."""
    return {
        "name": signature.name,
        "platform": PLATFORM,
        "backend": PLATFORM,
        "version_policy": {"specific": {"versions": signature.versions}},
        "max_batch_size": 0,
        "input": [
            {
                "name": each.name,
                "data_type": _config_type(each.datatype),
                "format": "FORMAT_NONE",
                "dims": each.shape,
                "optional": each.optional,
            }
            for each in signature.inputs
        ],
        "output": [
            {"name": each.name, "data_type": _config_type(each.datatype), "dims": each.shape}
            for each in signature.outputs
        ],
        "model_transaction_policy": {"decoupled": False},
        "parameters": {
            f"{each.name}{CLASSES}": {"string_value": json.dumps(each.classes, ensure_ascii=False)}
            for each in signature.outputs
            if each.classes
        },
    }


def _config_type(datatype: str) -> str:
    return "TYPE_STRING" if datatype == "BYTES" else f"TYPE_{datatype}"


def index(catalog: Catalog) -> list[Description]:
    """Return what is served, version by version."""
    return [
        {"name": model, "version": str(version), "state": "READY", "reason": ""}
        for model, version in (each.key for each in catalog.served())
    ]


def statistics(name: str, version: int, counts: ModelCounts) -> Description:
    """Return the statistics of a version.

    Args:
        counts: Its counts over all heads.
    """

    def of_calls(ns: int) -> Description:
        return {"count": counts.calls, "ns": ns}

    nothing = {"count": 0, "ns": 0}
    return {
        "name": name,
        "version": str(version),
        "last_inference": counts.last_ms,
        # A request counts once, however many rows it has: its first dimension is part of its shapes.
        "inference_count": counts.calls,
        "execution_count": counts.batches,
        "inference_stats": {
            "success": of_calls(counts.total_ns),
            "fail": {"count": counts.failed, "ns": counts.failed_ns},
            "queue": of_calls(counts.queue_ns),
            "compute_input": of_calls(counts.input_ns),
            "compute_infer": of_calls(counts.infer_ns),
            "compute_output": of_calls(counts.output_ns),
            "cache_hit": nothing,
            "cache_miss": nothing,
        },
    }
