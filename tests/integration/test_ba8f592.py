"""What commit ba8f592 wrote still opens: its model is served, its coordinator's state is read and carried on."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ringpull import CapCandidates, CutBags, UseDefault, UseVersion, Vocabulary
from ringpull.deploy.model_folders import find_version, rows_below
from ringpull.inference.client.client import Client
from ringpull.inference.head.config import HeadConfig
from ringpull.inference.head.process import HeadProcess
from ringpull.inference.model.manifest import Manifest
from ringpull.inference.model.samples import FILE as SAMPLES_FILE
from ringpull.inference.schema.kinds import KINDS, Computed
from ringpull.inference.schema.schema import Schema
from ringpull.inference.schema.transforms import TRANSFORMS, Fingerprint
from ringpull.inference.wire.request_json import call_from_json
from ringpull.ps.spec import VECTOR_TYPES, KeyType, OnUnavailable, Pooling
from ringpull.router.control.change import Kind, Phase
from ringpull.router.control.coordinator_state import state_from_dict, state_to_dict
from ringpull.router.control.operations import GetChange
from ringpull.router.control.process import CoordinatorProcess, Settings, Timing
from ringpull.router.control.saved_files import LEGACY
from ringpull.router.control.state_files import open_files
from ringpull.router.control.state_store import Owner, StateStore
from tests.integration.local import local_cluster
from tests.loadtest.live_cluster import LocalMembers
from tests.reference import assert_close

pytestmark = pytest.mark.net

FOLDER = Path(__file__).parent.parent / "golden" / "ba8f592"
MODEL = FOLDER / "models" / "everything"
STATES = sorted((FOLDER / "states").glob("*.json"))
CHANGES = {Kind.BRING_UP, Kind.PUBLISH, Kind.ROLLBACK, Kind.REBALANCE}
"""Kinds of change that there were."""
PATIENCE_S = 600.0


def load(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


ANSWERS = load(FOLDER / "answers.json")


def assert_answers_as_then(client: Client, version: int) -> None:
    call = call_from_json((FOLDER / "request.json").read_text())
    answer = client.predict("everything", call.features, call.context, version=version)
    then = ANSWERS[str(version)]
    assert answer.outputs.keys() == then["outputs"].keys()
    for name, values in then["outputs"].items():
        assert_close(answer.outputs[name], np.array(values))
    filled = [{"feature": each.feature, "reason": each.reason, "values": each.values} for each in answer.filled]
    assert (filled, list(answer.degraded)) == (then["filled"], then["degraded"])


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with local_cluster([MODEL / version for version in ANSWERS], verify=True) as cluster, cluster.client() as client:
        yield client


@pytest.mark.medium
@pytest.mark.parametrize("version", [int(version) for version in ANSWERS])
def test_its_model_answers_as_it_did(client: Client, version: int) -> None:
    assert_answers_as_then(client, version)


def test_its_model_has_everything_that_a_model_can_have() -> None:
    """So that whatever is renamed, something here is read under its old name."""
    manifest = Manifest.load(MODEL / "2")
    schema = Schema.from_json((MODEL / "2" / "schema.json").read_text())
    transforms = {type(each) for feature in schema.features for each in getattr(feature, "transforms", ())}
    steps = {type(step) for step in manifest.degrade}
    assert {type(feature) for feature in schema.features} == set(KINDS) - {Computed}  # exports make that since
    # A Vocabulary has become the keys of its table; imports make Fingerprints since.
    assert transforms == set(TRANSFORMS) - {Vocabulary, Fingerprint}
    assert steps == {CutBags, UseDefault, CapCandidates, UseVersion}
    specs = [entry.spec for entry in manifest.tables]
    assert {spec.row_type for spec in specs} == set(VECTOR_TYPES)
    assert {spec.key_type for spec in specs} == set(KeyType)
    assert {spec.on_unavailable for spec in specs} == set(OnUnavailable)
    assert {spec.replicas for spec in specs} == {1, 2, "all"}
    assert {lookup.pooling for lookup in manifest.lookups} == set(Pooling)
    assert manifest.samples is not None
    assert manifest.samples.path == SAMPLES_FILE


@pytest.mark.parametrize("path", [FOLDER / "state" / LEGACY, *STATES], ids=lambda path: path.stem)
def test_its_state_is_read_and_written_as_it_was(path: Path, tmp_path: Path) -> None:
    shutil.copy(path, tmp_path / LEGACY)
    then = load(path)
    store = StateStore(open_files(str(tmp_path)))
    reign = store.claim(Owner(then["deployment"]))
    assert reign.saved is not None
    written = state_to_dict(reign.saved.state)
    assert state_from_dict(written) == reign.saved.state
    # Formats after it have more to say of versions and tables, and nothing less.
    assert without_identities({**written, "format": 4}) == then["state"]
    assert reign.save(reign.saved.state)
    again = store.claim(Owner(then["deployment"]))
    assert again.saved is not None
    assert again.saved.state == reign.saved.state


def without_identities(state: dict[str, Any]) -> dict[str, Any]:
    """Return a state as its build would have written it, which knew no identities."""
    plain: dict[str, Any] = json.loads(json.dumps(state))
    for spec in (plain["world"], (plain["change"] or {}).get("target")):
        for version in (spec or {"versions": ()})["versions"]:
            assert version.pop("identity") == ""
            assert [row.pop() for row in version["tables"].values()] == [0] * len(version["tables"])
    return plain


def test_its_states_hold_every_kind_of_change_in_every_phase() -> None:
    changes = [change for path in STATES if (change := load(path)["state"]["change"]) is not None]
    assert {change["kind"] for change in changes} == CHANGES
    # Nothing was ever in the phase that is left out: it is for live data, of which there was none.
    assert {change["phase"] for change in changes} == set(Phase) - {Phase.CATCHING_UP}


def until(condition: Callable[[], object]) -> None:
    until_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < until_s
        time.sleep(0.02)


def change_of(path: Path) -> dict[str, Any]:
    change: dict[str, Any] | None = load(path)["state"]["change"]
    return change or {}


CARRIED_ON = [path for path in STATES if change_of(path).get("kind") != Kind.BRING_UP]


BEFORE_ROUTING = [path for path in CARRIED_ON if Phase(change_of(path).get("phase") or Phase.CLEANUP).reversible]


@pytest.mark.medium
@pytest.mark.parametrize("path", CARRIED_ON, ids=lambda path: path.stem)
def test_its_deployment_is_carried_on_from_where_it_was(path: Path, tmp_path: Path) -> None:
    """In whichever phase the coordinator of ba8f592 fell, this build's ends the change, and serves what was wanted."""
    carry_on(path, tmp_path, elsewhere=False)


@pytest.mark.medium
@pytest.mark.parametrize("path", BEFORE_ROUTING, ids=lambda path: path.stem)
def test_a_change_goes_on_where_all_died_and_shards_are_elsewhere_now(path: Path, tmp_path: Path) -> None:
    """The map that is saved names ports at which nobody listens any more, and the new head has no other one."""
    carry_on(path, tmp_path, elsewhere=True)


def carry_on(path: Path, tmp_path: Path, *, elsewhere: bool) -> None:
    models = tmp_path / "models"
    shutil.copytree(FOLDER / "models", models)
    content = path.read_text().replace("/srv/models", str(models))
    # One change was throttled to a kilobyte a second, so that it could be seen in every phase.
    content = content.replace('"bytes_per_s": 1000.0', '"bytes_per_s": 1000000.0')
    before = state_from_dict(json.loads(content)["state"])
    assert before.map is not None
    wanted = before.spec if before.change is None else before.change.target
    assert wanted is not None

    head = HeadProcess(HeadConfig(grpc_port=0, http_port=0, default_timeout_s=60))
    members = LocalMembers(tmp_path / "data", head)
    for shard in {address.shard for address in before.map.shards} | set(wanted.ring.shards):
        members.start_shard(shard, None)
    for address in () if elsewhere else before.map.shards:
        # Nobody listens where the shards of then did; these stand in for them.
        content = re.sub(rf"\b{address.port}\b", str(members.shard(address.shard).address()[1]), content)
    state_folder = tmp_path / "state"
    state_folder.mkdir()
    (state_folder / LEGACY).write_text(content)
    saved = json.loads(content)
    coordinator = CoordinatorProcess(
        StateStore(open_files(str(state_folder))),
        members,
        owner=Owner(saved["deployment"]),
        settings=Settings(place=find_version, streamed=True, rows_below=rows_below),
        timing=Timing(heartbeat_s=0.05),
    )
    try:
        until(lambda: not coordinator.call(GetChange()).under_way)
        until(lambda: head.heartbeat(10.0).grpc_port)
        assert coordinator.call(GetChange()).error == ""
        heartbeat = head.heartbeat(10.0)
        with Client(f"{heartbeat.host}:{heartbeat.grpc_port}", timeout_s=60) as client:
            assert_answers_as_then(client, wanted.live["everything"])
        after = state_from_dict(coordinator.state())
        assert after.spec is not None
        assert (after.spec.ring, after.spec.live) == (wanted.ring, wanted.live)
        assert after.epoch >= before.epoch
    finally:
        coordinator.stop()
        head.drain(5.0)
        members.stop()
