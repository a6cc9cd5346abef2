"""A deployment of tables alone through its life: every look-up is right while versions and shards come and go."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from ringpull import Client, export_tables
from ringpull.ps.errors import InvalidInput, RingpullError
from tests.cluster.conftest import RingpullRun, Serving
from tests.cluster.watching import until

pytestmark = pytest.mark.ray

ROWS = 2_000
USERS = [f"user:{n}" for n in range(ROWS)]


def vectors(version: int) -> np.ndarray:
    return np.random.default_rng(version).normal(size=(ROWS, 8)).astype(np.float32)


def results(version: int) -> list[bytes]:
    return [f'{{"version": {version}, "items": {list(range(n % 40))}}}'.encode() for n in range(ROWS)]


def export(folder: Path, version: int) -> Path:
    tables = {"vectors": (np.arange(ROWS), vectors(version)), "results": (USERS, results(version))}
    return export_tables(tables, folder, version, quiet=True).path


class Asking:
    """Look-ups of both tables all the time, each held against its version's dictionaries."""

    def __init__(self, target: str) -> None:
        self.wrong: list[str] = []
        self.versions: set[int] = set()
        self.done = 0
        self._expected = {version: (vectors(version), results(version)) for version in (1, 2)}
        self._stop = threading.Event()
        self._target = target
        self._thread = threading.Thread(target=self._ask)

    def __enter__(self) -> Asking:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def goes_on(self) -> None:
        """Wait until some more were answered."""
        before = self.done
        until("more look-ups are answered", lambda: self.done > before + 20 or bool(self.wrong))

    def _ask(self) -> None:
        rng = np.random.default_rng(0)
        with Client(self._target, timeout_s=30) as client:
            while not self._stop.is_set():
                keys = rng.integers(-100, ROWS + 100, 64)
                known = (keys >= 0) & (keys < ROWS)
                try:
                    rows = client.lookup("feed", "vectors", keys)
                    texts = client.lookup("feed", "results", [f"user:{key}" for key in keys])
                except RingpullError as exc:
                    self.wrong.append(repr(exc))
                    continue
                expected = np.where(known[:, None], self._expected[rows.version][0][keys % ROWS], np.float32(0))
                if not (np.array_equal(rows.rows, expected) and np.array_equal(rows.found, known)):
                    self.wrong.append(f"vectors of {rows.version}")
                of_version = self._expected[texts.version][1]
                if list(texts.rows) != [
                    of_version[key] if is_known else b"" for key, is_known in zip(keys, known, strict=True)
                ]:
                    self.wrong.append(f"results of {texts.version}")
                self.versions |= {rows.version, texts.version}
                self.done += 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "feed"
    export(folder, 1)
    return folder


@pytest.fixture(scope="module")
def serving(folder: Path, serve: Callable[..., Serving]) -> Iterator[Serving]:
    return serve(folder, "--shards", 2)


def test_it_is_inspected_and_planned_before(folder: Path, ringpull: RingpullRun) -> None:
    inspected = ringpull("inspect", folder, "--verify")
    assert inspected.returncode == 0, inspected.stderr
    for said in ("feed version 1", "tables alone", "vectors", "results", "bytes"):
        assert said in inspected.stdout
    assert "look-ups" not in inspected.stdout
    plain = json.loads(ringpull("inspect", folder / "1", "--json").stdout)
    assert plain["dense_program_bytes"] is None
    assert {table["spec"]["row_type"] for table in plain["tables"]} == {"float32", "bytes"}
    planned = ringpull("plan", folder, "--shards", 2, "--memory", "1GiB")
    assert planned.returncode == 0, planned.stderr
    assert "feed/results" in planned.stdout


def test_what_serves_answers_keys_and_no_predictions(serving: Serving, ringpull: RingpullRun) -> None:
    target = serving.ready["grpc"]
    asked = ringpull("lookup", "feed", "results", "user:3", "user:x", "--json", "--target", target)
    assert asked.returncode == 0, asked.stderr
    assert json.loads(asked.stdout)["rows"] == [results(1)[3].decode(), ""]
    with Client(target) as client, pytest.raises(InvalidInput, match="tables only"):
        client.predict("feed", {"user": [1]})
    status = ringpull("status", "--target", target)
    assert "vectors" in status.stdout
    assert "results" in status.stdout
    refused = ringpull("predict", "feed", "--features", "user=1", "--target", target)
    assert refused.returncode == 1


def test_no_look_up_is_wrong_while_versions_and_shards_change(
    serving: Serving, folder: Path, ringpull: RingpullRun
) -> None:
    target = serving.ready["grpc"]

    def changed(*command: object) -> None:
        ran = ringpull(*command, "--target", target)
        assert ran.returncode == 0, ran.stderr

    with Asking(target) as asking, Client(target) as client:
        asking.goes_on()
        export(folder, 2)
        changed("publish", "feed/2")
        asking.goes_on()
        for version in (1, 2, None):
            rows, found = client.lookup("feed", "vectors", np.arange(ROWS), version=version)
            assert found.all()
            np.testing.assert_array_equal(rows, vectors(version or 2))
        changed("rebalance", "--shards", 3, "--yes")
        asking.goes_on()
        changed("rollback", "feed")
        asking.goes_on()
        answer = client.lookup("feed", "results", USERS)
        assert (answer.version, list(answer.rows)) == (1, results(1))
        changed("rebalance", "--shards", 1, "--yes")
        asking.goes_on()
    assert asking.wrong == []
    assert asking.versions == {1, 2}
