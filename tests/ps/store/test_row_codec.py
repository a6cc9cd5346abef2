"""Row types: each is what its definition says, rounds as it promises, and is pooled as it decodes."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ringpull.ps.errors import InvalidInput
from ringpull.ps.pull_messages import Op
from ringpull.ps.spec import VECTOR_TYPES, RowType, TableSpec
from ringpull.ps.store.base import Base
from ringpull.ps.store.pull import pull
from ringpull.ps.store.row_codec import decode, encode
from ringpull.ps.store.table import Table
from ringpull.ps.store.writer import TableWriter
from tests.ps.tables import pull_request

FLOAT32_MAX = float(np.finfo(np.float32).max)
finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
moderate = st.floats(-(2.0**100), 2.0**100, width=32)


def spec_of(row_type: RowType, dim: int) -> TableSpec:
    return TableSpec(name="t", dim=dim, row_type=row_type)


def round_trip(numbers: list[float], row_type: RowType) -> np.ndarray:
    row = np.array([numbers], np.float32)
    spec = spec_of(row_type, len(numbers))
    raw = encode(row, spec)
    assert raw.shape == (1, spec.row_bytes)
    assert raw.dtype == np.uint8
    decoded = decode(raw, spec)
    assert (decoded.shape, decoded.dtype) == (row.shape, np.float32)
    return decoded[0]


@pytest.mark.parametrize(
    ("row_type", "dim", "row_bytes"),
    [
        (RowType.FLOAT32, 5, 20),
        (RowType.FLOAT16, 5, 10),
        (RowType.BFLOAT16, 5, 10),
        (RowType.INT8, 1, 12),
        (RowType.INT8, 4, 12),
        (RowType.INT8, 5, 16),
        (RowType.INT8, 128, 136),
    ],
)
def test_row_bytes(row_type: RowType, dim: int, row_bytes: int) -> None:
    assert spec_of(row_type, dim).row_bytes == row_bytes


@pytest.mark.parametrize(("row_type", "dtype"), [(RowType.BFLOAT16, torch.bfloat16), (RowType.FLOAT16, torch.float16)])
@given(bits=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=40))
@example(bits=[0x3F80_8000, 0x3F81_8000, 0x3F80_8001, 0x7F80_0001, 0xFFFF_FFFF, 0x7F80_0000, 0x0000_0001, 0x8000_0000])
def test_short_floats_are_rounded_as_torch_rounds_them(row_type: RowType, dtype: torch.dtype, bits: list[int]) -> None:
    """To nearest, ties to even; NaN, infinities, subnormals and negative zero among them."""
    numbers = np.array(bits, np.uint32).view(np.float32)
    expected = torch.from_numpy(numbers).to(dtype).to(torch.float32).numpy()
    fits = np.isfinite(expected) | ~np.isfinite(numbers)
    numbers, expected = numbers[fits], expected[fits]
    spec = spec_of(row_type, max(len(numbers), 1))
    decoded = decode(encode(numbers[None, :], spec), spec)[0] if len(numbers) else numbers
    assert np.array_equal(decoded, expected, equal_nan=True)
    assert np.array_equal(np.signbit(decoded), np.signbit(expected)) or np.isnan(expected).any()


@given(st.lists(st.lists(moderate, min_size=3, max_size=3), min_size=1, max_size=5))
@example([[0.0, 0.0, 0.0], [7.25, 7.25, 7.25], [1e-45, 0.0, 3e-43], [-1e30, 0.0, 1e30]])
def test_int8_is_off_by_at_most_half_a_step(rows: list[list[float]]) -> None:
    """Half a step, and the rounding of scale, product and sum to float32."""
    given_rows, spec = np.array(rows, np.float32), spec_of(RowType.INT8, 3)
    decoded = decode(encode(given_rows, spec), spec)
    for row, back in zip(given_rows.astype(np.float64), decoded.astype(np.float64), strict=True):
        width = row.max() - row.min()
        bound = width / 255 / 2 + 2**-21 * np.abs(row).max() + 2**-140
        assert np.abs(row - back).max() <= bound


@given(finite)
def test_a_row_of_one_number_has_scale_0_and_is_exact(number: float) -> None:
    assert round_trip([number] * 6, RowType.INT8).tolist() == [number] * 6
    raw = encode(np.full((1, 6), number, np.float32), spec_of(RowType.INT8, 6))
    assert raw[0, :4].view("<f4")[0] == 0
    assert raw[0, 8:].tolist() == [0] * 8


@given(st.lists(moderate, min_size=1, max_size=9))
def test_int8_decodes_to_product_and_sum_rounded_each(numbers: list[float]) -> None:
    """Spelled out with exact fractions: what any other reader of the format must compute."""
    raw = encode(np.array([numbers], np.float32), spec_of(RowType.INT8, len(numbers)))[0]
    scale, offset = (Fraction(float(each)) for each in raw[:8].view("<f4"))
    expected = [np.float32(Fraction(float(np.float32(scale * int(code)))) + offset) for code in raw[8:][: len(numbers)]]
    assert round_trip(numbers, RowType.INT8).tolist() == [float(each) for each in expected]


@pytest.mark.parametrize(
    ("row_type", "numbers", "what"),
    [
        (RowType.FLOAT16, [1.0, 65520.0], "beyond 65504, the largest of float16"),
        (RowType.BFLOAT16, [FLOAT32_MAX], "the largest of bfloat16"),
        (RowType.INT8, [1.0, float("nan")], "must be finite"),
        (RowType.INT8, [float("inf")], "must be finite"),
        (RowType.INT8, [-FLOAT32_MAX, FLOAT32_MAX], "apart"),
    ],
)
def test_numbers_that_a_row_type_cannot_hold_are_refused(row_type: RowType, numbers: list[float], what: str) -> None:
    with pytest.raises(InvalidInput, match=f"table t: .*{what}"):
        round_trip(numbers, row_type)


@pytest.mark.medium
@pytest.mark.parametrize("row_type", list(VECTOR_TYPES))
@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**32), dim=st.sampled_from([1, 5, 16, 33, 64, 100]), count=st.integers(1, 40))
def test_a_bag_is_the_sum_of_its_decoded_rows_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory, row_type: RowType, seed: int, dim: int, count: int
) -> None:
    """In the order of the keys, absent ones among them: no row type has a rounding of its own."""
    rng = np.random.default_rng(seed)
    folder = tmp_path_factory.mktemp("bits") / "t"
    rows = rng.normal(size=(30, dim)).astype(np.float32)
    default = rng.normal(size=dim).astype(np.float32)
    with TableWriter(folder, spec_of(row_type, dim), default=default) as writer:
        writer.add(np.arange(30), rows)
        writer.finish()
    table = Table(Base.open(folder, verify_rows=True))
    decoded = np.vstack([decode(encode(rows, table.spec), table.spec), default])
    keys = rng.integers(0, 40, count, np.uint64)
    weights = rng.normal(size=count).astype(np.float32)
    reply = pull(
        [table] * 3,
        [None] * 3,
        pull_request(
            [
                ("t", Op.SUM, keys, [count], None),
                ("t", Op.SUM, keys, [count], weights),
                ("t", Op.ROWS, keys, (), None),
            ]
        ),
    )
    members = decoded[np.minimum(keys, 30).astype(np.int64)]
    total, weighted = members[0].copy(), members[0] * weights[0]
    for row, weight in zip(members[1:], weights[1:], strict=True):
        total += row
        weighted += row * weight
    assert np.array_equal(reply.values, np.concatenate([total, weighted, members.reshape(-1)]))


def test_a_short_row_type_makes_a_smaller_table(tmp_path: Path) -> None:
    sizes = {}
    for row_type in VECTOR_TYPES:
        spec = TableSpec(name="t", dim=64, row_type=row_type)
        with TableWriter(tmp_path / row_type, spec) as writer:
            writer.add(np.arange(1000), np.random.default_rng(0).normal(size=(1000, 64)).astype(np.float32))
            sizes[row_type] = writer.finish().bytes
    rest = sizes[RowType.FLOAT32] - 1000 * 256
    assert sizes[RowType.BFLOAT16] - 1000 * 128 == pytest.approx(rest, abs=10)
    assert sizes[RowType.INT8] - 1000 * 72 == pytest.approx(rest, abs=10)
