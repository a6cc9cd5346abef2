"""Methods that take nothing of the request are run once, before the trace; what they return is a weight."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ringpull.inference.export.model import export_model
from ringpull.inference.schema.kinds import Sparse
from ringpull.inference.schema.schema import Schema
from ringpull.ps.errors import ExportError, InvalidInput
from tests.inference.export.calls.served import export_and_compare, table_names

pytestmark = pytest.mark.medium

SCHEMA = Schema([Sparse("user"), Sparse("item")])
COLUMNS: dict[str, Any] = {"user": np.array([1, 5, 0]), "item": np.array([2, 2, 6])}


class Propagated(nn.Module):
    """Embeddings that a sparse graph spreads before they are looked up."""

    def __init__(self) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(8, 4), nn.Embedding(9, 4)
        generator = torch.Generator().manual_seed(1)
        self.graph = (torch.rand(17, 17, generator=generator) * 2 - 1).relu().to_sparse()
        self.cached: tuple[Tensor, Tensor] | None = None

    def forward(self) -> tuple[Tensor, Tensor]:
        every = torch.cat([self.users.weight, self.items.weight])
        spread = (every + torch.sparse.mm(self.graph, every)) / 2
        return torch.split(spread, [8, 9])  # type: ignore[return-value]

    def predict(self, interaction: Any) -> Tensor:
        users, items = self.forward()
        return (users[interaction["user"]] * items[interaction["item"]]).sum(1)

    def full_sort_predict(self, interaction: Any) -> Tensor:
        if self.cached is None:
            self.cached = self.forward()
        users, items = self.cached
        return (users[interaction["user"]] @ items.T).view(-1)

    def looked_up(self, user: Tensor) -> Tensor:
        return nn.functional.embedding(user, self.forward()[0]).sum(1)

    def needs(self, user: Tensor) -> Tensor:
        return user

    def broken(self) -> Tensor:
        raise RuntimeError("no graph was read")

    def on_broken(self, user: Tensor) -> Tensor:
        return self.broken()[user]

    def sparse(self) -> Tensor:
        return self.graph

    def propagated(self, user: Tensor) -> Tensor:
        return torch.sparse.mm(self.graph, torch.cat([self.users.weight, self.items.weight]))[user].sum(1)

    def with_request(self, user: Tensor, items: Tensor | None = None) -> Tensor:
        return self.scaled(user)

    def scaled(self, user: Tensor | None = None) -> Tensor:
        return self.users.weight.sum(1)


def test_a_propagation_is_run_once_and_named_by_method_and_place(tmp_path: Path) -> None:
    module = Propagated()
    report = export_and_compare(module, SCHEMA, tmp_path, COLUMNS, module.predict, method="predict", once=["forward"])
    assert set(table_names(report)) <= {"forward.0", "forward.1"}


def test_looked_up_results_are_tables(tmp_path: Path) -> None:
    module = Propagated()
    report = export_and_compare(
        module,
        SCHEMA,
        tmp_path,
        COLUMNS,
        lambda made: module.looked_up(made["user"]),
        method="looked_up",
        once=["forward"],
    )
    assert table_names(report) == ["forward.0"]


def test_scores_of_the_whole_catalogue_have_a_row_per_row(tmp_path: Path) -> None:
    module = Propagated()
    report = export_and_compare(
        module, SCHEMA, tmp_path, COLUMNS, module.full_sort_predict, method="full_sort_predict", once=["forward"]
    )
    assert [output.shape for output in report.manifest.outputs] == [(9,)]


def test_export_leaves_the_module_as_it_was(tmp_path: Path) -> None:
    module = Propagated()
    before = dict(module.__dict__)
    export_model(module, SCHEMA, tmp_path / "model", 1, method="full_sort_predict", once=["forward"], quiet=True)
    assert module.__dict__ == before
    assert module.cached is None


def test_a_failing_trace_proposes_it(tmp_path: Path) -> None:
    with pytest.raises(
        ExportError,
        match=r"Propagated.predict: graph is a sparse tensor.* used in forward, which takes.*by once=\['forward'\]",
    ):
        export_model(Propagated(), SCHEMA, tmp_path / "model", 1, method="predict", quiet=True)


def test_a_propagation_within_what_scores_is_to_be_written_as_a_method(tmp_path: Path) -> None:
    with pytest.raises(
        ExportError, match=r"graph is a sparse tensor.* write it as a method .* by once=\['propagate'\]"
    ):
        export_model(Propagated(), SCHEMA, tmp_path / "model", 1, method="propagated", quiet=True)


def test_a_forward_without_inputs_names_the_methods_that_score(tmp_path: Path) -> None:
    with pytest.raises(
        ExportError, match=r"Propagated.forward takes no argument .* method=, of full_sort_predict, looked"
    ):
        export_model(Propagated(), SCHEMA, tmp_path / "model", 1, quiet=True)


def test_a_failing_method_without_inputs_is_named(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"RuntimeError: no graph.* arises in broken, .*by once=\['broken'\]"):
        export_model(Propagated(), SCHEMA, tmp_path / "model", 1, method="on_broken", quiet=True)


@pytest.mark.parametrize(
    ("once", "error", "match"),
    [
        ("forward", InvalidInput, r"once is 'forward'; it must be a list of methods, as \['forward'\]"),
        (["spread"], InvalidInput, "once names 'spread'; Propagated has no such method"),
        (["graphs.spread"], InvalidInput, "once names 'graphs.spread': .*graphs"),
        (["needs"], InvalidInput, "once names 'needs', which takes user"),
        (
            ["broken"],
            ExportError,
            r"once: broken fails, at test_once.py:\d+, in \w+: .*: RuntimeError: no graph was read",
        ),
        (["sparse"], ExportError, "once: sparse is a sparse tensor"),
    ],
)
def test_what_cannot_be_run_once(tmp_path: Path, once: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        export_model(Propagated(), SCHEMA, tmp_path / "model", 1, method="predict", once=once, quiet=True)


def test_a_method_that_is_given_the_request_is_not_run_before_it(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="once names 'scaled', which is called with tensors of the request"):
        export_model(Propagated(), SCHEMA, tmp_path / "model", 1, method="with_request", once=["scaled"], quiet=True)
