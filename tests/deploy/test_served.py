"""Served records: found by target or by being the newest; void, and removed under their lock, when nothing is left."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from ringpull.deploy import serve_lock, served
from ringpull.deploy.process_identity import own_identity
from ringpull.deploy.serve_lock import ServeLock
from ringpull.deploy.served import ServedRecord
from ringpull.ps.errors import InvalidInput, NotFound, StartupError

UNSHARE = [shutil.which("unshare") or "unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc"]

GONE_PID = 2**22 + 1
"""Above any process id (proc(5), pid_max)."""


@pytest.fixture
def lock() -> Iterator[ServeLock]:
    """The lock of a `serve` that this process stands for."""
    with served.lock() as lock:
        yield lock


def record(target: str = "127.0.0.1:8500", lock: ServeLock | None = None, **changes: Any) -> ServedRecord:
    """A record of this process; under a lock, if one is given."""
    fields: dict[str, Any] = {
        "target": target,
        "http": "127.0.0.1:8501",
        "models": ("ranker/3",),
        "shards": 4,
        "name": "ringpull",
        "address": None,
        **asdict(own_identity()),
        "lock": None if lock is None else lock.name,
        **changes,
    }
    return ServedRecord(**fields)


def killed(lock: ServeLock, **changes: Any) -> ServedRecord:
    """A record whose process was killed: the lock's file is there, and nobody holds it."""
    name = lock.name
    assert name is not None
    lock.release()
    (served.file_of(record()).parent / name).touch()
    return replace(record(pid=GONE_PID, **changes), lock=name)


def of_an_earlier_build(**changes: Any) -> ServedRecord:
    nothing = {"host": "", "boot_id": "", "pid_namespace": "", "start_ticks": None}
    return record(**{**nothing, "pid_started_s": psutil.Process().create_time(), **changes})


def with_folders(record: ServedRecord, folder: Path) -> ServedRecord:
    """The record, with folders that were made for its deployment."""
    state, ray = folder / "ringpull-1", folder / "ringpull-12345678"
    state.mkdir()
    (ray / "r" / "session").mkdir(parents=True)
    return replace(record, made_folder=str(state), ray_folder=str(ray))


def everything(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def test_the_ready_line() -> None:
    line = record(models=("ranker/3", "retriever/1")).ready_line
    assert line == "ringpull ready grpc=127.0.0.1:8500 http=127.0.0.1:8501 shards=4 models=ranker/3,retriever/1"


def test_what_was_saved_is_found(state: Path) -> None:
    saved = record()
    path = served.save(saved)
    assert path.is_relative_to(state)
    assert served.find("127.0.0.1:8500") == saved
    assert served.find("localhost:8500") == saved
    assert served.find(None) == saved


def test_the_newest_is_the_default() -> None:
    served.save(record("127.0.0.1:9000", started_s=200.0))
    served.save(record("127.0.0.1:9001", started_s=100.0))
    assert served.resolve_target(None) == "127.0.0.1:9000"


def test_a_target_given_may_be_anywhere() -> None:
    assert served.resolve_target("model-server:8500") == "model-server:8500"


def test_nothing_served() -> None:
    with pytest.raises(NotFound, match="nothing is served from here"):
        served.resolve_target(None)
    with pytest.raises(NotFound, match="was not served from here"):
        served.find("127.0.0.1:8500")


@pytest.mark.parametrize("target", ["8500", "host", "host:", ":8500", "host:http", "host:0", "host:70000", "host:²"])
def test_a_target_of_the_wrong_form(target: str) -> None:
    with pytest.raises(InvalidInput, match="write HOST:PORT"):
        served.resolve_target(target)


def test_a_record_dies_with_its_process() -> None:
    """A process that has ended, or another one with its id, is not the one that was recorded."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    served.save(record(pid=ended.pid))
    served.save(record("127.0.0.1:8600", start_ticks=own_identity().start_ticks - 1))
    assert served.records() == []


def test_a_record_on_a_joined_ray_outlives_its_process() -> None:
    served.save(record(address="10.0.0.1:6379", pid=None, start_ticks=None))
    assert served.find(None).address == "10.0.0.1:6379"


def test_forgetting_leaves_a_successor_alone() -> None:
    """Another deployment that has taken the target since keeps its record."""
    old = of_an_earlier_build(pid=1, pid_started_s=1.0)
    served.save(of_an_earlier_build())
    served.forget(old)
    assert served.find(None).pid == os.getpid()
    served.forget(of_an_earlier_build())
    assert served.records() == []


def test_locks_of_which_there_is_no_record_go_when_they_are_free(lock: ServeLock, state: Path) -> None:
    """Of a `serve` that was killed while it came up; not of one that comes up now."""
    (state / "served" / "0123456789abcdef.lock").touch()
    served.clean()
    assert [path.name for path in (state / "served").iterdir()] == [lock.name]


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"target": "x:1"}',
        {"target": 7},
        {"pid": "7"},
        {"lock": "../../else.lock"},
        {"of_a_later_build": 1},
        {"models": None},
    ],
)
def test_unreadable_records_count_as_none_and_stay(state: Path, text: str | dict[str, Any]) -> None:
    (state / "served").mkdir()
    path = state / "served" / "a.json"
    path.write_text(text if isinstance(text, str) else json.dumps({**asdict(record()), **text}))
    assert served.records() == []
    served.clean()
    assert path.exists()


def test_who_looks_removes_nothing_and_who_cleans_does(lock: ServeLock, state: Path, tmp_path: Path) -> None:
    """What a killed `serve` left behind goes with the next `serve` or `stop`, lock and all."""
    served.save(with_folders(killed(lock), tmp_path))
    before = everything(state) | everything(tmp_path)
    assert served.records() == []
    with pytest.raises(NotFound):
        served.resolve_target(None)
    with pytest.raises(NotFound):
        served.find("127.0.0.1:8500")
    assert everything(state) | everything(tmp_path) == before
    served.clean()
    assert everything(state) | everything(tmp_path) == {state / "served"}


def test_an_orderly_end_removes_its_own(lock: ServeLock, state: Path, tmp_path: Path) -> None:
    mine = record(lock=lock)
    other = with_folders(record("127.0.0.1:8600"), tmp_path)
    served.save(mine)
    served.save(other)
    served.forget(mine)
    lock.release()
    assert served.records() == [other]
    assert [path.suffix for path in everything(state) if path.is_file()] == [".json"]
    assert len(everything(tmp_path)) == 4


def test_what_is_served_on_another_host_is_left_alone(lock: ServeLock, state: Path, tmp_path: Path) -> None:
    """Though its lock is free from here: a server may keep the locks of each of its clients to that client."""
    there = with_folders(killed(lock, host="another", boot_id="another"), tmp_path)
    served.save(there)
    before = everything(state) | everything(tmp_path)
    assert served.records() == [there]
    served.clean()
    assert not served.discard(there)
    assert everything(state) | everything(tmp_path) == before
    with pytest.raises(NotFound, match=r"127\.0\.0\.1:8500 is served on host another"):
        served.resolve_target(None)


def test_a_target_on_another_host_that_can_be_reached_is_found() -> None:
    """After what is served here."""
    served.save(record("10.0.0.7:8500", host="another", boot_id="another", started_s=time.time() + 100))
    assert served.resolve_target(None) == "10.0.0.7:8500"
    served.save(record())
    assert served.resolve_target(None) == "127.0.0.1:8500"


def test_hosts_that_serve_at_equal_addresses_keep_their_records() -> None:
    mine, theirs = record(), record(host="another", boot_id="another", pid=7)
    assert served.save(mine) != served.save(theirs)
    assert served.find("127.0.0.1:8500") == mine
    served.forget(theirs)
    assert served.records() == [mine]


@pytest.mark.parametrize("field", ["pid_namespace", "boot_id"])
def test_on_this_machine_the_lock_tells(lock: ServeLock, state: Path, tmp_path: Path, field: str) -> None:
    """In another PID namespace, as in a container, and after a boot of this host."""
    living = with_folders(record(lock=lock, pid=GONE_PID, **{field: "another"}), tmp_path)
    served.save(living)
    before = everything(state) | everything(tmp_path)
    assert served.records() == [living]
    served.clean()
    assert not served.discard(living)
    assert everything(state) | everything(tmp_path) == before
    dead = replace(killed(lock, **{field: "another"}), made_folder=living.made_folder, ray_folder=living.ray_folder)
    served.save(dead)
    assert served.records() == []
    served.clean()
    assert everything(state) | everything(tmp_path) == {state / "served"}


def test_a_record_whose_lock_is_gone_goes_once_its_process_has_surely_ended(
    lock: ServeLock, state: Path, tmp_path: Path
) -> None:
    """A `serve` that was killed after it freed its lock."""
    dead = with_folders(record(lock=lock, pid=GONE_PID), tmp_path)
    living = record("127.0.0.1:8600", lock=lock)
    for each in (dead, living):
        served.save(each)
    lock.release()
    served.clean()
    assert everything(tmp_path) & set(map(Path, (dead.made_folder or "", dead.ray_folder or ""))) == set()
    assert served.records() == [living]
    assert {path.suffix for path in (state / "served").iterdir()} == {".json"}


def test_what_a_serve_made_that_was_killed_before_it_was_ready_goes(state: Path, tmp_path: Path) -> None:
    """There is no record of it yet; its lock says what it made."""
    made = [state / "coordinators" / "ringpull-1", tmp_path / "ray"]
    for folder in made:
        folder.mkdir(parents=True)
        (folder / "file").write_text("")
    with served.lock() as lock:
        lock.note_folders(map(str, made))
        served.clean()
        assert all(folder.exists() for folder in made), "it lives"
        [path] = (state / "served").glob("*.lock")
        left = path.with_name("left.lock")
        left.write_bytes(path.read_bytes())
    served.clean()
    assert [folder for folder in made if folder.exists()] == []
    assert list((state / "served").iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"folders": 3}', b'{"folders": [3, null]}', b"\xff"])
def test_a_lock_that_says_nothing_of_use_is_removed(state: Path, content: bytes) -> None:
    left = state / "served" / "left.lock"
    left.parent.mkdir(parents=True)
    left.write_bytes(content)
    served.clean()
    assert not left.exists()


def test_a_lock_that_is_never_free_is_not_waited_for(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a server whose lock daemon has forgotten who held it: `serve` goes on without one."""
    asked = []

    def held(descriptor: int, operation: int) -> None:
        asked.append(operation)
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(serve_lock.fcntl, "flock", held)
    monkeypatch.setattr(serve_lock, "TAKE_TIMEOUT_S", 0.0)
    with served.lock() as lock:
        assert not lock.held
    assert all(operation & fcntl.LOCK_NB for operation in asked)


def test_on_a_servers_file_system_a_free_lock_tells_nothing(
    lock: ServeLock, state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve_lock, "is_local", lambda path: False)
    there = with_folders(killed(lock, pid_namespace="another"), tmp_path)
    served.save(there)
    before = everything(state) | everything(tmp_path)
    served.clean()
    assert served.records() == [there]
    assert everything(state) | everything(tmp_path) == before


def test_where_locks_are_refused_nothing_is_removed(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even of a process that has surely ended."""

    def refused(descriptor: int, operation: int) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(serve_lock.fcntl, "flock", refused)
    with served.lock() as lock:
        assert (lock.held, lock.name) == (False, None)
        served.save(with_folders(record(lock=lock, pid=GONE_PID), tmp_path))
    before = everything(state) | everything(tmp_path)
    assert served.records() == []
    served.clean()
    assert everything(state) | everything(tmp_path) == before


@pytest.mark.parametrize("living", [True, False])
def test_records_of_an_earlier_build_are_read_and_never_removed(state: Path, tmp_path: Path, living: bool) -> None:
    """As they are on disk. That their process is not found here may be this namespace, or the clock."""
    old = with_folders(of_an_earlier_build(pid_started_s=psutil.Process().create_time() - 100 * (not living)), tmp_path)
    fields = asdict(old)
    for name in ("host", "boot_id", "pid_namespace", "start_ticks", "lock"):
        del fields[name]
    (state / "served").mkdir()
    (state / "served" / "127.0.0.1_8500.json").write_text(json.dumps(fields))
    before = everything(state) | everything(tmp_path)
    assert served.records() == [old]
    assert (served.find("127.0.0.1:8500").process() is not None) is living
    served.clean()
    assert not served.discard(old)
    assert everything(state) | everything(tmp_path) == before


def test_a_step_of_the_clock_ends_nothing(
    lock: ServeLock, state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NTP, or a machine that was suspended: start times that are derived from the clock move with it."""
    mine = with_folders(record(lock=lock), tmp_path)
    served.save(mine)
    before = everything(state) | everything(tmp_path)
    real = psutil.Process.create_time
    monkeypatch.setattr(psutil.Process, "create_time", lambda process: real(process) + 3600)
    monkeypatch.setattr(time, "time", lambda: 1.0)
    assert served.records() == [mine]
    assert mine.process() is not None
    served.clean()
    assert everything(state) | everything(tmp_path) == before


@pytest.mark.medium
def test_from_another_pid_namespace_it_is_seen_and_left_alone(lock: ServeLock, state: Path, tmp_path: Path) -> None:
    if subprocess.run([*UNSHARE, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine makes no PID namespaces for its users")
    mine = with_folders(record(lock=lock), tmp_path)
    served.save(mine)
    before = everything(state) | everything(tmp_path)
    looks = (
        "from ringpull.deploy import served\n"
        "print(served.resolve_target(None), served.find(None).process())\n"
        "served.clean(); print(served.discard(served.find(None)))"
    )
    ran = subprocess.run([*UNSHARE, sys.executable, "-c", looks], capture_output=True, text=True, check=False)
    assert (ran.stdout.split(), ran.stderr) == (["127.0.0.1:8500", "None", "False"], "")
    assert everything(state) | everything(tmp_path) == before


SERVES = """
import sys, time
from dataclasses import asdict
from ringpull.deploy import served
with served.lock() as lock:
    fields = dict(http="127.0.0.1:2", models=("ranker/3",), shards=1, name="ringpull", address=None)
    served.save(served.ServedRecord(target="127.0.0.1:1", **fields, **served.by_this_process(lock)))
    print(flush=True)
    {forks}
    time.sleep(600)
"""


@pytest.mark.medium
@pytest.mark.parametrize(
    "children",
    ["subprocess.Popen(['sh', '-c', 'echo; exec sleep 600'])", "os.fork() or (print(flush=True), time.sleep(600))"],
)
def test_a_lock_ends_with_its_process_and_not_with_its_children(state: Path, children: str) -> None:
    """Ray's processes live on for a while after a kill of `serve`."""
    serve = subprocess.Popen(
        [sys.executable, "-c", SERVES.format(forks=f"import os, subprocess; {children}")], stdout=subprocess.PIPE
    )
    assert serve.stdout is not None
    serve.stdout.readline()
    (of_serve,) = served.records()
    assert of_serve.lock is not None
    serve.stdout.readline()  # the child runs, and has let go of what it does not inherit
    below = psutil.Process(serve.pid).children()
    try:
        assert below
        assert serve_lock.is_held(state / "served" / of_serve.lock) is True
        served.clean()
        assert served.records() == [of_serve]
        serve.kill()
        serve.wait()
        assert serve_lock.is_held(state / "served" / of_serve.lock) is False
        served.clean()
        assert everything(state) == {state / "served"}
    finally:
        serve.kill()
        for each in below:
            each.kill()
        serve.communicate()


@pytest.mark.medium
def test_of_two_who_clean_at_once_neither_fails(lock: ServeLock, state: Path, tmp_path: Path) -> None:
    """And what one that begins to serve meanwhile has taken stays its own."""
    served.save(with_folders(killed(lock), tmp_path))
    cleans = "from ringpull.deploy import served; served.clean(); served.lock()"
    two = [subprocess.Popen([sys.executable, "-c", cleans], stderr=subprocess.PIPE) for _ in range(2)]
    assert [each.communicate()[1] for each in two] == [b"", b""]
    assert [each.returncode for each in two] == [0, 0]
    assert not any(path.suffix == ".json" for path in everything(state))
    assert everything(tmp_path) == set()


def test_a_lock_that_somebody_tidied_away_while_it_was_made_is_made_again(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, tidied = serve_lock.fcntl.flock, []

    def flock(descriptor: int, operation: int) -> None:
        if not tidied:
            tidied.extend((state / "served").glob("*.lock"))
            tidied[0].unlink()
        real(descriptor, operation)

    monkeypatch.setattr(serve_lock.fcntl, "flock", flock)
    with served.lock() as lock:
        assert lock.name is not None
        assert (state / "served" / lock.name).exists()
        assert serve_lock.is_held(state / "served" / lock.name) is True


def test_a_state_folder_that_cannot_be_written_is_named(state: Path) -> None:
    (state / "served").write_text("")
    with pytest.raises(StartupError, match=r"state folder .*served cannot be written"):
        served.lock()


def test_records_of_a_deployment_on_a_joined_ray() -> None:
    mine = record("127.0.0.1:9000", address="auto", pid=None, start_ticks=None)
    served.save(mine)
    served.save(record("127.0.0.1:9001", address="auto", name="other"))
    assert served.on_ray("auto", "ringpull") == [mine]
