"""The settings of a head, and their bounds.

A frozen value: given once at start, never changed, never read from the environment.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
from typing import Final

from ringpull.inference.degrade.control import Thresholds
from ringpull.ps.errors import InvalidInput
from ringpull.router.settings import RouterSettings

_DEVICE: Final = re.compile(r"cpu|cuda(:[0-9]{1,4})?")


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadConfig:
    """How one head listens, what it refuses, and how it computes."""

    host: str = "127.0.0.1"
    """Address both ports listen on."""
    grpc_port: int = 0
    """0: a free one, told by `HeadAddress`."""
    http_port: int = 0
    """0: a free one, told by `HeadAddress`."""

    max_message_bytes: int = 64 << 20
    """Of one gRPC message, either way. A larger request gets RESOURCE_EXHAUSTED before it is read."""
    max_candidates: int = 16_384
    """Rows of one request."""
    max_values_per_row: int = 65_536
    """Values of one row of a ragged column."""
    max_columns: int = 4_096
    """Of one request, context included."""
    max_concurrent_requests: int = 4_096
    """Calls in flight; one more gets RESOURCE_EXHAUSTED."""
    max_pending_requests: int = 200
    """Calls that wait within gRPC for the event loop; one more ends as CANCELLED, before it costs anything."""
    max_connections: int = 4_096
    """Open connections; one more is closed at once."""
    max_in_flight_bytes: int = 256 << 20
    """Of the requests in flight; one more gets RESOURCE_EXHAUSTED. A larger request is taken alone."""
    max_queue_s: float = 1.0
    """The longest that requests may have to wait for others in a burst; one more gets RESOURCE_EXHAUSTED."""
    standing_queue_s: float = 0.2
    """The same once there has been a queue for longer than `max_queue_s` without a break."""

    degrade_high: float = 0.5
    """Pressure over which a version takes its next degrade step; 1 is where requests are refused."""
    degrade_low: float = 0.2
    """Pressure under which it gives the last one back."""
    degrade_up_s: float = 0.25
    """For how long the pressure must have been over `degrade_high`."""
    degrade_down_s: float = 3.0
    """For how long the pressure must have been under `degrade_low`."""

    default_timeout_s: float = 5.0
    """The deadline of a call that brought none."""
    max_timeout_s: float = 60.0
    """A longer deadline is cut to this."""

    max_batch_rows: int = 4_096
    """Rows of a micro-batch; a request larger than this rides alone."""
    max_pulls: int = 2
    """Pulls of one version at a time; a second one begins only when the first takes much longer than usual."""
    device: str | None = None
    """Torch's name of the device of the dense program; None: CUDA when there is one, else the CPU."""
    dense_threads: int = 1
    """Torch's threads. More than one pays only where cores are idle: shards, the event loop and torch share them."""

    share_port: bool = False
    """Several heads of one machine serve on the same ports, which the first of them has claimed."""
    max_connection_age_s: float = 60.0
    """On a shared port clients are asked to connect anew after so long: a head that came back gets its part again."""
    router: RouterSettings = field(default_factory=RouterSettings)
    """How patient it is with shards."""
    metrics: bool = True
    """Whether calls are counted by stage, and `/metrics` tells it."""
    watch_s: float = 0.0
    """How often the models' folders are looked at for a new version to publish; 0: never."""

    @property
    def degrade_thresholds(self) -> Thresholds:
        """When degrade steps are taken and given back."""
        return Thresholds(
            high=self.degrade_high, low=self.degrade_low, up_s=self.degrade_up_s, down_s=self.degrade_down_s
        )

    def __post_init__(self) -> None:
        _ = self.degrade_thresholds  # which refuses what cannot be
        for port in ("grpc_port", "http_port"):
            if not 0 <= getattr(self, port) <= 65_535:
                raise InvalidInput(f"{port} is {getattr(self, port)}; it must be from 0 to 65535")
        if self.device is not None and _DEVICE.fullmatch(self.device) is None:
            raise InvalidInput(f"device is {self.device!r}; it must be 'cpu', 'cuda' or 'cuda:NUMBER'")
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, bool) or not isinstance(value, int | float) or each.name in ("grpc_port", "http_port"):
                continue
            if each.name == "watch_s":
                if not value >= 0:
                    raise InvalidInput(f"watch_s is {value}; it must be 0 or more")
            elif not value > 0:
                raise InvalidInput(f"{each.name} is {value}; it must be over 0")
