"""Requests for the small model, and what its program must be given for them: one row at a time, in plain loops."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from hypothesis import strategies as st

from ringpull.ps.spec import Pooling
from tests.inference.small_model import DIM, IDS, LOOKUPS, SCHEMA, Row, columns_of, make_tables
from tests.reference import ReferenceTable

ids = st.integers(0, IDS - 1)
bags = st.lists(ids, max_size=6)
numbers = st.floats(-4, 4, width=32)
rows_of = st.fixed_dictionaries(
    {
        "user": ids,
        "item": ids,
        "genres": bags,
        "tags": st.lists(st.tuples(ids, numbers), max_size=4),
        "history": bags,
        "recent": bags,
        "age": st.lists(numbers, min_size=2, max_size=2),
        "price": numbers,
    }
)


@st.composite
def requests(draw: st.DrawFn) -> tuple[list[Row], set[str]]:
    """Rows of a request, and the features they have in common, which are sent as context."""
    rows = draw(st.lists(rows_of, min_size=1, max_size=4))
    context = draw(st.sets(st.sampled_from(sorted(rows[0])), max_size=len(rows[0]) - 1))
    return [{**row, **{name: rows[0][name] for name in context}} for row in rows], context


def expected_vectors(row: Row, unknown: Collection[str] = ()) -> list[np.ndarray]:
    """What the program must be given for one row, input by input; ids of features in `unknown` are in no table."""
    tables = make_tables()
    nothing = {name: ReferenceTable(DIM, {}, table.default) for name, table in tables.items()}
    cross = SCHEMA.prepare(columns_of([row]), 1).features["user_item"].ids
    ids: dict[str, list[int]] = {
        "user": [row["user"]],
        "item": [row["item"]],
        "user_item": [int(cross[0])],
        "genres": row["genres"],
        "tags": [tag for tag, _ in row["tags"]],
        "history": row["history"][-4:],
        "recent": row["recent"][-3:],
    }
    found = []
    for spec in LOOKUPS:
        table = (nothing if spec.feature in unknown else tables)[spec.table]
        own = ids[spec.feature]
        if spec.feature == "history":
            fill = np.array(spec.fill, np.float32)
            found.append(np.stack([fill] * (4 - len(own)) + [table.row(each) for each in own]))
            continue
        if spec.feature == "recent" and spec.padding_id is None:
            own = own + [9] * (3 - len(own))
        kept = [place for place, each in enumerate(own) if each != spec.padding_id]
        weights = None
        if spec.weighted:
            weights = np.array([row["tags"][place][1] for place in kept], np.float32)
        keys = np.array([own[place] + spec.add for place in kept], np.uint64)
        pooling = Pooling.SUM if spec.pooling is Pooling.NONE else spec.pooling
        found.append(table.pull_bags(keys, np.array([0, len(keys)]), pooling, weights)[0])
    history = ids["history"]
    return [
        *found,
        np.array([row["user"], row["item"]]),
        np.array([*row["age"], row["price"]]),
        np.array([0] * (4 - len(history)) + history),
        np.array(len(history)),
        np.array(row["age"]),
        np.array(row["user"]),
    ]
