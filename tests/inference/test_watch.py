"""New versions are published once, and only when they are whole."""

from __future__ import annotations

import asyncio
import itertools
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest

from ringpull.inference.head.watch import Watch, watching
from ringpull.ps.errors import Busy, CorruptData, InvalidInput, RingpullError, Unavailable
from ringpull.ps.transfer.remote import RemoteFolder
from ringpull.router.control.change import Kind, Phase
from ringpull.router.control.deployment_spec import initial_spec
from ringpull.router.control.operations import VERBS, ChangeStatus, DeploymentStatus, GetChange, GetStatus, Publish
from ringpull.router.control.verbs import Request
from tests.clock import Clock
from tests.deploy.folders import write_version

R = TypeVar("R")


class FakeOperations:
    """Coordinator that carries a change through, or fails it, before it is asked again."""

    def __init__(self) -> None:
        self.published: list[tuple[str, int, str]] = []
        self.loaded: list[tuple[str, int]] = []
        """Versions that heads have."""
        self.highest_live = {"ranker": 1}
        self.pinned: tuple[str, ...] = ()
        self.busy = False
        self.faster = False
        """Whether another head's change begins before one that is asked for."""
        self.error: RingpullError | None = None
        """Refusal of what is asked for."""
        self.fails = ""
        """Reason why a change that has begun is given up."""
        self.last = ChangeStatus()

    def call(self, request: Request[R]) -> R:
        return VERBS.answer(self, request)

    def change(self, request: GetChange) -> ChangeStatus:
        return replace(self.last, phase=Phase.LOADING if self.busy else None)

    def status(self, request: GetStatus) -> DeploymentStatus:
        if isinstance(self.error, Unavailable):
            raise self.error
        nothing = replace(initial_spec([0], []), pinned=self.pinned)
        return DeploymentStatus(
            spec=nothing, resident_bytes={}, nodes={}, requests=0, traffic={}, highest_live=self.highest_live
        )

    def publish(self, request: Publish) -> ChangeStatus:
        self.published.append((request.model, request.version, request.folder))
        if self.faster:
            self.busy = True
            raise Busy("publish ranker/2 is under way (loading); wait for it, or abort it")
        if self.error is not None:
            raise self.error
        subject = f"{request.model}/{request.version}"
        self.last = ChangeStatus(id=self.last.id + 1, kind=Kind.PUBLISH, subject=subject, error=self.fails)
        if not self.fails:
            self.loaded.append((request.model, request.version))
        return replace(self.last, phase=Phase.LOADING, error="")


@pytest.fixture
def operations() -> FakeOperations:
    return FakeOperations()


@pytest.fixture
def clock() -> Clock:
    return Clock(0.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    complete(tmp_path / "ranker", 1)
    return tmp_path / "ranker"


def complete(folder: Path, version: int, content: str = "{}") -> None:
    (folder / str(version)).mkdir(parents=True, exist_ok=True)
    (folder / str(version) / "manifest.json").write_text(content)


def test_a_version_is_published_when_it_is_complete_and_once(folder: Path, operations: FakeOperations) -> None:
    watch = Watch(lambda: {"ranker": folder}, operations)
    watch.look()
    (folder / "2").mkdir()
    watch.look()
    assert operations.published == [], "half-written"
    complete(folder, 2)
    watch.look()
    watch.look()
    assert operations.published == [("ranker", 2, str(folder))]
    complete(folder, 4)
    complete(folder, 3)
    watch.look()
    assert operations.published[1:] == [("ranker", 4, str(folder))], "the highest"


def test_one_that_failed_is_tried_again_only_when_its_manifest_has_changed(
    folder: Path, operations: FakeOperations
) -> None:
    watch = Watch(lambda: {"ranker": folder}, operations)
    complete(folder, 2)
    operations.error = InvalidInput("damaged")
    watch.look()
    watch.look()
    assert len(operations.published) == 1
    complete(folder, 2, content='{"mended": 1}')
    operations.error = None
    watch.look()
    assert len(operations.published) == 2


@pytest.mark.parametrize("busy", [True, False])
def test_it_waits_for_a_change_under_way_and_for_the_coordinator(
    folder: Path, operations: FakeOperations, busy: bool
) -> None:
    watch = Watch(lambda: {"ranker": folder}, operations)
    watch.look()
    complete(folder, 2)
    operations.busy = busy
    operations.error = Unavailable("it is restarted")
    watch.look()
    assert operations.published == []
    operations.busy, operations.error = False, None
    watch.look()
    assert operations.published[-1] == ("ranker", 2, str(folder))


def test_a_folder_that_is_away_for_a_while_harms_nothing(folder: Path, operations: FakeOperations) -> None:
    watch = Watch(lambda: {"ranker": folder, "gone": folder.parent / "gone"}, operations)
    folder.rename(folder.parent / "away")
    watch.look()
    (folder.parent / "away").rename(folder)
    complete(folder, 5)
    watch.look()
    assert operations.published == [("ranker", 5, str(folder))]


async def test_it_looks_until_it_is_cancelled() -> None:
    looked = asyncio.Event()
    loop = asyncio.get_running_loop()
    task = asyncio.create_task(watching(lambda: loop.call_soon_threadsafe(looked.set) and None, 0.001))
    await looked.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


# -- what was refused is offered again ---------------------------------------------------------------------------------


@pytest.fixture
def watch(folder: Path, operations: FakeOperations, clock: Clock) -> Watch:
    return Watch(lambda: {"ranker": folder}, operations, loaded=lambda: operations.loaded, clock=clock)


def numbers(operations: FakeOperations) -> list[int]:
    return [version for _, version, _ in operations.published]


@pytest.mark.parametrize("at_once", [True, False], ids=["refused when it is asked for", "refused by a shard"])
def test_one_that_was_refused_is_offered_again_with_patience_and_told_until_it_is_live(
    folder: Path, operations: FakeOperations, watch: Watch, clock: Clock, at_once: bool
) -> None:
    """A disk that was full, a file that could not be read, a shard that was away: its manifest stays what it is."""
    complete(folder, 2)

    def refuse() -> None:
        if at_once:
            operations.error = InvalidInput("the disk is full")
        else:
            operations.fails = "shard 1: the disk is full"

    refuse()
    offered_s = []
    for _ in range(2000):
        before = len(operations.published)
        watch.look()
        if len(operations.published) > before:
            offered_s.append(clock.now_s)
        clock.now_s += 0.5
    gaps = [round(b - a, 1) for a, b in itertools.pairwise(offered_s)]
    assert gaps[:4] == sorted(gaps[:4])
    assert gaps[0] <= 3
    assert 60 <= gaps[-1] <= 200
    [warning] = watch.warnings
    assert warning.startswith(f"ranker/2 in {folder} is not published: ")
    assert warning.endswith("the disk is full")
    operations.error, operations.fails = None, ""
    clock.now_s += 1000
    watch.look()
    watch.look()
    assert watch.warnings == ()
    offered = len(operations.published)
    clock.now_s += 1000
    watch.look()
    assert len(operations.published) == offered


@pytest.mark.parametrize("gone", [True, False], ids=["gone", "a higher one is there"])
def test_what_is_gone_or_overtaken_is_told_no_more(
    folder: Path, operations: FakeOperations, watch: Watch, gone: bool
) -> None:
    complete(folder, 2)
    operations.error = CorruptData("half-copied")
    watch.look()
    assert len(watch.warnings) == 1
    operations.error = None
    if gone:
        shutil.rmtree(folder / "2")
    else:
        complete(folder, 3)
    watch.look()
    assert watch.warnings == ()
    assert numbers(operations) == ([2] if gone else [2, 3])


def test_a_version_that_was_half_copied_when_the_watch_began_is_published(
    tmp_path: Path, operations: FakeOperations
) -> None:
    folder = tmp_path / "models" / "ranker"
    whole = write_version(tmp_path / "store" / "ranker", 2)
    write_version(folder, 1)
    for cut in ("tables/user/rows", "dense.pt2", "manifest.json"):
        shutil.copytree(whole, folder / "2")
        content = (whole / cut).read_bytes()
        (folder / "2" / cut).write_bytes(content[: len(content) // 2])
        operations.published.clear()
        watch = Watch(lambda: {"ranker": folder}, operations)
        shutil.copytree(whole, folder / "2", dirs_exist_ok=True)
        watch.look()
        assert numbers(operations) == [2], cut
        shutil.rmtree(folder / "2")


@pytest.mark.parametrize("published", [True, False], ids=["published once", "never"])
def test_a_version_that_lies_there_when_the_watch_begins_is_known_if_it_went_live_once(
    folder: Path, operations: FakeOperations, published: bool
) -> None:
    """It is another one's that is live: an operator has gone back, or it was never published."""
    complete(folder, 2)
    operations.loaded = [("ranker", 1)]
    operations.highest_live = {"ranker": 2 if published else 1}
    Watch(lambda: {"ranker": folder}, operations, loaded=lambda: operations.loaded).look()
    assert numbers(operations) == ([] if published else [2])


def test_what_was_refused_is_told_and_offered_also_by_a_head_that_was_restarted(
    folder: Path, operations: FakeOperations, watch: Watch
) -> None:
    complete(folder, 2)
    operations.error = InvalidInput("the disk is full")
    watch.look()
    restarted = Watch(lambda: {"ranker": folder}, operations, loaded=lambda: [("ranker", 1)])
    restarted.look()
    assert (numbers(operations), restarted.warnings) == ([2, 2], watch.warnings)
    operations.error = None
    again = Watch(lambda: {"ranker": folder}, operations, loaded=lambda: [("ranker", 1)])
    again.look()
    assert numbers(operations) == [2, 2, 2]


def test_what_is_new_is_not_guessed_while_the_coordinator_is_away(folder: Path, operations: FakeOperations) -> None:
    complete(folder, 2)
    operations.error, operations.highest_live = Unavailable("it is restarted"), {"ranker": 2}
    watch = Watch(lambda: {"ranker": folder}, operations)
    watch.look()
    operations.error = None
    watch.look()
    assert (numbers(operations), watch.warnings) == ([], ())


def test_the_manifest_of_a_known_version_is_read_rarely(
    folder: Path, operations: FakeOperations, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have 64 MiB, at a URL, and every head looks every few seconds."""
    reads, read = [], RemoteFolder.read

    def counted(self: RemoteFolder, name: str, *, max_bytes: int) -> bytes:
        reads.append(name)
        return read(self, name, max_bytes=max_bytes)

    monkeypatch.setattr(RemoteFolder, "read", counted)
    watch = Watch(lambda: {"ranker": folder}, operations, clock=clock)
    for _ in range(600):
        watch.look()
        clock.now_s += 1
    assert len(reads) <= 11


def test_a_folder_that_was_away_when_the_watch_began(folder: Path, operations: FakeOperations) -> None:
    operations.loaded = [("ranker", 1)]
    folder.rename(folder.parent / "away")
    watch = Watch(lambda: {"ranker": folder}, operations, loaded=lambda: operations.loaded)
    watch.look()
    (folder.parent / "away").rename(folder)
    watch.look()
    assert operations.published == [], "this one serves"
    complete(folder, 2)
    watch.look()
    assert numbers(operations) == [2]


def test_two_folders_of_one_number_are_told(folder: Path, operations: FakeOperations, watch: Watch) -> None:
    complete(folder, 2)
    (folder / "2").rename(folder / "02")
    complete(folder, 2)
    watch.look()
    [warning] = watch.warnings
    assert "has version 2 twice, as 02 and 2" in warning
    shutil.rmtree(folder / "2")
    watch.look()
    assert (watch.warnings, numbers(operations)) == ((), [2])


# -- links -------------------------------------------------------------------------------------------------------------


def test_a_link_that_is_flipped_is_followed(tmp_path: Path, operations: FakeOperations) -> None:
    """As git-sync and `releases/current` do it; what it led to before may be deleted."""
    for release, versions in (("a", (1,)), ("b", (1, 2)), ("c", (3,))):
        for version in versions:
            complete(tmp_path / release / "ranker", version)
    link = tmp_path / "current"
    link.symlink_to(tmp_path / "a")
    watch = Watch(lambda: {"ranker": link / "ranker"}, operations)
    for release in ("b", "c"):
        (tmp_path / "next").symlink_to(tmp_path / release)
        (tmp_path / "next").rename(link)
        watch.look()
    assert operations.published == [("ranker", version, str(link / "ranker")) for version in (2, 3)]


# -- several heads -----------------------------------------------------------------------------------------------------


def test_several_heads_publish_a_version_once(folder: Path, operations: FakeOperations, clock: Clock) -> None:
    watches = [
        Watch(lambda: {"ranker": folder}, operations, loaded=lambda: operations.loaded, clock=clock) for _ in range(3)
    ]
    complete(folder, 2)
    for watch in watches:
        watch.look()
        clock.now_s += 1
    for watch in watches:
        watch.look()
    assert (numbers(operations), [watch.warnings for watch in watches]) == ([2], [()] * 3)


def test_several_heads_are_patient_together(folder: Path, operations: FakeOperations, clock: Clock) -> None:
    watches = [
        Watch(lambda: {"ranker": folder}, operations, loaded=lambda: operations.loaded, clock=clock) for _ in range(3)
    ]
    complete(folder, 2)
    operations.fails = "shard 0: the file is damaged"
    for _ in range(120):
        for watch in watches:
            watch.look()
        clock.now_s += 1
    assert len(operations.published) < 10
    assert all("the file is damaged" in warning for watch in watches for warning in watch.warnings)


def test_one_that_was_rolled_back_stays_so(folder: Path, operations: FakeOperations, clock: Clock) -> None:
    """Also on a head that never saw it published."""
    late = Watch(lambda: {"ranker": folder}, operations, loaded=lambda: operations.loaded, clock=clock)
    complete(folder, 2)
    operations.loaded = [("ranker", 1), ("ranker", 2)]
    operations.last = ChangeStatus(id=7, kind=Kind.ROLLBACK, subject="ranker/1")
    late.look()
    assert operations.published == []


def test_a_faster_head_is_no_refusal(folder: Path, operations: FakeOperations, watch: Watch) -> None:
    """Between the question and the offer another one's change began."""
    complete(folder, 2)
    operations.faster = True
    watch.look()
    assert (numbers(operations), watch.warnings) == ([2], ())


async def test_a_look_that_fails_is_not_the_last() -> None:
    looked = asyncio.Event()
    loop = asyncio.get_running_loop()
    looks = 0

    def look() -> None:
        nonlocal looks
        looks += 1
        if looks == 1:
            raise RuntimeError("a bug")
        loop.call_soon_threadsafe(looked.set)

    task = asyncio.create_task(watching(look, 0.001))
    await looked.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_a_model_that_was_asked_for_by_number_stays_so_until_it_is_published(
    folder: Path, operations: FakeOperations
) -> None:
    complete(folder, 2)
    operations.pinned = ("ranker",)
    watch = Watch(lambda: {"ranker": folder}, operations)
    watch.look()
    complete(folder, 3)
    watch.look()
    Watch(lambda: {"ranker": folder}, operations).look()
    assert (operations.published, watch.warnings) == ([], ()), "also for a head that was restarted"
    operations.pinned = ()
    watch.look()
    assert operations.published == [("ranker", 3, str(folder))]
