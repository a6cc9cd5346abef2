"""What is worked out in another process: one at a time, its errors come back, and nothing is left."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from ringpull.ps.elsewhere import Elsewhere
from ringpull.ps.errors import DeadlineExceeded, InvalidInput, LimitExceeded, Unavailable
from tests.router.test_process import until

pytestmark = [pytest.mark.medium]


@pytest.fixture
def elsewhere() -> Iterator[Elsewhere]:
    running = Elsewhere("plan", "coordinator", niceness=5, longest_s=60.0)
    yield running
    running.stop()


def held(folder: str, _: object = None) -> int:
    """Say who this is, and wait until the other end of a pipe is opened."""
    Path(folder, "pid").write_text(str(os.getpid()), encoding="utf-8")
    Path(folder, "pid").rename(Path(folder, "held"))
    with open(Path(folder, "gate"), encoding="utf-8") as gate:
        gate.read()
    return os.getpid()


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / "gate")
    return tmp_path


def wait_for_pid(folder: Path) -> int:
    until((folder / "held").exists)
    return int((folder / "held").read_text(encoding="utf-8"))


def let_go(folder: Path) -> None:
    (folder / "gate").write_text("", encoding="utf-8")


class Asking(threading.Thread):
    """Caller that waits for what is worked out."""

    def __init__(self, elsewhere: Elsewhere, folder: Path) -> None:
        super().__init__(daemon=True)
        self._elsewhere, self._folder = elsewhere, folder
        self.outcome: object = None
        self.start()

    def run(self) -> None:
        try:
            self.outcome = self._elsewhere.run(partial(held, str(self._folder)), wait=True)
        except Unavailable as exc:
            self.outcome = exc


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_it_runs_in_another_process_that_is_gone_afterwards(elsewhere: Elsewhere) -> None:
    pid = elsewhere.run(os.getpid, wait=False)
    assert pid != os.getpid()
    assert gone(pid)


def refuse() -> None:
    print("this is no answer")
    raise InvalidInput("shards is 0")


def fail() -> None:
    raise ZeroDivisionError


def test_errors_come_back(elsewhere: Elsewhere) -> None:
    with pytest.raises(InvalidInput, match="shards is 0"):
        elsewhere.run(refuse, wait=False)
    with pytest.raises(Unavailable, match="ended with 1"):
        elsewhere.run(fail, wait=False)
    assert elsewhere.run(os.getpid, wait=False)


def test_one_at_a_time(elsewhere: Elsewhere, gate: Path) -> None:
    first = Asking(elsewhere, gate)
    pid = wait_for_pid(gate)
    with pytest.raises(LimitExceeded, match="only one is at a time") as refused:
        elsewhere.run(os.getpid, wait=False)
    assert refused.value.retry_after_s
    let_go(gate)
    first.join()
    assert first.outcome == pid
    assert elsewhere.run(os.getpid, wait=False) != pid


def test_one_that_is_killed_is_told_and_harms_no_next_one(elsewhere: Elsewhere, gate: Path) -> None:
    first = Asking(elsewhere, gate)
    os.kill(wait_for_pid(gate), signal.SIGKILL)
    first.join()
    assert isinstance(first.outcome, Unavailable)
    assert "ended with -9" in str(first.outcome)
    assert elsewhere.run(os.getpid, wait=True) != os.getpid()


def test_what_is_not_done_in_time_is_ended_and_holds_up_no_next_one(elsewhere: Elsewhere, gate: Path) -> None:
    with pytest.raises(DeadlineExceeded, match="not made in time"):
        elsewhere.run(partial(held, str(gate)), wait=True, within_s=0.05)
    assert elsewhere.run(os.getpid, wait=False) != os.getpid()


def test_who_waits_for_its_turn_waits_no_longer_than_it_has(elsewhere: Elsewhere, gate: Path) -> None:
    first = Asking(elsewhere, gate)
    wait_for_pid(gate)
    with pytest.raises(DeadlineExceeded, match="nothing was begun"):
        elsewhere.run(os.getpid, wait=True, within_s=0.01)
    elsewhere.stop()
    first.join()


def test_it_has_less_of_the_processor_than_others(elsewhere: Elsewhere) -> None:
    assert elsewhere.run(partial(os.nice, 0), wait=False) > os.nice(0) or os.nice(0) == 19


def test_where_memory_ends_it_is_the_one_to_go(elsewhere: Elsewhere) -> None:
    read = partial(Path("/proc/self/oom_score_adj").read_text, "ascii")
    assert elsewhere.run(read, wait=False) == "1000\n"


def test_what_ends_us_by_the_terminal_does_not_reach_it(elsewhere: Elsewhere) -> None:
    assert elsewhere.run(partial(os.getsid, 0), wait=False) != os.getsid(0)


def test_it_has_the_files_that_it_is_given_and_no_others(elsewhere: Elsewhere) -> None:
    given, kept = os.memfd_create("given"), os.memfd_create("kept")
    open_files = set(os.listdir("/proc/self/fd"))
    there = partial(os.listdir, "/proc/self/fd")
    try:
        assert str(given) in elsewhere.run(there, wait=False, files=[given])
        assert str(kept) not in elsewhere.run(there, wait=False, files=[given])
        assert set(os.listdir("/proc/self/fd")) <= open_files
    finally:
        os.close(given)
        os.close(kept)


def test_nothing_is_imported_from_the_folder_that_it_is_started_in(
    elsewhere: Elsewhere, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pickle.py").write_text("raise SystemExit(7)", encoding="utf-8")
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each])
    monkeypatch.chdir(tmp_path)
    assert elsewhere.run(os.getpid, wait=False)


def test_stopping_ends_what_runs(gate: Path) -> None:
    elsewhere = Elsewhere("plan", "coordinator", niceness=5, longest_s=60.0)
    first = Asking(elsewhere, gate)
    pid = wait_for_pid(gate)
    elsewhere.stop()
    first.join()
    assert isinstance(first.outcome, Unavailable)
    assert gone(pid)
    with pytest.raises(Unavailable, match="has stopped"):
        elsewhere.run(os.getpid, wait=True)


AUTOGROUP = Path("/proc/self/autogroup")


@pytest.mark.skipif(not os.access(AUTOGROUP, os.R_OK), reason="this kernel does not share processors out by sessions")
def test_its_session_gives_way_too(elsewhere: Elsewhere) -> None:
    text = elsewhere.run(partial(AUTOGROUP.read_text, "ascii"), wait=False)
    assert text.split()[1:] == ["nice", "5"]
