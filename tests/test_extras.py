"""What works with the base install alone, and what the rest says: packages that only extras bring cannot be imported.

And what nobody should wait for: the commands that speak to a deployment load no torch, no Ray and no numba.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from ringpull.inference.export.supported import MIN_VERSIONS
from tests.deploy.folders import write_version

pytestmark = pytest.mark.medium

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
HEAVY = ("torch", "ray", "numba")

BARE = """
import sys

class OnlyTheBase:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {missing!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, OnlyTheBase())
"""


def _name(requirement: str) -> str:
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", requirement)[0]).lower()


def brought_by(requirements: list[str]) -> set[str]:
    """The distributions that these requirements install, with theirs; extras of theirs are not asked for."""
    found: set[str] = set()
    due = [_name(each) for each in requirements]
    while due:
        name = due.pop()
        if name in found:
            continue
        try:
            needs = metadata.requires(name) or []
        except metadata.PackageNotFoundError:  # of another platform or Python
            continue
        found.add(name)
        due += [_name(each) for each in needs if "extra ==" not in each]
    return found


def missing_modules() -> set[str]:
    """Top-level modules of this environment that the base install would not have."""
    base = brought_by(PROJECT["dependencies"]) | {"ringpull"}
    return {
        module
        for module, owners in metadata.packages_distributions().items()
        if module.isidentifier() and not {_name(owner) for owner in owners} & base
    }


def run(program: str, *arguments: str, bare: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a program in a process of its own, by default as if the base alone were installed."""
    before = BARE.format(missing=missing_modules()) if bare else "import sys\n"
    return subprocess.run(
        [sys.executable, "-c", before + program, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )


COMMAND = "from ringpull.__main__ import main; sys.argv[0] = 'ringpull'; main()"


def test_the_base_is_told_apart() -> None:
    missing = missing_modules()
    assert {*HEAVY, "starlette", "uvicorn", "prometheus_client", "pytest", "locust"} <= missing
    assert not {"numpy", "grpc", "google", "mmh3", "msgpack", "typer", "rich", "psutil", "fsspec", "xxhash"} & missing


def test_the_client_and_the_schema_need_the_base_alone() -> None:
    ran = run(
        "from ringpull import AsyncClient, Client, Dense, Hash, Prediction, Ragged, Schema, Sparse, Vocabulary\n"
        "schema = Schema([Sparse('user'), Sparse('tag', dtype='string', transforms=[Hash(10)]), Dense('price')])\n"
        "assert Schema.from_json(schema.to_json()).features\n"
        "Client('127.0.0.1:1').close()"
    )
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (
            "import ringpull; ringpull.export_model",
            "ringpull.export_model needs .*: pip install 'ringpull\\[export\\]'",
        ),
        (
            "import numpy; from ringpull import Hash; Hash(10).apply(numpy.arange(3))",
            "hashing ids needs numba: pip install 'ringpull\\[export\\]'",
        ),
    ],
)
def test_a_function_names_the_extra_that_it_lacks(program: str, message: str) -> None:
    ran = run(program)
    assert re.search(f"MissingExtra: {message}$", ran.stderr.strip()), ran.stderr


OLDER = """
from importlib import metadata
version = metadata.version
metadata.version = lambda name: {older!r}.get(name) or version(name)
"""


@pytest.mark.parametrize(
    ("older", "message"),
    [
        ({"torch": "2.5.1+cpu"}, "torch 2.5.1+cpu is too old for an export, which needs torch 2.6 or newer"),
        ({"numpy": "1.25.2"}, "numpy 1.25.2 is too old for an export, which needs numpy 1.26 or newer"),
    ],
    ids=["torch", "numpy"],
)
def test_an_export_names_the_package_that_is_too_old(older: dict[str, str], message: str) -> None:
    ran = run(OLDER.format(older=older) + "import ringpull; ringpull.export_model", bare=False)
    assert re.search(f"ExportError: {re.escape(message)}: pip install .*$", ran.stderr.strip()), ran.stderr


def test_what_is_as_old_as_may_be_or_newer_than_known_is_taken() -> None:
    for older in ({"torch": "2.6.0", "numpy": "1.26.0"}, {"torch": "2.15.0+cu132", "numpy": "3.0.0rc1"}):
        ran = run(OLDER.format(older=older) + "import ringpull.inference.export", bare=False)
        assert ran.returncode == 0, ran.stderr


def test_an_export_takes_the_versions_that_the_package_asks_for() -> None:
    """A trainer's environment has its own numpy and torch: no upper bound there, as the server has one of torch."""
    extras = PROJECT["optional-dependencies"]
    asked = {_name(each): each for each in [*PROJECT["dependencies"], *extras["export"]]}
    for package, least in MIN_VERSIONS.items():
        assert asked[package] == f"{package}>={'.'.join(map(str, least))}"
    assert any(re.fullmatch(r"torch>=2\.6,<2\.\d+", each) for each in extras["server"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("export", "examples.movielens.train:trained", "out"), "ringpull export needs .*ringpull\\[export\\]'"),
        (("inspect", "."), "ringpull inspect needs .*ringpull\\[export\\]'"),
        (("loadtest", "--rate", "5", "--target", "127.0.0.1:1"), "ringpull loadtest needs .*ringpull\\[loadtest\\]'"),
    ],
)
def test_a_command_names_the_extra_that_it_lacks(arguments: tuple[str, ...], message: str) -> None:
    ran = run(COMMAND, *arguments)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert re.fullmatch(f"error: {message}\n", ran.stderr), ran.stderr


def test_serve_names_its_extra_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RINGPULL_STATE_DIR", str(tmp_path / "state"))
    write_version(tmp_path / "ranker", 1)
    ran = run(COMMAND, "serve", str(tmp_path / "ranker"))
    assert (ran.returncode, ran.stdout) == (1, "")
    assert re.fullmatch(r"error: ringpull serve needs \w+: pip install 'ringpull\[server\]'\n", ran.stderr), ran.stderr
    assert not list((tmp_path / "state").rglob("*.json"))


def test_every_command_explains_itself_without_its_extra() -> None:
    ran = run(COMMAND, "--help")
    assert ran.returncode == 0, ran.stderr
    ran = run(COMMAND, "serve", "--help")
    assert ran.returncode == 0, ran.stderr


WATCHED = f"""
import atexit
atexit.register(lambda: print("loaded:", *(each for each in {HEAVY!r} if each in sys.modules), file=sys.stderr))
{COMMAND}
"""

NOBODY = ("--target", "127.0.0.1:1")


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("--version",),
        ("serve", "--help"),
        ("status", "--timeout", "0.2", *NOBODY),
        ("predict", "ranker", "--features", "a=1", "--timeout", "0.2", *NOBODY),
        ("load", "models/other", *NOBODY),
        ("unload", "other", *NOBODY),
        ("label", "ranker", "stable=3", *NOBODY),
        ("publish", "ranker/2", *NOBODY),
        ("rollback", "ranker", *NOBODY),
        ("rebalance", "--shards", "2", "--dry-run", *NOBODY),
        ("restart", "--rolling", *NOBODY),
        ("plan", "nothing", "--memory", "1GiB"),
        ("stop", *NOBODY),
    ],
    ids=lambda arguments: arguments[0],
)
def test_commands_that_need_no_heavy_package_load_none(arguments: tuple[str, ...]) -> None:
    """In an environment that has them; and in one that has not, they get as far."""
    told = [run(WATCHED, *arguments, bare=bare) for bare in (False, True)]
    for ran in told:
        assert ran.stderr.splitlines()[-1] == "loaded:", ran.stderr
        assert "Traceback" not in ran.stderr
        assert "needs" not in ran.stderr
    assert told[0].returncode == told[1].returncode
