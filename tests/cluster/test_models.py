"""Models come and go on a deployment of two heads, by commands and with their folders, under load on another model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ringpull import Client
from ringpull.ps.errors import InvalidInput, NotFound, RingpullError
from tests.cluster.conftest import RingpullRun, Serving
from tests.cluster.models import write_model
from tests.cluster.watching import Watch, until

pytestmark = pytest.mark.ray

ROWS = {1: 1000}
REQUEST = {"user_id": [7], "genres": [[]]}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    for model in ("ranker", "second"):
        write_model(root / model, 1, rows=ROWS[1])
    return root


@pytest.fixture(scope="module")
def audit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("audit") / "verbs.jsonl"


@pytest.fixture(scope="module")
def serving(root: Path, audit: Path, serve: Callable[..., Serving]) -> Serving:
    return serve("--all-of", root, "--watch", 0.2, "--heads", 2, "--shards", 2, "--audit-log", audit)


@pytest.fixture
def watch(serving: Serving) -> Iterator[Watch]:
    """Load on `ranker`, of which no request may fail while others come and go."""
    with Watch(serving.ready["grpc"], ROWS, retries=0) as watch:
        watch.goes_on()
        yield watch
        watch.goes_on()
    assert (watch.wrong, watch.failed) == ([], [])


@pytest.fixture
def clients(serving: Serving) -> Iterator[list[Client]]:
    """Connections of their own, which the kernel spreads over the heads."""
    clients = [Client(serving.ready["grpc"]) for _ in range(8)]
    yield clients
    for client in clients:
        client.close()


def answered(clients: list[Client], model: str, **how: object) -> set[int | str]:
    """Versions that answer over all connections, or the names of errors."""
    found: set[int | str] = set()
    for client in clients:
        try:
            found.add(client.predict(model, REQUEST, **how).version)  # type: ignore[arg-type]
        except RingpullError as exc:
            found.add(type(exc).__name__)
    return found


def test_every_model_of_the_folder_is_served(serving: Serving, clients: list[Client]) -> None:
    assert set(serving.ready["models"].split(",")) == {"ranker/1", "second/1"}
    assert answered(clients, "second") == {1}


def test_a_model_is_loaded_labelled_and_unloaded_by_hand(
    serving: Serving, root: Path, ringpull: RingpullRun, watch: Watch, clients: list[Client]
) -> None:
    target = ("--target", serving.ready["grpc"])
    hidden = write_model(root / ".kept" / "third", 1, rows=500)  # where nobody watches
    ran = ringpull("load", hidden, "--replicas", "user=2", *target)
    assert (ran.returncode, ran.stdout) == (0, "third/1 is live\n"), ran.stderr
    assert "✓ preparing" in ran.stderr
    assert answered(clients, "third") == {1}, "on both heads at once"
    assert ringpull("load", hidden, *target).stdout == "third/1 is live already\n"
    write_model(hidden, 2, rows=500)
    until("the watch looks there too, from now on", lambda: answered(clients, "third") == {2})

    ran = ringpull("label", "third", "stable=1", "canary=2", *target)
    assert (ran.returncode, ran.stdout) == (0, "labels of third: canary=2, stable=1\n"), ran.stderr
    assert answered(clients, "third", label="stable") == {1}
    assert answered(clients, "third", label="canary") == {2}
    assert answered(clients, "third", label="other") == {"NotFound"}
    write_model(hidden, 3, rows=500)
    write_model(hidden, 4, rows=500)
    until("the fourth is live", lambda: answered(clients, "third") == {4})
    assert answered(clients, "third", label="stable") == {1}, "beyond --keep"
    status = json.loads(ringpull("status", "--json", *target).stdout)
    assert {tuple(sorted(each["labels"].items())) for each in status["models"] if each["name"] == "third"} == {
        (("canary", 2), ("stable", 1))
    }
    assert "1 (stable)" in ringpull("status", *target).stdout

    ran = ringpull("unload", "third", *target)
    assert (ran.returncode, ran.stdout) == (0, "third is served no more\n"), ran.stderr
    assert answered(clients, "third") == {"NotFound"}


def test_models_come_and_go_with_their_folders(
    serving: Serving, root: Path, watch: Watch, clients: list[Client], ringpull: RingpullRun, audit: Path
) -> None:
    write_model(root.parent / "apart" / "fourth", 1, rows=500)
    shutil.copytree(root.parent / "apart" / "fourth", root / "fourth")
    until("it is loaded", lambda: answered(clients, "fourth") == {1})
    shutil.rmtree(root / "fourth")
    until("it is unloaded", lambda: answered(clients, "fourth") == {"NotFound"})
    shutil.copytree(root.parent / "apart" / "fourth", root / "fourth")
    until("it is loaded again", lambda: answered(clients, "fourth") == {1})

    assert ringpull("unload", "second", "--target", serving.ready["grpc"]).returncode == 0
    write_model(root / "fifth", 1, rows=500)
    until("the watch has looked since", lambda: answered(clients, "fifth") == {1})
    assert answered(clients, "second") == {"NotFound"}, "an operator's word holds"
    write_model(root / "second", 2, rows=500)
    until("until there is news", lambda: answered(clients, "second") == {2})

    own = [json.loads(line) for line in audit.read_text().splitlines()]
    told = [(each["verb"], each["outcome"]) for each in own if each["who"] == "--watch"]
    assert told.count(("load", "ok")) >= 4
    assert ("unload", "ok") in told


def test_what_cannot_be_loaded_changes_nothing(
    serving: Serving, root: Path, ringpull: RingpullRun, watch: Watch, tmp_path: Path
) -> None:
    target = ("--target", serving.ready["grpc"])
    elsewhere = write_model(tmp_path / "elsewhere", 1)
    ran = ringpull("load", elsewhere, *target)
    assert ran.returncode == 1
    assert "lies outside of the folders that this deployment takes models from" in ran.stderr
    damaged = write_model(root / ".kept" / "damaged", 1)
    rows = next((damaged / "1" / "user").glob("rows*"))
    content = bytearray(rows.read_bytes())
    content[100] ^= 0xFF
    rows.write_bytes(content)
    ran = ringpull("load", damaged, *target)
    assert ran.returncode == 1
    assert "load damaged/1 was given up: shard" in ran.stderr
    ran = ringpull("load", root / "ranker", "--version", 7, *target)
    assert ran.returncode == 1
    with Client(serving.ready["grpc"]) as client, pytest.raises(NotFound, match="'damaged' is not served here"):
        client.predict("damaged", REQUEST)
    with Client(serving.ready["grpc"]) as client, pytest.raises(InvalidInput, match="ask for one of both"):
        client.predict("ranker", REQUEST, version=1, label="stable")


def test_the_last_model_stays(serving: Serving, ringpull: RingpullRun) -> None:
    """The last one here: it leaves one model."""
    target = ("--target", serving.ready["grpc"])
    with Client(serving.ready["grpc"]) as client:
        others = {model.name for model in client.models()} - {"ranker"}
    for model in sorted(others):
        assert ringpull("unload", model, *target).returncode == 0
    ran = ringpull("unload", "ranker", *target)
    assert (ran.returncode, ran.stderr) == (
        1,
        "error: ranker is the last model that is served; stop the deployment instead\n",
    )
    assert serving.end() == 0
