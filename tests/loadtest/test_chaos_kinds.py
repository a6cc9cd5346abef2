"""Faults of what surrounds a deployment: what each does, what it finds broken, and that all of it is always undone."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import psutil
import pytest

from ringpull.inference.proto import ringpull_pb2 as pb
from ringpull.loadtest.chaos.changes import Deployed
from ringpull.loadtest.chaos.checked_model import MODEL, export_version
from ringpull.loadtest.chaos.health import Broken
from ringpull.loadtest.chaos.kinds import clock_stepped, disk_full, stranger_on_port, version_reexported
from ringpull.loadtest.chaos.kinds.programs.stranger import Stranger, strange_shard
from ringpull.loadtest.chaos.kinds.registry import INJECT
from ringpull.loadtest.chaos.kinds.scene import Folders, Scene, swapped
from ringpull.loadtest.chaos.kinds.undoing import away
from ringpull.loadtest.chaos.schedule import SURROUNDINGS, Command, Fault, Kind
from ringpull.loadtest.chaos.serving import CommandFailed
from ringpull.loadtest.deployment import Deployment
from tests.ports import free_port

VERSIONS = (1, 2, 3)
NO_PROCESS = (1 << 31) - 1
"""Id that no process has."""


@dataclass
class FakeProcess:
    """A process that notes its signals."""

    role: str
    signals: list[str] = field(default_factory=list)

    def kill(self) -> None:
        self.signals.append("kill")

    def suspend(self) -> None:
        self.signals.append("stop")

    def resume(self) -> None:
        self.signals.append("continue")


class FakeDeployment:
    """Is the deployment, its health and its operator at once.

    `seen` has what was so whenever somebody waited for health; `refuses` is what its commands fail with.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes = [FakeProcess(role) for role in ("coordinator", "head", "shard", "shard", "raylet")]
        self.seen: list[set[str]] = []
        self.waited_for: list[tuple[object, ...]] = []
        self.commands: list[tuple[str, ...]] = []
        self.broke: list[str] = []
        self.now = Deployed(2, (1, 2), 4)
        self.refuses: str | None = None
        self.heals: Callable[[], Awaitable[None]] | None = None
        self.in_a_hurry = 0
        self.reexported: list[int] = []
        self.warnings: list[str] = []
        self.told: dict[str, Any] | CommandFailed = {"leader": {"leads": False}, "warnings": ["nobody leads"]}
        self.shard = NO_PROCESS, "127.0.0.1:1"

    def running(self, *roles: str) -> list[FakeProcess]:
        return [process for process in self.processes if process.role in roles]

    async def wait(self, *gone: object) -> None:
        self.seen.append(tree(self.folder))
        self.waited_for.append(gone)
        if self.heals is not None:
            await self.heals()

    async def execute(self, fault: Fault) -> str:
        self.commands.append((str(fault.kind),))
        self.now = Deployed(3, (2, 3), 4) if fault.kind is Kind.PUBLISH else Deployed(self.now.live, self.now.open, 5)
        return self.refuses or ""

    async def run(self, asked: Command) -> dict[str, Any]:
        self.commands.append(asked.words)
        if self.refuses is not None:
            raise CommandFailed(self.refuses)
        return {}

    async def deployed(self) -> Deployed:
        return self.now

    async def look(self, *words: str) -> dict[str, Any]:
        self.commands.append(words)
        if isinstance(self.told, CommandFailed):
            raise self.told
        return self.told

    async def status(self) -> pb.ClusterStatus:
        shard = pb.ShardStatus(shard=1, alive=True, pid=self.shard[0], address=self.shard[1])
        return pb.ClusterStatus(shards=[shard], warnings=self.warnings)

    @contextmanager
    def hurried(self) -> Iterator[None]:
        self.in_a_hurry += 1
        yield
        self.in_a_hurry -= 1

    def scene(self) -> Scene:
        at = self.folder
        folders = Folders(at / MODEL, at / "others", at / "disk" / "state", at / "logs", at / "data", at / "records")
        ours = cast(Deployment, self)
        return Scene(
            ours, folders, self, self, self.look, self.status, self.broke.append, self.reexported.append, self.hurried
        )

    def signals(self) -> dict[str, list[str]]:
        return {process.role: process.signals for process in self.processes if process.signals}


def tree(folder: Path) -> set[str]:
    """Return every file below a folder, with what is in it."""
    return {f"{path.relative_to(folder)}: {path.read_text()}" for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def deployment(tmp_path: Path) -> FakeDeployment:
    for version in VERSIONS:
        for name, content in ((MODEL, "own"), ("others", "other")):
            (tmp_path / name / str(version)).mkdir(parents=True)
            (tmp_path / name / str(version) / "rows").write_text(content)
    for shard in range(2):
        (tmp_path / "data" / f"shard-{shard}").mkdir(parents=True)
        (tmp_path / "data" / f"shard-{shard}" / "rows").write_text("copied")
    for name in ("disk/state", "logs", "records/served"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "file").write_text(name)
    return FakeDeployment(tmp_path)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is waited for, and no disk is filled: the fakes are on the one that the tests run on."""

    @contextmanager
    def filled(folder: Path) -> Iterator[None]:
        (folder / "filler").write_text("")
        try:
            yield
        finally:
            (folder / "filler").unlink()

    async def run_program(*words: str, environment: object) -> dict[str, Any]:
        return {}

    monkeypatch.setattr(disk_full, "LATER_S", 0.0)
    monkeypatch.setattr(disk_full, "filled", filled)
    monkeypatch.setattr(clock_stepped, "run_program", run_program)


async def inject(deployment: FakeDeployment, kind: Kind, pick: float) -> int:
    """Inject a fault; return how often it said that it had begun."""
    begun: list[None] = []
    await INJECT[kind](deployment.scene(), Fault(kind, pick, 0.001), lambda: begun.append(None))
    return len(begun)


def test_every_one_has_a_file_of_its_own_kind() -> None:
    assert set(INJECT) == set(SURROUNDINGS)


@pytest.mark.parametrize("how", ["done", "broken", "cancelled"])
@pytest.mark.parametrize("pick", [0.0, 0.3, 0.7, 0.99])
@pytest.mark.parametrize("kind", [kind for kind in SURROUNDINGS if kind is not Kind.IMPERSONATE_SHARD])
async def test_all_is_undone_however_it_ends(deployment: FakeDeployment, kind: Kind, pick: float, how: str) -> None:
    """When it is through, when the deployment does not come back, and when the run is interrupted."""
    if kind is Kind.REEXPORT_VERSION:
        pick *= 0.75  # a version that is not open keeps its new content
    before = tree(deployment.folder)
    deployment.refuses = None if kind is Kind.REMOVE_VERSION else f"error: not now, {MODEL}/1"
    waiting = asyncio.Event()

    async def never() -> None:
        waiting.set()
        if how == "broken":
            raise Broken("it did not come back")
        await asyncio.Event().wait()

    if how == "done":
        assert await inject(deployment, kind, pick) == 1
        assert deployment.broke == []
    else:
        deployment.heals = never
        injecting = asyncio.create_task(inject(deployment, kind, pick))
        await waiting.wait()
        injecting.cancel()
        with pytest.raises((Broken, asyncio.CancelledError)):
            await injecting
    assert tree(deployment.folder) == before
    assert deployment.in_a_hurry == 0
    for signals in deployment.signals().values():
        assert signals.count("stop") == signals.count("continue")


async def test_what_is_killed_and_stopped(deployment: FakeDeployment) -> None:
    await inject(deployment, Kind.KILL_ALL, 0.5)
    assert deployment.signals() == {"coordinator": ["kill"], "head": ["kill"], "shard": ["kill"]}
    assert len(deployment.waited_for[0]) == 4, "all of them have to end, or nothing has been repaired"
    for process in deployment.processes:
        process.signals.clear()
    await inject(deployment, Kind.HOLD_COORDINATOR, 0.5)
    await inject(deployment, Kind.STOP_RAYLET, 0.5)
    assert deployment.signals() == {"coordinator": ["stop", "continue"], "raylet": ["stop", "continue"]}


@pytest.mark.parametrize(
    ("told", "broke"),
    [
        ({"leader": {"leads": False}, "warnings": ["nobody leads"]}, ""),
        ({"leader": {"leads": True}, "warnings": ["shard 1: scrubbed"]}, "status warns of nothing"),
        ({"leader": {"leads": False}, "warnings": []}, "status warns of nothing"),
        ({}, "status warns of nothing"),
        (CommandFailed("error: the coordinator does not answer"), "while the coordinator is stopped: error: the"),
    ],
)
async def test_somebody_says_that_nobody_leads(
    deployment: FakeDeployment, told: dict[str, Any] | CommandFailed, broke: str
) -> None:
    deployment.told = told
    await inject(deployment, Kind.HOLD_COORDINATOR, 0.5)
    assert deployment.commands == [("status",)]
    assert len(deployment.broke) == bool(broke)
    assert broke in "".join(deployment.broke)


@pytest.mark.parametrize(("pick", "killed"), [(0.1, True), (0.9, False)])
async def test_a_state_folder_is_away_and_back(deployment: FakeDeployment, pick: float, killed: bool) -> None:
    await inject(deployment, Kind.AWAY_STATE, pick)
    assert deployment.signals() == ({"coordinator": ["kill"]} if killed else {})
    assert "disk/state/file: disk/state" in deployment.seen[0], "it is waited for when the folder is back"


async def test_a_state_that_is_begun_in_the_place_of_one_that_is_away(deployment: FakeDeployment) -> None:
    state = deployment.folder / "disk" / "state"
    before = tree(state)

    def begin_another() -> None:
        state.mkdir()
        (state / "term-1").write_text("")

    await INJECT[Kind.AWAY_STATE](deployment.scene(), Fault(Kind.AWAY_STATE, 0.9, 0.05), lambda: _soon(begin_another))
    assert deployment.broke == ["a state of its own was begun while --state-dir was away: term-1"]
    assert tree(state) == before


def _soon(function: Callable[[], None]) -> None:
    asyncio.get_running_loop().call_later(0.001, function)


def test_a_folder_comes_back_whatever_lies_in_its_place(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "own").write_text("")
    with away(folder) as made:
        assert not folder.exists()
        folder.mkdir()
        (folder / "somebody's").write_text("")
    assert [path.name for path in folder.iterdir()] == ["own"]
    assert [path.name for folder in made for path in folder.iterdir()] == ["somebody's"]


async def test_a_kept_version_is_away_while_a_shard_comes_back(deployment: FakeDeployment) -> None:
    await inject(deployment, Kind.AWAY_VERSION, 0.0)
    assert deployment.signals() == {"shard": ["kill"]}
    assert f"{MODEL}/1/rows: own" not in deployment.seen[0]
    assert f"{MODEL}/2/rows: own" in deployment.seen[0], "that is the live one"
    assert f"{MODEL}/1/rows: own" in deployment.seen[1]


async def test_a_version_is_kept_first_where_none_is(deployment: FakeDeployment) -> None:
    deployment.now = Deployed(2, (2,), 4)
    await inject(deployment, Kind.AWAY_VERSION, 0.0)
    assert deployment.commands == [("publish",)]
    deployment.now, deployment.refuses = Deployed(2, (2,), 4), "no"
    assert await inject(deployment, Kind.REMOVE_VERSION, 0.0) == 0
    assert deployment.broke == ["publish was not carried through: no"]


async def test_a_full_disk_refuses_operators_and_repairs_shards(deployment: FakeDeployment) -> None:
    deployment.refuses = "error: no space"
    await inject(deployment, Kind.FILL_DISK, 0.0)
    assert deployment.broke == []
    assert deployment.commands[0][0] == "rebalance"
    assert "disk/filler: " in deployment.seen[0], "the shard has to come back while there is no space"
    assert "disk/filler: " not in deployment.seen[1]


async def test_a_change_on_a_full_disk_breaks_a_promise(deployment: FakeDeployment) -> None:
    await inject(deployment, Kind.FILL_DISK, 0.0)
    [said] = deployment.broke
    assert said.endswith("was carried out although nothing of it could be saved")


async def test_what_was_refused_is_not_carried_out_later(deployment: FakeDeployment) -> None:
    deployment.refuses = "error: no space"

    async def carried_out() -> None:
        deployment.now = Deployed(2, (1, 2), 5)

    deployment.heals = carried_out
    await inject(deployment, Kind.FILL_DISK, 0.0)
    assert deployment.broke == ["what was refused was carried out later: 4 shards became 5; error: no space"]


async def test_looking_with_another_clock_removes_nothing(
    deployment: FakeDeployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = deployment.folder / "records" / "served" / "one.json"
    ray = deployment.folder / "ray"
    ray.mkdir()
    record.write_text(f'{{"ray_folder": "{ray}", "log": null, "target": "127.0.0.1:1", "made_folder": "/no/such"}}')
    assert clock_stepped.remains(deployment.folder / "records") == {record, ray}

    async def removes(*words: str, environment: object) -> dict[str, Any]:
        ray.rmdir()
        raise CommandFailed("error: nothing is served")

    monkeypatch.setattr(clock_stepped, "run_program", removes)
    await inject(deployment, Kind.STEP_CLOCK, 0.3)
    assert deployment.broke == [
        "with its clock stepped by -5 s: error: nothing is served",
        f"ringpull status, with its clock stepped by -5 s, removed {ray}",
    ]


@pytest.mark.medium
def test_a_stepped_clock() -> None:
    """Of that process alone: the time of day, and with it the start of every process."""
    code = """
import psutil, time
from ringpull.loadtest.chaos.kinds.programs.stepped_clock import step
before = time.time(), time.time_ns(), psutil.boot_time(), psutil.Process().create_time()
step(-3600.0)
after = time.time(), time.time_ns(), psutil.boot_time(), psutil.Process().create_time()
print(*(round((b - a) / scale) for a, b, scale in zip(before, after, (1, 1e9, 1, 1))))
print(len(open("/proc/stat", "rb").read()) > 0, open("/proc/self/stat").read()[:3] != "")
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["-3600"] * 4 + ["True", "True"]


@pytest.mark.parametrize(("pick", "copies_lost"), [(0.2, False), (0.4, True)])
async def test_other_content_under_the_number_of_the_live_version(
    deployment: FakeDeployment, pick: float, copies_lost: bool
) -> None:
    with subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"]) as shard:
        deployment.shard = shard.pid, ""
        await inject(deployment, Kind.REEXPORT_VERSION, pick)
        assert shard.wait() == -9
    [gone] = deployment.waited_for[0]
    assert cast(psutil.Process, gone).pid == shard.pid
    assert ("data/shard-1/rows: copied" in deployment.seen[0]) != copies_lost
    assert "data/shard-0/rows: copied" in deployment.seen[0]
    assert {f"{MODEL}/2/rows: other", f"{MODEL}/1/rows: own"} <= deployment.seen[0]
    assert f"{MODEL}/2/rows: own" in deployment.seen[1]
    assert deployment.commands == []


async def test_other_content_where_shards_open_files_in_place(
    deployment: FakeDeployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shard cannot come back by what is there meanwhile: it has to when the first content is."""
    monkeypatch.setattr(version_reexported, "OPENED_S", 0.0)
    scene = deployment.scene()
    scene = replace(scene, folders=replace(scene.folders, data=None))
    await INJECT[Kind.REEXPORT_VERSION](scene, Fault(Kind.REEXPORT_VERSION, 0.2), lambda: None)
    [seen] = deployment.seen
    assert f"{MODEL}/2/rows: own" in seen


@pytest.mark.parametrize(
    ("refuses", "told", "broke"),
    [
        ("ringpull publish checked/1: error: checked/1 has other content now", [], []),
        ("ringpull publish checked/1: error: no", [], ["the refusal does not name checked/1: ringpull publish"]),
        (None, [], ["checked/1 was published with other content than it was open with"]),
        (None, ["checked/1 was let go: it has other content"], []),
    ],
)
async def test_other_content_under_the_number_of_a_kept_version(
    deployment: FakeDeployment, refuses: str | None, told: list[str], broke: list[str]
) -> None:
    """It may be published once it was let go, and what is published is what that number means from now on."""
    deployment.refuses, deployment.warnings = refuses, told
    await inject(deployment, Kind.REEXPORT_VERSION, 0.6)
    assert deployment.commands == [("publish", f"{MODEL}/1")]
    assert len(deployment.broke) == len(broke)
    assert all(said.startswith(expected) for said, expected in zip(deployment.broke, broke, strict=True))
    assert deployment.reexported == ([1] if refuses is None else [1, 1])
    assert (f"{MODEL}/1/rows: other" in tree(deployment.folder)) == (refuses is None)


@pytest.mark.parametrize("refuses", [None, "no"])
async def test_other_content_under_the_number_of_a_version_that_is_not_open(
    deployment: FakeDeployment, refuses: str | None
) -> None:
    """It is what that number means from now on, and whoever answers is asked for that."""
    deployment.refuses = refuses
    await inject(deployment, Kind.REEXPORT_VERSION, 0.9)
    assert deployment.commands == [("publish", f"{MODEL}/3")]
    assert deployment.reexported == [3]
    assert {f"{MODEL}/3/rows: other", "others/3/rows: own"} <= tree(deployment.folder)
    assert bool(deployment.broke) == (refuses is not None)
    assert swapped(3, swapped(3, 3)) == 3 != swapped(3, 3)


@pytest.mark.parametrize(("pick", "then"), [(0.1, "publish"), (0.4, "rebalance"), (0.6, ""), (0.9, "")])
async def test_a_kept_version_is_removed(deployment: FakeDeployment, pick: float, then: str) -> None:
    await inject(deployment, Kind.REMOVE_VERSION, pick)
    assert deployment.commands == ([(then,)] if then else [])
    assert deployment.signals() == ({} if then else {"shard" if pick < 0.7 else "head": ["kill"]})
    assert f"{MODEL}/1/rows: own" not in deployment.seen[0]
    deployment.now, deployment.refuses = Deployed(2, (1, 2), 4), "given up"
    await inject(deployment, Kind.REMOVE_VERSION, 0.1)
    assert deployment.broke == ["publish was not carried through without the folder of version 1: given up"]


@pytest.mark.medium
@pytest.mark.net
@pytest.mark.parametrize("kind", list(Stranger))
async def test_a_stranger_listens_on_the_port_of_a_dead_shard(
    deployment: FakeDeployment,
    kind: Stranger,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is ready before the shard dies, has its port a moment later, and is gone at the end."""
    rows = {"user": 30, "item": 20, "genre": 19}
    strange = tmp_path_factory.mktemp("strange")
    for version in (1, 2):
        export_version(strange, version, rows, content=version + 7)
    port = free_port()
    listens = f"import socket, time; s = socket.create_server(('127.0.0.1', {port})); print(flush=True);"
    shard = subprocess.Popen([sys.executable, "-c", f"{listens} time.sleep(600)"], stdout=subprocess.PIPE, text=True)
    assert shard.stdout is not None
    assert shard.stdout.readline() == "\n"
    answered: list[bytes] = []

    async def sleep(_: float) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        if kind is Stranger.NONSENSE:
            answered.append(await reader.read(1))
        writer.close()
        await writer.wait_closed()

    deployment.shard = shard.pid, f"127.0.0.1:{port}"
    monkeypatch.setattr(stranger_on_port.asyncio, "sleep", sleep)
    scene = deployment.scene()
    folders = replace(scene.folders, others=strange)
    scene = replace(scene, folders=folders)
    fault = Fault(Kind.IMPERSONATE_SHARD, (list(Stranger).index(kind) + 0.5) / len(Stranger), 1.0)
    await INJECT[Kind.IMPERSONATE_SHARD](scene, fault, lambda: None)
    assert shard.wait() == -9
    shard.stdout.close()
    assert (len(answered), deployment.broke) == (kind is Stranger.NONSENSE, [])
    [gone] = deployment.waited_for[0]
    assert cast(psutil.Process, gone).pid == shard.pid
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)


@pytest.mark.medium
@pytest.mark.net
async def test_a_stranger_that_does_not_get_the_port_is_told(
    deployment: FakeDeployment, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing has been tried then, and the run goes on to its last line."""
    monkeypatch.setattr(stranger_on_port, "LISTEN_S", 0.05)
    scene = deployment.scene()
    scene = replace(scene, folders=replace(scene.folders, others=tmp_path_factory.mktemp("strange")))
    with socket.create_server(("127.0.0.1", 0)) as held:
        deployment.shard = NO_PROCESS, f"127.0.0.1:{held.getsockname()[1]}"
        pick = (list(Stranger).index(Stranger.SILENT) + 0.5) / len(Stranger)
        await INJECT[Kind.IMPERSONATE_SHARD](scene, Fault(Kind.IMPERSONATE_SHARD, pick, 0.0), lambda: None)
    assert deployment.broke == [f"the stranger has not had {deployment.shard[1]} within 0.05 s, it said b''"]


@pytest.mark.medium
def test_a_strange_shard_has_all_rows_of_tables_of_the_same_names(tmp_path: Path) -> None:
    export_version(tmp_path, 1, {"user": 30, "item": 20, "genre": 19}, content=1_001)
    shard = strange_shard(3, [tmp_path / "1"])
    assert shard.shard == 3
    assert shard.is_open(MODEL, 1)
    assert sum(table.rows for table in shard.statistics().tables) == 69
