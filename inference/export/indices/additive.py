"""Key expressions that are no more than the addition of a constant, for ids that a table has a row for.

Casts through floats round large ids, and casts to int32 cut them off. As long as all ids that have a row stay exact on
the way, the others need no exactness: rounding keeps the order of numbers, so what is beyond the table stays beyond
it. An id that only a cast to int32 would bring back into the table (2^32 + 3 as 3) is unknown, as any id beyond it.
"""

from __future__ import annotations

from typing import Final

from ringpull.inference.schema.key_expressions import KeyExpression, NumberType

EXACT: Final[dict[NumberType, int]] = {"int32": 2**31, "int64": 2**63, "float32": 2**24, "float64": 2**53}
"""Largest magnitude up to which each type holds all integers."""


def constant_added(key: KeyExpression, rows: int) -> int | None:
    """Return the constant that an expression adds to ids, for a table of so many rows; None if it does more."""
    added: list[tuple[NumberType, int]] = []
    """Steps back from the row: of each, its type and the constant that it adds."""
    while key.steps[-1].operator != "id":
        last = key.steps[-1]
        if last.operator == "cast" and key.type in EXACT:
            added.append((key.type, 0))
        elif last.operator in ("add", "sub") and (by := key.operand(1)).is_constant and by.value == int(by.value):
            added.append((key.type, int(by.value) if last.operator == "add" else -int(by.value)))
        elif last.operator == "add" and (by := key.operand(0)).is_constant and by.value == int(by.value):
            added.append((key.type, int(by.value)))
            key = key.operand(1)
            continue
        else:
            return None
        key = key.operand(0)
    total = sum(one for _, one in added)
    so_far = 0
    for number_type, one in reversed(added):
        so_far += one
        # The last id below the table, and the first beyond it.
        low, high = so_far - total - 1, so_far - total + rows
        if number_type != "int64" and max(abs(low), abs(high), abs(one)) > EXACT[number_type]:
            return None
    return total if abs(total) < EXACT["int64"] else None
