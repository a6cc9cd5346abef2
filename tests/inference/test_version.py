"""Loading a version, and the catalog of what is served."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from ringpull.inference.head.catalog import Catalog, ServedVersion
from ringpull.inference.model.manifest import FileEntry, Manifest
from ringpull.inference.model.version import LoadedVersion
from ringpull.ps.errors import CorruptData, InvalidInput, NotFound, Unavailable
from tests.inference.fakes import EchoProgram, ReferenceRouter
from tests.inference.small_model import SCHEMA, make_manifest, make_tables
from tests.inference.tiny import SCHEMA as TINY_SCHEMA
from tests.inference.tiny import export_tiny

# -- loading -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return export_tiny(tmp_path)


def test_loaded_version_has_its_manifest_schema_and_tables(folder: Path):
    loaded = LoadedVersion.load(folder, device="cpu")
    assert loaded.name == "tiny/1"
    assert loaded.schema == TINY_SCHEMA
    assert {name: spec.dim for name, spec in loaded.specs().items()} == {"item": 4}
    assert loaded.program.device == "cpu"


def test_folder_without_a_version_is_refused(folder: Path):
    with pytest.raises(InvalidInput, match="no such folder"):
        LoadedVersion.load(folder.parent / "2")
    (folder / "manifest.json").unlink()
    with pytest.raises(CorruptData, match="half-written"):
        LoadedVersion.load(folder)


def test_schema_that_cannot_be_read_is_corrupt_data_naming_the_file(folder: Path):
    manifest = Manifest.load(folder)
    (folder / manifest.schema.path).write_text('{"format": 1}')
    replace(manifest, schema=FileEntry.of(folder, manifest.schema.path)).save(folder)
    with pytest.raises(CorruptData, match=manifest.schema.path):
        LoadedVersion.load(folder)


def test_a_version_that_is_let_go_of_goes_without_the_collector(folder: Path, executor: ThreadPoolExecutor):
    served = ServedVersion(LoadedVersion.load(folder, device="cpu"), ReferenceRouter({}), executor, max_batch_rows=64)
    gone = [weakref.ref(each) for each in (served, served.pipeline, served.loaded.program)]
    gc.disable()
    try:
        del served
        assert [each() for each in gone] == [None, None, None]
    finally:
        gc.enable()


# -- the catalog -------------------------------------------------------------------------------------------------------


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as executor:
        yield executor


def served(executor: ThreadPoolExecutor, model: str, version: int, program: EchoProgram | None = None) -> ServedVersion:
    manifest = replace(make_manifest(), model=model, version=version)
    loaded = LoadedVersion(Path(model) / str(version), manifest, SCHEMA, program or EchoProgram())
    return ServedVersion(loaded, ReferenceRouter(make_tables()), executor, max_batch_rows=8)


def test_catalog_finds_versions_and_the_newest_is_live(executor: ThreadPoolExecutor):
    catalog = Catalog([served(executor, model, version) for model, version in (("b", 2), ("a", 10), ("a", 9))])
    assert catalog.get("a").loaded.name == "a/10"
    assert catalog.get("a", 9).loaded.name == "a/9"
    assert [each.loaded.name for each in catalog.live()] == ["a/10", "b/2"]
    assert [each.loaded.name for each in catalog.served()] == ["a/9", "a/10", "b/2"]
    assert catalog.versions("a") == [9, 10]
    assert repr(catalog) == "Catalog(a/9, a/10, b/2)"


def test_what_is_not_served_is_not_found_and_the_message_says_what_is(executor: ThreadPoolExecutor):
    catalog = Catalog([served(executor, "a", 9), served(executor, "a", 10)])
    with pytest.raises(NotFound, match="model 'b' is not served here; these are: a"):
        catalog.get("b")
    with pytest.raises(NotFound, match="no version 8 here; it has: 9, 10"):
        catalog.get("a", 8)
    with pytest.raises(NotFound, match="none"):
        Catalog([]).get("a")


def test_a_label_names_a_version_until_it_is_taken_away(executor: ThreadPoolExecutor):
    catalog = Catalog([served(executor, "a", 9), served(executor, "a", 10), served(executor, "b", 1)])
    names = [("a", 9), ("a", 10), ("b", 1)]
    live = {"a": 10, "b": 1}
    assert catalog.labels("a") == {}
    with pytest.raises(NotFound, match="model a has no label 'stable' here; its labels: none"):
        catalog.get("a", label="stable")
    catalog.show(live, names, labels={"a": {"stable": 9, "canary": 10}})
    assert catalog.get("a", label="stable").loaded.name == "a/9"
    assert catalog.get("a").loaded.name == "a/10"
    assert catalog.labels("a") == {"stable": 9, "canary": 10}
    with pytest.raises(NotFound, match="model a has no label 'other' here; its labels: canary, stable"):
        catalog.get("a", label="other")
    with pytest.raises(NotFound, match="model b has no label 'stable' here"):
        catalog.get("b", label="stable")
    with pytest.raises(NotFound, match="model 'c' is not served here"):
        catalog.get("c", label="stable")
    with pytest.raises(InvalidInput, match="version is 9 and label is 'stable'; ask for one of both"):
        catalog.get("a", 9, label="stable")
    with pytest.raises(InvalidInput, match="label stable names a/8, which is not among those to be served"):
        catalog.show(live, names, labels={"a": {"stable": 8}})
    assert catalog.get("a", label="stable").loaded.name == "a/9", "nothing has changed"
    catalog.show(live, names)
    assert catalog.labels("a") == {}


def test_a_label_of_a_version_that_could_not_be_loaded_is_unavailable(executor: ThreadPoolExecutor):
    catalog = Catalog([served(executor, "a", 10)])
    names = [("a", 9), ("a", 10)]
    catalog.show({"a": 10}, names, {("a", 9): "its manifest is damaged"}, {"a": {"stable": 9}})
    with pytest.raises(Unavailable, match="a/9 is not served by this head: its manifest is damaged"):
        catalog.get("a", label="stable")


def test_version_given_twice_is_refused(executor: ThreadPoolExecutor):
    with pytest.raises(InvalidInput, match="a/9 is given twice"):
        Catalog([served(executor, "a", 9), served(executor, "a", 9)])


def test_served_version_is_rehearsed_before_it_serves(executor: ThreadPoolExecutor):
    program = EchoProgram()
    served(executor, "a", 1, program)
    assert len(program.runs) == 1
