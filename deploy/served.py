"""Served records: the deployments brought up from this machine, by which other commands find them.

One JSON file per deployment under `STATE/served/`, written when predictions work and removed when serving ends. A state
folder may be seen from several hosts, containers and PID namespaces. So a record names its `serve` process by its
identity, which says where it can be told whether that process lives, and names the lock that the process holds.

A record is void when its process has surely ended. Who only looks ignores void records, and changes nothing. `serve`
and `stop` remove them with the folders that were made for their deployments (`clean`), each under its lock; whoever
cannot take that removes nothing. Records of earlier builds have neither identity nor lock: they are read, and never
void.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

from ringpull.deploy import serve_lock
from ringpull.deploy.process_identity import ProcessIdentity, own_identity
from ringpull.deploy.serve_lock import ServeLock
from ringpull.deploy.state import state_folder
from ringpull.inference.client import targets
from ringpull.inference.head.frontends.unix_socket import FOLDER, SCHEME
from ringpull.ps.errors import NotFound, RingpullError, StartupError
from ringpull.ps.private_files import make_private_folder, write_private
from ringpull.ps.store.file_errors import read_file

LOOPBACK = ("127.", "localhost:", "[::1]:", "::1:")

START_TIME_TOLERANCE_S = 1.0
"""Tolerated difference of start times in records of earlier builds, which were computed from the wall clock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedRecord:
    """Deployment that was brought up from this machine."""

    target: str
    """Address of its gRPC, HOST:PORT."""
    http: str
    """Address of its HTTP, HOST:PORT."""
    admin: str = ""
    """Address of the operators' door of its first head, unix:/PATH or HOST:PORT; empty: there is none, or an earlier
    build wrote the record."""
    models: tuple[str, ...]
    """Live versions, NAME/VERSION each."""
    shards: int
    name: str
    """Name of the deployment, the prefix of its actors' names on a joined Ray."""
    address: str | None
    """Address of the joined Ray's control store, HOST:PORT, even if joined as `auto`; None with a private Ray."""
    pid: int | None = None
    """Id of its `serve` process; None if there is none (joined and detached)."""
    host: str = ""
    boot_id: str = ""
    pid_namespace: str = ""
    start_ticks: int | None = None
    """What tells that process from others: see `ProcessIdentity`."""
    pid_started_s: float | None = None
    """Start of that process, Unix time; in records of earlier builds only."""
    lock: str | None = None
    """Name of the lock that the process holds, in the folder of the records; None: it has none."""
    made_folder: str | None = None
    """Folder of the coordinator's state, if it was created for this deployment and is removed with it."""
    ray_folder: str | None = None
    """Folder of its private Ray, which removes it unless it is killed."""
    in_memory: tuple[str, ...] = ()
    """Tables, MODEL/TABLE each, whose pushed rows are in memory, and go when it is stopped."""
    log: str | None = None
    started_s: float = field(default_factory=time.time)

    @property
    def ready_line(self) -> str:
        """Line that is printed when predictions work."""
        addresses = f"grpc={self.target} http={self.http}{f' admin={self.admin}' if self.admin else ''}"
        return f"ringpull ready {addresses} shards={self.shards} models={','.join(self.models)}"

    @property
    def door_folder(self) -> str | None:
        """Folder of the Unix sockets of its heads; None: operators are let in at a port."""
        folder = Path(self.admin.removeprefix(SCHEME)).parent
        # It is removed with all that is in it: so it has to be one that heads make.
        is_one = self.admin.startswith(SCHEME) and folder.is_absolute() and folder.parent.name == FOLDER
        return str(folder) if is_one else None

    @property
    def identity(self) -> ProcessIdentity | None:
        """Identity of its `serve` process; None if there is none, or an earlier build wrote the record."""
        if self.pid is None or self.start_ticks is None:
            return None
        return ProcessIdentity(self.host, self.boot_id, self.pid_namespace, self.pid, self.start_ticks)

    def process(self) -> psutil.Process | None:
        """Return the `serve` process if it surely lives, and can be reached from here by its id."""
        if self.pid is None:
            return None
        try:
            # First the handle, then whose it is: psutil itself sees when the id goes to another process after that.
            process = psutil.Process(self.pid)
            identity = self.identity
            same = _of_earlier_build(self, process) if identity is None else identity.alive() is True
            return process if same else None
        except psutil.Error:
            return None

    def lives(self) -> bool | None:
        """Return whether something of it may still serve; None if that cannot be told from here."""
        if self.address is not None:
            return True  # Its actors outlive its process: they end with their Ray, or by `stop`.
        identity = self.identity
        if identity is None:
            return True if self.process() is not None else None
        alive = identity.alive()
        if alive is not None or self.lock is None:
            return alive
        lock = _folder() / self.lock
        held = serve_lock.is_held(lock)
        # Of another host a free lock says nothing: a server's clients may each see locks of their own only.
        return None if held is False and not (self.of_this_host and serve_lock.is_local(lock)) else held

    @property
    def void(self) -> bool:
        """Whether surely nothing of it is left: its process has ended, and it was not on a joined Ray."""
        return self.lives() is False

    @property
    def of_this_host(self) -> bool:
        """Whether it was brought up on this host, in whatever container, or by an earlier build, which did not say."""
        here = own_identity()
        return self.host in ("", here.host) or (bool(self.boot_id) and self.boot_id == here.boot_id)

    @property
    def within_reach(self) -> bool:
        """Whether its target means the same from here: another host's own address is not that of this one."""
        return self.of_this_host or not self.target.startswith(LOOPBACK)

    @property
    def _order(self) -> tuple[bool, bool, float]:
        """What comes last is preferred: what is within reach, what surely lives, what is newest."""
        return self.within_reach, self.lives() is True, self.started_s


def _of_earlier_build(record: ServedRecord, process: psutil.Process) -> bool:
    """Whether a process is the one that an earlier build recorded, as far as the wall clock tells."""
    if record.pid_started_s is None or process.status() == psutil.STATUS_ZOMBIE:
        return False
    return abs(process.create_time() - record.pid_started_s) < START_TIME_TOLERANCE_S


def lock() -> ServeLock:
    """Take the lock of a deployment that this process is to serve.

    Raises:
        StartupError: The state folder cannot be written.
    """
    folder = _folder()
    try:
        return ServeLock.take(folder)
    except OSError as exc:
        raise StartupError(
            f"state folder {folder} cannot be written: {exc.strerror or exc}; RINGPULL_STATE_DIR names another"
        ) from exc


def by_this_process(lock: ServeLock) -> dict[str, Any]:
    """Return the fields of a record that say who serves: this process, under its lock."""
    return {**asdict(own_identity()), "lock": lock.name}


def from_this_host() -> dict[str, Any]:
    """Return the fields of a record that say where a deployment was brought up which no process here serves."""
    here = own_identity()
    return {"host": here.host, "boot_id": here.boot_id}


def file_of(record: ServedRecord) -> Path:
    """Return the file of a record: hosts that share a state folder may serve at equal addresses."""
    if record.lock is not None:
        whose = record.lock.removesuffix(serve_lock.LOCK_SUFFIX)
    else:
        parts = (record.host, record.pid, record.start_ticks) if record.host else ()
        whose = "-".join(str(part) for part in parts if part is not None)
    return _folder() / f"{_plain(record.target)}{'.' if whose else ''}{_plain(whose)}.json"


def save(record: ServedRecord) -> Path:
    """Write or replace the record of a deployment; return its file."""
    path = file_of(record)
    make_private_folder(path.parent, ours=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    write_private(temporary, json.dumps(asdict(record), indent=1).encode())
    temporary.replace(path)
    return path


def forget(record: ServedRecord) -> None:
    """Remove a record, unless another deployment has its file by now."""
    path = file_of(record)
    current = _read(path)
    if current is not None and _whose(current) == _whose(record):
        path.unlink(missing_ok=True)


def discard(record: ServedRecord, *, seen_ended: bool = False) -> bool:
    """Remove the record of a deployment that has ended, and the folders made for it, under its lock.

    Args:
        seen_ended: The caller has seen it end, so no lock is needed where there is none.

    Returns:
        Whether it was removed: not if it may live, if somebody holds its lock, or if there is none to tell.
    """
    if not seen_ended and not record.void:
        return False
    path = None if record.lock is None else _folder() / record.lock
    if path is None or not path.exists():
        # An orderly end removes it; and a process that has surely ended holds none.
        ended = seen_ended or (path is not None and record.lives() is False)
        if ended:
            _remove(record)
        return ended
    with serve_lock.taken(path) as mine:
        if mine:
            _remove(record)
    return mine


def clean() -> None:
    """Remove what deployments left behind whose processes were killed: see `discard`. For `serve` and `stop`."""
    known = set()
    for record in _all():
        if not discard(record):
            known.add(record.lock)
    # Of those that were killed before predictions worked there is no record.
    for path in _folder().glob(f"*{serve_lock.LOCK_SUFFIX}"):
        if path.name not in known and serve_lock.is_local(path):
            with serve_lock.taken(path) as mine:
                if mine:
                    _remove_folders(serve_lock.noted_folders(path))


def of_child(pid: int) -> ServedRecord | None:
    """Return the record of a `serve` process that this one has started; None if it has written none yet."""
    return next((record for record in _all() if record.pid == pid and record.process() is not None), None)


def on_ray(address: str, name: str) -> list[ServedRecord]:
    """Return the records of a deployment on a joined Ray."""
    return [record for record in _all() if (record.address, record.name) == (address, name)]


def records() -> list[ServedRecord]:
    """Return all records that are not void: what is within reach first, of that what surely lives, the newest first."""
    return sorted((record for record in _all() if not record.void), key=lambda record: record._order, reverse=True)


def find(target: str | None) -> ServedRecord:
    """Return the record of a target, or the newest one.

    Raises:
        NotFound: There is no such record, or none of a deployment that can be reached from here.
    """
    if target is None:
        known = records()
        if not known:
            raise NotFound("nothing is served from here; start `ringpull serve`, or give --target HOST:PORT")
        if not known[0].within_reach:
            raise NotFound(
                f"nothing is served from here: {known[0].target} is served on host {known[0].host}, and reached there"
                " only; start `ringpull serve`, or give --target HOST:PORT"
            )
        return known[0]
    wanted = parse_target(target)
    for record in records():
        if record.target == wanted and record.within_reach:
            return record
    raise NotFound(
        f"{wanted} was not served from here; `ringpull stop` and the like know what was started on this machine"
    )


def door_of(target: str) -> str:
    """Return the address of a deployment's door as it was when it was served from here; empty: that is not known."""
    try:
        return find(target).admin
    except RingpullError:
        return ""


def resolve_target(target: str | None) -> str:
    """Return the HOST:PORT to connect to: the one given, on any machine, or the last one served from here.

    Raises:
        InvalidInput: `target` is not HOST:PORT.
        NotFound: No target was given, and nothing is served from here.
    """
    return find(None).target if target is None else targets.parse_target(target, "--target", port_needed=True)


def parse_target(text: str) -> str:
    """Return HOST:PORT in the form records use.

    Raises:
        InvalidInput: `text` is not HOST:PORT.
    """
    address = targets.parse_target(text, "--target", port_needed=True)
    host, _, port = address.rpartition(":")
    return f"127.0.0.1:{port}" if host == "localhost" else address


def _folder() -> Path:
    return state_folder() / "served"


def _plain(text: str) -> str:
    return text.replace(":", "_").replace("/", "_")


def _whose(record: ServedRecord) -> tuple[object, ...]:
    return record.lock, record.identity, record.pid, record.name, record.address


def _remove(record: ServedRecord) -> None:
    _remove_folders(
        folder for folder in (record.made_folder, record.ray_folder, record.door_folder) if folder is not None
    )
    forget(record)


def _remove_folders(folders: Iterable[str]) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def _all() -> Iterator[ServedRecord]:
    for path in sorted(_folder().glob("*.json")):
        record = _read(path)
        if record is not None:
            yield record


def _read(path: Path) -> ServedRecord | None:
    """Read one record; None if it is damaged or of another build."""
    try:
        fields = json.loads(read_file(path))
        named = {"models": tuple(fields["models"]), "in_memory": tuple(fields.get("in_memory", ()))}
        record = ServedRecord(**{**fields, **named})
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    return record if _well_formed(record) else None


def _well_formed(record: ServedRecord) -> bool:
    texts = (record.target, record.http, record.admin, record.name, record.host, record.boot_id, record.pid_namespace)
    optional = (record.address, record.made_folder, record.ray_folder, record.log, record.lock)
    numbers = (record.pid, record.start_ticks, record.pid_started_s)
    return (
        all(isinstance(each, str) for each in (*texts, *record.in_memory))
        and all(each is None or isinstance(each, str) for each in optional)
        and all(each is None or (isinstance(each, int | float) and each >= 0) for each in numbers)
        and isinstance(record.started_s, int | float)
        and (record.lock is None or record.lock == Path(record.lock).name)
    )
