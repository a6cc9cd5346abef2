"""Settings of a head, and their bounds.

A frozen value: given once at start, never changed, never read from the environment.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

from ringpull.inference.degrade.control import Thresholds
from ringpull.inference.head.tokens.settings import TokenSettings
from ringpull.inference.model.dense_program import Precision
from ringpull.ps.errors import InvalidInput
from ringpull.ps.settings import MAX_INT32, MAX_INT64, MAX_WAIT_S, Group, Option, above, at_least, check_bounds, within
from ringpull.ps.tls import TlsFiles
from ringpull.ps.transfer.remote import as_path, is_url
from ringpull.router.settings import RouterSettings


def _audit_file(option: str, given: str) -> str:
    if not given:
        raise InvalidInput(f"{option} names no file; leave it out, and verbs of operators are logged only")
    return os.path.abspath(given)


def _folders_of_models(option: str, given: Iterable[str]) -> tuple[str, ...]:
    """Return the folders that an option names as they are compared: URLs as they are, paths absolute and plain."""
    found = []
    for each in given:
        where = as_path(each)
        if not where.strip():
            raise InvalidInput(f"{option} is empty; it must be a folder with models' folders in it, or its URL")
        plain = where.rstrip("/") if is_url(where) else os.path.abspath(os.path.expanduser(where))
        found.append(plain)
    return tuple(dict.fromkeys(found))


PRECISIONS: Final = ("as-exported", "float32")
"""Precisions of dense programs that an operator may ask for."""


def _precision(option: str, given: str) -> str:
    """Return the precision that an option names, if there is such a one."""
    if given not in PRECISIONS:
        raise InvalidInput(f"{option} is {given!r}; it must be one of {', '.join(PRECISIONS)}")
    return given


def _threads(option: str, given: str) -> int | None:
    """Return the number of threads that an option gives; None: `auto`."""
    if given == "auto":
        return None
    try:
        return int(given)
    except ValueError:
        raise InvalidInput(f"{option} is {given!r}; it must be a number of 1 or more, or auto") from None


def _auto(option: str, given: str) -> bool:
    if given not in ("auto", "off"):
        raise InvalidInput(f"{option} is {given!r}; it must be auto or off")
    return given == "auto"


PORT: Final = within(0, 65_535)

_DEVICE: Final = re.compile(r"cpu|cuda(:[0-9]{1,4})?")


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpLimits:
    """Limits of the connections of one HTTP port."""

    max_connections: int = 256
    timeout_s: float = 10.0
    """Time in which a connection must have sent a whole header, counted anew after each answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadConfig:
    """Settings of one head: how it listens, what it refuses, and how it computes."""

    host: str = "127.0.0.1"
    """Address both ports listen on."""
    grpc_port: Annotated[
        int, PORT, Option("Port of gRPC. 0: any free one; the ready line tells it.", Group.DEPLOYMENT, default=8500)
    ] = 0
    """Port of gRPC; 0: a free one, told by `HeadAddress`."""
    http_port: Annotated[
        int, PORT, Option("Port of health and status as JSON. 0: any free one.", Group.DEPLOYMENT, default=8501)
    ] = 0
    """Port of HTTP; 0: a free one, told by `HeadAddress`."""
    admin_host: Annotated[
        str,
        Option(
            "Interface of the operators' door, for other machines. Default: a Unix socket of this user.",
            Group.SECURITY,
            metavar="HOST",
        ),
    ] = ""
    """Address that the operators' door listens on; empty: see `admin_port`."""
    admin_port: Annotated[
        int | None,
        PORT,
        Option("Port of the operators' door, on 127.0.0.1 without --admin-host. 0: any free one.", Group.SECURITY),
    ] = None
    """Port of the operators' door; 0: a free one; None: any with a host, and a Unix socket without one."""
    audit_log: Annotated[
        str | None,
        Option(
            "Append every verb of operators to this file, on each head's node, as lines of JSON.",
            Group.LOGS,
            metavar="FILE",
            parse=_audit_file,
        ),
    ] = None
    """File that each head appends operators' verbs to; None: they are logged only."""
    tokens: TokenSettings = field(default_factory=TokenSettings)
    """Tokens that callers have to show, with their roles and quotas."""

    max_message_bytes: Annotated[
        int, at_least(1, ceiling=MAX_INT32), Option("Bytes of one gRPC message, or HTTP body.", Group.LIMITS)
    ] = 64 << 20
    """Bytes of one gRPC message, either way, and of one body over HTTP. A larger request gets RESOURCE_EXHAUSTED, or
    413, before it is read."""
    max_candidates: Annotated[int, at_least(1), Option("Rows of one request.", Group.LIMITS)] = 16_384
    """Rows of one request; one of more gets RESOURCE_EXHAUSTED."""
    max_lookup_keys: Annotated[
        int, at_least(1, ceiling=MAX_INT32), Option("Keys of one look-up of rows.", Group.LIMITS)
    ] = 65_536
    """Keys, and bags, of one look-up of rows by key; one of more gets RESOURCE_EXHAUSTED."""
    max_values_per_row: Annotated[
        int, at_least(1, ceiling=MAX_INT64), Option("Values of one row of a list feature.", Group.LIMITS)
    ] = 65_536
    """Values of one row of a ragged column."""
    max_columns: Annotated[int, at_least(1, ceiling=MAX_INT32), Option("Columns of one request.", Group.LIMITS)] = 4_096
    """Columns of one request, context included."""
    max_concurrent_requests: Annotated[
        int,
        at_least(1),
        Option("Requests that one head has in flight.", Group.LIMITS, name="max-requests"),
    ] = 4_096
    """Calls in flight, over gRPC and HTTP together; one more gets RESOURCE_EXHAUSTED."""
    max_pending_requests: Annotated[
        int,
        at_least(1, ceiling=MAX_INT32),
        Option("Requests that wait for a head within gRPC.", Group.LIMITS, name="max-pending"),
    ] = 200
    """Calls of a method that wait within gRPC for the event loop; one more ends as CANCELLED, and has cost nothing."""
    max_receiving_requests: Annotated[
        int,
        at_least(1),
        Option("Requests that one head is receiving: begun, their messages not there.", Group.LIMITS, "max-receiving"),
    ] = 1_024
    """Calls whose message is not here yet; one more ends the one that has kept it waiting for longest."""
    receive_timeout_s: Annotated[
        float,
        above(0, ceiling=MAX_WAIT_S),
        Option("The longest that the message of a request may take.", Group.LIMITS, "receive-timeout", "SECONDS"),
    ] = 10.0
    """Time in which a call's message must be here, whatever its deadline."""
    max_connections: Annotated[int, at_least(1), Option("Connections of one head.", Group.LIMITS)] = 4_096
    """Open connections of gRPC; one more is closed at once. At most 5/8 of the process's descriptors.
    As many at the operators' door, at most 1/32 of them."""
    max_http_connections: Annotated[int, at_least(1), Option("HTTP connections of one head.", Group.LIMITS)] = 256
    """Open HTTP connections; one more takes the place of the one that has been asking for longest."""
    http_timeout_s: Annotated[
        float,
        above(0, ceiling=MAX_WAIT_S),
        Option("The longest that an HTTP connection may take to ask.", Group.LIMITS, "http-timeout", "SECONDS"),
    ] = 10.0
    """Time in which an HTTP connection must have sent a whole header, counted anew after each answer; a body has
    `receive_timeout_s`."""
    max_in_flight_bytes: Annotated[
        int,
        at_least(1),
        Option("Bytes of the requests that one head has in flight.", Group.LIMITS, name="max-request-bytes"),
    ] = 256 << 20
    """Bytes of the requests in flight; one more gets RESOURCE_EXHAUSTED. A larger request is taken alone."""
    max_pushing_bytes: Annotated[
        int,
        at_least(1),
        Option("Bytes of the pushes that one head has in flight.", Group.LIMITS, name="max-push-bytes"),
    ] = 64 << 20
    """Bytes of pushes in flight; one more gets RESOURCE_EXHAUSTED. A larger push is taken alone."""
    max_queue_s: Annotated[
        float,
        above(0),
        Option("The longest wait for other requests, in a burst.", Group.OVERLOAD, "max-queue", "SECONDS"),
    ] = 1.0
    """Longest wait for other requests in a burst; a request that would wait for longer gets RESOURCE_EXHAUSTED."""
    standing_queue_s: Annotated[
        float,
        above(0),
        Option(
            "The longest wait once a queue of more than 16 requests has lasted for longer than --max-queue.",
            Group.OVERLOAD,
            "standing-queue",
            "SECONDS",
        ),
    ] = 0.2
    """Longest wait once there has been a queue, of more than 16 requests, for longer than `max_queue_s` without a
    break."""

    degrade_high: Annotated[
        float,
        Option("Pressure over which models take their degrade steps; at 1 requests are refused.", Group.OVERLOAD),
    ] = 0.5
    """Pressure over which a version takes its next degrade step; 1 is where requests are refused."""
    degrade_low: Annotated[float, Option("Pressure under which models give them back.", Group.OVERLOAD)] = 0.2
    """Pressure under which a version gives its last step back."""
    degrade_up_s: Annotated[float, above(0)] = 0.25
    """Time for which the pressure must have been over `degrade_high`."""
    degrade_down_s: Annotated[
        float,
        above(0),
        Option("Seconds that the pressure must be so low before a step is given back.", Group.OVERLOAD, "degrade-down"),
    ] = 3.0
    """Time for which the pressure must have been under `degrade_low`."""

    default_timeout_s: Annotated[
        float, above(0), Option("Deadline of a call that brings none.", Group.LIMITS, "default-timeout", "SECONDS")
    ] = 5.0
    """Deadline of a call that brought none."""
    max_timeout_s: Annotated[float, above(0)] = 60.0
    """Longest deadline; a longer one is cut to this."""

    max_batch_rows: Annotated[int, at_least(1), Option("Rows of a micro-batch.", Group.COMPUTING)] = 4_096
    """Rows of a micro-batch; a request larger than this rides alone."""
    max_pulls: Annotated[int, at_least(1)] = 2
    """Pulls of one version at a time; a second one begins only when the first takes much longer than usual."""
    device: Annotated[
        str | None,
        Option("Device of the dense program: cpu, cuda, cuda:1. Default: CUDA when there is one.", Group.COMPUTING),
    ] = None
    """Device of the dense program, as torch names it; None: CUDA when there is one, else the CPU."""
    dense_threads: Annotated[
        int | None,
        at_least(1),
        Option(
            "CPU threads of the dense program; auto: one, and two for a lone request where a core is idle.",
            Group.COMPUTING,
            metavar="NUMBER|auto",
            default="1",
            given_as=str,
            parse=_threads,
        ),
    ] = 1
    """Threads of the dense program; None: one, and two for a lone request where a core is idle. A larger number, for
    every batch, pays only where cores always are idle: shards, the event loop and the program share them."""

    dense_precision: Annotated[
        Precision,
        Option(
            "as-exported, or float32: then versions that were exported for bfloat16 run in float32, too.",
            Group.COMPUTING,
            metavar="PRECISION",
            parse=_precision,
        ),
    ] = "as-exported"
    """Precision of dense programs, the same on all heads: one whose processor lacks instructions for bfloat16 refuses
    a version that asks for it, rather than to answer otherwise than the others."""

    share_port: bool = False
    """Whether several heads of one machine serve on the same ports, which the first of them has claimed."""
    heads_because: str = ""
    """Why there are so many heads, for the status, where their number was chosen; empty: it was given."""
    max_connection_age_s: Annotated[float, above(0, ceiling=MAX_WAIT_S)] = 60.0
    """Age of a connection on a shared port at which its client is asked to connect anew, so that a head that came back
    gets its part again."""
    tls: TlsFiles = field(default_factory=TlsFiles)
    """Certificate of the deployment, and the CA of its clients; of shards too."""
    router: RouterSettings = field(default_factory=RouterSettings)
    """Settings of its router: how patient it is with shards."""
    local_reads: Annotated[
        bool,
        Option(
            "Whether heads read rows themselves where shards of their machine serve them from files: auto or off.",
            Group.SHARDS,
            metavar="auto|off",
            default="auto",
            given_as=str,
            parse=_auto,
        ),
    ] = False
    """Whether keys are answered here whose rows a shard of this machine serves from files that can be read here."""
    straight_pushes: Annotated[
        bool,
        Option(
            "Whether clients may push rows to the shards themselves, where neither tokens nor TLS are asked: auto or"
            " off.",
            Group.SHARDS,
            metavar="auto|off",
            default="auto",
            given_as=str,
            parse=_auto,
        ),
    ] = True
    """Whether clients are told the way of pushes to shards themselves, where that is safe."""
    metrics: Annotated[bool, Option("Count nothing for /metrics.", Group.LOGS, name="no-metrics")] = True
    """Whether calls are counted by stage, and `/metrics` tells it."""
    watch_s: Annotated[
        float,
        at_least(0),
        Option("Look for new versions this often, and publish them. 0: never.", Group.DATA, "watch", "SECONDS"),
    ] = 0.0
    """Interval at which models' folders are looked at for a new version to publish; 0: never."""

    all_of: Annotated[
        tuple[str, ...],
        Option(
            "Serve every model in this folder; with --watch, load those that come later, and unload those that go."
            " Repeatable.",
            Group.DATA,
            metavar="FOLDER|URL",
            given_as=list[str],
            parse=_folders_of_models,
        ),
    ] = ()
    """Folders of models' folders, or their URLs, in which models are watched that come and go."""

    @property
    def admin_at(self) -> tuple[str, int] | None:
        """Host and port of the operators' door; None: it is a Unix socket."""
        if not self.admin_host and self.admin_port is None:
            return None
        return self.admin_host or "127.0.0.1", self.admin_port or 0

    @property
    def dense_program(self) -> dict[str, Any]:
        """How dense programs are loaded: arguments of `LoadedVersion.load`."""
        return {"device": self.device, "threads": self.dense_threads or 1, "precision": self.dense_precision}

    @property
    def http_limits(self) -> HttpLimits:
        """Limits of HTTP connections."""
        return HttpLimits(max_connections=self.max_http_connections, timeout_s=self.http_timeout_s)

    @property
    def degrade_thresholds(self) -> Thresholds:
        """Thresholds at which degrade steps are taken and given back."""
        return Thresholds(
            high=self.degrade_high, low=self.degrade_low, up_s=self.degrade_up_s, down_s=self.degrade_down_s
        )

    def __post_init__(self) -> None:
        _ = self.degrade_thresholds  # which refuses what cannot be
        check_bounds(self)
        if self.device is not None and _DEVICE.fullmatch(self.device) is None:
            raise InvalidInput(f"device is {self.device!r}; it must be 'cpu', 'cuda' or 'cuda:NUMBER'")
