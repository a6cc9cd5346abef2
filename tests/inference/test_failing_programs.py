"""A request whose values the dense program raises for, among others': a real program, over real gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ringpull.inference.client.client import AsyncClient
from ringpull.inference.export.model import export_model
from ringpull.inference.head.pipeline import Pipeline, Scores
from ringpull.inference.head.request.preparation import Preparation
from ringpull.inference.model.dense_program import ProgramTensor, load_program
from ringpull.inference.model.manifest import Manifest
from ringpull.inference.model.program_errors import last_words
from ringpull.inference.model.version import LoadedVersion
from ringpull.inference.prediction import Prediction
from ringpull.inference.schema.kinds import Dense, Sparse
from ringpull.inference.schema.schema import Schema
from ringpull.ps.errors import CorruptData, ProgramFailed, RingpullError
from tests.inference.export.versions import Exported
from tests.inference.fakes import EchoProgram, ReferenceRouter
from tests.inference.served import CONFIG, Served
from tests.inference.small_model import SCHEMA, columns_of, make_manifest, make_tables, received_of
from tests.inference.small_requests import requests
from tests.reference import assert_close

SHELVES = 10


class Shelves(nn.Module):
    """One score for each shelf is computed, and that of the row's shelf is taken: no table, and no row beyond ten."""

    def __init__(self) -> None:
        super().__init__()
        self.user, self.scores = nn.Embedding(50, 4), nn.Linear(5, SHELVES)

    def forward(self, user: Tensor, age: Tensor, shelf: Tensor) -> Tensor:
        place = shelf.double().sqrt().square().round().long()  # the same, by what no export reads as ids: so no limit
        return self.scores(torch.cat([self.user(user), age], 1)).gather(1, place[:, None])[:, 0]


@pytest.fixture(scope="module")
def module() -> Shelves:
    torch.manual_seed(3)
    return Shelves().eval()


@pytest.fixture(scope="module")
def folder(module: Shelves, tmp_path_factory: pytest.TempPathFactory) -> Path:
    schema = Schema([Sparse("user"), Dense("age"), Sparse("shelf")])
    columns = {name: np.arange(8, dtype=np.int64) for name in ("user", "shelf")}
    columns["age"] = np.linspace(0, 1, 8, dtype=np.float32)
    out_dir = tmp_path_factory.mktemp("models") / "shelves"
    return export_model(module, schema, out_dir, 1, check_rows=0, check_columns=columns, quiet=True).path


@pytest.fixture
async def served(folder: Path) -> AsyncIterator[Served]:
    exported = Exported(folder)
    assert exported.manifest.limits == (), "the head would refuse it before it is in a batch"
    loaded = LoadedVersion(folder, exported.manifest, exported.schema, exported.program)
    with ThreadPoolExecutor(1) as executor:
        served = Served(executor, CONFIG, loaded=loaded, tables=exported.tables)
        served.target = f"127.0.0.1:{await served.server.start()}"
        yield served
        served.router.gate.set()
        await served.server.stop(grace_s=0)
        await served.version.batcher.close(timeout_s=60)


@pytest.mark.net
@pytest.mark.medium
async def test_five_clients_are_answered_and_the_sixth_is_told_why(served: Served, module: Shelves) -> None:
    async with AsyncClient(served.target, timeout_s=60, retries=0) as client:

        async def ask(shelf: int) -> Prediction:
            ids = np.array([shelf, 3], np.int64)
            return await client.predict("shelves", {"shelf": ids, "user": ids % 50}, {"age": np.float32([[0.5]])})

        calls = await served.riding(*(ask(shelf) for shelf in (1, 2, 1_000_000, 4, 5, 6, 7)))
        served.router.gate.set()
        got = await asyncio.gather(*calls, return_exceptions=True)
        alone = (await asyncio.gather(ask(1_000_000), return_exceptions=True))[0]
    guilty = got.pop(2)
    assert type(guilty) is RingpullError  # INTERNAL: nothing says that another head, or a retry, would do better
    assert "shelves/1: the dense program failed for this request: " in str(guilty)
    assert "index 1000000 is out of bounds" in str(guilty)
    assert str(alone) == str(guilty)
    assert served.router.pulls_begun == 3, "the shards were asked again"
    for shelf, prediction in zip((1, 2, 4, 5, 6, 7), got, strict=True):
        assert isinstance(prediction, Prediction)
        ids = torch.tensor([shelf, 3])
        with torch.no_grad():
            expected = module(ids, torch.full((2, 1), 0.5), ids)
        assert_close(prediction.outputs["output"], expected.numpy())


def test_the_same_error_is_said_by_a_program_that_is_no_script(folder: Path) -> None:
    """torch raises an IndexError from Python, and a trace of its own from a script."""
    program = load_program(folder, Manifest.load(folder), "cpu")
    inputs = [ProgramTensor(np.zeros((2, 4), np.float32)), ProgramTensor(np.zeros((2, 1), np.float32))]
    inputs.append(ProgramTensor(np.array([0, 99])))
    with pytest.raises(Exception) as raised:  # noqa: PT011 - of any root
        program.run(inputs, 2)
    assert "\n" not in last_words(raised.value)
    assert "out of bounds" in last_words(raised.value)


# -- parts of a batch --------------------------------------------------------------------------------------------------


def equal(actual: Scores, expected: Scores) -> bool:
    return (
        actual.filled == expected.filled
        and actual.degraded == expected.degraded
        and actual.outputs.keys() == expected.outputs.keys()
        and all(np.array_equal(actual.outputs[name], expected.outputs[name]) for name in expected.outputs)
    )


@pytest.mark.medium
@settings(max_examples=60, deadline=None)
@given(batch=st.lists(requests(), min_size=1, max_size=6), data=st.data())
async def test_a_part_of_a_batch_has_the_answers_of_the_whole(batch, data):
    """Of any requests in any order, and a part of the part."""
    pipeline = Pipeline(make_manifest(), SCHEMA, EchoProgram(), ReferenceRouter(make_tables()))
    received = [
        received_of(columns_of(rows, [name for name in rows[0] if name not in context]), columns_of(rows[:1], context))
        for rows, context in batch
    ]
    pulled = await pipeline.pull(Preparation(make_manifest(), SCHEMA).prepare(received).work, deadline_s=1e9)
    whole = pipeline.compute(pulled)
    places: Sequence[int] = range(len(batch))
    for _ in range(2):
        chosen = data.draw(st.lists(st.sampled_from(range(len(places))), min_size=1, unique=True))
        pulled, places = pipeline.split(pulled, chosen), [places[place] for place in chosen]
        part = pipeline.compute(pulled)
        assert sorted(part) == list(range(len(places)))
        assert all(equal(part[new], whole[place]) for new, place in enumerate(places))


class Raising(EchoProgram):
    """Raises what it is told to."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def run(self, inputs: Sequence[ProgramTensor], rows: int) -> dict[str, np.ndarray]:
        raise self.error


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (IndexError("index out of range in self"), "IndexError: index out of range in self"),
        (RuntimeError("in the interpreter.\nTraceback:\n  x\nRuntimeError: no rows\n\n"), "RuntimeError: no rows"),
        (ValueError(), "ValueError"),
        (MemoryError("x" * 5_000), "MemoryError: " + "x" * 287 + "..."),
    ],
)
async def test_the_programs_last_words_are_passed_on_in_a_line(error: Exception, words: str) -> None:
    pipeline = Pipeline(make_manifest(), SCHEMA, Raising(error), ReferenceRouter(make_tables()))
    preparation = Preparation(make_manifest(), SCHEMA)
    pulled = await pipeline.pull(preparation.plain_batch(), deadline_s=1e9)
    with pytest.raises(ProgramFailed) as raised:
        pipeline.compute(pulled)
    assert str(raised.value) == f"ranker/3: the dense program failed for 2 requests together: {words}"
    with pytest.raises(ProgramFailed) as raised:
        pipeline.compute(pipeline.split(pulled, [1]))
    assert str(raised.value) == f"ranker/3: the dense program failed for this request: {words}"
    with pytest.raises(CorruptData, match="the dense program does not run: ") as refused:
        pipeline.rehearse(preparation.plain_batch())
    assert str(refused.value).endswith(words)
