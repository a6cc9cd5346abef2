"""Served records: the deployments brought up from this machine, by which other commands find them.

One JSON file per target under `STATE/served/`, written when predictions work and removed when serving ends. A record
whose process has died is void, and is removed by the next reader. Process ids are compared together with start times,
because the system reuses ids.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil

from ringpull.deploy.state import state_folder
from ringpull.ps.errors import InvalidInput, NotFound

START_TIME_TOLERANCE_S = 1.0
"""Tolerated difference of start times: psutil computes them from the boot time, which may be corrected slightly."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedRecord:
    """Deployment that was brought up from this machine."""

    target: str
    """Address of its gRPC, HOST:PORT."""
    http: str
    """Address of its HTTP, HOST:PORT."""
    models: tuple[str, ...]
    """Live versions, NAME/VERSION each."""
    shards: int
    name: str
    """Name of the deployment, the prefix of its actors' names on a joined Ray."""
    address: str | None
    """Address of the joined Ray's control store, HOST:PORT, even if joined as `auto`; None with a private Ray."""
    pid: int | None = None
    """Id of its `serve` process; None if there is none (joined and detached)."""
    pid_started_s: float | None = None
    """Start of that process, Unix time."""
    made_folder: str | None = None
    """Folder of the coordinator's state, if it was created for this deployment and is removed with it."""
    ray_folder: str | None = None
    """Folder of its private Ray, which removes it unless it is killed."""
    log: str | None = None
    started_s: float = field(default_factory=time.time)

    @property
    def ready_line(self) -> str:
        """Line that is printed when predictions work."""
        return f"ringpull ready grpc={self.target} http={self.http} shards={self.shards} models={','.join(self.models)}"

    def process(self) -> psutil.Process | None:
        """Return the `serve` process if it is alive."""
        if self.pid is None or self.pid_started_s is None:
            return None
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.pid_started_s) < START_TIME_TOLERANCE_S
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.NoSuchProcess:
            return None

    @property
    def void(self) -> bool:
        """Whether nothing of it can be left: its process is gone, and it was not on a joined Ray."""
        return self.address is None and self.process() is None


def own_process() -> tuple[int, float]:
    """Return the id and start time of this process, as records keep them."""
    return os.getpid(), psutil.Process().create_time()


def save(record: ServedRecord) -> Path:
    """Write or replace the record of its target; return its file."""
    folder = _folder()
    folder.mkdir(parents=True, exist_ok=True)
    path = _path(record.target)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(json.dumps(asdict(record), indent=1))
    temporary.replace(path)
    return path


def forget(record: ServedRecord) -> None:
    """Remove a record, unless another deployment has the same target by now."""
    current = _read(_path(record.target))
    if current is not None and (current.pid, current.name, current.address) == (
        record.pid,
        record.name,
        record.address,
    ):
        _path(record.target).unlink(missing_ok=True)


def discard(record: ServedRecord) -> None:
    """Remove the record of a deployment of which nothing is left, and the folders made for it."""
    for folder in (record.made_folder, record.ray_folder):
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
    forget(record)


def on_ray(address: str, name: str) -> list[ServedRecord]:
    """Return the records of a deployment on a joined Ray."""
    return [record for record in _all() if (record.address, record.name) == (address, name)]


def records() -> list[ServedRecord]:
    """Return all records that are not void, newest first; void ones are discarded."""
    live = []
    for record in _all():
        if record.void:
            discard(record)
        else:
            live.append(record)
    return sorted(live, key=lambda record: record.started_s, reverse=True)


def find(target: str | None) -> ServedRecord:
    """Return the record of a target, or the newest one.

    Raises:
        NotFound: There is no such record.
    """
    if target is None:
        newest = records()
        if not newest:
            raise NotFound("nothing is served from here; start `ringpull serve`, or give --target HOST:PORT")
        return newest[0]
    wanted = parse_target(target)
    for record in records():
        if record.target == wanted:
            return record
    raise NotFound(
        f"{wanted} was not served from here; `ringpull stop` and the like know what was started on this machine"
    )


def resolve_target(target: str | None) -> str:
    """Return the HOST:PORT to connect to: the one given, on any machine, or the last one served from here.

    Raises:
        InvalidInput: `target` is not HOST:PORT.
        NotFound: No target was given, and nothing is served from here.
    """
    return find(None).target if target is None else parse_target(target)


def parse_target(text: str) -> str:
    """Return HOST:PORT in the form records use.

    Raises:
        InvalidInput: `text` is not HOST:PORT.
    """
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdecimal() or not 1 <= int(port) <= 65_535:
        raise InvalidInput(f"--target {text!r}: write HOST:PORT, such as 127.0.0.1:8500")
    return f"{'127.0.0.1' if host == 'localhost' else host}:{int(port)}"


def _folder() -> Path:
    return state_folder() / "served"


def _path(target: str) -> Path:
    return _folder() / f"{target.replace(':', '_').replace('/', '_')}.json"


def _all() -> Iterator[ServedRecord]:
    for path in sorted(_folder().glob("*.json")):
        record = _read(path)
        if record is not None:
            yield record


def _read(path: Path) -> ServedRecord | None:
    """Read one record; None if it is damaged or of another build."""
    try:
        fields = json.loads(path.read_text())
        return ServedRecord(**{**fields, "models": tuple(fields["models"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None
