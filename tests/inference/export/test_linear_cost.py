"""An export's work grows with its features, not with their square: counted, not timed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, fx, nn

from ringpull.inference.export import examples
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
