"""`ringpull export`: from a function of the user's to a version on disk."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from inspect import signature
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ringpull.deploy.cli import app
from ringpull.deploy.commands.export import NAMES, OF_DELTAS, arguments_of, load_function, returned_by, row_types_of
from ringpull.inference.export.delta.export import export_delta
from ringpull.inference.export.model import export_model
from ringpull.inference.export.tables_alone import export_tables
from ringpull.inference.model.manifest import Manifest
from ringpull.ps.errors import ExportError, InvalidInput
from ringpull.ps.spec import RowType
from ringpull.ps.store.base import Base
from tests.deploy.running import Run

SOURCE = """
import torch
from ringpull import Schema, Sparse

class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.item = torch.nn.Embedding(50, 4)
        self.out = torch.nn.Linear(4, 1)

    def forward(self, item_id):
        return self.out(self.item(item_id)).squeeze(1)

def trained():
    print("epoch 1")
    return Model(), Schema([Sparse("item_id")])

NUMBER = 7
"""


@pytest.fixture
def source_folder(tmp_path: Path) -> Path:
    (tmp_path / "my_model.py").write_text(SOURCE)
    return tmp_path


@pytest.mark.medium
def test_versions_count_up(source_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first export, by a process, is version 1, the next one, in this process, 2; both can be inspected."""
    root = Path(__file__).parents[2]
    arguments = ["export", "my_model:trained", "models/ranker", "--json"]
    ran = subprocess.run(
        [sys.executable, "-m", "ringpull", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=source_folder,
        env={"PATH": "", "HOME": str(source_folder), "PYTHONPATH": str(root)},
    )
    assert ran.returncode == 0, ran.stderr
    monkeypatch.chdir(source_folder)
    monkeypatch.setattr(sys, "path", [*sys.path])
    again = CliRunner().invoke(app, arguments)
    assert again.exit_code == 0, again.output
    sys.modules.pop("my_model")
    for number, done in enumerate((ran, again), 1):
        assert "epoch 1\n" in done.stderr
        assert json.loads(done.stdout) == {
            "model": "ranker",
            "version": number,
            "follows": None,
            "folder": f"models/ranker/{number}",
            "cost": None,
            "bfloat16": None,
        }
    assert (source_folder / "models" / "ranker" / "2" / "manifest.json").is_file()


@pytest.mark.medium
def test_an_export_that_is_ended_by_sigterm_leaves_nothing_behind_and_one_that_is_done_says_what_to_paste(
    source_folder: Path, monkeypatch: pytest.MonkeyPatch, ringpull: Run
) -> None:
    """SIGTERM is how whoever runs jobs ends them: a hidden folder of all tables would stay, of which nobody knows."""
    monkeypatch.chdir(source_folder)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "my_model", raising=False)  # of another test
    before = signal.signal(signal.SIGTERM, lambda *_: pytest.fail("the command does not look after SIGTERM"))
    with monkeypatch.context() as patched:
        patched.setattr(Manifest, "save", lambda manifest, folder: signal.raise_signal(signal.SIGTERM))
        try:
            ran = ringpull("export", "my_model:trained", "my models/ranker", "--json")
        finally:
            signal.signal(signal.SIGTERM, before)
    assert (ran.status, ran.err.splitlines()[-1]) == (128 + signal.SIGTERM, "interrupted by SIGTERM")
    assert not (source_folder / "my models").exists()
    ran = ringpull("export", "my_model:trained", "my models/ranker")
    assert ran.out.splitlines()[-1] == "exported my models/ranker/1; serve it with: ringpull serve 'my models/ranker'"
    sys.modules.pop("my_model")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("my_model", "write MODULE:FUNCTION"),
        (":trained", "write MODULE:FUNCTION"),
        ("no_such_module:trained", "module no_such_module cannot be found"),
        ("my_model:untrained", "my_model has no function untrained"),
        ("my_model:NUMBER", "my_model has no function NUMBER"),
    ],
)
def test_a_source_that_is_none(source_folder: Path, monkeypatch: pytest.MonkeyPatch, source: str, message: str) -> None:
    monkeypatch.chdir(source_folder)
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.raises(InvalidInput, match=message):
        load_function(source)


@pytest.mark.medium
def test_row_types_and_max_diff(
    source_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The cost is told; too high a one is refused, and nothing is written."""
    monkeypatch.chdir(source_folder)
    monkeypatch.setattr(sys, "path", [*sys.path])
    arguments = ["export", "my_model:trained", "models/short", "--row-type", "item=int8"]
    runner = CliRunner()
    done = runner.invoke(app, [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    cost = json.loads(done.stdout)["cost"]
    assert 0 < cost["mean_difference"] < cost["largest_difference"] < 0.1
    assert Base.open(source_folder / "models" / "short" / "1" / "tables" / "item").spec.row_type is RowType.INT8
    refused = runner.invoke(app, [*arguments, "--max-diff", "1e-9"])
    assert refused.exit_code != 0
    assert not (source_folder / "models" / "short" / "2").exists()
    sys.modules.pop("my_model")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--version", "1"), "exists; a version is never written over"),
        (("--version", "0"), "version is 0; it must be a whole number"),
        (("--follows", "9"), "follows is 9; it must be the number of a version before 2"),
        (("--follows", "2", "--version", "9"), "follows version 2: .* is no complete version"),
        (("--follows", "1", "--version", "1"), "exists; a version is never written over"),
        (("--follows", "1", "--includes", "bad"), "is not SHARD:STAMP"),
        (("--follows", "1", "--includes", ""), "is an empty stamp"),
        (("--includes", "0:1"), "--includes is for deltas: it goes with --follows N"),
        (("--row-type", "item"), "write TABLE=TYPE"),
        (("--max-diff", "-1"), "--max-diff is -1"),
        (("--max-diff", "nan"), "--max-diff is nan"),
    ],
)
def test_the_command_line_is_checked_before_the_function(
    source_folder: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], message: str
) -> None:
    """It may take hours to train; so may what is wrong with the version that is to be followed not wait for it."""
    monkeypatch.chdir(source_folder)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "my_model", raising=False)  # of another test
    export_tables({"item": ([1], [b"a"])}, source_folder / "models" / "m", 1, quiet=True)
    refused = CliRunner().invoke(app, ["export", "my_model:trained", "models/m", *options])
    assert isinstance(refused.exception, InvalidInput | ExportError)
    assert re.search(message, str(refused.exception))
    assert "my_model" not in sys.modules
    assert [path.name for path in (source_folder / "models" / "m").iterdir()] == ["1"]


@pytest.mark.parametrize(
    ("precision", "message"),
    [("float16", "it must be float32 or bfloat16"), ("bfloat16", "no product of float32 but the last of each output")],
)
def test_a_dense_precision_that_is_refused(
    source_folder: Path, monkeypatch: pytest.MonkeyPatch, precision: str, message: str
) -> None:
    monkeypatch.chdir(source_folder)
    monkeypatch.setattr(sys, "path", [*sys.path])
    arguments = ["export", "my_model:trained", "models/short", "--dense-precision", precision]
    monkeypatch.delitem(sys.modules, "my_model", raising=False)  # of another test
    refused = CliRunner().invoke(app, arguments)
    assert isinstance(refused.exception, InvalidInput | ExportError)
    assert message in str(refused.exception)
    assert not list(source_folder.glob("models/short/*"))
    # A name is looked at before the function, which may take hours to train.
    assert (sys.modules.pop("my_model", None) is None) == (precision == "float16")


@pytest.mark.parametrize(
    ("function", "last"),
    [
        ("def f():\n    return g(1)\n\ndef g(x):\n    return 1 / 0\n", "ZeroDivisionError: division by zero"),
        ("def f(:", "SyntaxError"),
    ],
)
def test_a_function_that_fails_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, last: str
) -> None:
    """It is told by its own traceback alone: the command's own frames tell a user nothing."""
    (tmp_path / "failing_model.py").write_text(function)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "failing_model", raising=False)
    with pytest.raises(InvalidInput, match=f"^failing_model:f fails by itself:\n\n(?s:.*){last}") as caught:
        returned_by("failing_model:f")
    assert set(re.findall(r'File "([^"]+)"', str(caught.value))) == {str(tmp_path / "failing_model.py")}


def test_row_types_as_written() -> None:
    assert row_types_of(["user=int8", "item=bfloat16"]) == {"user": "int8", "item": "bfloat16"}
    for wrong in ("int8", "=int8", "user=int4", "user="):
        with pytest.raises(InvalidInput, match=f"--row-type '{wrong}': write TABLE=TYPE"):
            row_types_of([wrong])


def test_the_three_forms_of_a_result() -> None:
    module, schema, keys = object(), object(), {"item": [1, 2]}
    assert arguments_of((module, schema)) == {"module": module, "schema": schema}
    assert arguments_of((module, schema, keys)) == {"module": module, "schema": schema, "keys": keys}
    named = {"module": module, "schema": schema, "check_rows": 0}
    assert arguments_of(named) == named


def test_a_mapping_may_have_all_that_an_export_takes() -> None:
    """An argument of `export_model` that the command line does not say is one that the function may return."""
    said = {"out_dir", "version", "quiet", "following"}
    assert set(NAMES) - set(OF_DELTAS) == set(signature(export_model).parameters) - said
    assert set(signature(export_delta).parameters) >= set(OF_DELTAS)


def test_a_mapping_with_a_name_that_is_none() -> None:
    with pytest.raises(InvalidInput, match="has modul and lacks module; it needs module and schema, and may have keys"):
        arguments_of({"modul": object(), "schema": object(), "once": []})


@pytest.mark.parametrize("result", [None, (1,), (1, 2, 3, 4), {"module": 1}, {"module": 1, "schema": 2, "colour": 3}])
def test_a_result_of_another_form(result: object) -> None:
    with pytest.raises(InvalidInput, match=r"the (mapping that the )?function returned"):
        arguments_of(result)
