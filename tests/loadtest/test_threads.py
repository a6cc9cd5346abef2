"""Threads of processes: what each did between two looks."""

from __future__ import annotations

import threading
from pathlib import Path

import psutil
import pytest

from ringpull.loadtest.bench.threads import Thread, since, threads_of, waited_between_s


def test_threads_are_told_by_what_they_did_meanwhile():
    before = {(1, 1): Thread("loop", 1.0, 0.5, 3), (1, 2): Thread("gone", 1.0, 0.0, 1)}
    now = {(1, 1): Thread("loop", 1.5, 0.75, 5), (1, 3): Thread("new", 2.0, 0.0, 1)}
    assert since(before, now) == [Thread("new", 2.0, 0.0, 1), Thread("loop", 0.5, 0.25, 2)]


def test_threads_of_a_process_are_found():
    own = threads_of([psutil.Process()])
    assert own is not None
    me = own[psutil.Process().pid, threading.get_native_id()]
    assert me.ran_s > 0
    assert me.turns > 0


class TestKernel:
    """What a kernel tells of threads, as files."""

    @pytest.fixture
    def tasks(self, tmp_path: Path) -> Path:
        folder = tmp_path / f"{psutil.Process().pid}/task"
        write(folder / "1", "2000000000 500000000 7")
        return folder

    def test_a_thread_that_ends_meanwhile_is_left_out(self, tmp_path: Path, tasks: Path) -> None:
        (tasks / "2").symlink_to(tasks / "gone")  # listed, and not there when it is looked at
        assert threads_of([psutil.Process()], tmp_path) == {(psutil.Process().pid, 1): Thread("loop", 2.0, 0.5, 7)}

    def test_one_without_the_file_does_not_count(self, tmp_path: Path, tasks: Path) -> None:
        (tasks / "1/schedstat").unlink()
        assert threads_of([psutil.Process()], tmp_path) is None

    def test_one_whose_file_cannot_be_read_does_not_count(self, tmp_path: Path, tasks: Path) -> None:
        (tasks / "1/schedstat").unlink()
        (tasks / "1/schedstat").mkdir()
        assert threads_of([psutil.Process()], tmp_path) is None

    def test_one_that_says_zero_of_every_thread_does_not_count(self, tmp_path: Path, tasks: Path) -> None:
        write(tasks / "1", "0 0 0")
        assert threads_of([psutil.Process()], tmp_path) is None
        write(tasks / "2", "10 0 1")
        assert threads_of([psutil.Process()], tmp_path) is not None


def write(task: Path, counts: str) -> None:
    task.mkdir(parents=True, exist_ok=True)
    (task / "schedstat").write_text(f"{counts}\n")
    (task / "comm").write_text("loop\n")


def test_what_was_not_counted_is_no_time():
    counted = {(1, 1): Thread("loop", 1.0, 0.5, 3)}
    assert waited_between_s({}, counted) == 0.5
    assert waited_between_s(None, counted) is None
    assert waited_between_s(counted, None) is None
