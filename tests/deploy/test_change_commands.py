"""`plan`, `publish`, `rollback` and `rebalance` through the same entry as the shell; the coordinator is faked."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest
from rich.console import Console

from ringpull.deploy import coordinator_client
from ringpull.deploy.planned_tables import PROCESS_BYTES
from ringpull.deploy.view import change_watch
from ringpull.deploy.view.change_watch import AFTERWARDS, change_line, done_and_total, follow
from ringpull.ps.errors import Unavailable
from ringpull.router.control.change import Kind, Phase
from ringpull.router.control.observed import TableTraffic
from ringpull.router.control.operations import ChangeStatus, Control, Latency, Publish, Rebalance, Rollback
from tests.deploy.fake_operations import FakeOperations, connected
from tests.deploy.folders import write_version
from tests.deploy.running import Run

TARGET = ("--target", "127.0.0.1:8500")
DIMS = {"ranker/item": 16, "ranker/genre": 16}


@pytest.fixture
def operations(monkeypatch: pytest.MonkeyPatch) -> FakeOperations:
    fake = FakeOperations()
    monkeypatch.setattr(coordinator_client, "connect", lambda target: connected(fake))
    monkeypatch.setattr(coordinator_client, "table_dims", lambda target: DIMS)
    monkeypatch.setattr(change_watch, "POLL_S", 0.0)
    return fake


# -- plan --------------------------------------------------------------------------------------------------------------


def test_plan_answers_before_any_deployment(ringpull: Run, tmp_path: Path) -> None:
    write_features(write_version(tmp_path / "ranker", 1, {"item": 1, "genre": 1}, rows=1000))
    ran = ringpull("plan", tmp_path / "ranker", "--shards", 8, "--memory", "1GiB")
    assert ran.status == 0, ran.err
    for part in (
        "8 shards",
        "ranker/item",
        "all",
        "saves",
        "traffic is assumed",
        "ringpull serve",
        "--replicas ranker/item=all",
    ):
        assert part in ran.out
    assert "--data-dir" not in ran.out


def test_the_command_that_a_plan_ends_with_serves_what_was_planned(ringpull: Run, tmp_path: Path) -> None:
    """As many versions open as were counted, and a folder for the rows of a model at a URL."""
    write_features(write_version(tmp_path / "ranker", 1, {"item": 1}))
    store = fsspec.filesystem("memory")
    url = "memory://planned/ranker"
    store.put(str(tmp_path / "ranker"), url, recursive=True)
    try:
        ran = ringpull("plan", url, "--shards", 2, "--memory", "1GiB", "--versions", 3)
    finally:
        store.rm(url, recursive=True)
    assert ran.status == 0, ran.err
    assert ran.out.splitlines()[-1].startswith(f"ringpull serve {url} --shards 2 --keep 2 --data-dir FOLDER")


def test_the_command_that_a_plan_ends_with_can_be_pasted(ringpull: Run, tmp_path: Path) -> None:
    folder = tmp_path / "my models" / "ranker"
    write_features(write_version(folder, 1, {"item": 1}))
    ran = ringpull("plan", folder, "--memory", "1GiB")
    assert ran.status == 0, ran.err
    assert ran.out.splitlines()[-1].startswith(f"ringpull serve '{folder}' --shards 1")


def test_plan_finds_the_fewest_shards(ringpull: Run, tmp_path: Path) -> None:
    write_features(write_version(tmp_path / "ranker", 1, {"item": 1}, rows=50_000))
    fields = json.loads(ringpull("plan", tmp_path / "ranker", "--memory", PROCESS_BYTES + 500_000, "--json").out)
    assert fields["shards"] == 3
    assert fields["memory_bytes"] <= fields["memory_limit_bytes"]
    assert fields["process_bytes"] == PROCESS_BYTES
    [table] = fields["tables"]
    assert (table["table"], table["rows"], table["replicas"]) == ("ranker/item", 50_000, 1)
    assert fields["traffic_assumed"] is True


def test_plan_by_a_file_of_traffic(ringpull: Run, tmp_path: Path) -> None:
    write_features(write_version(tmp_path / "ranker", 1, {"item": 1, "genre": 1}))
    traffic = tmp_path / "traffic.json"
    traffic.write_text('{"requests": 10, "tables": {"ranker/item": {"keys": 100, "bags": 10}}}')
    fields = json.loads(
        ringpull("plan", tmp_path / "ranker", "--shards", 4, "--memory", "1GiB", "--traffic", traffic, "--json").out
    )
    assert [table["keys_per_request"] for table in fields["tables"]] == [10, 0]
    traffic.write_text('{"requests": 10, "tables": {"nothing": {"keys": 100}}}')
    ran = ringpull("plan", tmp_path / "ranker", "--memory", "1GiB", "--traffic", traffic)
    assert ran.err == "error: traffic: there is no table nothing; there is ranker/item, ranker/genre\n"


def test_plan_by_the_traffic_of_a_deployment(ringpull: Run, tmp_path: Path, operations: FakeOperations) -> None:
    write_features(write_version(tmp_path / "ranker", 1, {"item": 1}))
    fields = json.loads(ringpull("plan", tmp_path / "ranker", "--shards", 4, "--memory", "1GiB", *TARGET, "--json").out)
    assert [table["keys_per_request"] for table in fields["tables"]] == [1000]
    operations.status_now = replace(operations.status_now, requests=0)
    assert "no request yet" in ringpull("plan", tmp_path / "ranker", "--memory", "1GiB", *TARGET).err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--memory", "1MB"), "hold no table: 128.0 MiB are taken before"),
        (("--memory", "lots"), "--memory 'lots': write an amount of bytes"),
        (("--memory", "1GiB", "--shards", 0), "--shards is 0; it must be from 1 (--at-least) to 1024"),
        (("--memory", "1GiB", "--shards", 1, "--at-least", 2), "--shards is 1; it must be from 2"),
        (("--memory", "1GiB", "--at-least", 0), "--at-least is 0"),
        (("--memory", "1GiB", "--versions", 0), "--versions is 0"),
        (("--memory", "1GiB", "--traffic", "nothing.json"), "--traffic nothing.json: "),
        (("--memory", "1GiB", "--traffic", "nothing.json", *TARGET), "both say what requests look up"),
        (("--memory", PROCESS_BYTES + 10_000, "--shards", 2), "one copy of every table does not fit 2 shards"),
    ],
)
def test_plans_that_cannot_be(ringpull: Run, tmp_path: Path, options: tuple[object, ...], message: str) -> None:
    write_features(write_version(tmp_path / "ranker", 1, {"item": 1}, rows=50_000))
    ran = ringpull("plan", tmp_path / "ranker", *options)
    assert ran.status == 1
    assert message in ran.err
    assert len(ran.err.splitlines()) == 1


def write_features(version: Path) -> None:
    """Give a version made by hand the features that its look-ups name."""
    from ringpull.inference.model.manifest import FileEntry, Manifest

    manifest = Manifest.load(version)
    features = [{"kind": "sparse", "name": lookup.feature, "many": True} for lookup in manifest.lookups]
    (version / "schema.json").write_text(json.dumps({"format": 1, "features": features, "stacks": {}}))
    replace(manifest, schema=FileEntry.of(version, "schema.json")).save(version)


# -- publish and rollback ----------------------------------------------------------------------------------------------


def test_publish_tells_the_phases_and_what_is_live(ringpull: Run, operations: FakeOperations, tmp_path: Path) -> None:
    ran = ringpull("publish", "ranker/4", "--keep", 2, "--folder", tmp_path, *TARGET)
    assert (ran.status, ran.out) == (0, "ranker/4 is live\n"), ran.err
    assert operations.submitted == [Publish(model="ranker", version=4, folder=str(tmp_path), keep=2)]
    told = [line.split()[1] for line in ran.err.splitlines() if line.startswith("✓")]
    assert told == ["preparing", "catching", "guarding", "loading", "routing", "settling", "dropping"]
    assert "p50 2.0 ms, p99 8.0 ms" in ran.err


def test_publish_shows_how_much_was_checked(ringpull: Run, operations: FakeOperations) -> None:
    begun = ChangeStatus(id=1, kind=Kind.PUBLISH, subject="ranker/4", phase=Phase.PREPARING)
    operations.looks = [
        replace(begun, checked_bytes=1 << 30, bytes_to_check=3 << 30),
        replace(begun, checked_bytes=3 << 30, bytes_to_check=3 << 30, phase=Phase.LOADING),
    ]
    ran = ringpull("publish", "ranker/4", "--trust-files", *TARGET)
    assert "3.0 GiB checked" in ran.err
    assert operations.submitted == [Publish(model="ranker", version=4, trust_files=True)]


def test_publish_as_json(ringpull: Run, operations: FakeOperations) -> None:
    fields = json.loads(ringpull("publish", "ranker", *TARGET, "--json").out)
    assert (fields["kind"], fields["under_way"], fields["error"]) == ("publish", False, "")
    assert operations.submitted == [Publish(model="ranker", version=0)]


def test_a_version_that_is_given_up_says_why(ringpull: Run, operations: FakeOperations) -> None:
    operations.error = "head 0: the self-check failed"
    ran = ringpull("publish", "ranker/4", *TARGET)
    assert (ran.status, ran.out) == (1, "")
    assert ran.err.splitlines()[-1] == "error: publish ranker/4 was given up: head 0: the self-check failed"


@pytest.mark.parametrize("version", ["/3", "ranker/", "ranker/x", "ranker/0", "ranker/-1"])
def test_publish_wants_a_version(ringpull: Run, operations: FakeOperations, version: str) -> None:
    ran = ringpull("publish", *TARGET, "--", version)
    assert ran.err == f"error: {version!r}: write NAME/VERSION, VERSION an integer from 1 to 2^63 - 1, or NAME\n"
    assert not operations.submitted


def test_rollback(ringpull: Run, operations: FakeOperations) -> None:
    assert ringpull("rollback", "ranker", *TARGET).out == "ranker/2 is live\n"
    assert ringpull("rollback", "ranker", 2, *TARGET).status == 0
    assert operations.submitted == [Rollback(model="ranker"), Rollback(model="ranker", version=2)]
    assert "version is 0" in ringpull("rollback", "ranker", 0, *TARGET).err
    assert "write NAME VERSION" in ringpull("rollback", "ranker/1", *TARGET).err
    assert "--keep is -1" in ringpull("publish", "ranker/1", "--keep", -1, *TARGET).err


# -- rebalance ---------------------------------------------------------------------------------------------------------


def test_a_dry_run_shows_the_plan_and_changes_nothing(ringpull: Run, operations: FakeOperations) -> None:
    ran = ringpull("rebalance", "--shards", 4, "--dry-run", *TARGET)
    assert ran.status == 0, ran.err
    for part in ("shards 2 -> 4", "ranges get new owners", "the least possible", "cross the wire", "new", "messages"):
        assert part in ran.out
    assert not operations.submitted
    fields = json.loads(ringpull("rebalance", "--shards", 4, "--dry-run", "--json", *TARGET).out)
    whole = (1_000_000 + 19) * 72
    assert fields["least_bytes"] == pytest.approx(whole / 2, rel=0.001)
    assert fields["assigned_bytes"] == fields["copied_bytes"] == pytest.approx(whole / 2, rel=0.06)
    assert sum(fields["memory_after"].values()) == pytest.approx(whole + 4 * PROCESS_BYTES, rel=0.001)
    assert fields["request_before"]["messages"] == 2
    assert fields["request_after"]["messages"] == 4
    operations.streamed = False
    opened = json.loads(ringpull("rebalance", "--shards", 4, "--dry-run", "--json", *TARGET).out)
    assert (opened["copied_bytes"], opened["assigned_bytes"]) == (0, fields["assigned_bytes"])


def test_copies_change(ringpull: Run, operations: FakeOperations) -> None:
    ran = ringpull("rebalance", "--replicas", "item=2", "--replicas", "genre=all", "--dry-run", "--json", *TARGET)
    fields = json.loads(ran.out)
    assert fields["subject"] == "ranker/genre 1 -> all copies, ranker/item 1 -> 2 copies"
    for bound in ("least_bytes", "copied_bytes"):
        assert fields[bound] == pytest.approx(72 * 1_000_019, rel=1e-4)


def test_the_planner_chooses(ringpull: Run, operations: FakeOperations) -> None:
    """As much memory as is taken now, on twice the shards: the small table goes everywhere, the large one stays."""
    ran = ringpull("rebalance", "--shards", 4, "--auto", "--dry-run", "--json", *TARGET)
    fields = json.loads(ran.out)
    assert fields["replicas"]["ranker/genre"]["after"] == "all"
    assert fields["replicas"]["ranker/item"]["after"] == 1
    assert any("genre: 19 rows, 1.4 KiB, 20% of look-ups -> all" in reason for reason in fields["reasons"])
    operations.status_now = replace(operations.status_now, requests=0)
    assert "no request was answered yet" in ringpull("rebalance", "--auto", "--dry-run", *TARGET).err


@pytest.mark.parametrize(
    ("here", "copies", "why"),
    [
        (0, "all", "saves"),  # heads are elsewhere, or local reads are off
        (50_000, "all", "heads read it themselves, from the shard beside them"),
        (100_000, 1, "heads read it themselves"),  # all shards are of their machine: there is nothing to save
    ],
)
def test_the_planner_knows_what_heads_read_themselves(
    ringpull: Run, operations: FakeOperations, here: int, copies: int | str, why: str
) -> None:
    item = TableTraffic(keys=100_000, bags=12_800, missing=0, here=here)
    traffic = {**operations.status_now.traffic, "ranker/item": item}
    nodes = dict.fromkeys(operations.status_now.nodes, "node-a") if here == 100_000 else operations.status_now.nodes
    operations.status_now = replace(operations.status_now, traffic=traffic, nodes=nodes)
    fields = json.loads(ringpull("rebalance", "--auto", "--memory", "4GiB", "--dry-run", "--json", *TARGET).out)
    assert fields["replicas"]["ranker/item"]["after"] == copies
    assert any(f"-> {copies}: {why}" in reason for reason in fields["reasons"])


def test_a_rebalance_is_carried_out_and_followed(ringpull: Run, operations: FakeOperations) -> None:
    ran = ringpull("rebalance", "--shards", 4, "--max-mb-per-s", 5, "--yes", *TARGET)
    assert ran.status == 0, ran.err
    assert ran.out.splitlines()[-1] == "rebalance shards 2 -> 4: done, 10.0 MiB copied"
    assert operations.submitted == [Rebalance(shards=4, bytes_per_s=5e6)]
    fields = json.loads(ringpull("rebalance", "--shards", 4, "--yes", "--json", *TARGET).out)
    assert fields["copied_bytes"] == 10 << 20
    assert fields["plan"]["shards_after"] == 4


def test_nothing_begins_without_a_yes(
    ringpull: Run, operations: FakeOperations, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "then say --yes" in ringpull("rebalance", "--shards", 4, "--json", *TARGET).err
    stdin = io.StringIO("n\n")
    monkeypatch.setattr(stdin, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", stdin)
    ran = ringpull("rebalance", "--shards", 4, *TARGET)
    assert (ran.status, ran.out.splitlines()[-1]) == (0, "nothing was changed")
    assert not operations.submitted


def test_a_second_rebalance_names_the_first(ringpull: Run, operations: FakeOperations) -> None:
    operations.now = ChangeStatus(id=7, kind=Kind.PUBLISH, subject="ranker/4", phase=Phase.LOADING)
    ran = ringpull("rebalance", "--shards", 4, "--yes", *TARGET)
    assert ran.err == "error: publish ranker/4 is under way; --status shows it, --abort gives it up\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "say what to change"),
        (("--shards", 4, "--status"), "say what to change"),
        (("--pause", "--abort"), "say what to change"),
        (("--abort", "--dry-run"), "--dry-run can only be said of"),
        (("--pause", "--yes", "--memory", "1GiB"), "--memory and --yes can only"),
        (("--status", "--max-mb-per-s", 5), "--max-mb-per-s can only"),
        (("--resume", "--at-least", 2), "--at-least can only"),
        (("--shards", 4, "--max-mb-per-s", "inf"), "it must be above 0, and finite"),
        (("--shards", 0), "--shards is 0; it must be 1 or more"),
        (("--shards", 2), "there is nothing to change"),
        (("--replicas", "item=3"), "with 2 shards it must be from 1 to 2, or all"),
        (("--replicas", "nothing=2"), "there is no such table"),
        (("--replicas", "item"), "write TABLE=R"),
        (("--replicas", "item=2", "--auto"), "give one"),
        (("--shards", 4, "--at-least", 2), "goes with --auto"),
        (("--drain-node", "node-z"), "there is no node node-z; there is node-a, node-b"),
        (("--shards", 4, "--max-mb-per-s", 0), "it must be above 0"),
        (("--shards", 4, "--memory", "130MiB"), "would take"),
        (("--resume",), "there is no change under way to resume"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_moves(
    ringpull: Run, operations: FakeOperations, options: tuple[object, ...], message: str
) -> None:
    ran = ringpull("rebalance", *options, *TARGET)
    assert ran.status == 1
    assert message in ran.err
    assert len(ran.err.splitlines()) == 1
    assert not operations.submitted


def test_status_pause_resume_abort(ringpull: Run, operations: FakeOperations) -> None:
    assert ringpull("rebalance", "--status", *TARGET).out == "nothing has been changed yet\n"
    operations.now = ChangeStatus(
        id=7,
        subject="shards 2 -> 4",
        kind=Kind.REBALANCE,
        phase=Phase.PREPARING,
        copied_bytes=1 << 20,
        bytes_to_copy=4 << 20,
    )
    told = "rebalance shards 2 -> 4: preparing; 1.0 MiB of 4.0 MiB\n"
    for verb in ("--status", "--pause", "--resume", "--abort"):
        assert ringpull("rebalance", verb, *TARGET).out == told
    assert operations.controlled == [Control.PAUSE, Control.RESUME, Control.ABORT]
    assert json.loads(ringpull("rebalance", "--status", "--json", *TARGET).out)["phase"] == "preparing"


# -- watching ----------------------------------------------------------------------------------------------------------

BEGUN = ChangeStatus(id=1, kind=Kind.REBALANCE, subject="shards 2 -> 4", phase=Phase.PREPARING)


def watched(looks: list[object], *, terminal: bool = False) -> tuple[FakeOperations, Console, io.StringIO]:
    text = io.StringIO()
    fake = FakeOperations(now=BEGUN, looks=looks)  # type: ignore[arg-type]
    return fake, Console(file=text, force_terminal=terminal, width=160), text


def test_interrupted_it_says_how_to_find_the_change_again(ringpull: Run, operations: FakeOperations) -> None:
    operations.looks = [KeyboardInterrupt]
    fake, console, text = watched([KeyboardInterrupt])
    with pytest.raises(KeyboardInterrupt):
        follow(fake, BEGUN, console)
    assert AFTERWARDS in text.getvalue()


def test_a_coordinator_that_is_restarted_is_waited_for() -> None:
    over = replace(BEGUN, phase=None)
    fake, console, _ = watched([Unavailable("restarting"), replace(BEGUN, trouble="shard 3: gone"), over])
    assert follow(fake, BEGUN, console, sleep=lambda _: None) == over


def test_troubles_that_come_in_turns_are_told_once() -> None:
    looks = [replace(BEGUN, trouble=trouble) for trouble in ("head 0: no rows", "head 1: no rows", "") * 3]
    fake, console, text = watched([*looks, replace(BEGUN, phase=None)])
    follow(fake, BEGUN, console, sleep=lambda _: None)
    assert text.getvalue().count("trying again") == 2


def test_a_coordinator_that_stays_silent_is_an_error() -> None:
    times = iter(range(0, 10_000, 20))
    fake, console, _ = watched([Unavailable("nobody")] * 10)
    with pytest.raises(Unavailable, match="has not answered for 60 s: nobody"):
        follow(fake, BEGUN, console, sleep=lambda _: None, clock=lambda: float(next(times)))


def test_without_a_terminal_it_tells_now_and_then_how_far_it_is() -> None:
    now_s = 0.0

    def sleep(_: float) -> None:
        nonlocal now_s
        now_s += 4.0

    looks = [replace(BEGUN, checked_bytes=i << 30, bytes_to_check=12 << 30) for i in range(12)]
    fake, console, text = watched([*looks, replace(BEGUN, phase=None)])
    follow(fake, BEGUN, console, sleep=sleep, clock=lambda: now_s)
    told = [line for line in text.getvalue().splitlines() if line.startswith("preparing")]
    assert told[0] == "preparing: 2.0 GiB of 12.0 GiB checked"
    assert len(told) == 4


def test_what_is_copied_and_what_is_checked_are_told_apart() -> None:
    both = replace(BEGUN, copied_bytes=3 << 30, bytes_to_copy=12 << 30, checked_bytes=1 << 30, bytes_to_check=12 << 30)
    assert "3.0 GiB of 12.0 GiB copied, 1.0 GiB of 12.0 GiB checked" in change_line(both)
    assert done_and_total(both, Phase.PREPARING) == (3 << 30, 12 << 30)
    checked = replace(both, copied_bytes=0, bytes_to_copy=0)
    assert "; 1.0 GiB of 12.0 GiB checked" in change_line(checked)
    assert done_and_total(checked, Phase.PREPARING) == (1 << 30, 12 << 30)


def test_on_a_terminal_there_is_a_bar() -> None:
    half = replace(BEGUN, copied_bytes=1 << 20, bytes_to_copy=2 << 20, now=Latency(1.0, 4.0), before=Latency(1.0, 3.0))
    fake, console, text = watched([half, replace(half, paused=True), replace(BEGUN, phase=None)], terminal=True)
    follow(fake, BEGUN, console, sleep=lambda _: None)
    assert "preparing" in text.getvalue()


def test_a_change_in_one_line() -> None:
    assert change_line(replace(BEGUN, phase=None, error="disk full")) == "rebalance shards 2 -> 4: given up: disk full"
    line = change_line(
        replace(BEGUN, paused=True, members_done=1, members=4, before=Latency(1, 2), now=Latency(3, 4), trouble="x")
    )
    assert line == (
        "rebalance shards 2 -> 4: paused, preparing; 1 of 4; p50 3.0 ms, p99 4.0 ms (before 1.0, 2.0); trying again: x"
    )
