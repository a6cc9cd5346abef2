"""A damaged, half-written or mismatched version never serves: bring-up ends with an error that names the file."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ringpull.inference.head.config import HeadConfig
from ringpull.inference.model.manifest import FileEntry, Manifest
from ringpull.ps.errors import CorruptData, InvalidInput, StartupError
from ringpull.ps.spec import Pooling
from tests.integration.local import local_cluster
from tests.integration.ranker import Ranker, random_columns

pytestmark = pytest.mark.net


@pytest.fixture
def version(exported: tuple[Ranker, Path], tmp_path: Path) -> Path:
    """A copy of the ranker's version, to damage."""
    return shutil.copytree(exported[1], tmp_path / "ranker" / "1")


def flip(file: Path, at: float = 0.5) -> None:
    """Flip one bit, at a fraction of the file."""
    content = bytearray(file.read_bytes())
    content[int(len(content) * at)] ^= 0x10
    file.write_bytes(content)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-5])


def table_file(version: Path, name: str) -> Path:
    return Manifest.load(version).table_folder(version, "user") / name


DAMAGE: dict[str, Callable[[Path], None]] = {
    "no manifest": lambda version: (version / "manifest.json").unlink(),
    "half a manifest": lambda version: truncate(version / "manifest.json"),
    "a flipped byte in the manifest": lambda version: flip(version / "manifest.json"),
    "a flipped byte in the schema": lambda version: flip(version / Manifest.load(version).schema.path),
    "a flipped byte in the dense program": lambda version: flip(version / Manifest.load(version).program.path),
    "a truncated dense program": lambda version: truncate(version / Manifest.load(version).program.path),
    "a flipped byte in a table's header": lambda version: flip(table_file(version, "header")),
    "a flipped byte in a table's index": lambda version: flip(table_file(version, "index")),
    "a flipped byte in a table's keys": lambda version: flip(table_file(version, "positions")),
    "truncated keys": lambda version: truncate(table_file(version, "positions")),
    "truncated rows": lambda version: truncate(table_file(version, "rows")),
    "a table's file gone": lambda version: table_file(version, "blocks").unlink(),
    "a table gone": lambda version: shutil.rmtree(table_file(version, "rows").parent),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_version_is_refused(version: Path, damage: str):
    DAMAGE[damage](version)
    with pytest.raises(CorruptData, match=str(version)), local_cluster([version]):
        pytest.fail("it serves")


@pytest.mark.medium
def test_flipped_byte_in_rows_is_found_by_verify_and_by_the_self_check_and_harms_nothing_else(version: Path):
    """A self-check meets all rows of a small table."""
    flip(table_file(version, "rows"))
    with pytest.raises(CorruptData, match="rows"), local_cluster([version], verify=True):
        pytest.fail("it serves")
    with (
        pytest.raises(CorruptData, match="table user is not the one that was exported: 1 of"),
        local_cluster([version]),
    ):
        pytest.fail("it serves")
    edited(version, samples=None)
    with local_cluster([version]) as cluster, cluster.client() as client:
        assert client.predict("ranker", random_columns(np.random.default_rng(0), 50)).version == 1


def edited(version: Path, **changes: object) -> None:
    replace(Manifest.load(version), **changes).save(version)


def test_program_whose_widths_disagree_with_its_tables_is_refused(version: Path):
    manifest = Manifest.load(version)
    # The town's table, of 4 numbers, for the item, of 8.
    lookups = [
        replace(lookup, table="town" if lookup.feature == "item" else lookup.table) for lookup in manifest.lookups
    ]
    edited(version, lookups=tuple(lookups))
    with pytest.raises(CorruptData, match=r"town.*4 numbers"), local_cluster([version]):
        pytest.fail("it serves")


def test_manifest_that_names_a_feature_the_schema_lacks_is_refused(version: Path):
    manifest = Manifest.load(version)
    first = replace(manifest.lookups[0], feature="nobody")
    edited(version, lookups=(first, *manifest.lookups[1:]))
    with pytest.raises(CorruptData, match="nobody"), local_cluster([version]):
        pytest.fail("it serves")


def test_unpooled_bag_is_refused(version: Path):
    manifest = Manifest.load(version)
    lookups = [
        replace(lookup, pooling=Pooling.NONE, padding_id=None) if lookup.feature == "genres" else lookup
        for lookup in manifest.lookups
    ]
    edited(version, lookups=tuple(lookups))
    with pytest.raises(CorruptData, match=r"genres.*pool"), local_cluster([version]):
        pytest.fail("it serves")


def test_schema_of_another_build_is_refused(version: Path):
    manifest = Manifest.load(version)
    file = version / manifest.schema.path
    document = json.loads(file.read_text())
    file.write_text(json.dumps({**document, "format": 99}))
    edited_manifest = replace(manifest, schema=FileEntry.of(version, manifest.schema.path))
    edited_manifest.save(version)
    with pytest.raises(CorruptData, match=manifest.schema.path), local_cluster([version]):
        pytest.fail("it serves")


@pytest.mark.parametrize("path", ["../../elsewhere", "/etc", "tables/../../../x"])
def test_manifest_whose_paths_leave_its_folder_is_refused(version: Path, path: str):
    manifest = Manifest.load(version)
    table = replace(manifest.tables[0], path=path)
    replace(manifest, tables=(table, *manifest.tables[1:])).save(version)
    with pytest.raises(CorruptData, match=r"inside|leads out"), local_cluster([version]):
        pytest.fail("it serves")


def test_link_out_of_the_folder_is_refused(version: Path, tmp_path: Path):
    folder = table_file(version, "rows").parent
    shutil.move(folder, tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CorruptData, match="leads out"), local_cluster([version]):
        pytest.fail("it serves")


def test_folder_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(InvalidInput, match="nothing/1"), local_cluster([tmp_path / "nothing" / "1"]):
        pytest.fail("it serves")


@pytest.mark.parametrize("which", ["grpc", "http"])
def test_port_in_use_is_a_startup_error_that_names_it(version: Path, which: str):
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as stranger:
        port = stranger.getsockname()[1]
        config = HeadConfig(**{f"{which}_port": port})
        with pytest.raises(StartupError, match=f"{which} port {port}"), local_cluster([version], config=config):
            pytest.fail("it serves")


def test_half_written_neighbour_does_not_matter(version: Path):
    shutil.copytree(version, version.parent / "2")
    (version.parent / "2" / "manifest.json").unlink()
    with local_cluster([version]) as cluster, cluster.client() as client:
        assert [model.version for model in client.models()] == [1]
