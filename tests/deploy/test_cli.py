"""The commands that need no cluster, through the same entry as the shell: output, exit status, errors in one line."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import psutil
import pytest

from ringpull.deploy import cli, served
from ringpull.deploy.cluster import cluster
from ringpull.deploy.commands.serve import serve
from ringpull.deploy.process_identity import own_identity
from ringpull.deploy.served import ServedRecord
from ringpull.inference.degrade.steps import CapCandidates, UseVersion
from ringpull.inference.model.manifest import FileEntry, IdLimit, Manifest
from ringpull.inference.schema.kinds import Sparse
from ringpull.inference.schema.schema import Schema
from ringpull.ps.errors import StartupError
from tests.deploy.folders import flip_byte, write_version
from tests.deploy.running import Ran


@pytest.mark.parametrize("error", [OSError(5, "Input/output error", "x"), StartupError("x: Input/output error")])
def test_where_an_error_came_from_can_be_asked_for(ringpull, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """A bug may end in an error of the surroundings, too: one line, and no place in the code, would hide it."""

    def app() -> None:
        cli._keep_tracebacks("--traceback" in sys.argv)
        raise error

    monkeypatch.setattr(cli, "app", app)
    line = "error: x: Input/output error\n"
    assert ringpull("status").err == line
    traced = ringpull("--traceback", "status")
    assert traced.status == 1
    assert traced.err.startswith("Traceback (most recent call last):\n")
    assert "in app\n" in traced.err
    assert traced.err.endswith(line)


@pytest.mark.medium
def test_help_names_every_command(ringpull) -> None:
    ran = ringpull("--help")
    assert ran.status == 0
    assert "--traceback" in ran.out
    for command in ("serve", "predict", "status", "inspect", "export", "stop"):
        assert command in ran.out
        assert ringpull(command, "--help").status == 0


def test_inspect_a_model_shows_its_tables(ringpull, tmp_path: Path) -> None:
    write_version(tmp_path / "ranker", 3, {"user": 2, "item": "all"})
    ran = ringpull("inspect", tmp_path / "ranker")
    assert ran.status == 0
    for part in ("ranker version 3", "user", "item", "all", "100", "float32", "look-ups", "user_id"):
        assert part in ran.out


def test_inspect_as_json(ringpull, tmp_path: Path) -> None:
    folder = write_version(tmp_path / "ranker", 3)
    fields = json.loads(ringpull("inspect", folder, "--json", "--verify").out)
    assert (fields["model"], fields["version"]) == ("ranker", 3)
    [table] = fields["tables"]
    assert (table["rows"], table["held"], table["verified"], table["bad_blocks"]) == (100, [[0, 65536]], True, [])
    assert table["spec"]["dim"] == 4
    assert json.loads(ringpull("inspect", folder / "tables" / "user", "--json").out)["rows"] == 100
    both = json.loads(ringpull("inspect", tmp_path / "ranker", "--json").out)
    assert [version["version"] for version in both["versions"]] == [3]


def test_inspect_shows_what_is_left_out_under_load(ringpull, tmp_path: Path) -> None:
    folder = write_version(tmp_path / "ranker", 3)
    assert "degrade" not in ringpull("inspect", folder).out
    replace(Manifest.load(folder), degrade=(CapCandidates(64), UseVersion(2))).save(folder)
    text = ringpull("inspect", folder).out
    assert text.index("scored the first 64 candidates") < text.index("answered by version 2")
    assert json.loads(ringpull("inspect", folder, "--json").out)["degrade"] == [
        {"kind": "cap_candidates", "most": 64},
        {"kind": "use_version", "version": 2},
    ]


def test_inspect_says_which_ids_are_refused(ringpull, tmp_path: Path) -> None:
    folder = write_version(tmp_path / "ranker", 3)
    shown = ringpull("inspect", folder).out
    assert "zeros" in shown
    assert "refused" not in shown
    manifest = Manifest.load(folder)
    (folder / "schema.json").write_text(Schema([Sparse("user_id")]).to_json())
    schema = FileEntry.of(folder, "schema.json")
    replace(manifest, schema=schema, limits=(IdLimit(feature="user_id", low=0, high=100),)).save(folder)
    shown = ringpull("inspect", folder).out
    assert "zeros" not in shown
    assert "refused" in shown
    [lookup] = json.loads(ringpull("inspect", folder, "--json").out)["lookups"]
    assert lookup["ids"] == {"low": 0, "high": 100, "beyond": "refused"}


def test_inspect_finds_damaged_rows_only_when_asked_to_read_them(ringpull, tmp_path: Path) -> None:
    table = write_version(tmp_path / "ranker", 1) / "tables" / "user"
    flip_byte(table / "rows")
    assert ringpull("inspect", table).status == 0
    ran = ringpull("inspect", table, "--verify")
    assert ran.status == 1
    assert "damaged" in ran.out
    assert ran.err.startswith("error: rows are damaged in")
    bad = json.loads(ringpull("inspect", table, "--verify", "--json").out)["bad_blocks"]
    assert [(block["block"], block["first_row"], block["rows"]) for block in bad] == [(0, 0, 100)]


@pytest.mark.parametrize("file", ["header", "index", "positions"])
def test_inspect_refuses_what_cannot_be_trusted(ringpull, tmp_path: Path, file: str) -> None:
    table = write_version(tmp_path / "ranker", 1) / "tables" / "user"
    flip_byte(table / file)
    ran = ringpull("inspect", tmp_path / "ranker")
    assert ran.status == 1
    assert ran.err.startswith("error: ")
    assert str(table / file) in ran.err
    assert "Traceback" not in ran.err


def test_inspect_a_folder_of_something_else(ringpull, tmp_path: Path) -> None:
    ran = ringpull("inspect", tmp_path)
    assert ran.status == 1
    assert "neither a model's folder" in ran.err
    assert len(ran.err.splitlines()) == 1


def test_serve_fails_before_starting_anything(ringpull, tmp_path: Path) -> None:
    """What can be known wrong from the command line and the folders never starts Ray."""
    assert "is not a folder" in ringpull("serve", tmp_path / "nothing").err
    write_version(tmp_path / "ranker", 1)
    ran = ringpull("serve", tmp_path / "ranker", "--shards", "0")
    assert (ran.status, ran.out) == (1, "")
    assert ran.err == "error: --shards is 0; it must be from 1 to 1024\n"
    assert "ray" not in sys.modules or not sys.modules["ray"].is_initialized()


NUMBERS = {
    f"--{name.replace('_', '-')}": type(parameter.default)
    for name, parameter in inspect.signature(serve).parameters.items()
    if type(parameter.default) in (int, float)
}
"""Options of `serve` that are numbers, and whether whole ones."""


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *((option, "-1") for option in NUMBERS),
        *((option, value) for option, kind in NUMBERS.items() if kind is float for value in ("nan", "inf")),
        *((option, "0") for option in ("--max-requests", "--give-up", "--default-timeout")),
        ("--grpc-port", "65536"),
        ("--hedge-share", "1.5"),
    ],
)
def test_numbers_that_serve_refuses_by_the_options_name(ringpull, tmp_path: Path, option: str, value: str) -> None:
    """Not by the name that the setting has below, of which several options share one."""
    write_version(tmp_path / "ranker", 1)
    ran = ringpull("serve", tmp_path / "ranker", option, value)
    assert (ran.status, ran.out) == (1, "")
    assert re.match(rf"error: .*{option} is {value}(\.0)?[; ]", ran.err), ran.err
    assert len(ran.err.splitlines()) == 1


def test_numbers_of_serve_are_found() -> None:
    assert {"--shards", "--watch", "--max-pull-bytes", "--degrade-high", "--drain-timeout"} <= NUMBERS.keys()


def test_a_command_line_that_makes_no_sense(ringpull) -> None:
    assert ringpull("serve").status == 2
    assert ringpull("predict", "ranker", "--no-such-option").status == 2


@pytest.mark.parametrize("command", ["status", "stop"])
def test_nothing_served_from_here(ringpull, command: str) -> None:
    ran = ringpull(command)
    assert ran.status == 1
    assert ran.err == "error: nothing is served from here; start `ringpull serve`, or give --target HOST:PORT\n"


def test_predict_wants_rows_from_one_place(ringpull) -> None:
    for arguments in ((), ("--features", "a=1", "--json-request", "-")):
        ran = ringpull("predict", "ranker", "--target", "127.0.0.1:1", *arguments)
        assert ran.status == 1
        assert "one of the two" in ran.err


def test_predict_where_nobody_listens(ringpull) -> None:
    ran = ringpull("predict", "ranker", "--target", "127.0.0.1:1", "--features", "a=1")
    assert ran.status == 1
    assert ran.err.startswith("error: 127.0.0.1:1: ")


@pytest.fixture
def serve_process() -> Iterator[Callable[[str], ServedRecord]]:
    """Start a process that stands for a foreground `serve`, and save its record."""
    started: list[subprocess.Popen[str]] = []

    def start(code: str) -> ServedRecord:
        says = (
            "from ringpull.deploy.process_identity import own_identity; print(own_identity().start_ticks, flush=True)"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", f"{code}; {says}; time.sleep(600)"], stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdout is not None
        said = process.stdout.readline()
        record = ServedRecord(
            target="127.0.0.1:8500",
            http="127.0.0.1:8501",
            models=("ranker/3",),
            shards=1,
            name="ringpull",
            address=None,
            **asdict(replace(own_identity(), pid=process.pid, start_ticks=json.loads(said))),
        )
        served.save(record)
        return record

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_stop_ends_the_process_and_waits(ringpull, serve_process) -> None:
    record = serve_process("import time")
    assert ringpull("stop") == Ran(0, "stopped 127.0.0.1:8500\n", "")
    assert record.process() is None
    assert served.records() == []


def test_stop_forces_what_does_not_end(ringpull, serve_process) -> None:
    record = serve_process("import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)")
    ran = ringpull("stop", "--timeout", "0.1", "--json")
    assert (ran.status, json.loads(ran.out)) == (0, {"stopped": "127.0.0.1:8500"})
    assert "killing it" in ran.err
    assert record.process() is None


def test_stop_takes_who_is_never_reaped_for_ended(ringpull, serve_process, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container whose first process asks for nobody's exit status: `serve` has ended, and stays listed."""
    monkeypatch.setattr(psutil, "wait_procs", lambda processes, timeout=None: ([], list(processes)))
    monkeypatch.setattr(psutil.Process, "wait", never_reaped)
    record = serve_process("import time")
    assert ringpull("stop", "--timeout", "600") == Ran(0, "stopped 127.0.0.1:8500\n", "")
    assert psutil.Process(record.pid).status() == psutil.STATUS_ZOMBIE
    assert served.records() == []


def never_reaped(process: psutil.Process, timeout: float | None = None) -> None:
    """What psutil does with a child of others: it waits for the id to go."""
    raise psutil.TimeoutExpired(timeout or 0, process.pid)


def test_stop_says_whose_the_process_is(ringpull, serve_process, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(process: psutil.Process) -> None:
        raise psutil.AccessDenied(process.pid)

    record = serve_process("import time")
    with monkeypatch.context() as patched:
        patched.setattr(psutil.Process, "terminate", denied)
        ran = ringpull("stop")
    assert (ran.status, ran.err) == (
        1,
        f"error: process {record.pid}, which serves, is another user's: stop it as that user\n",
    )
    assert served.records() == [record]


@pytest.mark.parametrize(
    ("elsewhere", "says"),
    [
        ({"pid_namespace": "another"}, "is served by process"),
        ({"boot_id": "another"}, "is served by process"),
        ({"host": "", "boot_id": "", "start_ticks": None, "pid_started_s": 1.0}, "was served by an earlier build"),
    ],
)
def test_stop_signals_no_process_that_may_be_another(ringpull, serve_process, elsewhere, says: str) -> None:
    """Its id means something else here. Nothing is removed either."""
    record = serve_process("import time")
    served.forget(record)
    served.save(replace(record, **elsewhere))
    ran = ringpull("stop")
    assert (ran.status, ran.out) == (1, "")
    assert ran.err.startswith(f"error: 127.0.0.1:8500 {says}")
    assert record.process() is not None
    assert served.records() == [replace(record, **elsewhere)]


@pytest.mark.parametrize("value", ["-1", "nan", "inf"])
def test_stop_refuses_a_wait_that_cannot_be_before_it_signals(ringpull, serve_process, value: str) -> None:
    record = serve_process("import time")
    ran = ringpull("stop", "--timeout", value)
    assert ran.status == 1
    assert ran.err.startswith(f"error: --timeout is {float(value)}; it must be 0 or more")
    assert served.records() == [record]


@pytest.mark.parametrize(
    ("command", "option", "value"),
    [
        (("predict", "ranker", "--features", "a=1"), "--timeout", "nan"),
        (("status",), "--timeout", "0"),
        (("loadtest", "--rate", "5"), "--seconds", "nan"),
        (("loadtest", "--rate", "5"), "--connections", "0"),
        (("loadtest", "--rate", "5"), "--timeout", "inf"),
        (("loadtest", "--find-max"), "--p99-ms", "nan"),
        (("loadtest",), "--rate", "nan"),
        (("loadtest",), "--rate", "0"),
    ],
)
def test_numbers_that_are_refused(ringpull, command: tuple[str, ...], option: str, value: str) -> None:
    ran = ringpull(*command, option, value, "--target", "127.0.0.1:1")
    assert (ran.status, ran.out) == (1, "")
    assert re.match(rf"error: {option} is {value}(\.0)?; it must be above 0", ran.err), ran.err


def test_stop_takes_one_way_of_saying_what(ringpull) -> None:
    ran = ringpull("stop", "--target", "127.0.0.1:8500", "--address", "auto")
    assert ran.status == 1
    assert "give one" in ran.err


def left_on_ray(address: str, folder: Path) -> ServedRecord:
    """The record of a deployment that lives on a joined Ray."""
    folder.mkdir()
    record = ServedRecord(
        target="10.0.0.7:8500",
        http="10.0.0.7:8501",
        models=("ranker/3",),
        shards=1,
        name="ringpull",
        address=address,
        made_folder=str(folder),
    )
    served.save(record)
    return record


def test_stop_forgets_what_was_on_a_ray_that_has_ended(ringpull, tmp_path: Path) -> None:
    """Nobody listens there: what lived on it has ended with it, and its folder goes too."""
    left_on_ray("127.0.0.1:1", tmp_path / "state-folder")
    ran = ringpull("stop")
    assert (ran.status, ran.out) == (0, "stopped 10.0.0.7:8500\n")
    assert ran.err.startswith("warning: Ray at 127.0.0.1:1 cannot be joined: ")
    assert "ringpull stop --address 127.0.0.1:1 --name ringpull" in ran.err
    assert served.records() == []
    assert not (tmp_path / "state-folder").exists()


def test_stop_keeps_the_record_where_actors_live_on(ringpull, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lives_on(address: str, name: str, *, drain_timeout_s: float) -> tuple[int, str]:
        raise StartupError(f"{name}/head-0 still lives")

    monkeypatch.setattr(cluster, "stop_joined", lives_on)
    record = left_on_ray("10.0.0.1:6379", tmp_path / "state-folder")
    ran = ringpull("stop")
    assert (ran.status, ran.err) == (1, "error: ringpull/head-0 still lives\n")
    assert served.records() == [record]


def test_stop_by_address_finds_the_record_however_the_ray_is_called(
    ringpull, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when there was nothing left to stop."""
    found = 3
    monkeypatch.setattr(cluster, "stop_joined", lambda *args, **options: (found, "10.0.0.1:6379"))
    left_on_ray("10.0.0.1:6379", tmp_path / "first")
    assert ringpull("stop", "--address", "auto").status == 0
    assert served.records() == []
    found = 0
    left_on_ray("10.0.0.1:6379", tmp_path / "second")
    ran = ringpull("stop", "--address", "auto")
    assert (ran.status, ran.err) == (1, "error: there is no deployment named ringpull on auto\n")
    assert served.records() == []
