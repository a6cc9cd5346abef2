"""Dense programs that would run something when they are read: refused before torch sees them, by file and member."""

from __future__ import annotations

import ast
import io
import json
import pickle
import re
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ringpull.inference.model import pickles, program_check
from ringpull.inference.model.manifest import Manifest
from ringpull.inference.model.mirror import local_files
from ringpull.inference.model.pickles import check_bytes
from ringpull.inference.model.program_check import check_program
from ringpull.inference.model.program_graph import is_operator
from ringpull.inference.model.samples import Samples, TableSamples
from ringpull.inference.model.torch_program import read_program
from ringpull.inference.model.version import LoadedVersion
from ringpull.inference.model.version_files import FileEntry
from ringpull.inference.schema.features import Prepared, PreparedFeature
from ringpull.ps.errors import CorruptData
from tests.inference.hostile_archives import TWO_READERS, by_hand
from tests.inference.hostile_programs import (
    AMBIGUOUS,
    CONSTANTS,
    GRAPH,
    HOSTILE,
    ROOT,
    WEIGHTS,
    Opens,
    exported,
    members_of,
    packed,
)
from tests.inference.tiny import export_tiny
from tests.mangling import mangled

pytestmark = pytest.mark.medium  # a program is exported

REPOSITORY = Path(__file__).parents[2]
PRODUCT = ("ps", "router", "inference", "deploy", "loadtest", "ringpull")


@pytest.fixture(scope="module")
def good() -> bytes:
    return exported()


def read(folder: Path, content: bytes) -> torch.export.ExportedProgram:
    (folder / "dense.pt2").write_bytes(content)
    return read_program(folder, FileEntry.of(folder, "dense.pt2"))


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_would_run_when_it_is_read_is_refused(tmp_path: Path, good: bytes, kind: str) -> None:
    marker = tmp_path / "marker"
    hostile = HOSTILE[kind](members_of(good), marker)
    with pytest.raises(CorruptData, match=r"dense\.pt2") as refused:
        read(tmp_path, hostile).module()(torch.rand(3, 4), torch.rand(3, 2))
    assert not marker.exists()
    assert "not a program that torch" not in str(refused.value)  # torch has not seen it


@pytest.mark.parametrize("kind", {**AMBIGUOUS, **TWO_READERS})
def test_an_archive_that_readers_may_take_for_two_is_refused(tmp_path: Path, good: bytes, kind: str) -> None:
    marker = tmp_path / "marker"
    evil = HOSTILE["sample inputs"](members_of(good), marker)
    with pytest.raises(CorruptData, match=r"dense\.pt2") as refused:
        read(tmp_path, {**AMBIGUOUS, **TWO_READERS}[kind](good, evil))
    assert not marker.exists()
    if kind not in ("nothing", "cut short"):
        assert "not a program that torch" not in str(refused.value)


def test_the_error_names_the_member_and_the_reason(tmp_path: Path, good: bytes) -> None:
    hostile = HOSTILE["sample inputs"](members_of(good), tmp_path / "marker")
    with pytest.raises(CorruptData, match=r"dense\.pt2: data/sample_inputs/model\.pt: .*weights_only"):
        read(tmp_path, hostile)


def saved(value: object) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def test_programs_are_read_as_before(tmp_path: Path, good: bytes) -> None:
    """As torch wrote it, packed by something else, with a tensor more, and in the layouts of torch 2.8 and before."""
    inputs = torch.ones(3, 4), torch.ones(3, 2)
    program = read(tmp_path, good)
    expected = program.module()(*inputs)[0]
    weights, constants = saved(dict(program.state_dict)), saved(dict(program.constants))
    members = members_of(good)
    graph = json.loads(members[GRAPH])
    of_old = {
        "version": "{major}.{minor}".format(**graph["schema_version"]).encode(),
        "serialized_exported_program.json": members[GRAPH],
        "serialized_state_dict.pt": weights,
        "serialized_constants.pt": constants,
        "serialized_example_inputs.pt": saved((inputs, {})),
    }
    for content in (
        packed(members),
        by_hand(members),
        packed({**members, WEIGHTS + "weight_77": saved({"w": torch.rand(3), "n": [1, None, "x"]})}),
        packed({**members, WEIGHTS + "model.pt": weights, CONSTANTS + "model.pt": constants}),
        packed(of_old),
    ):
        assert torch.equal(read(tmp_path, content).module()(*inputs)[0], expected)


@pytest.mark.parametrize("version", sorted(REPOSITORY.glob("tests/golden/*/models/*/*/dense.pt2")), ids=str)
def test_programs_of_older_builds_are_taken(version: Path) -> None:
    check_program(version.read_bytes(), str(version))


def test_models_with_words_of_the_format_as_names_are_taken(tmp_path: Path) -> None:
    """Names of a model's own are keys in the graph, beside those of the format."""

    class Named(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.target = torch.nn.Parameter(torch.rand(2))
            self.towers = torch.nn.ModuleDict({"user id-1": torch.nn.Linear(2, 2), "as_int": torch.nn.Linear(2, 2)})

        def forward(self, name: torch.Tensor, as_int: torch.Tensor) -> torch.Tensor:
            rows = name.shape[0] * 2
            both = torch.cat([self.towers["user id-1"](name), self.towers["as_int"](as_int)]).reshape(rows, 2)
            return (both + self.target)[:rows:2].clamp(max=3.0)

    rows = torch.export.Dim("rows", min=2)
    given = (torch.rand(4, 2), torch.rand(4, 2))
    program = torch.export.export(Named(), given, dynamic_shapes=({0: rows}, {0: rows}))
    file = io.BytesIO()
    torch.export.save(program, file)
    assert read(tmp_path, file.getvalue()).module()(*given).shape == (4, 2)


@pytest.mark.parametrize("kind", ["sample inputs", "all weights, as torch 2.8 had them", "a guard that opens a file"])
def test_a_published_url_runs_nothing(tmp_path: Path, kind: str) -> None:
    """A version at a URL, as whoever may write there would make it: sizes and checksums fit."""
    version, marker = export_tiny(tmp_path), tmp_path / "marker"
    manifest = Manifest.load(version)
    program = members_of((version / "dense.pt2").read_bytes())
    root = next(iter(program)).partition("/")[0] + "/"
    renamed = {name.replace(root, ROOT, 1): content for name, content in program.items()}
    (version / "dense.pt2").write_bytes(HOSTILE[kind](renamed, marker))
    replace(manifest, program=FileEntry.of(version, "dense.pt2")).save(version)
    system = fsspec.filesystem("memory")
    system.put(f"{version}/", "/hostile/tiny/1/", recursive=True)
    try:
        with local_files("memory://hostile/tiny/1") as copy, pytest.raises(CorruptData, match=r"dense\.pt2: .*refused"):
            LoadedVersion.load(copy, device="cpu")
    finally:
        system.rm("/hostile", recursive=True)
    assert not marker.exists()


@given(content=st.data())
def test_mangled_programs_run_nothing(
    tmp_path_factory: pytest.TempPathFactory, good: bytes, content: st.DataObject
) -> None:
    """Accidents in a hostile archive make it no less refused, and none ends in another error."""
    marker = tmp_path_factory.getbasetemp() / "mangled-marker"
    kind = content.draw(
        st.sampled_from(["sample inputs", "a pickled weight", "weights before 2.8", "an opaque object"])
    )
    bytes_ = content.draw(mangled(HOSTILE[kind](members_of(good), marker)))
    with pytest.raises(CorruptData):
        check_program(bytes_, "dense.pt2")
    assert not marker.exists()


def test_numbers_are_no_pickles() -> None:
    """Bytes of a tensor may look like operations of a pickle: they are refused only if they import something."""
    random = np.random.default_rng(0)
    for _ in range(2000):
        check_bytes(memoryview(random.bytes(300)), "weight_0")
        check_bytes(memoryview(random.integers(0, 110, 40).tobytes()), "weight_0")
    check_bytes(memoryview(np.array([99, 10, 10, 46]).tobytes()), "weight_0")  # `c`, two ends of lines, `.`


def raw(dtype: str, value: int, count: int) -> bytes:
    return np.full(count, value, dtype).tobytes()


@pytest.mark.parametrize(
    "numbers",
    [
        *(raw("i1", value, 1_500_000) for value in (41, -120, ord("("), ord("]"), ord("0"), ord("2"), ord("N"))),
        raw("i1", 41, 1_500_000) + raw("i1", ord("c"), 9),
        np.tile(np.array([0x80, 2, ord("("), ord("c"), ord("N")], np.uint8), 300_000).tobytes(),
        b"\x80\x02K\x01.",  # a pickle from its header to its end, of an integer
        b"\x80\x04\x8f.",  # and one of a set, which the reader does not take, and which imports nothing
        np.zeros(1024, "i1").tobytes(),
        bytes(156) + bytes([0xFF] * 256) + bytes(100),  # a tar's header, by its checksum
    ],
    ids=lambda numbers: repr(numbers[:5]),
)
def test_numbers_are_numbers_however_they_look(good: bytes, numbers: bytes) -> None:
    """Numbers may go on at will: they are looked at for a while, and no more, and the pickle is not far."""
    check_program(packed({**members_of(good), WEIGHTS + "weight_7": numbers}), "dense.pt2")


def test_what_is_read_of_numbers_is_bounded_over_the_archive(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = raw("i1", ord("N"), pickles.MAX_OPERATIONS + 10) + b"c"
    budget = pickles.Budget()
    for _ in range(pickles.MAX_OPERATIONS_OF_ALL // pickles.MAX_OPERATIONS + 2):
        check_bytes(memoryview(numbers), "weight_0", budget)
    assert budget.operations == 0
    monkeypatch.setattr(pickles, "_Reading", None)
    check_bytes(memoryview(raw("i1", ord("N"), 99)), "weight_0")  # no operation there imports: none is read


def test_several_pickles_are_looked_through_one_by_one(tmp_path: Path) -> None:
    """One that the reader takes hides none behind it."""
    taken = pickle.dumps(OrderedDict(a=1), 2)
    check_bytes(memoryview(taken * 3), "x")
    with pytest.raises(CorruptData, match="weights_only"):
        check_bytes(memoryview(taken * 3 + pickle.dumps(1, 2) + pickle.dumps(Opens(tmp_path / "marker"), 4)), "x")
    check_bytes(memoryview(saved_of_old({"a": torch.rand(3)})), "x")
    with pytest.raises(CorruptData, match="weights_only"):
        check_bytes(memoryview(saved_of_old({"a": Opens(tmp_path / "marker")})), "x")
    assert not (tmp_path / "marker").exists()


def saved_of_old(value: object) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, _use_new_zipfile_serialization=False)
    return file.getvalue()


@pytest.mark.parametrize("config", [b"[]", b"1", b'"x"', b"null", b'{"config": []}', b"{}", b'{"config": {"a": 1}}'])
@pytest.mark.parametrize("file", [WEIGHTS + "model_weights_config.json", CONSTANTS + "model_constants_config.json"])
def test_names_of_weights_that_are_none(good: bytes, file: str, config: bytes) -> None:
    with pytest.raises(CorruptData, match=r"dense\.pt2: .*_config\.json"):
        check_program(packed({**members_of(good), file: config}), "dense.pt2")


def test_whatever_cannot_be_looked_through_is_corrupt(good: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise AttributeError("what nobody thought of")

    monkeypatch.setattr(program_check, "_check_payloads", fails)
    with pytest.raises(CorruptData, match=r"dense\.pt2: .*AttributeError: what nobody"):
        check_program(good, "dense.pt2")


@pytest.mark.parametrize("protocol", range(6))
def test_pickles_are_found_by_what_they_are(tmp_path: Path, protocol: int) -> None:
    content = pickle.dumps({"a": [Opens(tmp_path / "marker")]}, protocol)
    with pytest.raises(CorruptData, match="weights_only"):
        check_bytes(memoryview(content), "x")
    with pytest.raises(CorruptData, match="weights_only"):  # and behind harmless ones
        check_bytes(memoryview(pickle.dumps(1, 0) + pickle.dumps("text", 1) + content), "x")
    assert not (tmp_path / "marker").exists()


def test_operators_compute() -> None:
    assert all(
        map(
            is_operator,
            (
                "torch.ops.aten.add.Tensor",
                "_operator.getitem",
                "torch.sym_max",
                "math.ceil",
                "torch.ops.higher_order.cond",
            ),
        )
    )
    for target in (
        *("torch.os.system", "torch.ops.load_library", "torch.ops.aten.save.default", "torch.ops.aten.from_file.out"),
        *("_operator.attrgetter", "_operator.methodcaller", "torch.hub.load", "torch.ops.aten.add.Tensor.__call__"),
        *("torch.ops.higher_order.call_torchbind", "#custom:x", "os.system", "math.__loader__.load_module", "", None),
    ):
        assert not is_operator(target), target


def test_samples_do_not_grow_when_they_are_read() -> None:
    """`np.load` inflates whatever it is given; samples are stored as they are."""
    file = io.BytesIO()
    np.savez_compressed(file, rows=np.zeros(1 << 20))
    with pytest.raises(CorruptData, match="compressed"):
        Samples.from_bytes(file.getvalue(), "samples.npz")


@pytest.mark.parametrize(
    "names", [("User", "user"), ("../x", "a/b"), ("a:b", "a\\b"), ("é", " x", "x.npy", "a\nb"), ("output", "rows")]
)
def test_samples_have_the_names_of_the_model(names: tuple[str, ...]) -> None:
    """Names of features, outputs and tables are names in an archive, and no files: builds before took any."""
    table = TableSamples(np.ones(1, np.uint64), np.ones(1, np.uint64))
    samples = Samples(
        Prepared(
            2, {name: PreparedFeature(2, dense=np.zeros((2, 1), np.float32)) for name in names if name != "output"}
        ),
        {name: np.zeros(2, np.float32) for name in names},
        1e-4,
        dict.fromkeys(names, table),
    )
    read_again = Samples.from_bytes(samples.to_bytes(), "samples.npz")
    assert set(read_again.prepared.features) == set(names) - {"output"}
    assert set(read_again.outputs) == set(read_again.tables) == set(names)


def test_samples_have_no_array_twice() -> None:
    array = members_of(_npz())["rows.npy"]
    for twice in (by_hand({"rows.npy": array, "rows": array}), by_hand({"rows.npy": array}, {"comment": b"x"})):
        with pytest.raises(CorruptData, match=r"samples\.npz: .*member"):
            Samples.from_bytes(twice, "samples.npz")


def _npz() -> bytes:
    file = io.BytesIO()
    np.savez(file, rows=np.zeros(3))
    return file.getvalue()


def _calls(file: Path) -> list[tuple[str, ast.Call]]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return [(ast.unparse(node.func), node) for node in ast.walk(tree) if isinstance(node, ast.Call)]


PICKLING = ("pickle.", "cloudpickle.", "dill.", "joblib.", "marshal.", "shelve.")


def test_no_product_code_unpickles() -> None:
    """`torch.load` with `weights_only=True`, `np.load` with `allow_pickle=False`, and no reader of pickles."""
    for folder in PRODUCT:
        for file in (REPOSITORY / folder).rglob("*.py"):
            if file.is_symlink() or (REPOSITORY / folder).is_symlink():
                continue
            for name, call in _calls(file):
                told = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
                where = f"{file}:{call.lineno}: {name}"
                if file.name != "elsewhere.py":  # whose pickles go to a child of its own, and come back
                    assert not name.startswith(PICKLING), where
                assert "Unpickler" not in name, where
                assert name not in ("torch.jit.load", "torch.package.PackageImporter", "pandas.read_pickle"), where
                if name in ("torch.load", "torch.serialization.load"):
                    assert told.get("weights_only") == "True", where
                if name in ("np.load", "numpy.load"):
                    assert told.get("allow_pickle") == "False", where
                if name.endswith("export.load"):
                    assert file.name == "torch_program.py", (
                        f"{where}: programs are read by `read_program`, which checks them"
                    )
            assert not re.search(
                r"^\s*from (torch|numpy|pickle)[\w.]* import .*\bloads?\b", file.read_text("utf-8"), re.M
            )
