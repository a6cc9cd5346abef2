"""An export's work grows with its features, not with their square: counted, not timed."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from ringpull.inference.export import examples
from ringpull.inference.export.model import export_model
from ringpull.inference.export.probe import Probe
from ringpull.inference.schema.kinds import Sparse
from ringpull.inference.schema.schema import Schema

pytestmark = pytest.mark.medium


@contextmanager
def counting(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Count the tensors that are made up, by name."""
    made: list[str] = []
    original = examples._one

    def one(schema: Schema, argument: examples.Argument, *rest: object) -> Tensor:
        made.append(argument.name)
        return original(schema, argument, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(examples, "_one", one)
        yield made


def test_a_look_up_makes_up_what_it_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many arguments an expression reads one, and one tensor is made of each number of rows, not one of each."""
    schema = Schema([Sparse(f"f{place}", many=True) for place in range(50)])
    arguments = schema.argument_names()
    with counting(monkeypatch) as made:
        given = examples.example(schema, arguments, 3, lambda argument, column: 0, torch.device("cpu"))
        assert len(given) == 100
        assert made == []
        assert given["f7"] is given["f7"]
        given["f8"] = torch.ones(1)
        assert given["f8"].tolist() == [1]
        assert made == ["f7"]
        assert set(given) == set(arguments)


def test_a_long_sum_is_walked_without_recursion() -> None:
    graph = fx.Graph()
    first = graph.placeholder("f0")
    total = first
    for _ in range(3000):
        total = graph.call_function(torch.ops.aten.add.Tensor, (total, first))
    graph.output(total)
    schema = Schema([Sparse("f0")])

    class Captured:
        graph_module = fx.GraphModule(nn.Module(), graph)

    probe = Probe(Captured(), schema, schema.argument_names(), torch.device("cpu"))  # type: ignore[arg-type]
    assert probe.reads(total) == {"f0"}
    assert probe.evaluate(total, {"f0": torch.ones(2, dtype=torch.int64)}).tolist() == [3001, 3001]


class Many(nn.Module):
    """A model of as many embeddings, single-valued ones or bags, as it has features."""

    def __init__(self, features: int, *, bags: bool) -> None:
        super().__init__()
        self.bags = bags
        kind: Any = nn.EmbeddingBag if bags else nn.Embedding
        options = {"mode": "sum", "include_last_offset": True} if bags else {}
        self.e = nn.ModuleList([kind(5, 2, **options) for _ in range(features)])
        self.out = nn.Linear(2 * features, 1)

    def forward(self, given: dict[str, Tensor]) -> Tensor:
        vectors = [
            e(given[f"f{place}"], given[f"f{place}_offsets"]) if self.bags else e(given[f"f{place}"])
            for place, e in enumerate(self.e)
        ]
        return self.out(torch.cat(vectors, 1))


OURS = Path(examples.__file__).resolve().parent


def work_of_an_export(folder: Path, features: int, *, bags: bool) -> Counter[str]:
    """Return how many lines of the export's own files are run, by function; each turn of a loop is one."""
    lines: Counter[str] = Counter()
    names: dict[Any, str] = {}

    def count(frame: FrameType, event: str, arg: Any) -> Any:
        lines[names[frame.f_code]] += 1
        return count

    def begin(frame: FrameType, event: str, arg: Any) -> Any:
        code = frame.f_code
        if code not in names:
            file = Path(code.co_filename).resolve()
            names[code] = f"{file.relative_to(OURS)}: {code.co_name}" if file.is_relative_to(OURS) else ""
        return count if names[code] else None

    schema = Schema([Sparse(f"f{place}", many=bags) for place in range(features)])
    module, before = Many(features, bags=bags), sys.gettrace()
    sys.settrace(begin)
    try:
        export_model(module, schema, folder / str(features), 1, quiet=True)
    finally:
        sys.settrace(before)
    return lines


@pytest.mark.parametrize("bags", [False, True])
def test_an_export_runs_no_line_more_often_than_features_grow(tmp_path: Path, *, bags: bool) -> None:
    """What is done for each pair of features would be done four times as often for twice as many of them."""
    few, more, most = (work_of_an_export(tmp_path, features, bags=bags) for features in (6, 12, 24))
    assert most.total() > 5_000
    grown = {name: (most[name] - more[name], more[name] - few[name]) for name in most}
    # Twice as much is linear. A few more: of bytes that are read in pieces, and of what is drawn by chance.
    wrong = {name: each for name, each in grown.items() if each[0] > 2.2 * each[1] + 24}
    assert not wrong
