"""`ringpull delta`, and what `inspect`, `plan` and `status` say of versions that follow others."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from ringpull import export_tables
from ringpull.deploy.cli import app
from ringpull.deploy.model_folders import choose_versions
from ringpull.deploy.planned_tables import planned_tables
from ringpull.inference.model.manifest import Manifest
from ringpull.ps.errors import ExportError, InvalidInput, RingpullError
from ringpull.router.control.chains import LONG_CHAIN, chain_length, due
from ringpull.router.control.deployment_spec import initial_spec
from tests.deploy.running import Run


def run(*arguments: Any) -> Any:
    result = CliRunner().invoke(app, list(map(str, arguments)))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def export(folder: Path, version: int, changed: int = 0, rows: int = 100, dim: int = 4) -> Path:
    values = np.zeros((rows, dim), np.float32)
    values[:changed] = version
    export_tables({"user": (np.arange(rows), values), "item": ([1], [b"x"])}, folder, version, quiet=True)
    return folder / str(version)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A full version, and the next one beside it, elsewhere."""
    export(tmp_path / "m", 1)
    export(tmp_path / "new" / "m", 2, changed=5, rows=102)
    return tmp_path


def test_what_changed_is_written_and_told(models: Path) -> None:
    old, new, out = models / "m" / "1", models / "new" / "m" / "2", models / "m" / "2"
    result = run("delta", old, new, out, "--includes", "0:77,3:5")
    assert "user: 5 rows changed, 2 new, 0 gone; " in result.output
    assert "item: as before" in result.output
    assert "publish it with: ringpull publish m/2" in result.output
    assert Manifest.load(out).chain.includes == {0: 77, 3: 5}
    told = json.loads(run("delta", out, old, models / "m" / "7", "--json").output)
    assert (told["follows"], told["version"]) == (2, 7)
    assert told["tables"][0] == {**told["tables"][0], "changed": 5, "new": 0, "gone": 2}
    assert Manifest.load(models / "m" / "7").table("user").rows == 100


def test_a_delta_that_is_ended_by_sigterm_leaves_nothing_behind(
    models: Path, ringpull: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGTERM is how whoever runs jobs ends them: a hidden folder would stay, of which nobody knows."""
    monkeypatch.setattr(Manifest, "save", lambda manifest, folder: signal.raise_signal(signal.SIGTERM))
    before = signal.signal(signal.SIGTERM, lambda *_: pytest.fail("the command does not look after SIGTERM"))
    try:
        ran = ringpull("delta", models / "m" / "1", models / "new" / "m" / "2", models / "m" / "2")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (ran.status, ran.err.splitlines()[-1]) == (128 + signal.SIGTERM, "interrupted by SIGTERM")
    assert [each.name for each in (models / "m").iterdir()] == ["1"]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("m/1", "new/m/2", "elsewhere/2"), InvalidInput, "it must lie beside"),
        (("m/1", "new/m/2", "m/x"), InvalidInput, "its name must be the version's number"),
        (("m/1", "new/m/2", "m/1"), InvalidInput, "OUT is version 1; it must be above 1"),
        (("m/9", "new/m/2", "m/2"), InvalidInput, "no such folder"),
        (("m/1", "other/n/2", "m/2"), InvalidInput, "is a version of n, not of m"),
        (("m/1", "wide/m/2", "m/2"), ExportError, "table user: dim is 5, and 4 in m/1"),
        (("m/1", "new/m/2", "m/2", "--includes", "a:1"), InvalidInput, "is not SHARD:STAMP"),
        (("m/1", "new/m/2", "m/2", "--includes", ""), InvalidInput, "is an empty stamp"),
    ],
)
def test_what_is_wrong_is_named_and_nothing_is_written(
    models: Path, arguments: tuple[str, ...], error: type[RingpullError], message: str
) -> None:
    export(models / "other" / "n", 2)
    export(models / "wide" / "m", 2, dim=5)
    paths = [models / each if "/" in each else each for each in arguments]
    with pytest.raises(error, match=message):
        run("delta", *paths)
    assert [path.name for path in (models / "m").iterdir()] == ["1"]


def test_a_delta_that_is_there_is_not_written_over(models: Path) -> None:
    arguments = ("delta", models / "m" / "1", models / "new" / "m" / "2", models / "m" / "2")
    run(*arguments)
    with pytest.raises(ExportError, match="a version is never written over"):
        run(*arguments)


def test_inspect_shows_the_chain(models: Path) -> None:
    first = Manifest.load(models / "m" / "1").identity
    run("delta", models / "m" / "1", models / "new" / "m" / "2", models / "m" / "2")
    shown = json.loads(run("inspect", models / "m" / "2", "--json").output)
    assert (shown["follows"], shown["same"]) == ([f"1 ({first})"], ["item"])
    assert [(each["spec"]["name"], each["rows"], each["what"]) for each in shown["tables"]] == [("user", 7, "changed")]
    text = run("inspect", models / "m" / "2").output
    assert "follows 1 (" in text
    assert "as before: item" in text
    assert "user (changed)" in text


def test_a_long_chain_is_counted_and_should_be_compacted(models: Path) -> None:
    folder = models / "m"
    for number in range(2, LONG_CHAIN + 3):
        whole = export(models / "whole" / "m", number, changed=1)
        run("delta", folder / str(number - 1), whole, folder / str(number))
    [newest] = choose_versions([folder])
    assert chain_length(newest) == LONG_CHAIN + 1
    assert newest.tables["user"].newer_rows == LONG_CHAIN + 1
    assert due(initial_spec([0], [newest])) == (
        "m/10: its chain has 9 deltas; `ringpull compact m`, or publish a full version",
    )
    [user] = [each for each in planned_tables([newest], None) if each.name == "m/user"]
    assert (user.rows, user.newer_rows, user.deltas) == (109, 9, 9), "deltas take memory besides"
    planned = run("plan", folder, "--memory", "1GiB")
    assert "100 + 9" in planned.output
    [told] = list(json.loads(run("plan", folder, "--memory", "1GiB", "--json").output)["tables"])[:1]
    assert (told["rows"], told["newer_rows"], told["deltas"]) == (109, 9, 9)
    assert "109 rows (9 of 9 deltas)" in told["reason"]
    wide = export(models / "whole" / "m", 11, changed=50)
    run("delta", folder / "1", wide, folder / "11")
    [newest] = choose_versions([folder])
    [told] = due(initial_spec([0], [newest]))
    assert told.startswith("m/11: deltas brought 50 rows of table user, whose base has 100; `ringpull compact m`")
