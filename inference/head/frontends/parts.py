"""The parts of a head that answer, whoever asks, by whatever way in and protocol."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from ringpull.inference.head.catalog import Catalog, VersionName
from ringpull.inference.head.frontends.operators import Operators
from ringpull.inference.head.frontends.status import GetClusterStatus
from ringpull.inference.head.metrics.model_counts import ModelCounts
from ringpull.inference.head.predictor import Predictor
from ringpull.inference.proto import ringpull_pb2 as pb
from ringpull.ps.tls import LiveTls


async def uncounted() -> Mapping[VersionName, ModelCounts]:
    """Return no counts: where nobody counts."""
    return {}


@dataclass(frozen=True, slots=True)
class Parts:
    """Parts of a head that front-ends stand on."""

    predictor: Predictor
    catalog: Catalog
    status: GetClusterStatus
    head_only: Callable[[], pb.ClusterStatus]
    """Function that returns what the head knows of itself."""
    operators: Operators
    """The way of operators to the coordinator."""
    tls: LiveTls | None = None
    """Certificate of its ports; None: they are not encrypted. A Unix socket never is."""
    counts: Callable[[], Awaitable[Mapping[VersionName, ModelCounts]]] = uncounted
    """Function that returns the counts of every version, summed over all heads, whichever answers: with every call that
    this head has answered by now, and of others as they were heard last, usually within half a second. Not for every
    request: it asks the coordinator, at most some times a second, and whoever asks meanwhile waits for the next."""
