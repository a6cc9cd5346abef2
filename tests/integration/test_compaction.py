"""Compaction over TCP, against a dict: rows are the same before and after it, whatever is pushed meanwhile."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ringpull import TableOptions, export_tables
from ringpull.deploy import command_credentials
from ringpull.deploy.compaction import CompactOptions, compacted, live_version
from ringpull.inference.client.credentials import Credentials
from ringpull.inference.export.compaction import scratch
from ringpull.inference.export.compaction.compact import Compacted
from ringpull.inference.export.delta.versions import delta_of
from ringpull.inference.model.manifest import Manifest
from ringpull.ps.errors import InvalidInput, NotFound, Unavailable, UnmetCondition
from ringpull.ps.spec import RowType, TableSpec
from ringpull.ps.store.row_codec import decode, encode
from ringpull.router import newest
from ringpull.router.control.chains import chain_length
from ringpull.router.control.operations import GetStatus, Publish
from tests.certificates import Certificates
from tests.deploy.folders import flip_byte
from tests.integration.deployed import Deployed
from tests.ps.live.pushing import until

pytestmark = [pytest.mark.net]

DIM = 3
KEYS = list(range(300))
NEW = list(range(1000, 1040))
ALL = [*KEYS, *NEW]

Rows = dict[int, Any]


def tables(seed: int) -> dict[str, Rows]:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(len(KEYS), DIM)).astype(np.float32)
    return {
        "user": dict(zip(KEYS, vectors, strict=True)),
        "small": dict(zip(KEYS, 2 * vectors, strict=True)),
        "texts": {key: rng.bytes(key % 40) for key in KEYS},
        "fixed": dict(zip(KEYS, 3 * vectors, strict=True)),
        "emptied": {4: vectors[0]},
    }


def export(models: Path, version: int, content: dict[str, Rows]) -> Path:
    given: dict[str, Any] = {
        name: (
            np.array(list(rows), np.int64),
            list(rows.values()) if name == "texts" else np.array(list(rows.values()), np.float32).reshape(-1, DIM),
        )
        for name, rows in content.items()
    }
    options = {name: TableOptions(live=True) for name in ("user", "texts", "emptied")}
    options["small"] = TableOptions(live=True, row_type="int8")
    return export_tables(given, models / "feed", version, options=options, quiet=True).path


def stored(table: str, row: Any) -> bytes:
    """What a table gives for a row: one of int8 is rounded."""
    if isinstance(row, bytes):
        return row
    if table == "small":
        spec = TableSpec(name=table, dim=DIM, row_type=RowType.INT8)
        row = decode(encode(np.asarray(row, np.float32).reshape(1, DIM), spec), spec)[0]
    return np.asarray(row, np.float32).tobytes()


def check(deployed: Deployed, content: dict[str, Rows], version: int | None = None, **how: bool) -> None:
    for table, rows in content.items():
        answers, found = deployed.rows(table, ALL, version, **how)
        assert found.tolist() == [key in rows for key in ALL], table
        for key, answer in zip(ALL, answers, strict=True):
            if key in rows:
                assert answer == stored(table, rows[key]), (table, key)


class Pushing:
    """Pushes random rows and removals, and remembers them."""

    def __init__(self, deployed: Deployed, content: dict[str, Rows]) -> None:
        self.deployed, self.content, self.rng = deployed, content, np.random.default_rng(7)

    def some(self, count: int = 20) -> None:
        for table in ("user", "small", "texts", "emptied"):
            keys = np.unique(self.rng.choice(ALL, count)).tolist()
            if table == "texts":
                rows: Any = [self.rng.bytes(int(size)) for size in self.rng.integers(1, 50, len(keys))]
            else:
                rows = self.rng.normal(size=(len(keys), DIM)).astype(np.float32)
            self.deployed.push(table, keys, rows)
            self.content[table].update(zip(keys, rows, strict=True))
            gone = np.unique(self.rng.choice(ALL, 3)).tolist()
            self.deployed.push(table, gone, None)
            for key in gone:
                self.content[table].pop(key, None)


def copied(content: dict[str, Rows]) -> dict[str, Rows]:
    return {table: dict(rows) for table, rows in content.items()}


def run(deployed: Deployed, progress: Callable[..., None] = lambda *_: None, **options: Any) -> Compacted:
    written = compacted(deployed, CompactOptions(model="feed", **options), progress=progress)
    assert written is not None
    return written


@pytest.fixture
def models(tmp_path: Path) -> Path:
    export(tmp_path / "models", 1, tables(1))
    return tmp_path / "models" / "feed"


@pytest.fixture
def deployed(models: Path, tmp_path: Path) -> Iterator[Deployed]:
    with Deployed(models, tmp_path / "data") as running:
        yield running


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have rows streamed a few at a time."""
    monkeypatch.setattr(newest, "RETRY_S", 0.01)
    made = newest.NewestRows.__init__
    monkeypatch.setattr(newest.NewestRows, "__init__", lambda *a, **k: made(*a, **k, block_bytes=600))


def with_delta(models: Path, content: dict[str, Rows], tmp_path: Path, version: int = 2) -> None:
    """Write what changed as a delta."""
    content["user"][0] = np.full(DIM, 9, np.float32)
    content["user"][1001] = np.full(DIM, 8, np.float32)
    del content["user"][7]
    content["texts"][5] = b"changed"
    whole = export(tmp_path / f"whole{version}", version, content)
    delta_of(models / str(version - 1), whole, models / str(version))


@pytest.mark.medium
def test_rows_are_the_oracles_before_while_and_after_a_compacted_version_goes_live(
    deployed: Deployed, models: Path, tmp_path: Path, small_blocks: None
) -> None:
    content = tables(1)
    pushing = Pushing(deployed, content)
    pushing.some()
    with_delta(models, content, tmp_path)
    deployed.publish(Publish(model="feed", version=2))
    pushing.some()
    check(deployed, content)

    before = copied(content)
    blocks = 0

    def push_meanwhile(table: str, rows: int, size: int) -> None:
        nonlocal blocks
        blocks += 1
        if blocks % 10 == 1:
            pushing.some(2)

    written = run(deployed, push_meanwhile)
    assert blocks > 20
    check(deployed, content)
    manifest = written.manifest
    assert manifest.version == 3
    assert manifest.chain.follows is not None
    assert (manifest.chain.follows.version, manifest.chain.lineage) == (2, Manifest.load(models / "1").identity)
    assert set(manifest.chain.includes or {}) == {0, 1}
    assert [entry.kind.value for entry in manifest.tables] == ["full"] * 5
    assert {entry.spec.name for entry in manifest.tables if entry.live} == {"user", "small", "texts", "emptied"}
    assert set(written.streamed) == {"user", "small", "texts", "emptied"}
    kept, linked = (folder / "tables" / "fixed" for folder in (models / "1", written.path))
    assert all(file.samefile(kept / file.name) for file in linked.iterdir())

    deployed.publish(Publish(model="feed", version=3))
    check(deployed, content)
    pushing.some()
    check(deployed, content)
    check(deployed, content, 2)  # kept for a rollback: later pushes are in it, too
    for shard in (0, 1):
        deployed.restart(shard)
        check(deployed, content)
        check(deployed, content, 2)
    assert deployed.newer_rows > len(before["user"]) // 10

    since = copied(content)
    whole = export(tmp_path / "whole4", 4, content)
    delta_of(models / "3", whole, models / "4")
    rows_before = deployed.newer_rows
    deployed.publish(Publish(model="feed", version=4))  # which closes version 2: all that is open has them
    until(lambda: deployed.newer_rows < rows_before)
    for shard in (0, 1):
        deployed.restart(shard)
        check(deployed, since)
        check(deployed, content, 3)
    pushing.some()
    check(deployed, content)


@pytest.mark.medium
def test_pushes_that_the_compacted_version_has_go_and_their_files_with_them(deployed: Deployed, tmp_path: Path) -> None:
    content = tables(1)
    pushing = Pushing(deployed, content)
    pushing.some(100)
    deployed.push("emptied", ALL, None)
    content["emptied"].clear()
    deployed.keep = 0
    deployed.publish(Publish(model="feed", version=run(deployed).manifest.version))
    check(deployed, content)
    check(deployed, content, as_exported=True)
    until(lambda: deployed.newer_rows == 0)
    check(deployed, content)
    pushing.some(5)
    newer = deployed.newer_rows
    assert 0 < newer < 60
    for shard in (0, 1):
        deployed.restart(shard)
    check(deployed, content)
    until(lambda: deployed.newer_rows == newer)
    second = run(deployed)
    deployed.publish(Publish(model="feed", version=second.manifest.version))
    until(lambda: deployed.newer_rows == 0)
    check(deployed, content, as_exported=True)


@pytest.mark.medium
def test_a_shard_that_is_restarted_meanwhile_is_asked_on(
    deployed: Deployed, small_blocks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = tables(1)
    pushing = Pushing(deployed, content)
    pushing.some()
    blocks = 0

    def restart_meanwhile(table: str, rows: int, size: int) -> None:
        nonlocal blocks
        blocks += 1
        if blocks in (3, 25):
            deployed.restart(0 if blocks == 3 else 1)

    written = run(deployed, restart_meanwhile)
    deployed.publish(Publish(model="feed", version=written.manifest.version))
    check(deployed, content, as_exported=True)


def test_a_chain_whose_base_is_gone_is_written_anew(deployed: Deployed, models: Path, tmp_path: Path) -> None:
    """Shards have its rows open; what it has besides lies in the version's own folder."""
    content = tables(1)
    pushing = Pushing(deployed, content)
    with_delta(models, content, tmp_path)
    deployed.publish(Publish(model="feed", version=2))
    pushing.some()
    (models / "1").rename(tmp_path / "away")
    run(deployed)
    (models / "2").rename(tmp_path / "away too")
    deployed.publish(Publish(model="feed", version=3))
    check(deployed, content)


def test_a_chain_of_programs_alone_is_compacted(tmp_path: Path) -> None:
    """No table has changed, so all are linked; what is gone is the chain, which may not grow for ever."""
    models = tmp_path / "models" / "feed"
    export_tables({"user": (np.arange(20), np.ones((20, DIM), np.float32))}, models, 1, quiet=True)
    with Deployed(models, tmp_path / "data", 1) as deployed:
        assert compacted(deployed, CompactOptions(model="feed")) is None, "there is nothing to do"
        for number in (2, 3):
            delta_of(models / str(number - 1), models / str(number - 1), models / str(number))
            deployed.publish(Publish(model="feed", version=number))
        written = run(deployed)
        assert (written.manifest.version, written.streamed) == (4, ())
        shutil.rmtree(models / "1")
        deployed.publish(Publish(model="feed", version=4))
        assert chain_length(live_version(deployed.call(GetStatus()), "feed")) == 0
        rows, found = deployed.rows("user", [0, 19, 20], as_exported=True)
        assert rows[:2] == [np.ones(DIM, np.float32).tobytes()] * 2
        assert found.tolist() == [True, True, False]
        assert compacted(deployed, CompactOptions(model="feed")) is None


def test_a_job_that_fails_leaves_nothing_and_what_a_killed_one_left_is_removed(
    deployed: Deployed, models: Path, small_blocks: None, tmp_path: Path
) -> None:
    left = models / scratch.NAME / "tables" / "user"
    left.mkdir(parents=True)
    (left / "rows").write_bytes(b"half")

    def fail(table: str, rows: int, size: int) -> None:
        assert not left.exists() or table == "user"
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        run(deployed, fail)
    assert sorted(path.name for path in models.iterdir()) == ["1"]
    with scratch.scratch_in(models), pytest.raises(InvalidInput, match="is being compacted"):
        run(deployed)

    def publish_meanwhile(table: str, rows: int, size: int) -> None:
        if not (models / "2").exists():
            with_delta(models, tables(1), tmp_path)
            deployed.publish(Publish(model="feed", version=2))

    with pytest.raises(UnmetCondition, match="feed/2 went live while feed/1 was compacted"):
        run(deployed, publish_meanwhile)
    assert sorted(path.name for path in models.iterdir()) == ["1", "2"]
    with pytest.raises(InvalidInput, match="--version is 2; it must be above 2"):
        run(deployed, version=2)
    elsewhere = run(deployed, version=9, folder=tmp_path / "out" / "feed").path
    assert elsewhere == tmp_path / "out" / "feed" / "9"
    with pytest.raises(NotFound, match="model 'other' is not served; there is feed"):
        compacted(deployed, CompactOptions(model="other"))


def test_damaged_rows_are_not_passed_on(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(newest, "RETRY_S", 0.0)
    made = newest.NewestRows.__init__
    monkeypatch.setattr(newest.NewestRows, "__init__", lambda *a, **k: made(*a, **k, give_up_s=0.0))
    with Deployed(models, None, 1) as deployed:
        flip_byte(next((models / "1" / "tables" / "user").glob("rows*")))
        with pytest.raises(Unavailable, match=r"table user: slots .* cannot be read: .*damaged"):
            run(deployed)
    assert sorted(path.name for path in models.iterdir()) == ["1"]


@pytest.mark.medium
@pytest.mark.parametrize("mutual", [False, True])
def test_over_tls_shards_take_who_shows_a_certificate_that_they_know(
    models: Path, certificates: Certificates, monkeypatch: pytest.MonkeyPatch, mutual: bool
) -> None:
    monkeypatch.setattr(newest, "FIRST_ANSWER_S", 0.0)
    monkeypatch.setattr(newest, "RETRY_S", 0.0)
    files = certificates.mutual if mutual else certificates.tls
    other = certificates.renewed
    with Deployed(models, None, 1, tls=files) as deployed:
        for pair, taken in (
            (certificates.server, True),
            (other, mutual),
            (None, False),
            (certificates.stranger, False),
        ):
            cert, key = ("", "") if pair is None else (str(pair.cert), str(pair.key))
            ca = certificates.stranger_ca.cert if pair is certificates.stranger else certificates.ca
            with command_credentials.using(Credentials.given(str(ca), cert, key, "")):
                if taken:
                    assert run(deployed).manifest.table("user").rows == len(KEYS)
                else:
                    with pytest.raises(Unavailable, match=r"up to which push they are: .*(TLS|certificate)"):
                        run(deployed)
