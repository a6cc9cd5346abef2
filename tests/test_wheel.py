"""What is installed: one package at the top of site-packages, whole without the repository, small without its extras.

Marked `wheel`: they build the package and ask the package index, by name, for what it needs.
"""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SUB_PACKAGES = ("ps", "router", "inference", "deploy", "loadtest")
PIP = ("-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-compile")

OLDEST = ("protobuf==6.31.1", "grpcio-health-checking<1.76", "grpcio-reflection<1.76")
"""The oldest protobuf, with what else of a head has messages: a protobuf reads those of its own and the last major."""
MESSAGES = ("test_codec.py", "test_column_codec.py", "test_request_json.py", "test_operations.py", "test_bad_input.py")
"""Tests of messages, by client, head and coordinator."""

HASHES = "import numpy; from ringpull.ps.hashing import positions_of; positions_of(numpy.arange(3, dtype=numpy.uint64))"
WHERE = """
import ringpull
from ringpull.deploy.cluster.ray_session import CODE_ROOT
print(ringpull.__file__)
print(CODE_ROOT)
"""


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """Run a command, which has to work; return what it says."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    ran = subprocess.run(
        [str(each) for each in command],
        cwd=cwd,
        env={**kept, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, made from the source distribution."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", folder, ROOT, cwd=folder)
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def unpacked(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder on the path, as site-packages would be."""
    folder = tmp_path_factory.mktemp("site-packages")
    with zipfile.ZipFile(wheel) as files:
        files.extractall(folder)
    return folder


@pytest.fixture(scope="module")
def bare(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an environment with the wheel, and with what it needs without extras."""
    folder = tmp_path_factory.mktemp("bare")
    run(sys.executable, "-m", "venv", folder, cwd=folder)
    run(folder / "bin/python", *PIP, wheel, cwd=folder)
    return folder / "bin"


@pytest.fixture
def users_folder(tmp_path: Path) -> Path:
    """A folder with programs of a user's own that are called as our sub-packages are."""
    for name in SUB_PACKAGES:
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('{name}.py is the user\\'s own')\n")
    return tmp_path


@pytest.mark.wheel
def test_one_name_is_at_the_top_and_folders_are_real(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as files:
        names = files.namelist()
        links = [each.filename for each in files.infolist() if (each.external_attr >> 16) & 0o170000 == 0o120000]
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"ringpull"}
    assert not links
    for part in (
        "py.typed",
        "ps/hashing.py",
        "inference/proto/ringpull.proto",
        "inference/proto/ringpull_pb2.pyi",
        "inference/proto/onnx.binpb",
        "inference/proto/open_inference.binpb",
        "inference/proto/tensorflow_serving.binpb",
    ):
        assert f"ringpull/{part}" in names
    assert {f"ringpull/deploy/cluster-{which}.yaml" for which in ("local", "aws")} <= {*names}
    page = ("page.html", "page.css", "page.js", "ring.js", "try.js")
    assert {f"ringpull/inference/head/frontends/page/{file}" for file in page} <= {*names}
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not [name for name in names if "/tests/" in name or name.startswith("ringpull/examples")]


@pytest.mark.wheel
def test_the_base_install_is_the_client(bare: Path, users_folder: Path) -> None:
    installed = run(bare / "python", "-m", "pip", "list", "--format=freeze", cwd=users_folder).lower()
    assert not [line for line in installed.splitlines() if line.startswith(("torch", "ray=", "numba", "nvidia"))]
    names = "from ringpull import AsyncClient, Client, Ragged, Schema, Sparse; Schema([Sparse('user')])"
    run(bare / "python", "-c", names, cwd=users_folder)
    assert run(bare / "ringpull", "--version", cwd=users_folder).startswith("ringpull ")
    for command in ("serve", "export", "loadtest", "rebalance"):
        assert f"ringpull {command}" in run(bare / "ringpull", command, "--help", cwd=users_folder, COLUMNS="200")
    assert "publish" in run(bare / "python", "-m", "ringpull", "--help", cwd=users_folder)


@pytest.mark.wheel
def test_the_code_is_where_it_is_installed_and_kernels_are_cached_there(unpacked: Path, users_folder: Path) -> None:
    where = run(sys.executable, "-c", WHERE, cwd=users_folder, PYTHONPATH=str(unpacked)).splitlines()
    assert where == [str(unpacked / "ringpull/__init__.py"), str(unpacked)]
    run(sys.executable, "-c", HASHES, cwd=users_folder, PYTHONPATH=str(unpacked))
    assert list((unpacked / "ringpull/ps/__pycache__").glob("hash_kernels.map_positions*.nbi"))


@pytest.mark.medium
@pytest.mark.parametrize("path", ["", str(ROOT)], ids=["editable", "checkout"])
def test_the_code_of_the_repository_is_there_whatever_the_path(path: str, users_folder: Path) -> None:
    where = run(sys.executable, "-c", WHERE, cwd=users_folder, PYTHONPATH=path).splitlines()
    assert where == [str(ROOT / "ringpull/__init__.py"), str(ROOT)]
    run(sys.executable, "-c", HASHES, cwd=users_folder, PYTHONPATH=path)
    assert list((ROOT / "ps/__pycache__").glob("hash_kernels.map_positions*.nbi"))


@pytest.mark.wheel
def test_messages_are_read_by_the_oldest_protobuf_too(tmp_path: Path) -> None:
    """The one here is newer; tritonclient asks for one below 7."""
    run(sys.executable, *PIP, "--target", tmp_path, "--no-deps", *OLDEST, cwd=tmp_path)
    version = "import google.protobuf; print(google.protobuf.__version__)"
    found = run(sys.executable, "-c", version, cwd=ROOT, PYTHONPATH=str(tmp_path)).strip()
    assert f"protobuf=={found}" == OLDEST[0]
    tests = [f"tests/inference/{name}" for name in MESSAGES]
    run(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests, cwd=ROOT, PYTHONPATH=str(tmp_path))
