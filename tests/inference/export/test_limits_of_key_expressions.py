"""Indexes that compute rows of ids: what is no key, what stays a constant added, limits, rows of the self-check."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ringpull.inference.export.indices.additive import constant_added
from ringpull.inference.model.samples import Samples
from ringpull.inference.schema.columns import Ragged
from ringpull.inference.schema.features import Prepared
from ringpull.inference.schema.key_expressions import KeyExpression
from ringpull.inference.schema.kinds import Feature, Sparse
from ringpull.inference.schema.transforms import Hash
from ringpull.ps.errors import ExportError
from tests.inference.export.key_expressions import (
    ANY_ID,
    CROSSED,
    DIM,
    EXTREME,
    HISTORY,
    ROWS,
    USER,
    A,
    Crossed,
    Expression,
    Model,
    Single,
    check,
    export,
)

# -- what is no key ----------------------------------------------------------------------------------------------------


class Refused(Model):
    def forward(self, user: Tensor, a: Tensor, history: Tensor, history_lengths: Tensor) -> Tensor:
        vectors = self.e(self.expression(user, a, history, history_lengths))  # type: ignore[call-arg]
        return self.out(vectors.reshape(user.shape[0], -1, DIM).sum(1))


REFUSED: dict[str, tuple[Any, str]] = {
    "a sequence and a single id": (
        lambda u, a, h, n: (h + u[:, None]) % ROWS,
        "history, which has many ids .* of user",
    ),
    "places of a sequence": (lambda u, a, h, n: (h[:, 1:] + h[:, :-1]) % ROWS, "different places of a row"),
    "rows of the batch": (lambda u, a, h, n: (u + u.flip(0)) % ROWS, "ids of different rows"),
    "turned rows": (lambda u, a, h, n: u.flip(0), "mixes ids of different rows"),
    "by row": (lambda u, a, h, n: (u + torch.arange(u.shape[0])) % ROWS, "other things of the ids in other rows"),
    "by place": (
        lambda u, a, h, n: (h.repeat(1, 5) + torch.arange(20)) % ROWS,
        "computes 20 different things of the ids",
    ),
    "division by ids": (lambda u, a, h, n: (u % (a.abs() + 1)) % ROWS, "divided by"),
    "root": (lambda u, a, h, n: u.abs().double().sqrt().long() % ROWS, "computed, by aten.sqrt"),
    "short integers": (lambda u, a, h, n: u.to(torch.int16).long() % ROWS, "cast to torch.int16"),
}


@pytest.mark.medium
@pytest.mark.parametrize("name", REFUSED)
def test_an_index_that_is_no_key_stays_with_its_reason(tmp_path: Path, name: str) -> None:
    expression, reason = REFUSED[name]
    report = export(tmp_path, Refused(expression), [USER, A, HISTORY], check_rows=0)
    (kept,) = report.kept
    assert re.search(reason, kept.reason), kept.reason


def test_raw_ids_do_not_give_computed_rows(tmp_path: Path) -> None:
    with pytest.raises(
        ExportError, match=r"the model looks up \(x % 12\) of the ids x of feature user in it.* without"
    ):
        export(tmp_path, Single(ANY_ID["remainder"]), [USER], keys={"e": list(range(100, 100 + ROWS))})
    with pytest.raises(ExportError, match=r"feature user_x_a is computed of user, a.* without keys"):
        export(tmp_path, Crossed(), CROSSED, {"x": ["a", "b"]}, keys={"pair": list(range(42))})
    with pytest.raises(ExportError, match="feature user: the model also looks up user_x_a"):
        export(tmp_path, Crossed(), CROSSED, {"x": ["a", "b"]}, keys={"user": list(range(6))})


# -- what the additive form is kept for --------------------------------------------------------------------------------

PLAIN: dict[str, tuple[Expression, int]] = {
    "two constants": (lambda x: x + 3 - 1, 2),
    "float matrix": (lambda x: x.float().long(), 0),
    "float added": (lambda x: (x.float() + 2).int(), 2),
    "double": (lambda x: x.double().long() + 1, 1),
    "times one": (lambda x: x * 1 + 0, 0),
    "turned": (lambda x: 1 + x, 1),
}


@pytest.mark.medium
@pytest.mark.parametrize("name", PLAIN)
def test_what_adds_a_constant_is_said_as_before(tmp_path: Path, name: str) -> None:
    expression, add = PLAIN[name]
    report = check(tmp_path, Single(expression), [USER], {"user": np.arange(ROWS - add)})
    (lookup,) = report.manifest.lookups
    assert (lookup.add, lookup.key) == (add, None)
    text = (report.path / "manifest.json").read_text()
    assert '"key"' not in text
    assert '"limits"' not in text


def test_rounding_of_floats_is_kept_where_it_reaches_rows() -> None:
    rounded = KeyExpression.ids().cast("float32").cast("int64")
    assert constant_added(rounded, 2**24) == 0
    assert constant_added(rounded, 2**24 + 1) is None
    assert rounded.row_of(2**24 + 1) == 2**24


# -- limits ------------------------------------------------------------------------------------------------------------

LIMITS: dict[str, tuple[Expression, tuple[int, int] | None]] = {
    "plain": (lambda x: x, (0, ROWS)),
    "added": (lambda x: x + 2, (-2, ROWS - 2)),
    "clamped below": (lambda x: x.clamp(min=0), (-(2**63), ROWS)),
    "clamped above": (lambda x: x.clamp(max=ROWS - 1), (0, 2**63 - 1)),
    "halved": (lambda x: x // 2, (0, 2 * ROWS)),
    "remainder": (lambda x: x % ROWS, None),
    "where": (lambda x: torch.where(x < ROWS, x, 0), (0, 2**63 - 1)),
    "apart": (lambda x: torch.where(x == 1000, 0, x), None),
}


class IntegerTable(nn.Module):
    """A model with a table of integers, which stays in the dense program."""

    def __init__(self, expression: Expression) -> None:
        super().__init__()
        self.register_buffer("numbers", torch.arange(ROWS * DIM).reshape(ROWS, DIM) % 5)
        self.expression = expression

    def forward(self, user: Tensor) -> Tensor:
        return nn.functional.embedding(self.expression(user), self.numbers).float()


@pytest.mark.medium
@pytest.mark.parametrize("name", LIMITS)
def test_ids_beyond_what_stays_are_limits_of_the_version(tmp_path: Path, name: str) -> None:
    expression, expected = LIMITS[name]
    report = export(tmp_path, IntegerTable(expression), [USER])
    assert [each.name for each in report.kept] == ["numbers"]
    assert [(each.feature, each.low, each.high) for each in report.manifest.limits] == (
        [] if expected is None else [("user", *expected)]
    )


def test_a_hash_within_what_stays_needs_no_limit(tmp_path: Path) -> None:
    hashed: list[Feature] = [Sparse("user", transforms=(Hash(ROWS),))]
    assert export(tmp_path / "within", IntegerTable(lambda x: x), hashed).manifest.limits == ()
    beyond: list[Feature] = [Sparse("user", transforms=(Hash(ROWS + 1),))]
    (limit,) = export(tmp_path / "beyond", IntegerTable(lambda x: x), beyond).manifest.limits
    assert (limit.low, limit.high) == (0, ROWS)


# -- rows of the self-check --------------------------------------------------------------------------------------------


class LastOf(Model):
    """A model that fails on an empty history."""

    def forward(self, history: Tensor, history_lengths: Tensor) -> Tensor:
        last = (history_lengths - 1)[:, None, None].expand(-1, 1, DIM)
        return self.out(self.e(self.expression(history)).gather(1, last)[:, 0])


@pytest.mark.medium
def test_a_model_without_empty_lists_is_checked_without(tmp_path: Path) -> None:
    module = LastOf(ANY_ID["remainder"])
    with pytest.raises(ExportError, match=r"fails on made-up rows.*never_empty=True.*check_columns"):
        export(tmp_path, module, [HISTORY])
    export(tmp_path / "declared", module, [replace(HISTORY, never_empty=True)])
    export(tmp_path / "missing", module, [replace(HISTORY, missing=3)])
    columns = {"history": Ragged(np.arange(9), np.array([0, 1, 4, 5, 9]))}
    export(tmp_path / "given", module, [HISTORY], check_columns=columns)


def made(path: Path, expression: Expression, features: list[Feature], module: Any = Single, **more: Any) -> Prepared:
    """Return the made-up rows of an export, by its samples of 16."""
    report = export(path, module(expression), features, **more)
    assert report.manifest.samples is not None
    return Samples.from_bytes(report.manifest.samples.read(report.path), "samples").prepared


@pytest.mark.medium
def test_made_up_ids_are_also_those_that_an_expression_brings_back(tmp_path: Path) -> None:
    ids = made(tmp_path, ANY_ID["remainder"], [USER]).features["user"].ids
    assert (ids < 0).any()
    assert (ids >= ROWS).any()
    assert ((ids >= 0) & (ids < ROWS)).any()
    ids = made(tmp_path / "where", lambda x: torch.where(x < ROWS, x, 0), [USER]).features["user"].ids
    assert (ids >= 0).all()
    assert (ids >= ROWS).any()


@pytest.mark.medium
def test_given_rows_are_among_those_of_the_self_check(tmp_path: Path) -> None:
    columns = {"user": np.array([1, 2, 3, 4, 5, 6, 7])}
    assert made(tmp_path, lambda x: x, [USER], check_columns=columns).features["user"].ids.tolist()[:7] == [
        *range(1, 8)
    ]


class Commuted(Model):
    def forward(self, user: Tensor, a: Tensor) -> Tensor:
        first = self.e((user * 7 + a) % ROWS) * self.e((a + 7 * user) % ROWS)
        second = self.e((user * 3 ^ a * 5) % ROWS) + self.e((5 * a ^ user * 3) % ROWS)
        return self.out(first + second)


@pytest.mark.medium
def test_operands_in_another_order_are_the_same_feature(tmp_path: Path) -> None:
    ids = np.array(EXTREME)
    report = check(tmp_path, Commuted(lambda x: x), [USER, A], {"user": ids, "a": ids[::-1].copy()})
    assert len(report.manifest.lookups) == 2


def test_an_expression_in_order_has_the_same_values() -> None:
    x, y = KeyExpression.ids(0), KeyExpression.ids(1)
    three = KeyExpression.constant(3)
    one = KeyExpression.of(
        "sub", KeyExpression.of("mul", y, x), KeyExpression.of("add", KeyExpression.of("mul", x, y), y)
    )
    other = KeyExpression.of(
        "sub", KeyExpression.of("mul", x, y), KeyExpression.of("add", y, KeyExpression.of("mul", x, y))
    )
    assert one.in_order() == other.in_order()
    turned = KeyExpression.of("sub", y, KeyExpression.of("xor", three, x))
    ids = np.array(EXTREME), np.array(EXTREME[::-1])
    for each in (one, other, turned):
        np.testing.assert_array_equal(each.in_order().evaluate(*ids), each.evaluate(*ids))
        assert KeyExpression.from_plain(each.in_order().to_plain()) == each.in_order()
