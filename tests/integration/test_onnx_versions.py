"""A whole ringpull whose dense programs onnxruntime runs: real shards and head, in front of real clients."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from ringpull.deploy.cli import app
from ringpull.inference.client.client import Client
from ringpull.inference.degrade.steps import CutBags
from ringpull.inference.head.admission import Admission
from ringpull.inference.head.config import HeadConfig
from ringpull.inference.model.manifest import FileEntry, Manifest
from ringpull.inference.model.samples import Samples
from ringpull.inference.schema.columns import Ragged
from ringpull.ps.errors import CorruptData, InvalidInput, RingpullError
from tests.inference import onnx_models
from tests.inference.onnx_models import GENRES, SCHEMA, parts
from tests.integration.local import LocalCluster, local_cluster
from tests.reference import assert_close

pytestmark = [pytest.mark.net, pytest.mark.medium]

CONFIG = HeadConfig(default_timeout_s=60, degrade_up_s=0.001, degrade_down_s=0.001)


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A version with degrade steps and limits of ids, and a model without, whose graph fails where an id is none."""
    models = tmp_path_factory.mktemp("models")
    careful = dataclasses.replace(parts(), degrade=(CutBags(1),))
    careless = dataclasses.replace(parts(), limits=())
    return [
        onnx_models.write(models / "careful", 1, careful).path,
        onnx_models.write(models / "careless", 1, careless).path,
    ]


@pytest.fixture(scope="module")
def cluster(versions: list[Path]) -> Iterator[LocalCluster]:
    with local_cluster(versions, shards=3, config=CONFIG) as cluster:
        yield cluster


@pytest.fixture
def client(cluster: LocalCluster) -> Iterator[Client]:
    with cluster.client() as client:
        yield client


def columns(rows: int, seed: int) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(random.integers(0, 5, rows))])
    return {
        "user": random.integers(-2, onnx_models.USERS + 3, rows),
        "tags": Ragged(random.integers(0, onnx_models.TAGS + 2, offsets[-1]), offsets),
        "age": random.standard_normal((rows, onnx_models.WIDTH)).astype(np.float32),
        "genre": random.integers(0, GENRES, rows),
    }


def reference(columns: Mapping[str, Any], rows: int) -> dict[str, NDArray[np.float32]]:
    return onnx_models.scores(SCHEMA.arguments(SCHEMA.prepare(columns, rows)))


def assert_scores(found: Mapping[str, NDArray[np.float32]], expected: Mapping[str, NDArray[np.float32]]) -> None:
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert_close(found[name], values, largest=10.0)


@pytest.mark.parametrize("rows", [1, 2, 40, 700])
def test_predictions_over_shards(client: Client, rows: int) -> None:
    given = columns(rows, rows)
    assert_scores(client.predict("careful", given).outputs, reference(given, rows))


def test_context_is_sent_once(client: Client) -> None:
    given, context = columns(9, 3), columns(1, 4)
    sent = {name: given[name] for name in ("tags", "genre")}
    repeated = {name: np.repeat(context[name], 9, axis=0) for name in ("user", "age")}
    found = client.predict("careful", sent, {name: context[name] for name in repeated})
    assert_scores(found.outputs, reference({**sent, **repeated}, 9))


def test_ids_beyond_what_stays_inside_are_refused_by_name(client: Client) -> None:
    given = columns(3, 1)
    given["genre"][1] = GENRES
    with pytest.raises(InvalidInput, match=r"feature genre: row 1 has the id 5; the model takes ids from 0 to 4"):
        client.predict("careful", given)


def test_what_fails_in_the_graph_fails_for_its_own_request_alone(cluster: LocalCluster) -> None:
    """onnxruntime raises for the whole batch where one id of a Gather is none."""

    def ask(seed: int) -> int:
        with cluster.client() as client:
            given = columns(4, seed)
            if seed % 4:
                assert_scores(client.predict("careless", given).outputs, reference(given, 4))
                return 0
            given["genre"][2] = 10**6
            with pytest.raises(RingpullError) as raised:
                client.predict("careless", given)
            assert type(raised.value) is RingpullError
            said = str(raised.value)
            assert "careless/1: the dense program failed for this request: InvalidArgument: " in said
            assert "indices element out of data bounds, idx=1000000" in said
            assert "onnxruntime_src" not in said
            return 1

    with ThreadPoolExecutor(12) as pool:
        assert sum(pool.map(ask, range(48))) == 12


def test_degraded_answers_are_those_of_what_was_left(versions: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    given = columns(6, 8)
    monkeypatch.setattr(Admission, "pressure", lambda self: 1.0)
    with local_cluster(versions[:1], shards=1, config=CONFIG) as cluster, cluster.client() as client:
        while all(each.level == 0 for each in client.status().degrade):
            pass
        found = client.predict("careful", given)
    assert found.degraded == ("cut bags to 1",)
    rows = [given["tags"].values[begin:end][-1:] for begin, end in zip(*_bounds(given["tags"]), strict=True)]
    cut = Ragged(np.concatenate(rows), np.concatenate([[0], np.cumsum([len(row) for row in rows])]))
    assert_scores(found.outputs, reference({**given, "tags": cut}, 6))


def _bounds(ragged: Ragged) -> tuple[NDArray[Any], NDArray[Any]]:
    offsets = np.asarray(ragged.offsets)
    return offsets[:-1], offsets[1:]


def test_a_version_that_gives_other_outputs_than_it_did_never_serves(versions: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "careful" / "1"
    shutil.copytree(versions[0], folder)
    manifest = Manifest.load(folder)
    assert manifest.samples is not None
    samples = Samples.from_bytes(manifest.samples.read(folder), "samples")
    outputs = {name: values + np.float32(0.01) for name, values in samples.outputs.items()}
    (folder / "samples.npz").write_bytes(dataclasses.replace(samples, outputs=outputs).to_bytes())
    dataclasses.replace(manifest, samples=FileEntry.of(folder, "samples.npz")).save(folder)
    with (
        pytest.raises(CorruptData, match="self-check of careful/1: output click of sample row"),
        local_cluster([folder], shards=1),
    ):
        pytest.fail("it serves")


def test_status_and_metadata_say_what_computes(client: Client, versions: list[Path]) -> None:
    status = client.status()
    assert status.device == "cpu"
    for model in (*status.models, client.model("careful")):
        program = model.program
        assert (program.runtime, program.version) == ("onnxruntime", onnxruntime.__version__)
        assert (program.provider, program.device, program.threads) == ("CPUExecutionProvider", "cpu", 1)
    shown = CliRunner().invoke(app, ["inspect", str(versions[0])])
    assert ", run by onnxruntime" in " ".join(shown.output.split())
    told = json.loads(CliRunner().invoke(app, ["inspect", str(versions[0]), "--json"]).output)
    assert told["runtime"] == "onnxruntime"
