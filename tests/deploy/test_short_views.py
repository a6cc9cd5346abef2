"""Views of wide models are short, name what matters, and say how much more there is; all of it on demand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console, RenderableType

from ringpull.deploy.view.folder_summary import TableSummary
from ringpull.deploy.view.inspect_view import files_table
from ringpull.deploy.view.move_view import PlannedMove, move_fields, move_view
from ringpull.deploy.view.plan_view import plan_fields, plan_view
from ringpull.deploy.view.status_view import tables_table
from ringpull.inference.export.report import ExportReport, TableReport
from ringpull.inference.model.manifest import Manifest
from ringpull.inference.proto import ringpull_pb2 as pb
from ringpull.inference.short_form import SHOWN, and_more, most_important
from ringpull.ps.spec import TableSpec
from ringpull.ps.store.base import BadBlock
from ringpull.router.control.moves import MoveSummary
from ringpull.router.control.planner import Layout, PlannedTable, plan
from ringpull.router.control.traffic import TableLoad
from tests.deploy.folders import write_version

WIDE = 100


def printed(shown: RenderableType) -> str:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(shown)
    return capture.get()


def test_the_most_important_come_in_the_order_given() -> None:
    numbers = list(range(100))
    found = most_important(numbers, lambda each: each * 7 % 100, every=False)
    assert found == sorted(sorted(numbers, key=lambda each: each * 7 % 100)[-SHOWN:])
    assert most_important(numbers, abs, every=True) == numbers
    assert most_important(numbers[:SHOWN], abs, every=False) == numbers[:SHOWN]
    assert and_more(1000, 25, "of 1 GiB") == " and 975 more of 1 GiB: --all"
    assert and_more(25, 25) == ""


def test_status_names_the_largest_tables_and_those_that_lack_copies() -> None:
    tables = [
        pb.TableStatus(
            model="m",
            table=f"t{i:03}",
            rows=i,
            bytes=i << 20,
            replicas_wanted="2",
            replicas_effective=1 if i == 3 else 2,
        )
        for i in range(WIDE)
    ]
    text = printed(tables_table(tables, every=False))
    assert len(text.splitlines()) < SHOWN + 10
    assert "m/t003" in text
    assert f"m/t{WIDE - 1:03}" in text
    assert "m/t010" not in text
    assert f" and {WIDE - SHOWN} more of 4.8 GiB in all: --all" in text
    whole = printed(tables_table(tables))
    assert all(f"m/{each.table}" in whole for each in tables)
    assert "more" not in whole


def test_plans_name_the_tables_looked_up_most() -> None:
    tables = [
        PlannedTable(name=f"m/t{i:03}", rows=1000, row_bytes=64, vector_bytes=64, load=TableLoad(i + 1, i + 1))
        for i in range(WIDE)
    ]
    found = plan(tables, Layout(2, 1 << 30))
    text = printed(plan_view(found, assumed="", every=False))
    assert len(text.splitlines()) < 2 * SHOWN + 20
    assert "m/t099: 1,000 rows" in text
    assert "m/t050" not in text
    assert f"and {WIDE - SHOWN} more: --all; {WIDE} of {WIDE} on every shard" in text
    assert printed(plan_view(found, assumed="")).count("m/t050") == 2
    assert len(plan_fields(found, assumed="")["tables"]) == WIDE


def test_moves_say_how_many_tables_change() -> None:
    before = {f"m/t{i:03}": 1 for i in range(WIDE)}
    held = {0: 1, 1: 1}
    move = PlannedMove(
        shards_before=2,
        shards_after=2,
        replicas_before=before,
        replicas_after=dict.fromkeys(before, 2),
        moves=MoveSummary(
            ranges=1,
            assigned_bytes=1,
            copied_bytes=1,
            streamed=True,
            min_bytes=1,
            shard_bytes_before=held,
            shard_bytes_after=held,
            shard_bytes_gained=held,
        ),
        cost_before=None,
        cost_after=None,
        process_bytes=1,
        reasons=tuple(f"{name}: because" for name in before),
    )
    text = printed(move_view(move, every=False))
    assert len(text.splitlines()) < SHOWN + 20
    assert f"{WIDE} tables other copies" in text
    assert f"and {WIDE - SHOWN} more: --all" in text
    few = replace(move, replicas_after=before | {"m/t007": 2}, reasons=())
    assert "m/t007 1 -> 2 copies" in printed(move_view(few, every=False))
    assert printed(move_view(move)).count("because") == len(move_fields(move)["reasons"]) == WIDE


@pytest.mark.parametrize("every", [False, True])
def test_damaged_tables_are_always_named(every: bool) -> None:
    tables = [
        TableSummary(
            folder="/m",
            spec=TableSpec(name=f"t{i:03}", dim=1),
            rows=1,
            bytes=i,
            held=((0, 65_536),),
            blocks=1,
            verified=True,
            bad_blocks=(BadBlock(0, 0, 1, (0, 1)),) if i == 5 else (),
        )
        for i in range(WIDE)
    ]
    text = printed(files_table(tables, every=every))
    assert "t005" in text
    assert ("t050" in text) == every
    assert (f"and {WIDE - SHOWN} more" in text) != every


def test_the_report_of_an_export_is_short(tmp_path: Path) -> None:
    write_version(tmp_path / "m", 1, {"user": 1})
    tables = tuple(
        TableReport(
            name=f"t{i:03}",
            rows=i,
            dim=1,
            row_type="float32",
            bytes=i,
            keyed_by="row number",
            features=(f"f{i}",),
            poolings=("none",),
            default="zeros",
            computed="a sum",
        )
        for i in range(WIDE)
    )
    version = tmp_path / "m" / "1"
    report = ExportReport(path=version, manifest=Manifest.load(version), tables=tables, kept=(), check=None)
    console = Console(width=200)
    with console.capture() as capture:
        report.print(console)
    text = capture.get()
    assert len(text.splitlines()) < 2 * SHOWN + 10
    assert "t099 was computed once" in text
    assert "t050" not in text
    assert f"and {WIDE - SHOWN} more of 4.8 KiB in all: ringpull inspect {version} --all" in text
