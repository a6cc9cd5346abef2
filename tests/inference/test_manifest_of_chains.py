"""Manifests of versions that follow another one, or have a live table: read back, and refused by field where wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringpull.inference.model.manifest import Chain, Follows, Manifest, TableKind
from ringpull.ps.errors import CorruptData, InvalidInput, RingpullError
from tests.inference.test_manifest import JSON, named_by, places_in, put, rewrite, write_version

Body = dict[str, Any]

FOLLOWS = Follows(2, "00000000000000a7")
CHAIN = Chain(FOLLOWS, "00000000000000f1", {0: 7, 12: 2**64 - 1})


def write_delta(folder: Path, chain: Chain = CHAIN) -> Manifest:
    """Write a version with a delta of one table, while the other is as before."""
    plain = write_version(folder)
    (folder / "gone" / "user").mkdir(parents=True)
    user, tags = plain.tables
    tables = (
        replace(user, kind=TableKind.DELTA, gone="gone/user", live=True),
        replace(tags, kind=TableKind.SAME, path=None),
    )
    manifest = replace(plain, tables=tables, chain=chain)
    manifest.save(folder)
    return manifest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "movies" / "3"
    write_delta(folder)
    return folder


def test_what_is_saved_is_loaded(folder: Path) -> None:
    text = (folder / "manifest.json").read_text()
    assert '"format": 4' in text
    loaded = Manifest.load(folder)
    assert loaded.chain == CHAIN
    assert [each.kind for each in loaded.tables] == ["delta", "same"]
    loaded.save(folder)
    assert (folder / "manifest.json").read_text() == text
    with pytest.raises(InvalidInput, match=r"table tags is that of version 2 \(00000000000000a7\), which it follows"):
        loaded.table_folder(folder, "tags")


@pytest.mark.parametrize("chain", [replace(CHAIN, includes=None), replace(CHAIN, includes={})])
def test_no_stamps_are_not_an_empty_stamp(tmp_path: Path, chain: Chain) -> None:
    write_delta(tmp_path / "3", chain)
    assert Manifest.load(tmp_path / "3").chain == chain


def test_a_live_table_of_a_full_version(tmp_path: Path) -> None:
    plain = write_version(tmp_path / "3")
    live = replace(plain, tables=tuple(replace(each, live=each.spec.name == "user") for each in plain.tables))
    live.save(tmp_path / "3")
    assert Manifest.load(tmp_path / "3") == live


def test_an_ordinary_version_is_written_as_ever(tmp_path: Path) -> None:
    write_version(tmp_path / "3")
    document = json.loads((tmp_path / "3" / "manifest.json").read_text())
    assert document["format"] == 1
    assert not {"follows", "lineage", "includes", "chain"} & document["manifest"].keys()
    assert document["manifest"]["tables"][0].keys() == {"spec", "path", "rows", "bytes"}


def test_every_kind_of_version_has_deltas(folder: Path) -> None:
    """Kinds are tables alone, and onnxruntime's, too: told by the fields that the body has."""
    document = json.loads((folder / "manifest.json").read_text())["manifest"]
    alone = {"schema", "program", "lookups", "inputs", "outputs"}
    rewrite(folder, lambda body: [body.pop(name) for name in alone])
    assert Manifest.load(folder).tables_alone
    Manifest.load(folder).save(folder)
    assert Manifest.load(folder).tables_alone
    rewrite(folder, lambda body: body.update(document | {"runtime": "onnxruntime", "program_data": []}))
    again = Manifest.load(folder)
    assert (again.runtime, again.chain) == ("onnxruntime", CHAIN)
    again.save(folder)
    assert Manifest.load(folder) == again


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (put("follows", "version", 3), "manifest.follows.version: must be a whole number from 1 to 2, not 3"),
        (put("follows", "version", 0), "manifest.follows.version: must be a whole number from 1 to 2"),
        (put("follows", "identity", "7"), "manifest.follows.identity: is '7'; an identity is 16 hex digits"),
        (put("follows", None), "manifest.lineage: must be null: the version follows none"),
        (put("follows", []), "manifest.follows must be an object"),
        (put("lineage", None), "manifest.lineage: must be a string"),
        (put("lineage", "A" * 16), "manifest.lineage: is 'AAAAAAAAAAAAAAAA'; an identity"),
        (put("includes", []), "manifest.includes: must be an object"),
        (put("includes", {"-1": 0}), "manifest.includes.-1: is no shard"),
        (put("includes", {"65535": 0}), "manifest.includes.65535: is no shard"),
        (put("includes", {"0": 2**64}), "manifest.includes.0: must be a whole number from 0"),
        (put("tables", 0, "kind", "both"), r"manifest.tables\[0\].kind: must be one of"),
        (put("tables", 0, "kind", "full"), r"manifest.tables\[0\].gone: must be null for kind 'full'"),
        (put("tables", 1, "path", "tables/tags"), r"manifest.tables\[1\].path: must be null for kind 'same'"),
        (put("tables", 0, "path", None), r"manifest.tables\[0\].path: must be a string"),
        (put("tables", 0, "gone", "tables/user"), r"manifest.tables\[0\].gone: is 'tables/user', where the rows are"),
        (put("tables", 0, "gone", "../user"), "path '../user' must be relative"),
        (put("tables", 0, "gone", "gone/tags"), "the folder gone/tags of table user is missing"),
        (put("tables", 0, "live", 1), r"manifest.tables\[0\].live: must be true or false"),
        (lambda body: body.pop("includes"), "manifest lacks the field 'includes'"),
        (lambda body: body["tables"][1].pop("kind"), r"manifest.tables\[1\] lacks the field 'kind'"),
        (
            lambda body: body.update(follows=None, lineage=None, includes=None),
            r"manifest.tables\[0\].kind: is 'delta', and the version follows none",
        ),
    ],
)
def test_wrong_fields_are_named(folder: Path, change: Callable[[Body], object], match: str) -> None:
    rewrite(folder, change)
    with pytest.raises(CorruptData, match=match):
        Manifest.load(folder)


def test_a_format_is_not_raised_for_nothing(folder: Path) -> None:
    def change(body: Body) -> None:
        body.update(follows=None, lineage=None, includes=None)
        for table, path in zip(body["tables"], ("tables/user", "tables/tags"), strict=True):
            table.update(kind="full", gone=None, live=False, path=path)

    rewrite(folder, change)
    with pytest.raises(CorruptData, match="no table is live: this is of an earlier format"):
        Manifest.load(folder)


def test_the_first_version_follows_none(tmp_path: Path) -> None:
    write_delta(tmp_path / "3")
    rewrite(tmp_path / "3", put("version", 1))
    with pytest.raises(CorruptData, match="there is no version before 1"):
        Manifest.load(tmp_path / "3", check_name=False)


def test_the_bytes_of_format_4_stay(folder: Path) -> None:
    """Versions that were written are read for as long as there is the format, and are written so again."""
    golden = Path(__file__).parents[1] / "golden" / "format-4" / "manifest.json"
    assert (folder / "manifest.json").read_bytes() == golden.read_bytes()


@pytest.mark.medium
@settings(max_examples=150)
@given(data=st.data())
def test_any_value_in_any_place_is_a_manifest_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Its checksum is right: whoever wrote it meant it."""
    folder = tmp_path_factory.mktemp("versions") / "movies" / "3"
    write_delta(folder)

    def change(body: Body) -> None:
        *way, last = data.draw(st.sampled_from([place for place in places_in(body) if place]))
        holder: Any = body
        for step in way:
            holder = holder[step]
        holder[last] = data.draw(JSON)

    rewrite(folder, change)
    try:
        loaded = Manifest.load(folder)
    except RingpullError as exc:
        assert "manifest" in str(exc) or str(exc).startswith(tuple(named_by(folder)))  # noqa: PT017 - both are right
        return
    assert loaded.chain.follows is None or loaded.chain.follows.version < loaded.version
    for entry in loaded.tables:
        assert (entry.path is None) == (entry.kind is TableKind.SAME)
        gone = loaded.gone_folder(folder, entry.spec.name)
        assert gone is None or gone.is_relative_to(folder.resolve())
