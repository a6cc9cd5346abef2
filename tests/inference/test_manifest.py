"""The manifest: what is written is read back, and no damage passes unseen or as anything but a named error."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from ringpull.inference.model.manifest import (
    FileEntry,
    KeptBy,
    LookupSpec,
    Manifest,
    ProgramInput,
    ProgramOutput,
    TableEntry,
    versions,
)
from ringpull.inference.model.version_files import resolve
from ringpull.ps.errors import CorruptData, InvalidInput, RingpullError, Unavailable
from ringpull.ps.spec import Pooling, TableSpec
from ringpull.ps.store import file_errors

Body = dict[str, Any]


KEPT_BY = {"feature": "seen", "padding_id": 0, "unpadded": False}


def write_version(folder: Path, version: int = 3) -> Manifest:
    """Write a version whose files hold no model, only bytes."""
    (folder / "tables" / "user").mkdir(parents=True)
    (folder / "tables" / "tags").mkdir()
    (folder / "schema.json").write_bytes(b'{"a": 1}')
    (folder / "dense.pt2").write_bytes(b"program" * 100)
    manifest = Manifest(
        model="movies",
        version=version,
        created="2026-01-02T03:04:05+00:00",
        schema=FileEntry.of(folder, "schema.json"),
        program=FileEntry.of(folder, "dense.pt2"),
        tables=(
            TableEntry(spec=TableSpec(name="user", dim=2), path="tables/user", rows=10, bytes=1000),
            TableEntry(spec=TableSpec(name="tags", dim=3, replicas="all"), path="tables/tags", rows=0, bytes=7),
        ),
        lookups=(
            LookupSpec(table="user", feature="user", pooling=Pooling.NONE, add=-4, fill=(0.1, -2.5)),
            LookupSpec(table="tags", feature="tags", pooling=Pooling.SUM, padding_id=-(2**63), weighted=True),
        ),
        inputs=(
            ProgramInput(kind="lookup", lookup=1),
            ProgramInput(kind="lookup", lookup=0),
            ProgramInput(kind="argument", argument="age"),
        ),
        outputs=(
            ProgramOutput(name="click", shape=()),
            ProgramOutput(name="vector", shape=(4, 2)),
            ProgramOutput(name="genre", shape=(2,), classes=("drama", "other")),
        ),
    )
    manifest.save(folder)
    return manifest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "movies" / "3"
    write_version(folder)
    return folder


def rewrite(folder: Path, change: Callable[[Body], object]) -> None:
    """Change the manifest and make its checksum right again: what is left is wrong by itself."""
    file = folder / "manifest.json"
    document = json.loads(file.read_text())
    change(document["manifest"])
    canonical = json.dumps(document["manifest"], sort_keys=True, separators=(",", ":"))
    document["xxh3"] = xxhash.xxh3_64_hexdigest(canonical.encode())
    file.write_text(json.dumps(document))


def test_no_program_looks_up_rows_of_bytes(folder: Path) -> None:
    def change(body: Body) -> None:
        body["tables"][0]["spec"] |= {"dim": 0, "row_type": "bytes"}
        body["lookups"][0]["fill"] = None

    rewrite(folder, change)
    with pytest.raises(CorruptData, match=r"lookups\[0\]\.table: rows of 'user' are bytes, which no program takes"):
        Manifest.load(folder)


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    folder = tmp_path / "movies" / "3"
    manifest = write_version(folder)
    loaded = Manifest.load(folder)
    assert loaded == manifest
    assert loaded.table("tags").spec.replicas == "all"
    assert loaded.table_folder(folder, "user") == (folder / "tables" / "user").resolve()
    assert loaded.program.read(folder) == b"program" * 100
    assert sorted(path.name for path in folder.iterdir()) == ["dense.pt2", "manifest.json", "schema.json", "tables"]


def test_a_relative_folder_and_a_link_to_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    assert Manifest.load(Path("3")).version == 3
    (folder.parent / "live").symlink_to("3")
    assert Manifest.load(Path("live")).version == 3


def test_versions_are_complete_ones(tmp_path: Path) -> None:
    for version in (10, 9, 2):
        write_version(tmp_path / "movies" / str(version), version)
    (tmp_path / "movies" / "11" / "tables").mkdir(parents=True)
    for name in ("old", "-1", "0", "00", ".3.77"):
        (tmp_path / "movies" / name).mkdir()
        (tmp_path / "movies" / name / "manifest.json").write_text("{}")
    assert versions(tmp_path / "movies") == [2, 9, 10]
    assert versions(tmp_path / "nothing") == []


# -- damage
# --------------------------------------------------------------------------------------------------------------


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no such folder"):
        Manifest.load(tmp_path / "9")


def test_no_manifest_is_a_half_written_version(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    with pytest.raises(CorruptData, match=r"manifest\.json: missing; the version is half-written"):
        Manifest.load(folder)


def test_any_flipped_byte_of_the_manifest_is_seen(folder: Path) -> None:
    content = (folder / "manifest.json").read_bytes()
    whole = Manifest.load(folder)
    for place in range(0, len(content), 11):
        for bit in (0x01, 0x20):
            (folder / "manifest.json").write_bytes(
                content[:place] + bytes([content[place] ^ bit]) + content[place + 1 :]
            )
            try:
                assert Manifest.load(folder) == whole, place  # white space between fields may change
            except RingpullError as exc:
                assert "manifest" in str(exc)  # noqa: PT017 - both outcomes are right


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def places_in(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of every value in a JSON document."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, each in inner for place in places_in(each, (*path, key)))]


def named_by(folder: Path) -> Iterator[str]:
    """Yield the beginnings of errors about a path that the manifest in this folder gives."""
    body, root = json.loads((folder / "manifest.json").read_text())["manifest"], folder.resolve()
    for place in places_in(body):
        path = body
        for step in place:
            path = path[step]
        if place and place[-1] in ("path", "gone") and isinstance(path, str):
            yield f"{root / path}: "
            yield f"{root}: path {path!r} "


@pytest.mark.medium
@settings(max_examples=200)
@given(data=st.data())
def test_any_value_in_any_place_is_a_manifest_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Its checksum is right: whoever wrote it meant it."""
    folder = tmp_path_factory.mktemp("versions") / "movies" / "3"
    write_version(folder)

    def change(body: Body) -> None:
        *way, last = data.draw(st.sampled_from([place for place in places_in(body) if place]))
        holder: Any = body
        for step in way:
            holder = holder[step]
        if data.draw(st.booleans()):
            holder[last] = data.draw(JSON)
        else:
            del holder[last]

    rewrite(folder, change)
    try:
        loaded = Manifest.load(folder)
    except RingpullError as exc:
        assert "manifest" in str(exc) or str(exc).startswith(tuple(named_by(folder)))  # noqa: PT017 - both are right
    else:
        for table in loaded.tables:
            assert loaded.table_folder(folder, table.spec.name).is_relative_to(folder.resolve())


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_truncated_manifest(folder: Path, share: float) -> None:
    content = (folder / "manifest.json").read_bytes().rstrip()
    (folder / "manifest.json").write_bytes(content[: int(len(content) * share)])
    with pytest.raises(CorruptData, match="not valid JSON"):
        Manifest.load(folder)


@pytest.mark.medium
@given(
    st.binary(max_size=200)
    | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps).map(str.encode)
)
def test_anything_for_a_manifest(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.mktemp("version")
    (folder / "manifest.json").write_bytes(content)
    with pytest.raises(CorruptData):
        Manifest.load(folder)


def test_deep_nesting(folder: Path) -> None:
    (folder / "manifest.json").write_text("[" * 100_000)
    with pytest.raises(CorruptData, match="not valid JSON"):
        Manifest.load(folder)


def test_a_format_of_another_build(folder: Path) -> None:
    file = folder / "manifest.json"
    file.write_text(file.read_text().replace('"format": 1', '"format": 5'))
    with pytest.raises(
        CorruptData, match="format 5; this build reads 1, 2 of tables alone, 3 of what onnxruntime runs, and 4"
    ):
        Manifest.load(folder)


def written(folder: Path, number: int, body: dict[str, Any]) -> None:
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()
    document = {"format": number, "xxh3": xxhash.xxh3_64_hexdigest(canonical), "manifest": body}
    (folder / "manifest.json").write_text(json.dumps(document), encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, ""),
        ({"tables": []}, "manifest.tables: must be one or more"),
        ({"schema": None}, "unknown field 'schema'"),
        ({"samples": 1}, "manifest.samples"),
        ({"model": "a/b"}, "manifest.model"),
    ],
    ids=range(5),
)
def test_the_manifest_of_tables_alone_has_its_own_fields(folder: Path, change: dict[str, Any], message: str) -> None:
    body = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["manifest"]
    kept = {name: body[name] for name in ("model", "version", "created", "tables")} | {"samples": None}
    written(folder, 2, kept | change)
    if not message:
        manifest = Manifest.load(folder)
        assert manifest.tables_alone
        manifest.save(folder)
        assert Manifest.load(folder) == manifest
        return
    with pytest.raises(CorruptData, match=message):
        Manifest.load(folder)


def test_the_two_kinds_of_manifest_are_not_read_as_each_other(folder: Path) -> None:
    body = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["manifest"]
    written(folder, 2, body)
    with pytest.raises(CorruptData, match="unknown field"):
        Manifest.load(folder)
    written(folder, 1, {name: body[name] for name in ("model", "version", "created", "tables")})
    with pytest.raises(CorruptData, match="lacks the field"):
        Manifest.load(folder)


def test_an_edited_manifest(folder: Path) -> None:
    file = folder / "manifest.json"
    file.write_text(file.read_text().replace('"add": -4', '"add": -5'))
    with pytest.raises(CorruptData, match="damaged or edited"):
        Manifest.load(folder)


def test_a_manifest_too_large_to_be_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ringpull.inference.model.manifest.MAX_BYTES", 100)
    with pytest.raises(CorruptData, match="larger than 100 bytes"):
        Manifest.load(folder)


def test_a_version_in_the_folder_of_another(folder: Path) -> None:
    with pytest.raises(CorruptData, match="version is 3, but its folder is called 4"):
        Manifest.load(folder.rename(folder.parent / "4"))


def put(*path: Any) -> Callable[[Body], None]:
    """Return a change that sets the value, the last of `path`, at the place that the others lead to."""

    def change(body: Any) -> None:
        *steps, name, value = path
        for step in steps:
            body = body[step]
        body[name] = value

    return change


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda body: body.pop("lookups"), "manifest lacks the field 'lookups'"),
        (lambda body: body["tables"][1].pop("rows"), r"manifest\.tables\[1\] lacks the field 'rows'"),
        (put("more", 1), "manifest has an unknown field 'more'"),
        (put("model", "../up"), "manifest.model: .*not valid"),
        (put("model", 7), "manifest.model: must be a string"),
        (put("version", 0), "manifest.version: must be a whole number from 1"),
        (put("version", True), "manifest.version: must be a whole number"),
        (put("version", 3.0), "manifest.version: must be a whole number"),
        (put("created", ""), "manifest.created: must be a string that is not empty"),
        (put("schema", None), "manifest.schema must be an object, not null"),
        (put("schema", "bytes", -1), "manifest.schema.bytes: must be a whole number from 0"),
        (put("tables", {}), "manifest.tables: must be a list, not dict"),
        (put("tables", 0, "spec", "dim", 0), r"manifest\.tables\[0\]\.spec: .*dim is 0"),
        (put("tables", 0, "spec", "dim", "2"), r"manifest\.tables\[0\]\.spec: "),
        (put("tables", 0, "spec", "row_type", "int3"), r"manifest\.tables\[0\]\.spec: .*int3"),
        (put("tables", 1, "spec", "name", "user"), "two tables have one name"),
        (put("lookups", 0, "table", "item"), r"manifest\.lookups\[0\]\.table: there is no table 'item'"),
        (put("lookups", 0, "pooling", "median"), r"manifest\.lookups\[0\]\.pooling: must be one of .*not 'median'"),
        (put("lookups", 0, "pooling", []), r"manifest\.lookups\[0\]\.pooling: must be one of"),
        (put("lookups", 0, "add", 2**63), r"manifest\.lookups\[0\]\.add: must be a whole number"),
        (put("lookups", 0, "fill", [1.0]), r"manifest\.lookups\[0\]\.fill: has 1 numbers; dim of the table is 2"),
        (put("lookups", 0, "fill", [1.0, "x"]), r"manifest\.lookups\[0\]\.fill\[1\]: must be a number"),
        (put("lookups", 0, "fill", [1.0, 10**400]), r"manifest\.lookups\[0\]\.fill: must be numbers"),
        (put("lookups", 1, "fill", [0, 0, 0]), r"manifest\.lookups\[1\]\.fill: only unpooled"),
        (put("lookups", 0, "padding_id", 1), r"manifest\.lookups\[0\]\.padding_id: only bags"),
        (put("lookups", 0, "kept_by", KEPT_BY), r"manifest\.lookups\[0\]\.kept_by: only bags"),
        (put("lookups", 1, "kept_by", {**KEPT_BY, "feature": ""}), r"lookups\[1\]\.kept_by\.feature: must be a string"),
        (put("lookups", 1, "kept_by", {**KEPT_BY, "padding_id": None}), r"kept_by\.unpadded: must be true where"),
        (put("lookups", 1, "kept_by", {"feature": "seen"}), r"lookups\[1\]\.kept_by lacks"),
        (put("lookups", 1, "kept_by", "seen"), r"lookups\[1\]\.kept_by must be an object"),
        (put("lookups", 1, "weighted", 1), r"manifest\.lookups\[1\]\.weighted: must be true or false"),
        (put("lookups", 1, "pooling", "max"), r"manifest\.lookups\[1\]\.weighted: only a sum"),
        (put("inputs", 0, "kind", "row"), r"manifest\.inputs\[0\]\.kind: 'row' must be"),
        (put("inputs", 0, "lookup", 2), r"manifest\.inputs: must use each of the 2 lookups once; they use \[0, 2\]"),
        (put("inputs", 0, "lookup", 0), r"manifest\.inputs: must use each"),
        (put("inputs", 0, "lookup", None), r"manifest\.inputs\[0\]\.lookup: must be a whole number"),
        (put("inputs", 0, "argument", "x"), r"manifest\.inputs\[0\]\.argument: must be null"),
        (put("inputs", 2, "lookup", 1), r"manifest\.inputs\[2\]\.lookup: must be null"),
        (lambda body: body["inputs"].append(body["inputs"][2]), "manifest.inputs: an argument is there twice"),
        (put("outputs", []), "manifest.outputs: must be one or more"),
        (put("outputs", 1, "name", "click"), "manifest.outputs: must be one or more, of different names"),
        (put("outputs", 2, "classes", ["drama"]), r"manifest\.outputs\[2\]\.classes: names 1 classes; a row has"),
        (put("outputs", 2, "classes", ["drama", 7]), r"manifest\.outputs\[2\]\.classes\[1\]: must be a string"),
        (put("outputs", 0, "classes", ["a"]), r"manifest\.outputs\[0\]\.classes: names 1 classes"),
        (put("outputs", 1, "shape", [4, -2]), r"manifest\.outputs\[1\]\.shape\[1\]: must be a whole number"),
        (put("tables", 0, "path", "tables/other"), "the folder tables/other of table user is missing"),
    ],
)  # fmt: skip
def test_a_field_that_is_wrong_is_named(folder: Path, change: Callable[[Body], object], match: str) -> None:
    rewrite(folder, change)
    with pytest.raises(CorruptData, match=match):
        Manifest.load(folder)


# -- files
# ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["schema.json", "dense.pt2"])
def test_a_flipped_byte_of_a_file(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(CorruptData, match=f"{name}: the checksum of its content is .*; the manifest says"):
        Manifest.load(folder)


@pytest.mark.parametrize("name", ["schema.json", "dense.pt2"])
def test_a_truncated_or_missing_file(folder: Path, name: str) -> None:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:-1])
    with pytest.raises(CorruptData, match=f"{name}: {len(content) - 1} bytes; the manifest says {len(content)}"):
        Manifest.load(folder)
    (folder / name).unlink()
    with pytest.raises(CorruptData, match=f"{name}: cannot be read"):
        Manifest.load(folder)


@pytest.mark.parametrize("field", [("schema", "path"), ("program", "path"), ("tables", 0, "path")], ids=str)
@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../../other/1/x", "tables/../../x", "..", ".", "a\\..\\b", "nul\0byte", "link/x", "link"]
)
def test_no_path_leaves_the_folder(folder: Path, field: tuple[Any, ...], path: str) -> None:
    outside = folder.parent.parent / "outside"
    outside.mkdir()
    (outside / "x").write_bytes((folder / "schema.json").read_bytes())
    (folder / "link").symlink_to(outside)
    rewrite(folder, put(*field, path))
    with pytest.raises(CorruptData, match=r"must be relative and stay inside|leads out of the version's folder"):
        Manifest.load(folder)


def test_a_link_that_stays_inside_is_fine(folder: Path) -> None:
    (folder / "schema.json").rename(folder / "real.json")
    (folder / "schema.json").symlink_to("real.json")
    assert Manifest.load(folder).schema.path == "schema.json"


# -- what cannot be read now -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["%2e%2e/x", "a/..;b/x", "a/.. /x", "%252e./x", "a/..%2fx", "\uff0e\uff0e/x", "a\n/x"])
def test_no_path_leaves_the_folder_for_a_server(tmp_path: Path, path: str) -> None:
    """Files of a version at a URL are asked for by their path, which some servers decode."""
    with pytest.raises(CorruptData, match="could leave the version's folder, where it lies at a URL"):
        resolve(tmp_path, path)
    assert resolve(tmp_path, "a;b/50%/caf\u00e9 1.bin").name == "caf\u00e9 1.bin"


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EACCES, errno.EMFILE, errno.ETIMEDOUT])
@pytest.mark.parametrize("name", ["manifest.json", "schema.json", "dense.pt2", "user", "version"])
def test_trouble_with_reading_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, number: int
) -> None:
    """It passes, and a version that is published meanwhile is not given up."""
    folder = tmp_path / "version"
    write_version(folder)
    read, stat = file_errors.opened, Path.stat

    def failing_read(path: Path) -> BinaryIO:
        if path.name == name:
            raise OSError(number, os.strerror(number), str(path))
        return read(path)

    def failing_stat(path: Path, **how: Any) -> os.stat_result:
        if path.name == name and name in ("user", "version"):
            raise OSError(number, os.strerror(number), str(path))
        return stat(path, **how)

    monkeypatch.setattr(file_errors, "opened", failing_read)
    monkeypatch.setattr(Path, "stat", failing_stat)
    with pytest.raises(Unavailable, match=f"{name}: cannot be read: {os.strerror(number)}"):
        Manifest.load(folder)


def test_classes_are_in_the_file_only_where_there_are_any(folder: Path) -> None:
    """So that older builds read what has none, and this one what they wrote."""
    outputs = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["manifest"]["outputs"]
    assert [each.get("classes") for each in outputs] == [None, None, ["drama", "other"]]
    assert [each.classes for each in Manifest.load(folder).outputs] == [(), (), ("drama", "other")]


def test_what_keeps_places_is_in_the_file_only_where_there_is_any(folder: Path) -> None:
    manifest = Manifest.load(folder)
    assert "kept_by" not in (folder / "manifest.json").read_text()  # builds from before there was such a field read it
    kept = replace(manifest.lookups[1], kept_by=KeptBy(feature="seen", padding_id=-3, unpadded=True))
    replace(manifest, lookups=(manifest.lookups[0], kept)).save(folder)
    assert Manifest.load(folder).lookups == (manifest.lookups[0], kept)
    lookups = json.loads((folder / "manifest.json").read_text())["manifest"]["lookups"]
    assert [each.get("kept_by") for each in lookups] == [
        None, {"feature": "seen", "padding_id": -3, "unpadded": True},
    ]  # fmt: skip


def test_golden_manifest_of_tables_alone(tmp_path: Path) -> None:
    spec = TableSpec(name="t", dim=2)
    entry = TableEntry(spec=spec, path="tables/t", rows=3, bytes=40)
    Manifest(model="m", version=1, created="2026-01-01T00:00:00+00:00", tables=(entry,)).save(tmp_path)
    document = json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8"))
    assert document == {
        "format": 2,
        "xxh3": "363d457c7b0ab732",
        "manifest": {
            "model": "m",
            "version": 1,
            "created": "2026-01-01T00:00:00+00:00",
            "tables": [{"spec": spec.to_dict(), "path": "tables/t", "rows": 3, "bytes": 40}],
            "samples": None,
        },
    }
