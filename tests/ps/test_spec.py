"""What a table may be: the rules of `TableSpec`, and that it survives being written down."""

from __future__ import annotations

from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringpull.ps.errors import InvalidInput
from ringpull.ps.spec import ALL, MAX_DIM, KeyType, OnUnavailable, RowType, TableSpec, check_name

names = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", fullmatch=True)


@st.composite
def specs(draw: st.DrawFn) -> TableSpec:
    row_type = draw(st.sampled_from(RowType))
    dim = 0 if row_type is RowType.BYTES else draw(st.integers(1, 8))
    vector = st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=dim, max_size=dim)
    return TableSpec(
        name=draw(names),
        dim=dim,
        row_type=row_type,
        key_type=draw(st.sampled_from(KeyType)),
        default=None if row_type is RowType.BYTES else draw(st.none() | vector.map(tuple)),
        replicas=draw(st.integers(1, 9) | st.just(ALL)),
        on_unavailable=draw(st.sampled_from(OnUnavailable)),
    )


@pytest.mark.medium
@settings(deadline=None)
@given(specs())
def test_a_spec_survives_msgpack(spec: TableSpec) -> None:
    assert TableSpec.from_dict(msgpack.unpackb(msgpack.packb(spec.to_dict()))) == spec


def test_row_bytes_and_default_vector() -> None:
    spec = TableSpec(name="user", dim=3)
    assert spec.row_bytes == 12
    assert spec.default_vector().tolist() == [0, 0, 0]
    vector = TableSpec(name="user", dim=2, default=(0.5, -1.0)).default_vector()
    assert vector.dtype == np.float32
    assert vector.tolist() == [0.5, -1.0]


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"dim": 0}, "dim"),
        ({"dim": MAX_DIM + 1}, "dim"),
        ({"dim": 2.0}, "dim"),
        ({"dim": True}, "dim"),
        ({"row_type": RowType.BYTES}, "dim is 2; for rows of bytes it must be 0"),
        ({"row_type": RowType.BYTES, "dim": 0, "default": ()}, "default must be None"),
        ({"default": (1.0,)}, "default has 1 values; dim is 2"),
        ({"default": (1.0, float("nan"))}, "finite"),
        ({"default": (1.0, 1e39)}, "finite"),
        ({"replicas": 0}, "replicas"),
        ({"replicas": True}, "replicas"),
        ({"replicas": "both"}, "replicas"),
        ({"name": "../user"}, "name"),
    ],
)
def test_what_no_table_can_be_is_refused(fields: dict[str, Any], what: str) -> None:
    with pytest.raises(InvalidInput, match=what):
        TableSpec(**{"name": "user", "dim": 2, **fields})


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"dim": "2"}, "dim"),
        ({"row_type": "float7"}, "float7"),
        ({"key_type": 3}, "3"),
        ({"default": ["x", 1]}, "float"),
        ({"default": [10**400, 1]}, "float"),
        ({"default": 3}, "iterable"),
        ({"on_unavailable": "shrug"}, "shrug"),
        ({"name": None}, "name"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_fields_that_are_wrong_are_named(changes: dict[str, Any], what: str) -> None:
    fields = {**TableSpec(name="user", dim=2).to_dict(), **changes}
    with pytest.raises(InvalidInput, match=what):
        TableSpec.from_dict(fields)


@pytest.mark.parametrize("field", list(TableSpec(name="user", dim=2).to_dict()))
def test_a_missing_field_is_named(field: str) -> None:
    fields = TableSpec(name="user", dim=2).to_dict()
    del fields[field]
    with pytest.raises(InvalidInput, match=field):
        TableSpec.from_dict(fields)


@pytest.mark.parametrize("name", ["", ".", "..", "-x", ".hidden", "a/b", "a b", "ü", "x" * 129, "a\n", None, 3])
def test_names_that_are_no_folder_are_refused(name: object) -> None:
    with pytest.raises(InvalidInput, match="name"):
        check_name("table", name)
