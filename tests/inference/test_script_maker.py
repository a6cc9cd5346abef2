"""Scripts made in a process of their own: the bits of those made here, and whatever goes wrong there, a version that
loads here, or is refused here by name."""

from __future__ import annotations

import logging
import os
import pickle
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from torch import Tensor, nn

from ringpull.inference.export.model import export_model
from ringpull.inference.head import head as head_module
from ringpull.inference.head.process import HeadProcess
from ringpull.inference.model import script_maker
from ringpull.inference.model.bfloat16 import instructions
from ringpull.inference.model.dense_program import Precision, ProgramTensor
from ringpull.inference.model.manifest import FileEntry, Manifest
from ringpull.inference.model.script_maker import ScriptInput, ScriptMaker
from ringpull.inference.model.torch_program import CPU_ROWS, TorchProgram
from ringpull.inference.schema.kinds import Dense, IdSequence, Sparse
from ringpull.inference.schema.schema import Schema
from ringpull.ps import elsewhere
from ringpull.ps.errors import CorruptData
from ringpull.router.shard_map import ShardMap
from tests.inference.tiny import export_tiny

DIM = 4
SCHEMA = Schema([Sparse("user"), IdSequence("history", 3), Dense("age")])

pytestmark = pytest.mark.medium


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.user, self.item = nn.Embedding(9, DIM), nn.Embedding(9, DIM)
        self.layers = nn.Sequential(nn.Linear(DIM, 33), nn.ReLU(), nn.Linear(33, 2))

    def forward(self, user: Tensor, history: Tensor, age: Tensor) -> dict[str, Tensor]:
        vectors = self.user(user) * age + self.item(history).relu().sum(1)
        return {"score": self.layers(vectors), "square": (vectors * vectors).sum(1)}


class Recurrent(Model):
    def __init__(self) -> None:
        super().__init__()
        self.recurrent = nn.LSTM(DIM, DIM, batch_first=True)

    def forward(self, user: Tensor, history: Tensor, age: Tensor) -> dict[str, Tensor]:
        states, _ = self.recurrent(self.item(history))
        return {"score": states[:, -1] + self.user(user) * age}


class Counting(ScriptMaker):
    """A maker that tells what it made."""

    def __init__(self, min_graph_bytes: int = 0) -> None:
        super().__init__(min_graph_bytes)
        self.made: list[str] = []

    def make(self, version_dir: Path, manifest: Manifest, *, short: bool):  # type: ignore[no-untyped-def]
        self.made.append(f"{manifest.model}/{manifest.version}")
        return super().make(version_dir, manifest, short=short)


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "model"
    return export_model(Model(), SCHEMA, folder, 1, check_rows=4, quiet=True).path


def bits(program: TorchProgram, manifest: Manifest, rows: int) -> dict[str, bytes]:
    random = np.random.default_rng(rows)
    shapes = {"user": (rows, DIM), "history": (rows, 3, DIM), "age": (rows, 1)}
    names = [
        each.argument if each.lookup is None else manifest.lookups[each.lookup].feature for each in manifest.inputs
    ]
    inputs = [ProgramTensor(random.standard_normal(shapes[str(name)], np.float32)) for name in names]
    return {name: values.tobytes() for name, values in program.run(inputs, rows).items()}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_script_made_elsewhere_gives_the_bits_of_one_made_here(version: Path, precision: Precision) -> None:
    if precision == "bfloat16" and not instructions("cpu"):
        pytest.skip("no instructions for bfloat16")
    manifest, maker = Manifest.load(version), Counting()
    open_files, others = set(os.listdir("/proc/self/fd")), psutil.Process().children()  # of other tests
    there = TorchProgram.load(version, manifest, "cpu", threads=1, precision=precision, maker=maker)
    here = TorchProgram.load(version, manifest, "cpu", threads=1, precision=precision)
    assert isinstance(there._run, torch._C.ScriptMethod)
    assert there.runtime == here.runtime
    assert (there.writer, there.outputs) == (here.writer, here.outputs)
    for rows in (1, 2, 3, 64, CPU_ROWS + 1):
        assert bits(there, manifest, rows) == bits(here, manifest, rows)
    assert maker.made == ["model/1"]
    assert set(os.listdir("/proc/self/fd")) <= open_files
    assert not set(psutil.Process().children()) - set(others)


def test_small_program_is_not_worth_a_process(version: Path) -> None:
    maker = Counting(script_maker.MIN_GRAPH_BYTES)
    TorchProgram.load(version, Manifest.load(version), "cpu", maker=maker)
    assert not maker.made


def loads_here(version: Path, maker: ScriptMaker, caplog: pytest.LogCaptureFixture) -> str:
    """Load a version with a maker that fails; return what the log says."""
    manifest = Manifest.load(version)
    with caplog.at_level(logging.WARNING):
        program = TorchProgram.load(version, manifest, "cpu", threads=1, maker=maker)
    here = TorchProgram.load(version, manifest, "cpu", threads=1)
    assert program.runtime == here.runtime
    assert bits(program, manifest, 5) == bits(here, manifest, 5)
    [said] = of_ringpull(caplog)
    return said


def of_ringpull(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.name.startswith("ringpull.inference.model")]


def test_program_that_is_no_script_is_loaded_here(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    exported = export_model(Recurrent(), SCHEMA, tmp_path / "model", 1, check_rows=4, quiet=True)
    said = loads_here(exported.path, ScriptMaker(0), caplog)
    assert said.startswith("model/1 is loaded beside requests, which may wait for it: ")
    assert "script of lstm is not safe" in said


def test_process_that_dies_is_done_without(
    version: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(elsewhere, "_SERVE", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    assert loads_here(version, ScriptMaker(0), caplog).endswith("ended with -9")


def test_process_that_cannot_be_started_is_done_without(
    version: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    assert "No such file" in loads_here(version, ScriptMaker(0), caplog)


def test_stopped_maker_starts_nothing(version: Path, caplog: pytest.LogCaptureFixture) -> None:
    maker = ScriptMaker(0)
    maker.stop()
    assert loads_here(version, maker, caplog).endswith("the head has stopped")


def test_script_that_is_none_is_not_run(
    version: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever a process says that wrote nothing: its file is empty."""
    said = pickle.dumps((True, [ScriptInput("float32", (4,))]))
    monkeypatch.setattr(elsewhere, "_SERVE", f"import os; os.write(1, {said!r})")
    assert "loaded beside requests" in loads_here(version, ScriptMaker(0), caplog)


def test_damaged_program_is_refused_as_it_is_here(version: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "model" / "1"
    damaged.parent.mkdir()
    subprocess.run(["cp", "-r", version, damaged], check=True)
    manifest = Manifest.load(damaged)
    assert manifest.program is not None
    file = damaged / manifest.program.path
    file.write_bytes(file.read_bytes()[:-100])
    torn = replace(manifest, program=FileEntry.of(damaged, manifest.program.path))
    with pytest.raises(CorruptData) as here:
        TorchProgram.load(damaged, torn, "cpu")
    with pytest.raises(CorruptData) as there:
        TorchProgram.load(damaged, torn, "cpu", maker=ScriptMaker(0))
    assert str(there.value) == str(here.value)


_HEAD = """
import sys, threading, time
from pathlib import Path
from ringpull.inference.model.manifest import Manifest
from ringpull.inference.model.script_maker import ScriptInput, ScriptMaker

maker, folder = ScriptMaker(0), Path(sys.argv[1])

def make():
    with maker.make(folder, Manifest.load(folder), short=False):
        pass

threading.Thread(target=make).start()
while maker._elsewhere._process is None:
    time.sleep(0.001)
print(maker._elsewhere._process.pid, flush=True)
threading.Event().wait()
"""


def test_process_ends_with_a_head_that_is_killed(version: Path) -> None:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen([sys.executable, "-c", _HEAD, version], stdout=subprocess.PIPE, env=env) as head:
        assert head.stdout is not None
        maker = psutil.Process(int(head.stdout.readline()))
        head.send_signal(signal.SIGKILL)
    gone, alive = psutil.wait_procs([maker], timeout=60)
    assert gone
    assert not alive


@pytest.mark.net
def test_only_a_head_that_serves_has_scripts_made_elsewhere(
    version: Path,
    nobody: ShardMap,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folders = [export_tiny(tmp_path), tmp_path / "model" / "1"]
    folders[1].parent.mkdir()
    subprocess.run(["cp", "-r", version, folders[1]], check=True)
    for folder in folders:
        replace(Manifest.load(folder), samples=None).save(folder)  # no shard would answer
    monkeypatch.setattr(head_module, "ScriptMaker", Counting)
    head = HeadProcess(head_module.HeadConfig(default_timeout_s=60))
    try:
        maker = head._head._scripts
        assert isinstance(maker, Counting)
        head.start(nobody, [folders[0]])
        assert not maker.made
        head.start(nobody, [folders[1]])
        assert maker.made == ["model/1"]
    finally:
        head.drain(timeout_s=0)
    assert not of_ringpull(caplog)
    assert repr(maker) == "<ScriptMaker <Elsewhere script stopped>>"
