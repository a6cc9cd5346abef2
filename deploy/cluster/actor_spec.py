"""What the actors of one deployment are made from, and how they are named.

NAME/coordinator   NAME/head-0   NAME/shard-0 ...        in namespace `ringpull`
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from ringpull.deploy.cluster.logs import LogSettings
from ringpull.inference.head.config import HeadConfig
from ringpull.ps.wire.admission import AdmissionLimits

NAMESPACE: Final = "ringpull"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardSettings:
    """How every shard holds its tables."""

    threads: int
    """Look-up threads."""
    prefault: bool
    """Touch every page of a table before it is answered from."""
    verify: bool
    """Check every row's checksum before that."""
    data_dir: str | None
    """Folder below which each shard keeps its own copy of its ranges; None: it opens the model's files where they
    lie."""
    data_limit_bytes: int | None
    """Most that one shard may keep there; None: no limit."""
    metrics: bool = True
    """Whether each counts what it is asked, and tells it on a port of its own."""
    admission: AdmissionLimits = field(default_factory=AdmissionLimits)
    """What each holds at most of what it is asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorSpec:
    """All that the actors of one deployment are made from; the coordinator has it too, to make more of them."""

    name: str
    """Of the deployment."""
    shard_host: str | None
    """Where shards listen; None: the address of their node."""
    head_host: str | None
    """Where heads listen; None: the address of their node."""
    shard: ShardSettings
    head: HeadConfig
    heads: int
    """How many serve side by side, on the same ports."""
    gpus: float
    """That each head asks Ray for."""
    keep: int
    """Versions of a model that stay open behind the live one."""
    start_timeout_s: float
    """An actor that is not up by then is an error."""
    log: LogSettings = field(default_factory=LogSettings)
    """Of every process."""

    def shard_name(self, shard: int) -> str:
        return f"{self.name}/shard-{shard}"

    def head_name(self, head: int) -> str:
        return f"{self.name}/head-{head}"

    @property
    def coordinator_name(self) -> str:
        return coordinator_name(self.name)


def coordinator_name(deployment: str) -> str:
    return f"{deployment}/coordinator"


def gpus_wanted(device: str | None, heads: int) -> float:
    """Return how many GPUs a head has to ask Ray for, which hides all others from it.

    A device's number counts the GPUs that Ray gives, so `cuda:1` needs two of them. Heads on the first share it.
    """
    if device == "cpu":
        return 0.0
    number = int((device or "cuda").partition(":")[2] or 0)
    return 1 / heads if number == 0 else number + 1.0
