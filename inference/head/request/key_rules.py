"""Key rules: what becomes of direct ids before they are looked up, where one kernel can do it for all columns.

Models that were imported, or that guard their own look-ups, do little to an id: nothing, a constant is added, one
below zero counts from the end, ids are clipped, or taken modulo a table's rows. Such a key expression is a rule of
three numbers. Any other expression is evaluated step by step, feature by feature.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from ringpull.inference.model.manifest import LookupSpec
from ringpull.inference.schema.key_expressions import KeyExpression

ADD: Final = 0
"""`first` is added to each."""
FROM_END: Final = 1
"""`first` is added to those below zero."""
CLIP: Final = 2
"""Each is at least `first`, and at most `second`."""
MODULO: Final = 3
"""The remainder of each by `first`, which is above zero; it is never below zero."""

_LOWEST: Final = -(2**63)
_HIGHEST: Final = 2**63 - 1


class KeyRule(NamedTuple):
    """One rule: what is done, and by which numbers."""

    kind: int
    first: int
    second: int = 0

    @classmethod
    def of(cls, spec: LookupSpec) -> KeyRule | None:
        """Return the rule that makes the keys of a look-up; None: no rule does."""
        if spec.key is None:
            return cls(ADD, spec.add)
        wanted = spec.key.in_order()
        return next((rule for rule, expression in _rules(spec.key) if expression.in_order() == wanted), None)


def _rules(key: KeyExpression) -> Iterator[tuple[KeyRule, KeyExpression]]:
    """Yield each rule that has an expression's constants, and how it would be written."""
    if key.type != "int64" or len(key.features) != 1:
        return
    ids, of = KeyExpression.ids(*key.features), KeyExpression.of
    numbers = {int(step.value) for step in key.steps if step.operator == "constant" and step.type == "int64"}
    zero = KeyExpression.constant(0)
    # No rule has more than two numbers; zero may be one that is compared with.
    if len(numbers) > 2:
        return
    constants = {each: KeyExpression.constant(each) for each in numbers}
    for number, constant in constants.items():
        yield KeyRule(ADD, number), of("add", ids, constant)
        yield KeyRule(FROM_END, number), of("where", of("lt", ids, zero), of("add", ids, constant), ids)
        yield KeyRule(CLIP, number, _HIGHEST), of("maximum", ids, constant)
        yield KeyRule(CLIP, _LOWEST, number), of("minimum", ids, constant)
        if number > 0:
            yield KeyRule(MODULO, number), of("remainder", ids, constant)
        for other, above in constants.items():
            if number <= other:
                yield KeyRule(CLIP, number, other), of("minimum", of("maximum", ids, constant), above)
                yield KeyRule(CLIP, number, other), of("maximum", of("minimum", ids, above), constant)
