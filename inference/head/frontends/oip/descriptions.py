"""Descriptions of a head and its models as the protocol has them: metadata, configuration, statistics, the index.

Each is a dictionary with the fields' names of the protocol, which are the same in its messages and in its JSON.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from ringpull import __version__
from ringpull.inference.head.catalog import Catalog, ServedVersion, VersionName
from ringpull.inference.head.frontends.tensors import OFFSETS, WEIGHTS
from ringpull.inference.head.metrics.model_counts import ModelCounts
from ringpull.inference.schema.kinds import Cross, Dense, Feature, IdSequence

PLATFORM: Final = "ringpull"
EXTENSIONS: Final = ("binary_tensor_data", "model_configuration", "model_repository", "statistics")
"""Extensions of the protocol, by Triton's names for them, that a head has."""

ANY: Final = -1
"""Dimension of any size."""

DATATYPES: Final = {"int64": "INT64", "uint64": "UINT64", "float32": "FP32", "string": "BYTES"}
"""Datatype of each type of a feature's raw values."""

Description = dict[str, Any]


class Input(NamedTuple):
    """Tensor that a model takes."""

    name: str
    datatype: str
    shape: list[int]
    optional: bool


def server() -> Description:
    """Return the metadata of a head."""
    return {"name": PLATFORM, "version": __version__, "extensions": list(EXTENSIONS)}


def inputs_of(features: Iterable[Feature]) -> Iterator[Input]:
    """Yield the tensors that stand for features. Crosses have none: nobody sends them."""
    for feature in features:
        if isinstance(feature, Cross):
            continue
        optional = feature.missing is not None
        if isinstance(feature, Dense):
            yield Input(feature.name, "FP32", [ANY, feature.width] if feature.width > 1 else [ANY], optional)
            continue
        yield Input(feature.name, DATATYPES[feature.dtype], [ANY], optional)
        if isinstance(feature, IdSequence) or feature.many:
            weighted = not isinstance(feature, IdSequence) and feature.weighted
            # Without offsets each row has as many values as the tensor's second dimension, or one.
            yield Input(feature.name + OFFSETS, "INT64", [ANY], optional or not weighted)
            if weighted:
                yield Input(feature.name + WEIGHTS, "FP32", [ANY], optional)


def metadata(served: ServedVersion, versions: Iterable[int]) -> Description:
    """Return the metadata of a version.

    Args:
        versions: Versions of its model that are served.
    """
    loaded = served.loaded
    return {
        "name": loaded.manifest.model,
        "versions": [str(each) for each in versions],
        "platform": PLATFORM,
        "inputs": [
            {"name": each.name, "datatype": each.datatype, "shape": each.shape}
            for each in inputs_of(loaded.schema.features)
        ],
        "outputs": [
            {"name": each.name, "datatype": "FP32", "shape": [ANY, *each.shape]} for each in loaded.manifest.outputs
        ],
    }


def config(served: ServedVersion, versions: Iterable[int]) -> Description:
    """Return the configuration of a version, which is what can be told of it: it is made by no file.

    Args:
        versions: Versions of its model that are served.
    """
    loaded = served.loaded
    return {
        "name": loaded.manifest.model,
        "platform": PLATFORM,
        "backend": PLATFORM,
        "version_policy": {"specific": {"versions": list(versions)}},
        "max_batch_size": 0,
        "input": [
            {
                "name": each.name,
                "data_type": _config_type(each.datatype),
                "format": "FORMAT_NONE",
                "dims": each.shape,
                "optional": each.optional,
            }
            for each in inputs_of(loaded.schema.features)
        ],
        "output": [
            {"name": each.name, "data_type": "TYPE_FP32", "dims": [ANY, *each.shape]}
            for each in loaded.manifest.outputs
        ],
        "model_transaction_policy": {"decoupled": False},
    }


def _config_type(datatype: str) -> str:
    return "TYPE_STRING" if datatype == "BYTES" else f"TYPE_{datatype}"


def index(catalog: Catalog) -> list[Description]:
    """Return what is served, version by version."""
    return [
        {"name": model, "version": str(version), "state": "READY", "reason": ""}
        for model, version in (each.key for each in catalog.served())
    ]


def statistics(served: Iterable[VersionName], counts: Mapping[VersionName, ModelCounts]) -> Description:
    """Return the statistics of versions.

    Args:
        served: Versions to tell of.
        counts: Counts over all heads, of those that were ever asked.
    """
    return {"model_stats": [_statistics(key, counts.get(key, ModelCounts())) for key in served]}


def _statistics(key: VersionName, counts: ModelCounts) -> Description:
    def of_calls(ns: int) -> Description:
        return {"count": counts.calls, "ns": ns}

    nothing = {"count": 0, "ns": 0}
    return {
        "name": key[0],
        "version": str(key[1]),
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
