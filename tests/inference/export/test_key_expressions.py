"""Indexes that compute rows of ids: each becomes a table that is looked up by what the module computes, id by id."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ringpull.inference.export.indices.additive import constant_added
from ringpull.inference.export.model import export_model
from ringpull.inference.export.report import ExportReport
from ringpull.inference.head.pipeline import Pipeline
from ringpull.inference.head.request.preparation import Preparation
from ringpull.inference.head.request.received import Limits, ReceivedColumns
from ringpull.inference.model.samples import Samples
from ringpull.inference.schema.columns import Column, Ragged
from ringpull.inference.schema.features import Prepared
from ringpull.inference.schema.key_expressions import KeyExpression
from ringpull.inference.schema.kinds import Feature, IdSequence, Sparse
from ringpull.inference.schema.schema import Schema
from ringpull.inference.schema.transforms import Hash
from ringpull.ps.errors import ExportError, InvalidInput
from ringpull.ps.spec import Pooling
from tests.inference.export.versions import Exported, assert_equal
from tests.inference.fakes import ReferenceRouter
from tests.reference import assert_close

ROWS = 12
DIM = 4
BIG = 2654435761

USER, A, B = Sparse("user"), Sparse("a"), Sparse("b")

EXTREME = [0, 1, 5, 11, 12, 13, 24, 1000, -1, -5, -12, -13, 2**24 + 1, 2**31 - 1, 2**31, 2**53 + 1, 2**62, 2**63 - 1,
           -(2**31) - 1, -(2**62) - 7, -(2**63)]  # fmt: skip
"""Ids that lie in, at and beyond a table, and where types end."""

Expression = Callable[[Tensor], Tensor]

ANY_ID: dict[str, Expression] = {
    "clamp": lambda x: x.clamp(0, ROWS - 1),
    "clamp of tensors": lambda x: torch.clamp(x, torch.tensor(2), torch.tensor(7)),
    "clamp_min and clamp_max": lambda x: x.clamp_min(1).clamp_max(ROWS - 1),
    "min and max": lambda x: torch.minimum(torch.maximum(x, torch.zeros_like(x)), torch.full_like(x, ROWS - 1)),
    "max of another": lambda x: torch.min(torch.max(x, torch.tensor(0)), torch.tensor(ROWS - 1)),
    "where": lambda x: torch.where((x < ROWS) & (x >= 0), x, 0),
    "where of zeros": lambda x: torch.where(torch.logical_and(x.lt(ROWS), x.ge(0)), x, torch.zeros_like(x)),
    "where turned": lambda x: torch.where((x >= ROWS) | (x < 0), ROWS - 1, x),
    "masked_fill": lambda x: x.masked_fill(x >= ROWS, 0).masked_fill(x < 0, 3),
    "remainder": lambda x: x % ROWS,
    "remainder in place": lambda x: x.clone().remainder_(ROWS),
    "fmod": lambda x: torch.fmod(x, ROWS // 2) + 6,
    "fmod of negatives": lambda x: torch.fmod(x, 6).abs(),
    "hash": lambda x: (x * BIG) % ROWS,
    "hash of bits": lambda x: ((x ^ (x >> 16)) * 0x45D9F3B ^ (x << 3)) & 7,
    "bits": lambda x: (~x | 2) & 11,
    "xor": lambda x: torch.bitwise_xor(x & 7, torch.tensor(5)),
    "floor of halves": lambda x: torch.div(x, 2, rounding_mode="floor") % ROWS,
    "trunc of halves": lambda x: torch.div(x, -3, rounding_mode="trunc") % ROWS,
    "quotient": lambda x: (x // 1000) % ROWS,
    "absolute": lambda x: (x.abs() % ROWS).abs(),
    "negative": lambda x: (-x + 1) % ROWS,
    "turned difference": lambda x: (5 - x) % ROWS,
    "alpha": lambda x: torch.add(x, 3, alpha=2) % ROWS,
    "comparison added": lambda x: (x > 3).long() + (x != 7).long() * 2 + x.eq(5),
    "not": lambda x: torch.logical_not(x == 4).long(),
    "relu": lambda x: torch.relu(x).clamp(max=ROWS - 1),
    "int32": lambda x: x.int() % ROWS,
    "int32 wraps": lambda x: (x.int() * 65_537) % ROWS,
    "float": lambda x: x.float().clamp(0, ROWS - 1).long(),
    "float divided": lambda x: torch.floor(x.clamp(0, 100).float() / 10).long(),
    "float rounded": lambda x: (x.clamp(0, 100).double() / 10).round().long(),
    "true division": lambda x: (x.clamp(0, 100) / 10).ceil().int(),
    "bool": lambda x: x.bool().long() + 1,
}
"""Expressions of any id at all that give a row of a table of `ROWS`."""


class Model(nn.Module):
    """A model with one embedding `e`, looked up by an expression of its argument."""

    def __init__(self, expression: Expression, rows: int = ROWS) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.e = nn.Embedding(rows, DIM)
        self.out = nn.Linear(DIM, 1)
        self.expression = expression


class Single(Model):
    def forward(self, user: Tensor) -> Tensor:
        return self.out(self.e(self.expression(user)))


class Stack(Model):
    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.e(self.expression(x)[:, [1, 0]]).sum(1) + self.e(self.expression(x[:, 1])))


class Listed(Model):
    def forward(self, history: Tensor) -> Tensor:
        return self.out(torch.tanh(self.e(self.expression(history))).cumsum(1)[:, -1])


class Bags(Model):
    def __init__(self, expression: Expression, rows: int = ROWS) -> None:
        super().__init__(expression, rows)
        self.bag = nn.EmbeddingBag(rows, DIM, mode="mean", include_last_offset=True, padding_idx=3)
        self.of_sequence = nn.EmbeddingBag(rows, DIM, mode="sum", padding_idx=int(expression(torch.tensor([2]))))
        nn.init.normal_(self.bag.weight)
        nn.init.normal_(self.of_sequence.weight)

    def forward(self, bag: Tensor, bag_offsets: Tensor, history: Tensor) -> Tensor:
        return self.out(self.bag(self.expression(bag), bag_offsets) + self.of_sequence(self.expression(history)))


HISTORY = IdSequence("history", length=4, pad=2)


def lists(ids: list[int]) -> Ragged:
    return Ragged(np.array(ids, np.int64), np.array([0, 0, 1, 3, len(ids) - 8, len(ids)]))


def export(
    path: Path, module: nn.Module, features: list[Feature], stacks: dict[str, list[str]] | None = None, **more: Any
) -> ExportReport:
    return export_model(module, Schema(features, stacks or {}), path / "model", 1, quiet=True, **more)


def check(path: Path, module: nn.Module, features: list[Feature], columns: dict[str, Column], **more: Any) -> Any:
    report = export(path, module, features, **more)
    stacks = more.get("stacks")
    assert_equal(module, Schema(features, stacks or {}), report.path, columns, len(next(iter(columns.values()))))
    return report


@pytest.mark.medium
@pytest.mark.parametrize("name", ANY_ID)
def test_a_row_is_computed_of_any_id(tmp_path: Path, name: str) -> None:
    expression = ANY_ID[name]
    ids = np.array(EXTREME)
    report = check(tmp_path / "single", Single(expression), [USER], {"user": ids})
    assert not report.kept
    assert not report.manifest.limits
    assert all(each.key is not None for each in report.manifest.lookups)
    stacks = {"x": ["a", "b"]}
    report = check(tmp_path / "stack", Stack(expression), [A, B], {"a": ids, "b": ids[::-1].copy()}, stacks=stacks)
    assert len(report.manifest.lookups) == 2
    report = check(tmp_path / "list", Listed(expression), [HISTORY], {"history": lists(EXTREME)})
    assert not report.kept
    columns: dict[str, Column] = {"bag": lists(EXTREME), "history": lists(EXTREME[::-1])}
    report = check(tmp_path / "bag", Bags(expression), [Sparse("bag", many=True), HISTORY], columns)
    assert {each.pooling for each in report.manifest.lookups} == {Pooling.MEAN, Pooling.SUM}


# -- several ids -------------------------------------------------------------------------------------------------------


class Columns(Model):
    """A stack, each column with its own constants."""

    def __init__(self) -> None:
        super().__init__(lambda x: x, 40)
        self.register_buffer("sizes", torch.tensor([10, 20, 10]))
        self.register_buffer("starts", torch.tensor([0, 10, 30]))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.tanh(self.e(x % self.sizes + self.starts)).cumsum(1)[:, -1])


@pytest.mark.medium
def test_each_column_of_a_stack_has_its_own_constants(tmp_path: Path) -> None:
    ids = np.array(EXTREME)
    columns: dict[str, Column] = {"a": ids, "b": ids[::-1].copy(), "user": np.roll(ids, 5)}
    report = check(tmp_path, Columns(), [A, B, USER], columns, stacks={"x": ["a", "b", "user"]})
    assert [str(each.key) for each in report.manifest.lookups] == ["(x % 10)", "((x % 20) + 10)", "((x % 10) + 30)"]


class Hashes(Model):
    """K rows for each id, by K hashes."""

    def __init__(self) -> None:
        super().__init__(lambda x: x)
        self.register_buffer("primes", torch.tensor([BIG, 97, 31]))

    def forward(self, user: Tensor, history: Tensor) -> Tensor:
        once = self.e((user.unsqueeze(1) * self.primes) % ROWS)
        each = self.e((history.unsqueeze(-1) * self.primes) % ROWS)
        return self.out(torch.tanh(once).sum(1) + torch.tanh(each).cumsum(1)[:, -1].cumsum(1)[:, -1])


@pytest.mark.medium
def test_several_hashes_of_an_id_are_as_many_lookups(tmp_path: Path) -> None:
    rows = np.array([3, 2**40, -7, 11, 2**63 - 1])
    report = check(tmp_path, Hashes(), [USER, HISTORY], {"user": rows, "history": lists(EXTREME)})
    assert sorted(each.feature for each in report.manifest.lookups) == ["history"] * 3 + ["user"] * 3


class QuotientRemainder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.quotient, self.remainder = nn.Embedding(1000 // 7 + 1, DIM), nn.Embedding(7, DIM)
        self.out = nn.Linear(DIM, 1)

    def forward(self, user: Tensor) -> Tensor:
        return self.out(self.quotient(user // 7) * self.remainder(user % 7))


@pytest.mark.medium
def test_quotient_and_remainder(tmp_path: Path) -> None:
    check(tmp_path, QuotientRemainder(), [USER], {"user": np.array([0, 1, 6, 7, 8, 500, 999])})


class Moved(Model):
    """Indexes whose elements lie otherwise than the ids."""

    def forward(self, x: Tensor, user: Tensor, history: Tensor) -> Tensor:
        rows = x.shape[0]
        y = x % ROWS
        vectors = self.e(y.T).cumsum(0)[-1] + self.e(y.t().reshape(-1)).reshape(2, rows, DIM).cumsum(0)[0]
        vectors = vectors + self.e(y.flip(1)).cumsum(1)[:, 0] + self.e(user.repeat(3) % ROWS)[:rows]
        vectors = vectors + self.e(user.repeat_interleave(2) % ROWS).view(rows, 2, DIM).cumsum(1)[:, 0]
        vectors = vectors + self.e(history.roll(1, 1) % ROWS).cumsum(1)[:, 2]
        vectors = vectors + self.e(user.unsqueeze(1).expand(-1, 3) % ROWS).cumsum(1)[:, 1]
        vectors = vectors + self.e(torch.cat([user[:, None] % ROWS, history[:, [3, 0, 0]] % 5], 1)).cumsum(1)[:, 2]
        vectors = vectors + self.e((history % ROWS).T.unsqueeze(-1)).cumsum(0)[1, :, 0]
        return self.out(vectors)


@pytest.mark.medium
def test_elements_may_lie_in_any_order(tmp_path: Path) -> None:
    ids = np.arange(5)
    columns: dict[str, Column] = {"a": ids * 3, "b": ids - 9, "user": ids * 7, "history": lists(list(range(14)))}
    report = check(tmp_path, Moved(lambda x: x), [A, B, USER, HISTORY], columns, stacks={"x": ["a", "b"]})
    assert not report.kept
    assert {str(each.key) for each in report.manifest.lookups} == {"(x % 12)", "(x % 5)"}


class Crossed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.pair, self.hashed, self.user = nn.Embedding(6 * 7, DIM), nn.Embedding(ROWS, DIM), nn.Embedding(6, DIM)
        self.out = nn.Linear(DIM, 1)

    def forward(self, user: Tensor, a: Tensor, x: Tensor) -> Tensor:
        pair = self.pair(user * 7 + a) + self.hashed((user * BIG ^ a * 31 ^ x[:, 1]) % ROWS)
        return self.out(torch.tanh(pair) + self.user(user) + torch.tanh(self.pair(user * 7 + x[:, 0])))


CROSSED: list[Feature] = [USER, A, B]


@pytest.mark.medium
def test_a_cross_of_ids_is_a_feature_that_the_server_makes(tmp_path: Path) -> None:
    module, stacks = Crossed(), {"x": ["a", "b"]}
    columns: dict[str, Column] = {
        "user": np.array([0, 5, 3]),
        "a": np.array([6, 0, 2]),
        "b": np.array([1, 2**60, -9]),
    }
    report = check(tmp_path, module, CROSSED, columns, stacks=stacks)
    assert [each.feature for each in report.manifest.lookups] == ["user_x_a", "user_x_a_x_b", "user"]
    schema = Schema.from_json(report.manifest.schema.read(report.path))
    assert schema["user_x_a"].of == ("user", "a")
    assert Schema.from_json(schema.to_json()) == schema
    with pytest.raises(InvalidInput, match="feature user_x_a: made of user, a by the server; send those instead"):
        schema.prepare({**columns, "user_x_a": columns["a"]}, 3)


@pytest.mark.medium
@pytest.mark.parametrize("context", [(), ("user",), ("a",), ("user", "b"), ("user", "a", "b")])
async def test_a_cross_of_context_and_candidates_is_scored_by_a_head(tmp_path: Path, context: tuple[str, ...]) -> None:
    module, stacks = Crossed().eval(), {"x": ["a", "b"]}
    report = export(tmp_path, module, CROSSED, stacks)
    exported = Exported(report.path)
    pipeline = Pipeline(report.manifest, exported.schema, exported.program, ReferenceRouter(exported.tables))
    preparation = Preparation(report.manifest, exported.schema)
    candidates = {"user": np.array([4, 0, 1]), "a": np.array([6, 2, 0]), "b": np.array([2**40, -3, 5])}
    once = {name: candidates.pop(name)[:1] for name in context}
    given = candidates or {"a": np.array([1])}
    rows = len(next(iter(candidates.values()))) if candidates else 1
    if not candidates:
        once.pop("a")
    request = ReceivedColumns.of_columns(given, once, Limits(10, 10))
    ready = preparation.prepare([request, request])
    scores = pipeline.compute(await pipeline.pull(ready.work, deadline_s=1e9))
    whole = {name: torch.tensor(np.broadcast_to(ids, rows).copy()) for name, ids in {**given, **once}.items()}
    expected = module(whole["user"], whole["a"], torch.stack([whole["a"], whole["b"]], 1)).detach().numpy()
    for place in (0, 1):
        assert_close(scores[place].outputs["output"], expected)


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
