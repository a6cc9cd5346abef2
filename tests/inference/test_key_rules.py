"""Key rules: each makes of any id what the expression that it stands for makes of it, and nothing else is a rule."""

from __future__ import annotations

import numpy as np
import pytest

from ringpull.inference.head.request import kernels
from ringpull.inference.head.request.key_rules import ADD, CLIP, FROM_END, MODULO, KeyRule
from ringpull.inference.model.manifest import LookupSpec
from ringpull.inference.schema.key_expressions import KeyExpression
from ringpull.ps.spec import Pooling

X, at, of = KeyExpression.ids(), KeyExpression.constant, KeyExpression.of
MIN_ID, MAX_ID = -(2**63), 2**63 - 1
IDS = np.array([MIN_ID, MIN_ID + 1, -12, -11, -10, -1, 0, 1, 4, 5, 9, 10, 11, 12, MAX_ID - 1, MAX_ID])


def clip(low: int, high: int) -> KeyExpression:
    return of("minimum", of("maximum", X, at(low)), at(high))


RULES = {
    ADD: [of("add", X, at(3)), of("sub", X, at(MAX_ID)), of("add", at(-4), X)],
    FROM_END: [of("where", of("lt", X, at(0)), of("add", X, at(number)), X) for number in (11, -1, MAX_ID)],
    CLIP: [
        clip(0, 10),
        clip(-5, -5),
        of("maximum", of("minimum", X, at(10)), at(4)),
        of("minimum", X, at(9)),
        of("maximum", X, at(0)),
    ],
    MODULO: [of("remainder", X, at(number)) for number in (1, 10, MAX_ID)],
}
NONE = [
    clip(10, 0),
    of("remainder", X, at(-10)),
    of("fmod", X, at(10)),
    of("abs", X),
    of("where", of("le", X, at(0)), of("add", X, at(11)), X),
    of("remainder", of("add", X, at(1)), at(10)),
    of("remainder", X.cast("int32"), at(10, "int32")).cast("int64"),
]


def spec_of(key: KeyExpression | None, add: int = 0) -> LookupSpec:
    return LookupSpec(table="items", feature="item", pooling=Pooling.NONE, key=key, add=add)


def made(rule: KeyRule) -> np.ndarray:
    counts = np.array([0, len(IDS)])
    rules = np.array([rule, rule], np.int64)
    words = np.concatenate([np.zeros(2, np.int64), IDS]).view(np.uint64)
    return kernels.direct_keys(words, np.array([0, 2]), counts, rules).view(np.int64)


@pytest.mark.parametrize(("kind", "key"), [(kind, key) for kind, keys in RULES.items() for key in keys], ids=str)
def test_a_rule_is_its_expression(kind: int, key: KeyExpression):
    rule = KeyRule.of(spec_of(key))
    assert rule is not None
    assert rule.kind == kind
    assert made(rule).tolist() == key.evaluate(IDS).tolist()


@pytest.mark.parametrize("key", NONE, ids=str)
def test_other_expressions_are_no_rules(key: KeyExpression):
    assert KeyRule.of(spec_of(key)) is None


def test_what_is_added_is_added():
    assert KeyRule.of(spec_of(None, add=-3)) == (ADD, -3, 0)
    assert made(KeyRule(ADD, 3)).tolist() == (IDS + np.int64(3)).tolist()


def test_limits_are_held_at_both_ends():
    words = np.array([-5, 4, 0, 9], np.int64).view(np.uint64)
    begins, counts = np.array([0, 2]), np.array([2, 2])

    def within(*limits: tuple[int, int]) -> bool:
        lows, highs = np.array(limits, np.int64).T.copy()
        return bool(kernels.all_within(words, begins, counts, lows, highs))

    assert within((-5, 5), (0, 10))
    assert not within((-4, 5), (0, 10))
    assert not within((-5, 4), (0, 10))
    assert not within((-5, 5), (1, 10))
    assert not within((-5, 5), (0, 9))
