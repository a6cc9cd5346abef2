"""A head and the content of versions: another one than was placed is not loaded, and no other version suffers."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from ringpull.inference.client.client import Client
from ringpull.inference.head.process import HeadProcess
from ringpull.inference.model.manifest import Manifest
from ringpull.inference.model.version import LoadedVersion
from ringpull.ps.errors import InvalidInput, NotFound, OtherContent, Unavailable
from ringpull.ps.refusals import NotOpened
from ringpull.router.control.deployment_spec import PlacedVersion
from ringpull.router.shard_map import ShardMap
from tests.inference.tiny import export_tiny

pytestmark = [pytest.mark.net, pytest.mark.medium]

COLUMNS = {"item": [1], "price": [2.0]}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two versions; nothing to check them by, as no shard answers."""
    models = tmp_path_factory.mktemp("models")
    for number in (1, 2):
        folder = export_tiny(models, number)
        replace(Manifest.load(folder), samples=None).save(folder)
    return models / "tiny"


@pytest.fixture
def folder(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "tiny"))


def placed(folder: Path, number: int) -> PlacedVersion:
    where = folder / str(number)
    return PlacedVersion("tiny", number, str(where), {}, Manifest.load(where).identity)


def export_anew(folder: Path, number: int) -> None:
    """Put another content under the number: a version made at another time is one."""
    where = folder / str(number)
    replace(Manifest.load(where), created="2030-01-01T00:00:00+00:00").save(where)


def test_another_content_is_not_loaded(folder: Path) -> None:
    wanted = placed(folder, 1)
    assert LoadedVersion.load(folder / "1", device="cpu", identity=wanted.identity).manifest.version == 1
    export_anew(folder, 1)
    with pytest.raises(OtherContent, match=rf"tiny/1 in .*{wanted.identity}.; export under a new number"):
        LoadedVersion.load(folder / "1", device="cpu", identity=wanted.identity)


def test_a_head_serves_what_it_could_load_and_says_what_it_could_not(
    head: HeadProcess, nobody: ShardMap, folder: Path
) -> None:
    """Old tables never meet another dense program; requests for it go to other heads, which UNAVAILABLE says."""
    wanted = [placed(folder, 1), placed(folder, 2)]
    shutil.copytree(folder / "2", folder / "right")
    export_anew(folder, 2)
    with pytest.raises(NotOpened, match=r"tiny/2 in .* has other content now"):
        head.load(wanted, nobody)
    names = [("tiny", 1), ("tiny", 2)]
    address = head.route(nobody, {"tiny": 2}, names)
    [warning] = head.heartbeat(10.0).warnings
    assert warning.startswith("tiny/2 is not served: ")
    assert "export under a new number" in warning
    with Client(f"{address.host}:{address.grpc_port}", timeout_s=60, retries=0) as client:
        for version in (None, 2):
            with pytest.raises(Unavailable, match=r"tiny/2 is not served by this head: .*other content now"):
                client.predict("tiny", COLUMNS, version=version)
        with pytest.raises(Unavailable, match="no live shard could answer"):
            client.predict("tiny", COLUMNS, version=1)
        with pytest.raises(NotFound):
            client.predict("tiny", COLUMNS, version=3)
        shutil.rmtree(folder / "2")
        (folder / "right").rename(folder / "2")
        head.load(wanted[1:], nobody)
        head.route(nobody, {"tiny": 2}, names)
        assert head.heartbeat(10.0).warnings == ()
        with pytest.raises(Unavailable, match="no live shard could answer"):
            client.predict("tiny", COLUMNS)


def test_what_is_loaded_needs_no_file(head: HeadProcess, nobody: ShardMap, folder: Path) -> None:
    wanted = [placed(folder, 1), placed(folder, 2)]
    head.load(wanted[:1], nobody)
    shutil.rmtree(folder / "1")
    head.load(wanted, nobody)
    export_anew(folder, 2)
    head.load(wanted, nobody)
    with pytest.raises(InvalidInput, match="no such folder"):
        head.load([replace(wanted[0], version=3)], nobody)


def test_a_content_that_was_let_go_makes_room_for_the_next_of_its_number(
    head: HeadProcess, nobody: ShardMap, folder: Path
) -> None:
    """The head was out of reach when the number was let go: it has the old content, and shows it, until it is told."""
    old = [placed(folder, 1), placed(folder, 2)]
    head.load(old, nobody)
    head.route(nobody, {"tiny": 1}, [("tiny", 1), ("tiny", 2)])
    export_anew(folder, 1)
    new = placed(folder, 1)
    assert new.identity != old[0].identity
    head.load([new, old[1]], nobody)
    head.route(replace(nobody, epoch=5), {"tiny": 1}, [("tiny", 1), ("tiny", 2)])
    with pytest.raises(OtherContent):
        head.load([old[0]], nobody)
