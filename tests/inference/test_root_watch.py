"""Models that come and go below a folder are loaded and unloaded; what is only away is not."""

from __future__ import annotations

import itertools
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest

from ringpull.inference.head.root_watch import LOOKS, RootWatch
from ringpull.ps.errors import InvalidInput, RingpullError, Unavailable
from ringpull.router.control.change import CoordinatorState, Phase
from ringpull.router.control.changes import begin_of
from ringpull.router.control.deployment_spec import PlacedVersion, initial_spec
from ringpull.router.control.operations import (
    VERBS,
    ChangeStatus,
    DeploymentStatus,
    GetChange,
    GetStatus,
    LoadModel,
    ModelSource,
    ModelsRequest,
    UnloadModel,
)
from ringpull.router.control.verbs import Request
from tests.clock import Clock
from tests.deploy.folders import write_version

R = TypeVar("R")


def placed(folder: str, number: int = 1) -> PlacedVersion:
    return PlacedVersion(folder.rpartition("/")[2], number, f"{folder}/{number}", {})


class Deployment:
    """Coordinator that refuses what the real one does, and has carried a change through when it is asked again."""

    def __init__(self, *folders: Path) -> None:
        self.spec = initial_spec([0], [placed(str(folder)) for folder in folders])
        self.went_live: tuple[tuple[str, int], ...] = ()
        self.asked: list[ModelsRequest] = []
        self.last = ChangeStatus()
        self.busy = False
        self.fails = ""
        """Reason why every change is given up."""
        self.refuses = ""
        """Reason why nothing is found."""
        self.error: RingpullError | None = None

    def call(self, request: Request[R], *, within_s: float | None = None) -> R:
        if self.error is not None:
            raise self.error
        return VERBS.answer(self, request)

    def change(self, request: GetChange) -> ChangeStatus:
        return replace(self.last, phase=Phase.LOADING if self.busy else None)

    @property
    def state(self) -> CoordinatorState:
        return CoordinatorState(spec=self.spec, went_live=self.went_live)

    def status(self, request: GetStatus) -> DeploymentStatus:
        highest = self.state.highest_live
        return DeploymentStatus(
            spec=self.spec, resident_bytes={}, nodes={}, requests=0, traffic={}, highest_live=highest
        )

    def load(self, request: ModelsRequest) -> ChangeStatus:
        self.asked.append(request)
        begun = begin_of(request, self.state, find=self._find)
        if begun.target == self.spec:
            return ChangeStatus(kind=begun.kind, subject=begun.subject)
        self.last = ChangeStatus(id=self.last.id + 1, kind=begun.kind, subject=begun.subject, error=self.fails)
        if not self.fails:
            highest = self.state.highest_live
            self.spec = begun.target
            self.went_live = tuple(
                (model, number)
                for model, number in {**highest, **self.state.highest_live}.items()
                if model not in begun.forgets
            )
        return replace(self.last, phase=Phase.LOADING, error="")

    unload = load

    def _find(self, source: ModelSource) -> tuple[PlacedVersion, ...]:
        if self.refuses:
            raise InvalidInput(self.refuses)
        return (placed(source.folder, *source.versions),)

    def served(self) -> dict[str, str]:
        return {version.model: version.models_folder for version in self.spec.versions}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "models"
    for model in ("a", "b"):
        write_version(root / model, 1)
    return root


@pytest.fixture
def deployment(root: Path) -> Deployment:
    return Deployment(root / "a", root / "b")


@pytest.fixture
def clock() -> Clock:
    return Clock(0.0)


def watch_of(deployment: Deployment, root: Path, clock: Clock | None = None) -> RootWatch:
    return RootWatch([str(root)], deployment.served, deployment, clock=clock or Clock(0.0))


def look(watch: RootWatch, times: int = LOOKS + 2) -> None:
    for _ in range(times):
        watch.look()


def test_a_model_that_appears_is_loaded_when_it_is_complete_and_once(root: Path, deployment: Deployment) -> None:
    watch = watch_of(deployment, root)
    (root / "new" / "1").mkdir(parents=True)
    (root / ".hidden").mkdir()
    (root / "notes.txt").write_text("nothing")
    look(watch)
    assert deployment.asked == [], "half written"
    shutil.rmtree(root / "new")
    write_version(root / "new", 1)
    write_version(root / ".hidden", 1)
    assert watch.look() is True, "it is under way"
    look(watch)
    assert deployment.asked == [LoadModel(folder=str(root / "new"), version=1)]
    assert watch.look() is False
    assert watch.warnings == ()


def test_several_come_one_after_the_other(root: Path, deployment: Deployment) -> None:
    watch = watch_of(deployment, root)
    for model in ("c", "d", "e"):
        write_version(root / model, 1)
    look(watch, 8)
    assert deployment.spec.live == dict.fromkeys("abcde", 1)


def test_a_model_that_is_removed_is_unloaded_and_loaded_when_it_comes_back(root: Path, deployment: Deployment) -> None:
    watch = watch_of(deployment, root)
    watch.look()
    shutil.rmtree(root / "b")
    look(watch, LOOKS - 1)
    assert deployment.asked == [], "it takes several looks in a row"
    look(watch)
    assert deployment.asked == [UnloadModel(model="b", gone_from=str(root / "b"))]
    assert deployment.spec.live == {"a": 1}
    write_version(root / "b", 1)
    look(watch)
    assert deployment.spec.live == {"a": 1, "b": 1}


def test_looks_that_find_it_gone_must_be_in_a_row(root: Path, deployment: Deployment) -> None:
    watch = watch_of(deployment, root)
    for _ in range(3 * LOOKS):
        (root / "b").rename(root / ".away")
        look(watch, LOOKS - 1)
        (root / ".away").rename(root / "b")
        watch.look()
    assert deployment.asked == []


def _nothing_mounted(root: Path) -> None:
    shutil.rmtree(root)
    root.mkdir()


def _root_gone(root: Path) -> None:
    root.rename(root.with_name("elsewhere"))


def _emptied(root: Path) -> None:
    shutil.rmtree(root / "b")
    (root / "b").mkdir()


def _half_removed(root: Path) -> None:
    (root / "b" / "1" / "manifest.json").unlink()


def _link_to_nowhere(root: Path) -> None:
    (root / "b").rename(root.with_name("release"))
    (root / "b").symlink_to(root.with_name("release"))
    shutil.rmtree(root.with_name("release"))


def _others_half_written(root: Path) -> None:
    shutil.rmtree(root / "b")
    (root / "a" / "1" / "manifest.json").unlink()


@pytest.mark.parametrize(
    "happens",
    [_nothing_mounted, _root_gone, _emptied, _half_removed, _link_to_nowhere, _others_half_written],
    ids=lambda happens: happens.__name__,
)
def test_what_is_away_with_its_storage_serves_on(root: Path, deployment: Deployment, happens) -> None:
    watch = watch_of(deployment, root)
    watch.look()
    happens(root)
    look(watch)
    assert deployment.asked == []
    assert deployment.spec.live == {"a": 1, "b": 1}
    if happens in (_nothing_mounted, _root_gone, _others_half_written):
        assert any("b serves on with what is open; " in each and "not mounted?" in each for each in watch.warnings)


def test_a_root_that_cannot_be_read_is_told_and_nothing_happens(
    root: Path, deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = watch_of(deployment, root)

    def away(folder: object) -> list[str]:
        raise Unavailable("the storage does not answer")

    monkeypatch.setattr("ringpull.ps.transfer.remote.RemoteFolder.names", away)
    look(watch)
    assert deployment.asked == []
    assert watch.warnings == (f"models in {root} cannot be looked for: the storage does not answer",)


def test_what_an_operator_unloaded_stays_so_until_a_higher_version_lies_there(
    root: Path, deployment: Deployment
) -> None:
    watch = watch_of(deployment, root)
    watch.look()
    deployment.load(UnloadModel(model="b"))
    deployment.asked.clear()
    look(watch)
    look(watch_of(deployment, root))  # a head that was restarted
    assert deployment.asked == []
    write_version(root / "b", 2)
    look(watch)
    assert deployment.asked == [LoadModel(folder=str(root / "b"), version=2)]
    assert deployment.spec.live == {"a": 1, "b": 2}


def test_what_an_operator_unloaded_can_be_loaded_by_hand(root: Path, deployment: Deployment) -> None:
    watch = watch_of(deployment, root)
    deployment.load(UnloadModel(model="b"))
    deployment.load(LoadModel(folder=str(root / "b"), version=1))
    deployment.asked.clear()
    look(watch)
    assert deployment.asked == []
    assert deployment.spec.live == {"a": 1, "b": 1}


def test_the_last_model_stays_and_that_is_told(root: Path, deployment: Deployment) -> None:
    deployment.load(UnloadModel(model="b"))
    deployment.asked.clear()
    watch = watch_of(deployment, root)
    shutil.rmtree(root / "a")
    look(watch)
    assert deployment.spec.live == {"a": 1}
    [warning] = watch.warnings
    assert "a is the last model that is served; stop the deployment instead" in warning
    write_version(root / "a", 1)
    look(watch)
    assert watch.warnings == (), "it is back"


def test_a_model_from_elsewhere_is_none_of_its_business(root: Path, deployment: Deployment, tmp_path: Path) -> None:
    other = write_version(tmp_path / "elsewhere" / "c", 1).parent
    deployment.load(LoadModel(folder=str(other), version=1))
    deployment.asked.clear()
    shutil.rmtree(other)
    look(watch_of(deployment, root))
    assert deployment.asked == []


def test_one_that_has_moved_is_not_unloaded_by_a_head_that_has_not_heard(
    root: Path, deployment: Deployment, tmp_path: Path
) -> None:
    before = deployment.served()
    shutil.rmtree(root / "b")
    deployment.load(UnloadModel(model="b"))
    deployment.load(LoadModel(folder=str(write_version(tmp_path / "elsewhere" / "b", 2).parent), version=2))
    deployment.asked.clear()
    watch = RootWatch([str(root)], lambda: before, deployment)
    look(watch)
    assert deployment.spec.live == {"a": 1, "b": 2}
    assert any("is served from" in each for each in watch.warnings)


@pytest.mark.parametrize("at_once", [True, False], ids=["refused when it is asked for", "refused by a shard"])
def test_what_was_refused_is_offered_again_with_patience_and_told(
    root: Path, deployment: Deployment, clock: Clock, at_once: bool
) -> None:
    watch = watch_of(deployment, root, clock)
    folder = write_version(root / "new", 1).parent
    if at_once:
        deployment.refuses = "damaged"
    else:
        deployment.fails = "shard 0: damaged"
    offered_s = []
    for _ in range(1000):
        before = len(deployment.asked)
        watch.look()
        if len(deployment.asked) > before:
            offered_s.append(clock.now_s)
        clock.now_s += 0.5
    gaps = [b - a for a, b in itertools.pairwise(offered_s)]
    assert gaps[0] <= 3
    assert 60 <= gaps[-1] <= 200
    [warning] = watch.warnings
    assert warning.startswith(f"what was found in {folder}: ")
    assert "damaged" in warning
    deployment.fails = deployment.refuses = ""
    clock.now_s += 1000
    look(watch)
    assert "new" in deployment.spec.live
    assert watch.warnings == ()


def test_a_damaged_manifest_is_told_and_the_others_are_loaded(root: Path, deployment: Deployment) -> None:
    write_version(root / "c", 1)
    (root / "c" / "1" / "manifest.json").write_text("{")
    write_version(root / "d", 1)
    watch = watch_of(deployment, root)
    look(watch)
    assert deployment.spec.live == {"a": 1, "b": 1, "d": 1}
    [warning] = watch.warnings
    assert warning.startswith(f"the model in {root / 'c'} cannot be looked at: ")


def test_several_heads_load_a_model_once_and_unload_it_once(root: Path, deployment: Deployment) -> None:
    heads = [watch_of(deployment, root) for _ in range(3)]
    write_version(root / "new", 1)
    for _ in range(3):
        for head in heads:
            head.look()
    assert deployment.asked == [LoadModel(folder=str(root / "new"), version=1)]
    shutil.rmtree(root / "b")
    for _ in range(LOOKS + 3):
        for head in heads:
            head.look()
    assert [type(each) for each in deployment.asked] == [LoadModel, UnloadModel]


def test_a_change_under_way_is_waited_for(root: Path, deployment: Deployment) -> None:
    watch = watch_of(deployment, root)
    write_version(root / "new", 1)
    deployment.busy = True
    assert watch.look() is True
    assert deployment.asked == []
    deployment.busy = False
    look(watch)
    assert "new" in deployment.spec.live


def test_nobody_to_ask_is_told(root: Path, deployment: Deployment) -> None:
    watch = watch_of(deployment, root)
    write_version(root / "new", 1)
    deployment.error = Unavailable("the coordinator is being restarted")
    watch.look()
    assert watch.warnings == (f"the model in {root / 'new'} cannot be looked at: the coordinator is being restarted",)
    deployment.error = None
    look(watch)
    assert "new" in deployment.spec.live


def test_a_head_that_lacks_a_model_that_is_served_does_not_offer_it(root: Path, deployment: Deployment) -> None:
    """Its live version could not be loaded there; the deployment knows that it is served."""
    watch = RootWatch([str(root)], lambda: {"a": str(root / "a")}, deployment)
    look(watch)
    assert deployment.asked == []


def test_a_link_to_a_model_is_a_model(root: Path, deployment: Deployment, tmp_path: Path) -> None:
    write_version(tmp_path / "releases" / "new", 1)
    os.symlink(tmp_path / "releases" / "new", root / "new")
    look(watch_of(deployment, root))
    assert deployment.asked == [LoadModel(folder=str(root / "new"), version=1)]


def test_a_second_folder_of_a_model_is_told(root: Path, deployment: Deployment) -> None:
    shutil.copytree(root / "a", root / "copy")
    watch = watch_of(deployment, root)
    look(watch)
    assert deployment.asked == []
    assert watch.warnings == (f"{root / 'copy'} holds a/1, and a is served from {root / 'a'}",)
