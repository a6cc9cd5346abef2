"""New versions are published once, and only when they are whole."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TypeVar

import pytest

from ringpull.inference.head.watch import Watch, watching
from ringpull.ps.errors import InvalidInput, RingpullError, Unavailable
from ringpull.router.control.change import Phase
from ringpull.router.control.operations import VERBS, ChangeStatus, GetChange, Publish
from ringpull.router.control.verbs import Request

R = TypeVar("R")


class FakeOperations:
    def __init__(self) -> None:
        self.published: list[tuple[str, int, str]] = []
        self.busy = False
        self.error: RingpullError | None = None

    def call(self, request: Request[R], *, within_s: float | None = None) -> R:
        return VERBS.answer(self, request)

    def change(self, request: GetChange) -> ChangeStatus:
        return ChangeStatus(phase=Phase.LOADING if self.busy else None)

    def publish(self, request: Publish) -> ChangeStatus:
        self.published.append((request.model, request.version, request.folder))
        if self.error is not None:
            raise self.error
        return self.change(GetChange())


@pytest.fixture
def operations() -> FakeOperations:
    return FakeOperations()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    complete(tmp_path / "ranker", 1)
    return tmp_path / "ranker"


def complete(folder: Path, version: int, content: str = "{}") -> None:
    (folder / str(version)).mkdir(parents=True, exist_ok=True)
    (folder / str(version) / "manifest.json").write_text(content)


def test_a_version_is_published_when_it_is_complete_and_once(folder: Path, operations: FakeOperations) -> None:
    watch = Watch({"ranker": folder}, operations)
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
    watch = Watch({"ranker": folder}, operations)
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
    watch = Watch({"ranker": folder}, operations)
    complete(folder, 2)
    operations.busy = busy
    operations.error = Unavailable("it is restarted")
    watch.look()
    assert len(operations.published) == (0 if busy else 1)
    operations.busy, operations.error = False, None
    watch.look()
    assert operations.published[-1] == ("ranker", 2, str(folder))


def test_a_folder_that_is_away_for_a_while_harms_nothing(folder: Path, operations: FakeOperations) -> None:
    watch = Watch({"ranker": folder, "gone": folder.parent / "gone"}, operations)
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
