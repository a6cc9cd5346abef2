"""Settings of a deployment, as one frozen value that is built once, at the command line, and handed down."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final

from ringpull.deploy.cluster.logs import LogSettings
from ringpull.deploy.folders import as_folder
from ringpull.deploy.model_folders import as_roots
from ringpull.deploy.view.size_text import parse_rate, parse_size
from ringpull.inference.head.config import HeadConfig
from ringpull.ps.errors import InvalidInput
from ringpull.ps.live.settings import MIN_LOG_LIMIT_BYTES, Durability, LiveSettings
from ringpull.ps.settings import MAX_WAIT_S, Group, Option, above, at_least, check_bounds, within
from ringpull.ps.transfer.remote import is_url
from ringpull.ps.wire.admission import AdmissionLimits
from ringpull.router.control.deployment_spec import MAX_SHARDS, PlacedVersion
from ringpull.router.control.model_roots import ModelRoots

LOCALHOST: Final = "127.0.0.1"

MAX_HEADS: Final = 64
"""Upper bound on the heads of one port, over which the kernel spreads connections."""

CLUSTER_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")


def _durability(option: str, given: str) -> Durability:
    """Return the durability that an option names, if there is such a one."""
    if given not in tuple(Durability):
        raise InvalidInput(f"{option} is {given!r}; it must be one of {', '.join(Durability)}")
    return Durability(given)


def _heads(option: str, given: str) -> int | None:
    """Return the number of heads that an option gives; None: `auto`."""
    if given == "auto":
        return None
    try:
        return int(given)
    except ValueError:
        raise InvalidInput(f"{option} is {given!r}; it must be a number from 1 to {MAX_HEADS}, or auto") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeConfig:
    """Deployment that `ringpull serve` was asked to bring up."""

    versions: tuple[PlacedVersion, ...]
    """Versions to serve, one per model."""
    shards: Annotated[int, within(1, MAX_SHARDS), Option("Shard actors the tables are cut over.", Group.DEPLOYMENT)] = 1
    heads: Annotated[
        int | None,
        within(1, MAX_HEADS),
        Option(
            "Heads, which share the ports; auto: as many as pay off on this machine.",
            Group.DEPLOYMENT,
            metavar="NUMBER|auto",
            default="1",
            given_as=str,
            parse=_heads,
        ),
    ] = 1
    """Number of heads; None: as many as pay off, chosen when they are started (`ringpull.deploy.head_count`)."""
    address: Annotated[
        str | None,
        Option(
            "Ray cluster to join: `auto` or HOST:PORT. Default: a private Ray on this machine, ended with `serve`.",
            Group.DEPLOYMENT,
        ),
    ] = None
    """Ray cluster to join; None: a private one on this machine."""
    name: Annotated[
        str, Option("Name of the deployment; its actors on a joined Ray are NAME/shard-0 and so on.", Group.DEPLOYMENT)
    ] = "ringpull"
    """Name of the deployment, which tells several on one Ray apart."""
    host: Annotated[
        str | None,
        Option("Interface of gRPC and HTTP. Default: 127.0.0.1; on a joined Ray the node's address.", Group.DEPLOYMENT),
    ] = None
    head: HeadConfig
    """Ports, limits and device of the head; its `host` is replaced by the one above."""
    shard_threads: Annotated[int, at_least(1), Option("Look-up threads of each shard.", Group.COMPUTING)] = 1
    shard_admission: AdmissionLimits = field(default_factory=AdmissionLimits)
    """Connections and bytes of pulls per shard."""
    data_dir: Annotated[
        Path | None,
        Option(
            "Each shard keeps its own copy of its ranges below it, as models at URLs need."
            " Default: files are opened where they lie.",
            Group.DATA,
            metavar="FOLDER",
            parse=as_folder,
        ),
    ] = None
    data_limit_bytes: Annotated[
        int | None,
        Option(
            "With --data-dir: most that one shard keeps, such as 16GiB.",
            Group.DATA,
            "data-limit",
            "SIZE",
            given_as=str | None,
            parse=parse_size,
        ),
    ] = None
    """Limit in bytes; None: no limit."""
    push_durability: Annotated[
        Durability | None,
        Option(
            "What an acknowledged push survives: sync (a power cut), written (kill -9), memory (nothing)."
            " Default: sync; without --data-dir only memory can be.",
            Group.DATA,
            metavar="sync|written|memory",
            given_as=str | None,
            parse=_durability,
        ),
    ] = None
    """What a push that is acknowledged survives; None: a power cut, where there is a folder for the log."""
    log_limit_bytes: Annotated[
        int,
        Option(
            "Size of a shard's log of pushes over which it takes no more until rows are folded.",
            Group.DATA,
            "log-limit",
            "SIZE",
            default="1GiB",
            given_as=str,
            parse=parse_size,
        ),
    ] = LiveSettings().log_limit_bytes
    newer_memory_bytes: Annotated[
        int,
        Option(
            "Memory of pushed rows of a shard over which it takes no more until rows are folded.",
            Group.DATA,
            "newer-memory",
            "SIZE",
            default="1GiB",
            given_as=str,
            parse=parse_size,
        ),
    ] = LiveSettings().newer_memory_bytes
    asked_live: bool = False
    """Whether tables were made to take pushes on the command line, besides those that were exported so."""
    keep: Annotated[
        int,
        at_least(0),
        Option("Versions of a model that stay open behind the live one: for rollback and pins.", Group.DATA),
    ] = 1
    models_root: Annotated[
        tuple[str, ...] | None,
        Option(
            "Folder or URL below which versions may lie that are published. Repeatable."
            " Default: the folders that each MODEL_DIR lies in.",
            Group.DATA,
            metavar="FOLDER|URL",
            given_as=list[str] | None,
            parse=as_roots,
        ),
    ] = None
    """Roots of the models that may be published; None: the parents of what is served."""
    prefault: Annotated[bool, Option("Touch every page of every table before going live.", Group.DATA)] = False
    verify: Annotated[bool, Option("Check every row's checksum before going live.", Group.DATA)] = False
    scrub_bytes_per_s: Annotated[
        int,
        Option(
            "Bytes per second at which each shard looks through what it serves for damage; 0: it does not.",
            Group.DATA,
            "scrub-rate",
            "SIZE",
            default="8MiB",
            given_as=str,
            parse=parse_rate,
        ),
    ] = 8 << 20
    """Bytes per second; 0: none is read."""
    ship_code: Annotated[
        bool, Option("With --address: send ringpull's packages to nodes that lack them.", Group.DEPLOYMENT)
    ] = False
    """Whether nodes are sent the packages, instead of relying on an installation there."""
    state_dir: Annotated[
        str,
        Option(
            "Folder of the coordinator's state, or its URL (s3://, gs://, abfs://); kept."
            " Default: one below the user's state folder, removed at the end.",
            Group.DEPLOYMENT,
            metavar="FOLDER",
            given_as=str | None,
        ),
    ]
    start_timeout_s: Annotated[
        float,
        above(0, "seconds", ceiling=MAX_WAIT_S),
        Option("Actors must be up by then.", Group.DEPLOYMENT, "start-timeout", "SECONDS"),
    ] = 120.0
    """Time after which actors that are not up are an error, which names them."""
    drain_timeout_s: Annotated[
        float,
        at_least(0, "seconds", ceiling=MAX_WAIT_S),
        Option("Requests in flight get this long at the end.", Group.DEPLOYMENT, "drain-timeout", "SECONDS"),
    ] = 10.0
    log: LogSettings = field(default_factory=LogSettings)
    """Settings of the logs of the deployment's processes."""

    def __post_init__(self) -> None:
        if not self.versions:
            raise InvalidInput("there is nothing to serve: give at least one model folder")
        check_bounds(self, by_option=True)
        if self.head.grpc_port and self.head.grpc_port == self.head.http_port:
            raise InvalidInput(f"--grpc-port and --http-port are both {self.head.grpc_port}; they must differ")
        if self.head.admin_port and self.head.admin_port in (self.head.grpc_port, self.head.http_port):
            raise InvalidInput(
                f"--admin-port is {self.head.admin_port}, which gRPC or HTTP has; it must be another one"
            )
        if (self.heads or 1) > 1 and not self.private and not (self.head.grpc_port and self.head.http_port):
            raise InvalidInput("--heads above 1 with --address needs a --grpc-port and a --http-port that are not 0")
        for version in self.versions:
            if self.data_dir is None and is_url(version.folder):
                raise InvalidInput(
                    f"{version.folder} is a URL: give --data-dir, each node's folder for the rows that its shards own"
                )
        for folder in self.head.all_of:  # Which refuses what is no folder's name, too.
            self.roots.admit(folder)
        self.roots  # noqa: B018 - the same
        if self.data_limit_bytes is not None and self.data_dir is None:
            raise InvalidInput("--data-limit goes with --data-dir: without it shards keep no copies")
        if self.log_limit_bytes < MIN_LOG_LIMIT_BYTES:
            raise InvalidInput(f"--log-limit is {self.log_limit_bytes} bytes; {MIN_LOG_LIMIT_BYTES} are the least")
        if self.data_dir is None and self.push_durability not in (None, Durability.MEMORY):
            raise InvalidInput(
                f"--push-durability {self.push_durability} goes with --data-dir, where each shard has its log"
            )
        if self.asked_live and self.data_dir is None and self.push_durability is None:
            raise InvalidInput(
                "--live needs --data-dir, where each shard has its log of pushes; or --push-durability memory: pushed"
                " rows are gone then with the shard's process"
            )
        if CLUSTER_NAME.fullmatch(self.name) is None:
            raise InvalidInput(f"--name {self.name!r} is not valid: use letters, digits, '_' and '-', at most 63")
        if self.ship_code and self.address is None:
            raise InvalidInput("--ship-code goes with --address: a private Ray runs on this machine only")

    @property
    def roots(self) -> ModelRoots:
        """Roots that published versions lie below."""
        if self.models_root is not None:
            return ModelRoots.of(self.models_root)
        return ModelRoots.around(version.models_folder for version in self.versions)

    @property
    def live(self) -> LiveSettings:
        """Settings of the pushes of each shard."""
        return LiveSettings(
            durability=self.push_durability or Durability.SYNC,
            log_limit_bytes=self.log_limit_bytes,
            newer_memory_bytes=self.newer_memory_bytes,
        )

    @property
    def rows_in_memory(self) -> bool:
        """Whether pushed rows are in memory, and go with the deployment when it is stopped."""
        return self.live.durability is Durability.MEMORY

    @property
    def head_count(self) -> int:
        """Number of heads; where it is to be chosen, it has to be by then."""
        assert self.heads is not None
        return self.heads

    @property
    def private(self) -> bool:
        """Whether Ray is started for this deployment alone, and ends with it."""
        return self.address is None

    @property
    def model_names(self) -> tuple[str, ...]:
        """`NAME/VERSION` of everything served."""
        return tuple(f"{version.model}/{version.version}" for version in self.versions)
