"""Verbs for models that come and go, over a coordinator and members in this process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from ringpull.ps.errors import CorruptData, InvalidInput
from ringpull.router.control.change import Kind
from ringpull.router.control.deployment_spec import PlacedVersion
from ringpull.router.control.operations import (
    GetChange,
    GetStatus,
    LabelVersion,
    LoadModel,
    ModelSource,
    ServeModels,
    UnloadModel,
)
from ringpull.router.control.process import CoordinatorProcess
from tests.router.test_process import Deployment, over, spec, until, version


def find(source: ModelSource, known: Sequence[PlacedVersion]) -> tuple[PlacedVersion, ...]:
    """Find version 1 of a model in whatever folder."""
    model = source.folder.rpartition("/")[2]
    return (replace(version(1), model=model, folder=f"{source.folder}/1"),)


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    made = Deployment(tmp_path, find=find)
    yield made
    made.members.on.clear()
    made.kill()


def up(deployment: Deployment) -> CoordinatorProcess:
    coordinator = deployment.start()
    coordinator.bring_up(spec(2))
    over(coordinator)
    return coordinator


def test_a_model_is_loaded_labelled_and_unloaded(deployment: Deployment) -> None:
    coordinator = up(deployment)
    load = LoadModel(folder="/models/other")
    begun = coordinator.call(load)
    assert (begun.kind, begun.subject, begun.under_way) == (Kind.LOAD, "other/1", True)
    over(coordinator)
    head = deployment.members.heads[0]
    assert head.live == {"ranker": 1, "other": 1}
    assert all(shard.versions == {("ranker", 1), ("other", 1)} for shard in deployment.members.shards.values())

    coordinator.call(LabelVersion(model="other", labels={"stable": 1}))
    over(coordinator)
    assert head.labels == {"other": {"stable": 1}}
    assert coordinator.call(GetStatus()).spec.labels == {"other": {"stable": 1}}

    coordinator = deployment.start()
    assert coordinator.call(GetStatus()).spec.labels == {"other": {"stable": 1}}, "labels are saved"
    assert coordinator.call(GetStatus()).highest_live == {"ranker": 1, "other": 1}

    last = coordinator.call(UnloadModel(model="other"))
    assert last.kind is Kind.UNLOAD
    over(coordinator)
    assert (head.live, head.labels, head.loaded) == ({"ranker": 1}, {}, {("ranker", 1)})
    assert coordinator.call(GetStatus()).highest_live == {"ranker": 1, "other": 1}, "an operator's word is remembered"
    with pytest.raises(InvalidInput, match="ranker is the last model that is served; stop the deployment instead"):
        coordinator.call(UnloadModel(model="ranker"))


def test_what_is_so_already_is_no_change(deployment: Deployment) -> None:
    coordinator = up(deployment)
    before = coordinator.call(GetChange())
    told = coordinator.call(LoadModel(folder="/models/ranker"))
    assert (told.id, told.kind, told.under_way, told.error) == (0, Kind.LOAD, False, "")
    assert coordinator.call(ServeModels(models=(ModelSource(name="ranker"),))).id == 0
    assert coordinator.call(GetChange()) == before


def test_a_list_is_served_in_one_change_and_a_model_that_cannot_be_opened_changes_nothing(
    deployment: Deployment,
) -> None:
    coordinator = up(deployment)
    both = ServeModels(models=(ModelSource(name="ranker"), ModelSource(name="other", folder="/models/other")))
    deployment.members.lost["other", 1] = CorruptData("its manifest is damaged")
    coordinator.call(both)
    over(coordinator)
    assert "its manifest is damaged" in coordinator.call(GetChange()).error
    until(lambda: deployment.members.heads[0].live == {"ranker": 1})
    del deployment.members.lost["other", 1]
    coordinator.call(both)
    over(coordinator)
    assert deployment.members.heads[0].live == {"ranker": 1, "other": 1}
    coordinator.call(ServeModels(models=(ModelSource(name="other"),)))
    over(coordinator)
    assert deployment.members.heads[0].live == {"other": 1}


def test_a_model_that_was_removed_is_forgotten_once_it_is_unloaded(deployment: Deployment) -> None:
    coordinator = up(deployment)
    coordinator.call(LoadModel(folder="/models/other"))
    over(coordinator)
    with pytest.raises(InvalidInput, match="other is served from /models/other by now, not from /elsewhere/other"):
        coordinator.call(UnloadModel(model="other", gone_from="/elsewhere/other"))
    coordinator.call(UnloadModel(model="other", gone_from="/models/other"))
    over(coordinator)
    assert coordinator.call(GetStatus()).highest_live == {"ranker": 1}
    assert deployment.start().call(GetStatus()).highest_live == {"ranker": 1}
