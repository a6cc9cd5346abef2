"""Exports leave behind what they found: a module's buffers and weights, and torch's own switches and methods."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from threading import Event, RLock, Thread
from typing import Any, Final

import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.nn.modules import transformer

from ringpull.inference.export import row_symbol
from ringpull.inference.export.calls import ready
from ringpull.inference.export.diagnosis import rows
from ringpull.inference.export.model import export_model
from ringpull.inference.schema.kinds import Sparse
from ringpull.inference.schema.schema import Schema
from tests.inference.export.calls.served import export_and_compare


class Counting(nn.Module):
    """A model that writes into a buffer and into a weight in each call, and scores by what it wrote."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.items = nn.Embedding(50, 4)
        self.calls: Tensor
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, item: Tensor) -> Tensor:
        self.calls += 1
        self.items.weight.data[0] = 0
        return self.items(item).sum(1) * self.calls


@pytest.mark.medium
def test_buffers_and_weights_that_a_call_writes_into_are_as_before(tmp_path: Path) -> None:
    model = Counting()
    before = {name: each.clone() for name, each in model.state_dict().items()}
    asked = Counting()
    export_and_compare(
        model,
        Schema([Sparse("item")]),
        tmp_path,
        {"item": [0, 1, 2, 3, 49]},
        lambda arguments: asked(arguments["item"]),
    )
    for name, each in model.state_dict().items():
        assert torch.equal(each, before[name]), name


class Announced:
    """A lock that says when somebody asks for it."""

    def __init__(self) -> None:
        self._lock = RLock()
        self.asked = Event()

    def __enter__(self) -> None:
        self.asked.set()
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def _switches() -> tuple[Any, ...]:
    return (
        ShapeEnv.create_symbol,
        ShapeEnv.evaluate_expr,
        torch.backends.mha.get_fastpath_enabled(),
        getattr(transformer, "_detect_is_causal_mask", None),
    )


PATCHES: Final[dict[str, tuple[Any, Callable[[], AbstractContextManager[None]]]]] = {
    "one symbol": (row_symbol, lambda: row_symbol.one_symbol_each((11,))),
    "watching": (rows, lambda: rows._watching([])),
    "ready": (ready, lambda: ready.ready(nn.Linear(1, 1))),
}


@pytest.mark.parametrize("patch", PATCHES)
def test_two_exports_at_a_time_leave_torch_as_it_was(patch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, patched = PATCHES[patch]
    lock = Announced()
    monkeypatch.setattr(module, "_ONE_AT_A_TIME", lock)
    before = _switches()
    first_may_end, first_is_in = Event(), Event()

    def first() -> None:
        with patched():
            first_is_in.set()
            first_may_end.wait()

    def second() -> None:
        with patched():
            pass

    threads = [Thread(target=first), Thread(target=second)]
    threads[0].start()
    first_is_in.wait()
    lock.asked.clear()
    threads[1].start()
    lock.asked.wait()
    first_may_end.set()
    for each in threads:
        each.join()
    assert _switches() == before


@pytest.mark.medium
def test_a_trace_of_the_users_in_another_thread_keeps_a_symbol_per_size() -> None:
    found: list[bool] = []

    def trace() -> None:
        class Two(nn.Module):
            def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
                return first + 1, second + 1

        sizes = ({0: torch.export.Dim.AUTO}, {0: torch.export.Dim.AUTO})
        program = torch.export.export(Two(), (torch.zeros(11), torch.zeros(11)), dynamic_shapes=sizes, strict=False)
        first, second = (node.meta["val"].shape[0] for node in program.graph.nodes if node.op == "placeholder")
        found.append(str(first) != str(second))

    with row_symbol.one_symbol_each((11,)):
        thread = Thread(target=trace)
        thread.start()
        thread.join()
    assert found == [True]


class Propagating(nn.Module):
    """A model whose method that is run once keeps its result in a buffer, and returns the buffer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.items = nn.Embedding(50, 4)
        self.kept: Tensor
        self.register_buffer("kept", torch.zeros(50, 4))

    def propagate(self) -> Tensor:
        self.kept.copy_(self.items.weight * 2)
        return self.kept

    def forward(self, item: Tensor) -> Tensor:
        return self.propagate()[item].sum(1)


@pytest.mark.medium
def test_buffers_that_a_method_run_once_writes_into_are_as_before(tmp_path: Path) -> None:
    model, asked = Propagating(), Propagating()
    columns = {"item": [0, 1, 2, 3, 49]}
    export_and_compare(
        model, Schema([Sparse("item")]), tmp_path, columns, lambda given: asked(given["item"]), once=["propagate"]
    )
    assert not model.kept.any()


@pytest.mark.medium
def test_exports_in_several_threads_are_as_good_as_one(tmp_path: Path) -> None:
    failed: list[BaseException] = []

    def export(number: int) -> None:
        try:
            export_model(Propagating(), Schema([Sparse("item")]), tmp_path / str(number), 1, quiet=True)
        except BaseException as exc:
            failed.append(exc)

    threads = [Thread(target=export, args=(number,)) for number in range(3)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert not failed
