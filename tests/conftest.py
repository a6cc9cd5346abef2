"""What every test may lean on: the real data, guards about Ray and processes, and an eye on what takes long."""

from __future__ import annotations

import gc
import os
import sys
import uuid
import zlib
from collections import defaultdict
from collections.abc import Generator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from hypothesis import HealthCheck, settings

from examples.movielens import data
from tests.certificates import Certificates

if TYPE_CHECKING:
    from xdist.scheduler import LoadFileScheduling

# Read by torch when it is imported, by tests and by what they start: their tensors are small, and on a busy machine a
# second thread spins more than it helps.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# How long an example takes says how busy the machine is, and nothing of the code.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

RUN_VARIABLE = "RINGPULL_TEST_RUN"
"""Marks every process that this run starts: a process inherits its parent's environment, even a detached one."""

LEAVE_S = 60.0
"""Time in which what tests started has ended, on however busy a machine."""

FAST_S = 0.25
"""What takes longer than this, alone on a machine, has one of the markers below."""

UNHURRIED = {"medium", "ray", "readme", "slow", "wheel"}
"""Markers that `make check` leaves out."""

MAX_LISTED = 20

_unmarked: list[tuple[float, str]] = []
"""Seconds, and the test's phase, of whatever took longer than `FAST_S` without such a marker."""


@pytest.fixture(scope="session")
def movielens_folder() -> Path:
    """Return the folder of MovieLens-100K in RecBole's layout, or skip the test and say why."""
    folder = data.find_folder()
    if folder is None:
        pytest.skip(
            f"{data.FOLDER_VARIABLE} is not set: it names the folder that holds {data.RATINGS_FILE}, or its parent"
        )
    return folder


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Return certificates of a CA, of what it has signed, and of a stranger; made once."""
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session", autouse=True)
def nothing_waits_for_the_disk() -> Iterator[None]:
    """Have files that tests write here go to the disk when the kernel likes: nobody pulls a plug, and writing a table
    waits for its disk a dozen times. Processes that are started wait as ever."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", os.fstat)  # it refuses what is no open file, too
        yield


@pytest.fixture(scope="session", autouse=True)
def no_process_left_behind() -> Iterator[None]:
    """Fail the run when anything it started is alive after its last test: a shard, a raylet, a served cluster."""
    os.environ[RUN_VARIABLE] = run = uuid.uuid4().hex
    yield
    del os.environ[RUN_VARIABLE]
    _, left = psutil.wait_procs(_started_by(run), timeout=LEAVE_S)
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    assert not left, f"processes left behind, now killed: {left}"


@pytest.fixture(autouse=True)
def no_ray_in_unit_tests(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that starts Ray without being marked `ray`."""
    yield
    if request.node.get_closest_marker("ray") is None and "ray" in sys.modules:
        assert not sys.modules["ray"].is_initialized(), (
            "a test without the marker `ray` started Ray, or left it running"
        )


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keep the garbage collector from what is imported: a quarter of the collection's time, and no garbage."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--one-in",
        type=int,
        default=1,
        metavar="N",
        help="of the cases of each parametrised `medium` test run one in N, always the same ones (`make test`: 3)",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what `--one-in` does. Put what takes minutes first: it would end alone, one core idle."""
    if left_out := _left_out(items, config.getoption("--one-in")):
        config.hook.pytest_deselected(items=left_out)
        kept = set(items) - set(left_out)
        items[:] = [item for item in items if item in kept]
    items.sort(key=_turn)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> LoadFileScheduling:
    """Spread tests over processes by the file, since a file shares fixtures; histories share nothing."""
    from xdist.scheduler import LoadFileScheduling

    class ByFile(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return nodeid if nodeid.startswith("tests/simulation/") else super()._split_scope(nodeid)

    return ByFile(config, log)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.duration > FAST_S and not UNHURRIED & set(report.keywords):
        _unmarked.append((report.duration, f"{report.when} of {report.nodeid}"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List what ought to be marked. It fails nothing: on a busy machine everything takes long."""
    if _unmarked:
        terminalreporter.section(f"over {FAST_S} s, without a marker that says so", sep="-")
        for seconds, phase in sorted(_unmarked, reverse=True)[:MAX_LISTED]:
            terminalreporter.line(f"{seconds:6.2f} s  {phase}")
        if len(_unmarked) > MAX_LISTED:
            terminalreporter.line(f"and {len(_unmarked) - MAX_LISTED} more")


def _turn(item: pytest.Item) -> int:
    """Return the place of a test in the order: the READMEs' tour, what waits for Ray or a package index, all else."""
    marks = {marker.name for marker in item.iter_markers()}
    return 0 if "readme" in marks else 1 if marks & {"ray", "wheel"} else 2


def _left_out(items: list[pytest.Item], one_in: int) -> list[pytest.Item]:
    """Return all but one in `one_in` of the cases of each parametrised test that is `medium` and starts no Ray.

    Which ones stay depends on the test's name alone: one at least, and in some tests the first, in others a later one.
    """
    cases: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        unhurried = UNHURRIED & {marker.name for marker in item.iter_markers()}
        if unhurried == {"medium"} and hasattr(item, "callspec"):
            cases[item.nodeid.partition("[")[0]].append(item)
    return [
        item
        for name, several in cases.items()
        for number, item in enumerate(several)
        if number % one_in != zlib.crc32(name.encode()) % min(one_in, len(several))
    ]


def _started_by(run: str) -> list[psutil.Process]:
    started = []
    for process in psutil.process_iter():
        try:
            mine = process.environ().get(RUN_VARIABLE) == run
            # multiprocessing's tracker lives as long as this process does.
            tracker = "multiprocessing.resource_tracker" in " ".join(process.cmdline())
        except psutil.Error:
            continue
        if mine and not tracker and process.pid != os.getpid():
            started.append(process)
    return started
