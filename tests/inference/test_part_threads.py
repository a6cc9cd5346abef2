"""Parts of a batch in two threads: when there are two, that nobody waits for one without a core, and what comes out."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ringpull.inference.client.client import AsyncClient
from ringpull.inference.export.model import export_model
from ringpull.inference.head.catalog import Catalog
from ringpull.inference.head.config import HeadConfig
from ringpull.inference.head.dense_threads import DenseThreads
from ringpull.inference.head.metrics.call_log import Verb
from ringpull.inference.head.predictor import Predictor
from ringpull.inference.model.dense_program import DenseProgram, Precision, ProgramTensor, load_program
from ringpull.inference.model.manifest import Manifest
from ringpull.inference.model.part_threads import MIN_PART_ROWS, PartThreads, parts_of, run_parts
from ringpull.inference.model.torch_program import TorchProgram
from ringpull.inference.schema.kinds import Dense, Sparse
from ringpull.inference.schema.schema import Schema
from ringpull.ps import allowance
from tests.inference import onnx_models
from tests.inference.fakes import EchoProgram
from tests.inference.served import Served
from tests.inference.small_model import columns_of, plain_row
from tests.reference import assert_close

Made = Callable[..., PartThreads]


@pytest.fixture
def threads() -> Iterator[Made]:
    """Make helpers that by default always help."""
    made = []

    def make(count: int = 2, *, alone: bool = True, idle: int = 1) -> PartThreads:
        made.append(PartThreads(count, alone=lambda: alone, idle_cores=lambda: idle))
        return made[-1]

    yield make
    for each in made:
        each.close()


@contextmanager
def without_a_turn(threads: PartThreads) -> Iterator[None]:
    """Keep a helper from helping."""
    free = threading.Event()
    threads._helpers.submit(free.wait)
    try:
        yield
    finally:
        free.set()


@pytest.mark.parametrize(
    ("count", "rows", "alone", "idle", "expected"),
    [
        (2, 256, True, 1, 2),
        (2, 256, True, 8, 2),
        (2, 256, True, 0, 1),  # somebody else has the cores
        (2, 256, False, 8, 1),  # another request of this head is to have them
        (2, 1, True, 8, 1),
        (2, 2 * MIN_PART_ROWS - 1, True, 8, 1),  # halves would take as long as the whole
        (2, 2 * MIN_PART_ROWS, True, 8, 2),
        (2, 16_384, True, 8, 2),
        (4, 16_384, True, 8, 4),
        (4, 16_384, True, 2, 3),
        (4, 3 * MIN_PART_ROWS, True, 8, 3),
        (1, 16_384, True, 8, 1),
    ],
)
def test_how_many_threads_a_batch_gets(
    threads: Made, count: int, rows: int, alone: bool, idle: int, expected: int
) -> None:
    assert threads(count, alone=alone, idle=idle).threads_for(rows) == expected


def test_a_small_batch_costs_no_look_at_the_cores() -> None:
    def asked() -> int:
        raise AssertionError("asked")

    never = PartThreads(2, alone=lambda: True, idle_cores=asked)
    assert never.threads_for(1) == 1
    others = PartThreads(2, alone=lambda: False, idle_cores=asked)
    assert others.threads_for(256) == 1
    never.close()
    others.close()


@pytest.mark.parametrize(("rows", "count"), [(1, 1), (5, 2), (128, 2), (129, 4), (513, 2)])
def test_parts_are_all_rows_once_and_of_one_size(rows: int, count: int) -> None:
    parts = parts_of(rows, count)
    assert [each for part in parts for each in range(rows)[part]] == list(range(rows))
    sizes = [part.stop - part.start for part in parts]
    assert max(sizes) - min(sizes) <= 1
    assert all(before.stop == after.start for before, after in pairwise(parts))


@pytest.mark.parametrize(
    ("rows", "parts"),
    [
        (255, [255]),
        (256, [128, 128]),
        (257, [128, 129]),
        (288, [160, 128]),
        (319, [160, 159]),
        (500, [256, 244]),
        (513, [256, 257]),  # as they are in one thread
        (1_111, [370, 370, 371]),
    ],
)
def test_parts_for_two_threads_begin_where_kernels_begin_anew(threads: Made, rows: int, parts: list[int]) -> None:
    """Parts give the bits of one thread so, on processors whose kernels take no more rows at a time."""
    assert run_parts(lambda part: part.stop - part.start, rows, 512, threads()) == parts


def test_two_threads_compute_at_the_same_time(threads: Made) -> None:
    both = threading.Barrier(2)
    ran = run_parts(lambda part: (both.wait(), threading.get_ident())[1], 256, 512, threads())
    assert len(ran) == len(set(ran)) == 2
    assert threading.get_ident() in ran


@pytest.mark.parametrize("made", [{"alone": False}, {"idle": 0}])
def test_otherwise_all_is_computed_here(threads: Made, made: dict[str, int]) -> None:
    ran = run_parts(lambda part: (part, threading.get_ident()), 1000, 512, threads(**made))
    assert ran == [(slice(0, 500), threading.get_ident()), (slice(500, 1000), threading.get_ident())]


def test_nobody_waits_for_a_helper_that_gets_no_turn(threads: Made) -> None:
    busy = threads()
    with without_a_turn(busy):
        ran = busy.run(lambda part: (part.start, threading.get_ident()), parts_of(128, 4), 2)
    assert ran == [(start, threading.get_ident()) for start in (0, 32, 64, 96)]


def test_the_first_part_that_fails_is_raised_when_no_part_runs_any_more(threads: Made) -> None:
    both, ended = threading.Barrier(2), []

    def fail(part: slice) -> None:
        both.wait()
        ended.append(part.start)
        raise ValueError(part.start)

    with pytest.raises(ValueError, match=r"^0$"):
        run_parts(fail, 256, 512, threads())
    assert sorted(ended) == [0, 128]


def test_after_a_part_that_failed_none_is_begun(threads: Made) -> None:
    helped, begun = threads(), []

    def fail(part: slice) -> None:
        begun.append(part.start)
        raise ValueError("no part")

    with without_a_turn(helped), pytest.raises(ValueError, match="no part"):
        helped.run(fail, parts_of(128, 4), 2)
    assert begun == [0]


# -- programs ----------------------------------------------------------------------------------------------------------


class Ranker(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.user, self.item = nn.Embedding(9, 8), nn.Embedding(9, 8)
        self.layers = nn.Sequential(nn.Linear(17, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, user: Tensor, item: Tensor, age: Tensor) -> Tensor:
        return self.layers(torch.cat([self.user(user), self.item(item), age], 1))


@pytest.fixture(scope="module")
def of_torch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    schema = Schema([Sparse("user"), Sparse("item"), Dense("age")])
    folder = tmp_path_factory.mktemp("models") / "ranker"
    return export_model(Ranker().eval(), schema, folder, 1, check_rows=4, quiet=True).path


def inputs_of(widths: list[int], rows: int) -> list[ProgramTensor]:
    random = np.random.default_rng(rows)
    return [ProgramTensor(random.standard_normal((rows, width)).astype(np.float32)) for width in widths]


@pytest.mark.medium
@pytest.mark.parametrize("rows", [1, 128, 255, 256, 300, 1_111])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_scores_of_torch_are_those_of_one_thread(
    of_torch: Path, threads: Made, rows: int, precision: Precision
) -> None:
    manifest = Manifest.load(of_torch)
    alone, helped = (
        load_program(of_torch, manifest, "cpu", threads=1, precision=precision, parts=parts)
        for parts in (None, threads())
    )
    check(alone, helped, inputs_of([8, 8, 1], rows), rows)


@pytest.mark.medium
@pytest.mark.parametrize("rows", [1, 128, 255, 256, 300, 1_111])
def test_scores_of_onnxruntime_are_as_in_one_thread(tmp_path: Path, threads: Made, rows: int) -> None:
    version = onnx_models.write(tmp_path / "ranker").path
    manifest = Manifest.load(version)
    alone, helped = (load_program(version, manifest, "cpu", threads=1, parts=parts) for parts in (None, threads()))
    inputs = inputs_of([onnx_models.DIM, onnx_models.DIM, onnx_models.WIDTH], rows)
    genre = ProgramTensor(np.arange(rows) % len(onnx_models.GENRE))
    check(alone, helped, [*inputs, genre], rows)


def check(alone: DenseProgram, helped: DenseProgram, inputs: list[ProgramTensor], rows: int) -> None:
    assert (alone.runtime.max_threads, helped.runtime.max_threads) == (0, 2)
    expected = alone.run(inputs, rows)
    for name, found in helped.run(inputs, rows).items():
        assert found.shape == expected[name].shape
        assert_close(found, expected[name])


def test_what_torch_runs_from_python_has_one_thread(of_torch: Path, threads: Made) -> None:
    """Operator by operator two threads would wait for each other's Python; a GPU has threads of its own."""
    manifest, helpers = Manifest.load(of_torch), threads()
    for device, why, expected in (("cpu", "", 2), ("cpu", "it is not to be one", 0), ("cuda", "", 0)):
        program = TorchProgram(lambda *inputs: inputs, manifest, device, threads=1, eager_because=why, parts=helpers)
        assert program.runtime.max_threads == expected


# -- of a head ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "cores", "expected"), [(None, 8.0, 2), (None, 2.0, 2), (None, 1.9, 0), (1, 8.0, 0), (4, 8.0, 0)]
)
def test_a_number_is_what_it_says_and_auto_goes_by_the_cores(
    monkeypatch: pytest.MonkeyPatch, given: int | None, cores: float, expected: int
) -> None:
    monkeypatch.setattr(allowance, "cores", lambda: cores)
    config = HeadConfig(dense_threads=given)
    dense = DenseThreads(config, lambda: True)
    assert (0 if dense.parts is None else dense.parts.max_threads) == expected
    assert config.dense_program["threads"] == (given or 1)
    dense.close()


@pytest.mark.parametrize(("quota", "threads"), [(8.0, 2), (3.0, 2), (2.0, 1)])
def test_heads_of_one_quota_share_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, quota: float, threads: int
) -> None:
    """One more of them runs, on a machine whose other cores are idle, but not for them."""
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/loadavg").write_text("2.29 2.09 1.17 2/900 15665\n")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(allowance, "cores", lambda: quota)
    monkeypatch.setattr(allowance, "idle_cores", partial(allowance.idle_cores, root=tmp_path))
    dense = DenseThreads(HeadConfig(dense_threads=None), lambda: True)
    assert dense.parts is not None
    assert dense.parts.threads_for(256) == threads
    dense.close()


class Asking(EchoProgram):
    """Asks in each run whether there is anything else to do."""

    def __init__(self) -> None:
        super().__init__()
        self.alone: Callable[[], bool] = lambda: False
        self.found: list[bool] = []

    def run(self, inputs: Sequence[ProgramTensor], rows: int) -> dict[str, NDArray[np.float32]]:
        self.found.append(self.alone())
        return super().run(inputs, rows)


@pytest.mark.net
async def test_a_request_is_alone_while_no_other_one_is_in_the_head() -> None:
    program = Asking()
    with ThreadPoolExecutor(1) as executor:
        served = Served(executor, program=program)
        program.alone = served.predictor.has_one_call
        program.found.clear()  # of the rehearsal
        served.target = f"127.0.0.1:{await served.server.start()}"
        async with AsyncClient(served.target, timeout_s=60, retries=0) as client:
            columns = columns_of([plain_row(1, item) for item in range(3)])
            await client.predict("ranker", columns)
            assert program.found == [True]
            calls = await served.riding(*(client.predict("ranker", columns) for _ in range(3)))
            served.router.gate.set()
            await asyncio.gather(*calls)
            assert program.found == [True, False, False], "the first of three, and two that ride together"
            await client.predict("ranker", columns)
            assert program.found[3:] == [True]
        await served.server.stop(grace_s=0)
        await served.version.batcher.close(timeout_s=60)


@pytest.mark.parametrize("verb", ["predict", "lookup", "top_k", "push"])
def test_a_call_of_any_kind_is_company(verb: Verb) -> None:
    predictor = Predictor(Catalog(), HeadConfig())
    assert predictor.has_one_call()
    with predictor.open(60.0, 100):
        assert predictor.has_one_call()
        with predictor.open(60.0, 100, verb=verb):
            assert not predictor.has_one_call()
        assert predictor.has_one_call()
