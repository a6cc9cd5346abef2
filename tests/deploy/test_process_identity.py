"""Process identity: a process is told from all others, by no clock that moves, and "unknown" is said where it is."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import psutil
import pytest

from ringpull.deploy import process_identity
from ringpull.deploy.process_identity import ProcessIdentity, own_identity

pytestmark = pytest.mark.skipif(not Path("/proc/self/ns/pid").exists(), reason="identities are sure with /proc only")

SAYS_ITSELF = (
    "import json, dataclasses; from ringpull.deploy.process_identity import own_identity;"
    "print(json.dumps(dataclasses.asdict(own_identity())), flush=True); input()"
)


@contextmanager
def another() -> Iterator[tuple[subprocess.Popen[str], ProcessIdentity]]:
    """Another process, with its identity; ended and reaped at the end."""
    with subprocess.Popen(
        [sys.executable, "-c", SAYS_ITSELF], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            yield child, ProcessIdentity(**json.loads(child.stdout.readline()))
        finally:
            child.kill()


def test_this_process_lives_and_is_plain() -> None:
    mine = own_identity()
    assert mine.alive() is True
    assert mine.pid == os.getpid()
    assert ProcessIdentity(**json.loads(json.dumps(asdict(mine)))) == mine


@pytest.mark.medium
def test_another_process_from_its_life_to_its_end() -> None:
    """Alive, then a zombie that nobody has waited for, then gone."""
    with another() as (child, identity):
        assert identity.pid == child.pid
        assert identity.alive() is True
        assert replace(identity, start_ticks=identity.start_ticks - 1).alive() is False
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert psutil.Process(child.pid).status() == psutil.STATUS_ZOMBIE
        assert identity.alive() is False
    assert identity.alive() is False


@pytest.mark.parametrize("field", ["boot_id", "pid_namespace"])
@pytest.mark.parametrize("gone", [False, True])
def test_elsewhere_it_is_unknown(field: str, gone: bool) -> None:
    """Whether or not a process here has the same id."""
    there = replace(own_identity(), **{field: "elsewhere"})
    assert (replace(there, pid=2**22 + 1) if gone else there).alive() is None


def test_a_host_that_was_renamed_is_the_same_one() -> None:
    """DHCP did it, or a hand: boot and namespaces tell which host is meant."""
    renamed = replace(own_identity(), host="before")
    assert renamed.alive() is True
    assert replace(renamed, pid=2**22 + 1).alive() is False


def test_without_a_boot_id_the_name_of_the_host_tells() -> None:
    there = replace(own_identity(), boot_id="", pid_namespace="", host="elsewhere")
    assert there.alive() is None


def test_a_step_of_the_clock_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """NTP or a resumed machine moves the boot time that psutil computes starts from."""
    before = own_identity()
    monkeypatch.setattr(time, "time", lambda: 1.0)
    monkeypatch.setattr(psutil, "boot_time", lambda: 1.0)
    monkeypatch.setattr(psutil.Process, "create_time", lambda self: 1.0)
    assert own_identity() == before
    assert before.alive() is True


@pytest.mark.parametrize("name", ["two words", "a) R 1 (b", ") Z 1", "tab\tand)"])
def test_a_name_with_spaces_and_parentheses(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    numbers = " ".join(str(number) for number in range(4, 22))
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "stat").write_text(f"7 ({name}) S {numbers} 4711 23 24\n")
    monkeypatch.setattr(process_identity, "PROC", tmp_path)
    assert process_identity._state_and_start(7) == ("S", 4711)


def test_a_process_that_proc_hides_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """With `hidepid` the processes of others are not listed."""
    other = replace(own_identity(), pid=1)
    monkeypatch.setattr(process_identity, "_state_and_start", lambda pid: ("S", 1) if pid == "self" else None)
    monkeypatch.setattr(process_identity, "own_identity", own_identity)
    assert replace(other, start_ticks=2).alive() is None
    assert replace(other, pid=2**22 + 1).alive() is False


def test_without_proc_only_what_lives_is_sure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(process_identity, "PROC", tmp_path)
    mine = own_identity()
    assert (mine.boot_id, mine.pid_namespace) == ("", "")
    assert mine.alive() is True
    parent = replace(mine, pid=os.getppid(), start_ticks=round(psutil.Process(os.getppid()).create_time() * 100))
    assert parent.alive() is True
    assert replace(parent, start_ticks=1).alive() is None
    assert replace(mine, pid=2**22 + 1).alive() is None


@pytest.mark.medium
@pytest.mark.parametrize("options", [["--mount-proc"], []])
def test_from_another_pid_namespace_it_is_unknown(options: list[str]) -> None:
    """With a /proc of its own, and with the one of the namespace around it."""
    unshare = [shutil.which("unshare") or "unshare", "--user", "--map-root-user", "--pid", "--fork", *options]
    if subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine makes no PID namespaces for its users")
    asks = (
        "import json, sys; from ringpull.deploy.process_identity import ProcessIdentity, own_identity;"
        "print(ProcessIdentity(**json.loads(sys.argv[1])).alive(), own_identity().alive())"
    )
    given = json.dumps(asdict(own_identity()))
    said = subprocess.run([*unshare, sys.executable, "-c", asks, given], capture_output=True, text=True, check=True)
    assert said.stdout.split() == ["None", "True"]
