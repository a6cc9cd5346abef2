"""Actor spec: the settings that the actors of one deployment are made from, and their names.

NAME/coordinator   NAME/head-0   NAME/shard-0 ...        in namespace `ringpull`
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from ringpull.deploy.cluster.logs import LogSettings
from ringpull.inference.head.config import HeadConfig
from ringpull.ps.live.settings import LiveSettings
from ringpull.ps.tls import TlsFiles
from ringpull.ps.wire.admission import AdmissionLimits
from ringpull.router.control.model_roots import ModelRoots

NAMESPACE: Final = "ringpull"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardSettings:
    """Settings of every shard."""

    threads: int
    """Number of look-up threads."""
    prefault: bool
    """Whether to bring every page of a table into memory before it is served."""
    verify: bool
    """Whether to check the checksums of all rows before a table is served."""
    data_dir: str | None
    """Folder below which each shard keeps copies of its ranges; None: it opens the model's files in place."""
    data_limit_bytes: int | None
    """Upper bound on the size of one shard's copies; None: no limit."""
    metrics: bool = True
    """Whether each shard counts its requests, and serves metrics on a port of its own."""
    admission: AdmissionLimits = field(default_factory=AdmissionLimits)
    """Limits on the connections and requests that each shard holds."""
    scrub_bytes_per_s: int = 0
    """Rate at which each shard looks through what it serves for damage; 0: it does not."""
    tls: TlsFiles = field(default_factory=TlsFiles)
    """Certificate of the deployment, as the head's."""
    live: LiveSettings = field(default_factory=LiveSettings)
    """Durability of pushes, and what they may take of disk and memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorSpec:
    """Settings of all actors of one deployment. The coordinator has them too, to start more shards."""

    name: str
    """Name of the deployment."""
    deployment: str = ""
    """Id of the deployment: another one of the same name has another."""
    shard_host: str | None
    """Address that shards listen on; None: that of their node."""
    head_host: str | None
    """Address that heads listen on; None: that of their node."""
    shard: ShardSettings
    head: HeadConfig
    heads: int
    """Number of heads, which serve on the same ports."""
    gpus: float
    """Number of GPUs that each head asks Ray for."""
    keep: int
    """Number of versions of a model that stay open behind the live one."""
    roots: ModelRoots | None = None
    """Roots that published versions lie below; None: anywhere."""
    start_timeout_s: float
    """Time within which an actor has to be up."""
    joined: bool = False
    """Whether Ray is somebody else's, of several nodes: one may be cut off, and its processes live on."""
    log: LogSettings = field(default_factory=LogSettings)
    """Settings of every process's log."""

    def shard_name(self, shard: int) -> str:
        """Return the name of a shard's actor."""
        return f"{self.name}/shard-{shard}"

    def head_name(self, head: int) -> str:
        """Return the name of a head's actor."""
        return f"{self.name}/head-{head}"

    @property
    def coordinator_name(self) -> str:
        """Name of the coordinator's actor."""
        return coordinator_name(self.name)


def coordinator_name(deployment: str) -> str:
    """Return the name of the coordinator's actor of a deployment."""
    return f"{deployment}/coordinator"


def gpus_wanted(device: str | None, heads: int) -> float:
    """Return how many GPUs a head has to ask Ray for, which hides all others from it.

    A device's number counts among the GPUs that Ray assigns, so `cuda:1` needs two. Heads on the first GPU share it.
    """
    if device == "cpu":
        return 0.0
    number = int((device or "cuda").partition(":")[2] or 0)
    return 1 / heads if number == 0 else number + 1.0
