"""What heads read of versions at URLs: copied once, checked, found again, and never a mixture."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import fsspec
import numpy as np
import pytest

from ringpull import export_tables
from ringpull.inference.head.watch import Watch
from ringpull.inference.model.manifest import FileEntry, Manifest
from ringpull.inference.model.mirror import Mirror, local_files
from ringpull.inference.model.model_dir import complete_versions, manifest_mark, parent_of
from ringpull.inference.model.version import LoadedVersion
from ringpull.ps.errors import CorruptData, InvalidInput, OtherContent, StartupError, Unavailable
from tests.inference.test_watch import FakeOperations
from tests.inference.tiny import export_tiny

URL = "memory://shelf/tiny"


class Storage:
    """memory://shelf, which says what was read of it, and may be out of reach."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.files = fsspec.filesystem("memory")
        self.read: list[str] = []
        self.away = False
        real = self.files.cat_file

        def cat_file(path: str, *args: object, **kwargs: object) -> bytes:
            if self.away:
                raise ConnectionError("the cable is out")
            self.read.append(path.rpartition("shelf/tiny/")[2])
            return bytes(real(path, *args, **kwargs))

        patch.setattr(self.files, "cat_file", cat_file)

    def put(self, folder: Path, version: int) -> str:
        for path in folder.rglob("*"):
            if path.is_file():
                self.files.pipe_file(f"/shelf/tiny/{version}/{path.relative_to(folder)}", path.read_bytes())
        return f"{URL}/{version}"

    def change(self, name: str, content: bytes) -> None:
        self.files.pipe_file(f"/shelf/tiny/{name}", content)


@pytest.fixture
def storage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Storage]:
    made = Storage(monkeypatch)
    yield made
    made.files.rm("/shelf", recursive=True)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_tiny(tmp_path_factory.mktemp("exported"))


def test_a_version_of_tables_alone_is_copied_like_any(storage: Storage, tmp_path: Path) -> None:
    tables = {"vectors": ([1, 2], np.ones((2, 3), np.float32)), "results": (["a"], [b"x" * 10_000])}
    folder = export_tables(tables, tmp_path / "tiny", 1, quiet=True).path
    copy = Mirror(tmp_path / "copies").local(storage.put(folder, 1))
    loaded = LoadedVersion.load(copy, source=f"{URL}/1")
    assert loaded.manifest == Manifest.load(folder)
    assert loaded.samples is not None
    assert not [name for name in storage.read if name.endswith(("rows", "positions", "starts", "index"))]


def test_a_copy_is_loaded_like_a_version_and_has_no_rows(storage: Storage, tiny: Path, tmp_path: Path) -> None:
    mirror = Mirror(tmp_path)
    copy = mirror.local(storage.put(tiny, 1))
    assert LoadedVersion.load(copy, device="cpu", source=f"{URL}/1").manifest == Manifest.load(tiny)
    assert not list(copy.rglob("rows"))
    assert not [name for name in storage.read if name.endswith(("rows", "positions", "index"))]
    assert mirror.local(str(tiny)) == tiny, "what lies here is used where it lies"


def test_it_is_copied_once(storage: Storage, tiny: Path, tmp_path: Path) -> None:
    url = storage.put(tiny, 1)
    first = Mirror(tmp_path).local(url)
    storage.read.clear()
    assert Mirror(tmp_path).local(url) == first
    assert storage.read == ["1/manifest.json"]
    (first / Manifest.load(tiny).program.path).write_bytes(b"damaged here")
    LoadedVersion.load(Mirror(tmp_path).local(url), device="cpu")


def test_out_of_reach_the_copy_serves(storage: Storage, tiny: Path, tmp_path: Path) -> None:
    url = storage.put(tiny, 1)
    storage.away = True
    with pytest.raises(Unavailable, match=r"memory://shelf/tiny/1/manifest.json: .*the cable is out"):
        Mirror(tmp_path).local(url)
    storage.away = False
    copy = Mirror(tmp_path).local(url)
    storage.away = True
    assert Mirror(tmp_path).local(url) == copy


def test_what_was_exchanged_is_copied_anew(storage: Storage, tiny: Path, tmp_path: Path) -> None:
    url = storage.put(tiny, 1)
    before = Manifest.load(Mirror(tmp_path / "cache").local(url))
    other = export_tiny(tmp_path / "other")
    # The same module exports to the same bytes, but for the time, in seconds.
    replace(Manifest.load(other), created="2026-01-01T00:00:00+00:00").save(other)
    storage.put(other, 1)
    after = Manifest.load(Mirror(tmp_path / "cache").local(url))
    assert after == Manifest.load(other)
    assert before != after


def test_damage_and_absence_are_named(storage: Storage, tiny: Path, tmp_path: Path) -> None:
    url, program = storage.put(tiny, 1), Manifest.load(tiny).program.path
    storage.change(f"1/{program}", b"x" * Manifest.load(tiny).program.bytes)
    with pytest.raises(CorruptData, match=f"{url}/{program}: the checksum of its content is"):
        Mirror(tmp_path).local(url)
    storage.files.rm_file(f"/shelf/tiny/1/{program}")
    with pytest.raises(CorruptData, match=f"{url}/{program}: missing"):
        Mirror(tmp_path).local(url)
    storage.change("1/manifest.json", b"{}")
    with pytest.raises(CorruptData, match=r"manifest\.json"):
        Mirror(tmp_path).local(url)
    with pytest.raises(InvalidInput, match="shelf/tiny/7 is no complete version"):
        Mirror(tmp_path).local(f"{URL}/7")
    assert list(tmp_path.rglob("*.json")) == [], "nothing half-made is left"
    (tmp_path / "file").write_text("")
    storage.put(tiny, 1)
    with pytest.raises(StartupError, match="cannot be written"):
        Mirror(tmp_path / "file").local(url)


def test_only_what_is_served_is_kept(storage: Storage, tiny: Path, tmp_path: Path) -> None:
    urls = [storage.put(tiny, 1), f"{URL}-b/1"]
    storage.files.put(str(tiny), "/shelf/tiny-b/1", recursive=True)
    mirror = Mirror(tmp_path)
    copies = [mirror.local(url) for url in urls]
    mirror.keep([urls[1], str(tiny)])
    assert [copy.exists() for copy in copies] == [False, True]


def test_a_temporary_copy_ends_with_its_context(storage: Storage, tiny: Path) -> None:
    with local_files(storage.put(tiny, 1)) as copy:
        assert Manifest.load(copy).model == "tiny"
    assert not copy.exists()


def test_versions_are_listed_highest_first_without_those_half_written(storage: Storage, tiny: Path) -> None:
    assert list(complete_versions(URL)) == []
    for version in (2, 10, 9):
        storage.put(tiny, version)
    storage.change("11/schema.json", b"{}")
    storage.change("latest/manifest.json", b"{}")
    assert list(complete_versions(URL)) == [10, 9, 2]
    mark = manifest_mark(f"{URL}/9")
    storage.change("9/manifest.json", b"{}")
    assert manifest_mark(f"{URL}/9") != mark


def test_a_version_that_appears_at_a_url_is_published(storage: Storage, tiny: Path) -> None:
    storage.put(tiny, 1)
    operations = FakeOperations()
    operations.highest_live = {"tiny": 1}
    watch = Watch(lambda: {"tiny": URL, "other": "memory://shelf/other"}, operations)
    watch.look()
    assert operations.published == []
    storage.put(tiny, 2)
    watch.look()
    assert operations.published == [("tiny", 2, URL)]


@pytest.mark.parametrize(
    ("version", "model"),
    [("s3://bucket/a/ranker/3", "s3://bucket/a/ranker"), ("/a/ranker/3", "/a/ranker"), ("3", ".")],
)
def test_a_versions_model(version: str, model: str) -> None:
    assert parent_of(version) == model


def test_a_copy_of_the_right_content_is_used_without_asking(storage: Storage, tiny: Path, tmp_path: Path) -> None:
    """A restarted head goes on with what it has, whatever is at the URL by now, and never exchanges it."""
    url, identity = storage.put(tiny, 1), Manifest.load(tiny).identity
    copy = Mirror(tmp_path).local(url, identity)
    content = (copy / "manifest.json").read_bytes()
    storage.change("1/manifest.json", content.replace(b'"created": "20', b'"created": "19'))
    storage.read.clear()
    assert Mirror(tmp_path).local(url, identity) == copy
    assert (storage.read, Manifest.load(copy).identity) == ([], identity)
    with pytest.raises(OtherContent, match=rf"{url} has other content now .*, the deployment serves {identity}"):
        Mirror(tmp_path / "empty").local(url, identity)
    assert not list((tmp_path / "empty").rglob("manifest.json"))


def test_a_copy_of_another_content_does_not_stand_in_for_a_url_out_of_reach(
    storage: Storage, tiny: Path, tmp_path: Path
) -> None:
    url = storage.put(tiny, 1)
    Mirror(tmp_path).local(url)
    storage.away = True
    assert Mirror(tmp_path).local(url, Manifest.load(tiny).identity)
    with pytest.raises(Unavailable):
        Mirror(tmp_path).local(url, "00000000000000b2")


def test_large_weights_of_a_program_are_copied_in_parts(
    storage: Storage, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ringpull.inference.model.mirror._PART_BYTES", 1000)
    folder, weights = tmp_path / "tiny" / "1", bytes(range(250)) * 13
    shutil.copytree(tiny, folder)
    (folder / "dense.onnx.data").write_bytes(weights)
    data = (FileEntry.of(folder, "dense.onnx.data"),)
    replace(Manifest.load(folder), runtime="onnxruntime", program_data=data).save(folder)
    url = storage.put(folder, 1)
    copy = Mirror(tmp_path / "copies").local(url)
    assert (copy / "dense.onnx.data").read_bytes() == weights
    for damaged in (weights[:-1] + b"x", weights[:-1], None):
        if damaged is None:
            storage.files.rm_file("/shelf/tiny/1/dense.onnx.data")
        else:
            storage.change("1/dense.onnx.data", damaged)
        with pytest.raises(CorruptData, match=r"tiny/1/dense\.onnx\.data"):
            Mirror(tmp_path / f"others-{damaged is None}").local(url)
