"""The settings of a head, and their bounds.

A frozen value: given once at start, never changed, never read from the environment.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import Final

from ps.errors import InvalidInput

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
    max_concurrent_requests: int = 4_096
    """Calls in flight; one more gets RESOURCE_EXHAUSTED."""

    default_timeout_s: float = 5.0
    """The deadline of a call that brought none."""
    max_timeout_s: float = 60.0
    """A longer deadline is cut to this."""

    max_batch_rows: int = 4_096
    """Rows of a micro-batch; a request larger than this rides alone."""
    device: str | None = None
    """Torch's name of the device of the dense program; None: CUDA when there is one, else the CPU."""
    dense_threads: int = 1
    """Torch's threads. More than one pays only where cores are idle: shards, the event loop and torch share them."""

    share_port: bool = False
    """Several heads of one machine serve on the same ports, which the first of them has claimed."""
    watch_s: float = 0.0
    """How often the models' folders are looked at for a new version to publish; 0: never."""

    def __post_init__(self) -> None:
        for port in ("grpc_port", "http_port"):
            if not 0 <= getattr(self, port) <= 65_535:
                raise InvalidInput(f"{port} is {getattr(self, port)}; it must be from 0 to 65535")
        if self.device is not None and _DEVICE.fullmatch(self.device) is None:
            raise InvalidInput(f"device is {self.device!r}; it must be 'cpu', 'cuda' or 'cuda:NUMBER'")
        for field in fields(self):
            value = getattr(self, field.name)
            if (
                isinstance(value, bool)
                or not isinstance(value, int | float)
                or field.name in ("grpc_port", "http_port")
            ):
                continue
            if field.name == "watch_s":
                if not value >= 0:
                    raise InvalidInput(f"watch_s is {value}; it must be 0 or more")
            elif not value > 0:
                raise InvalidInput(f"{field.name} is {value}; it must be over 0")
