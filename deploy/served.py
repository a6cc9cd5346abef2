"""Served records: what was brought up from here, so that other commands find it without being told.

One JSON file per target under `STATE/served/`, written when predictions work and removed when serving ends. A record
whose process has died is void, and is dropped by the next reader. Process ids are compared with their start times: an
id that the system has given to somebody else is not ours.
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
"""psutil derives start times from the boot time, which may be corrected by a fraction of a second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedRecord:
    """One deployment that was brought up from this machine."""

    target: str
    """HOST:PORT of its gRPC."""
    http: str
    """HOST:PORT of its HTTP."""
    models: tuple[str, ...]
    """NAME/VERSION each."""
    shards: int
    name: str
    """Of the deployment: prefix of its actors' names on a joined Ray."""
    address: str | None
    """HOST:PORT of the joined Ray's control store, also where it was joined as `auto`; None with a private one."""
    pid: int | None = None
    """The `serve` process that holds it up; None when only its actors do (joined, detached)."""
    pid_started_s: float | None = None
    """When that process started, Unix time."""
    made_folder: str | None = None
    """Folder of the coordinator's state, when it was made up for this deployment, and goes with it."""
    ray_folder: str | None = None
    """Folder of its private Ray, which removes it when it ends by itself."""
    log: str | None = None
    started_s: float = field(default_factory=time.time)

    @property
    def ready_line(self) -> str:
        """The line that says predictions work."""
        return f"ringpull ready grpc={self.target} http={self.http} shards={self.shards} models={','.join(self.models)}"

    def process(self) -> psutil.Process | None:
        """Return the `serve` process, when it is still that one and alive."""
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
        """Whether nothing can be left of it: it lived by a process that is gone, not on a joined Ray."""
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
    """Remove a record, unless another deployment has taken its target since."""
    current = _read(_path(record.target))
    if current is not None and (current.pid, current.name, current.address) == (
        record.pid,
        record.name,
        record.address,
    ):
        _path(record.target).unlink(missing_ok=True)


def discard(record: ServedRecord) -> None:
    """Remove a record and the folders made for its deployment, of which nothing is left."""
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
    """Return the HOST:PORT to talk to: the one given, which may be anywhere, or the last served here.

    Raises:
        InvalidInput: The one given is not HOST:PORT.
        NotFound: None was given and nothing is served from here.
    """
    return find(None).target if target is None else parse_target(target)


def parse_target(text: str) -> str:
    """Return HOST:PORT in the form records use.

    Raises:
        InvalidInput: It is not that.
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
    """Read one record; one that is unreadable (another build's, a damaged one) counts as none."""
    try:
        fields = json.loads(path.read_text())
        return ServedRecord(**{**fields, "models": tuple(fields["models"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None
