"""Every setting of a deployment, as one frozen value that is built once, at the command line, and handed down.

Nothing below reads environment variables or files for its behaviour; the three places that do are the state folder
(`deploy.state`), Ray's own authentication settings (`deploy.cluster.ray_session`) and how long Ray lives without its
control store (`deploy.cluster.control_store`).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ringpull.deploy.cluster.logs import LogSettings
from ringpull.inference.head.config import HeadConfig
from ringpull.ps.errors import InvalidInput
from ringpull.ps.transfer.remote import is_url
from ringpull.ps.wire.admission import AdmissionLimits
from ringpull.router.control.deployment_spec import PlacedVersion

LOCALHOST: Final = "127.0.0.1"

MAX_SHARDS: Final = 1024
"""Owner tables hold shard ids in 16 bits; a thousand is far above what one map has been tried with."""

MAX_HEADS: Final = 64
"""Of one port: the kernel spreads connections over them."""

CLUSTER_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeConfig:
    """What `ringpull serve` was asked to bring up."""

    versions: tuple[PlacedVersion, ...]
    """One per model."""
    shards: int = 1
    """Shard actors."""
    address: str | None = None
    """Ray cluster to join (`auto`, `HOST:PORT`); None starts a private one on this machine."""
    name: str = "ringpull"
    """With `address`: names the actors, so that several deployments can share one Ray."""
    host: str | None = None
    """Interface of the head; None: loopback on a private Ray, the node's address on a joined one."""
    head: HeadConfig
    """Ports, limits and device of the head; its `host` is replaced by the one above."""
    heads: int = 1
    """Head actors, all on the same ports."""
    shard_threads: int = 1
    """Look-up threads per shard."""
    shard_admission: AdmissionLimits = field(default_factory=AdmissionLimits)
    """Connections and bytes of pulls per shard."""
    data_dir: Path | None = None
    """Folder below which each shard keeps its own copy of its ranges; None: files are opened where they lie."""
    data_limit_bytes: int | None = None
    """Most that one shard may keep there; None: no limit."""
    keep: int = 1
    """Versions of a model that stay open behind the live one, for rollback and for requests that name them."""
    prefault: bool = False
    """Touch every page of every table before going live."""
    verify: bool = False
    """Check every row's checksum before going live."""
    ship_code: bool = False
    """With `address`: send our packages to the other nodes, instead of relying on an installation there."""
    state_dir: str
    """Folder of the coordinator's state, or its URL."""
    start_timeout_s: float = 120.0
    """Actors that are not up by then are an error, which names them."""
    drain_timeout_s: float = 10.0
    """Requests in flight get this long when serving ends."""
    log: LogSettings = field(default_factory=LogSettings)
    """What the deployment's processes tell, and where."""

    def __post_init__(self) -> None:
        if not self.versions:
            raise InvalidInput("there is nothing to serve: give at least one model folder")
        if not 1 <= self.shards <= MAX_SHARDS:
            raise InvalidInput(f"--shards is {self.shards}; it must be from 1 to {MAX_SHARDS}")
        if self.head.grpc_port and self.head.grpc_port == self.head.http_port:
            raise InvalidInput(f"--grpc-port and --http-port are both {self.head.grpc_port}; they must differ")
        if not 1 <= self.heads <= MAX_HEADS:
            raise InvalidInput(f"--heads is {self.heads}; it must be from 1 to {MAX_HEADS}")
        if self.heads > 1 and not self.private and not (self.head.grpc_port and self.head.http_port):
            raise InvalidInput("--heads above 1 with --address needs a --grpc-port and a --http-port that are not 0")
        if self.keep < 0:
            raise InvalidInput(f"--keep is {self.keep}; it must be 0 or more")
        for version in self.versions:
            if self.data_dir is None and is_url(version.folder):
                raise InvalidInput(
                    f"{version.folder} is a URL: give --data-dir, each node's folder for the rows that its shards own"
                )
        if self.data_limit_bytes is not None and self.data_dir is None:
            raise InvalidInput("--data-limit goes with --data-dir: without it shards keep no copies")
        if self.shard_threads < 1:
            raise InvalidInput(f"--shard-threads is {self.shard_threads}; it must be 1 or more")
        if not 0 < self.start_timeout_s < math.inf:
            raise InvalidInput(f"--start-timeout is {self.start_timeout_s}; it must be above 0 seconds, and finite")
        if not 0 <= self.drain_timeout_s < math.inf:
            raise InvalidInput(f"--drain-timeout is {self.drain_timeout_s}; it must be 0 seconds or more, and finite")
        if CLUSTER_NAME.fullmatch(self.name) is None:
            raise InvalidInput(f"--name {self.name!r} is not valid: use letters, digits, '_' and '-', at most 63")
        if self.ship_code and self.address is None:
            raise InvalidInput("--ship-code goes with --address: a private Ray runs on this machine only")

    @property
    def private(self) -> bool:
        """Whether Ray is started for this deployment alone, and ends with it."""
        return self.address is None

    @property
    def model_names(self) -> tuple[str, ...]:
        """`NAME/VERSION` of everything served."""
        return tuple(f"{version.model}/{version.version}" for version in self.versions)
