"""Texts of a graph: what an export writes is taken, and nothing that fills memory or time when it is read."""

from __future__ import annotations

import pytest

from ringpull.inference.model.graph_texts import guard_fault, size_fault

S0 = "Symbol('s0', positive=True, integer=True)"
S1 = "Symbol('s1', integer=True)"


@pytest.mark.parametrize(
    "text",
    [
        "Pow(2, Pow(2, 64))",
        "Pow(Integer(2), Pow(Integer(2), Integer(64)))",
        "2**2**64",
        "2**64**64",
        "(2**64)**64",
        "Pow(3, Mul(64, 64, 64, 64))",
        "Pow(3, Add(Mul(64, 64), 1))",
        "Pow(3, 64*64)",
        "Pow(2, 65)",
        "Pow(2, -65)",
        "Pow(2, Integer(-1000000000000))",
        "Pow(2, Float('1e12', precision=53))",
        "Pow(2, 1e12)",
        "Pow(2, LShift(1, 64))",
        "Pow(2, FloorDiv(1000000000000, 1))",
        "Pow(2, Max(1, 1000000000000))",
        "Pow(2, Mul(1000000000000, s0))",
        f"Pow(2, Mul(64, 64, {S0}))",
        "PowByNatural(2, Abs(1000000000000))",
        "FloatPow(2.0, Pow(2, 64))",
        "LShift(1, 1000000000000)",
        "LShift(1, Mul(64, 64, 64, 64, 64, 64))",
        "LShift(LShift(1, 64), 64)",
        "1 << 2**50",
        "1 << 1000000000000",
        "Pow(Identity(Pow(10, 64)), 64)",
        "Pow(Mul(Pow(2, 64), 3), 64)",
        "Pow(18446744073709551616, 65)",
        "Pow(Mul(" + ", ".join(["18446744073709551616"] * 60) + "), 64)",
        "*".join(["Pow(2, 64)"] * 70),
        "Mul(" + ", ".join(["Pow(18446744073709551616, 32)"] * 9) + ")",
        "Float('1', precision=1000000000)",
        "Float('1', precision=-1)",
        "RoundDecimal(5, -1000000000000)",
        "RoundDecimal(5, Pow(2, 64))",
        "FloorToInt(Float('1e999', precision=53))",
        "FloorDiv(Pow(Add(s0, s1, s2, s3, s4), 64), Add(s0, 1))",
        "Pow(Add(s0, 1, s1), 64)",
        "(s0 + s1)**64",
        "Mul(" + ", ".join(f"Add(s{number}, 1)" for number in range(30)) + ")",
        "1" + "+1" * 9000,
    ],
)
def test_what_fills_memory_or_time_is_refused(text: str) -> None:
    assert size_fault(text)


@pytest.mark.parametrize("text", ["2**2**64 == 1", "1 << 2**50 == 1", "2**(64*64*64*64) < 3", "2**1000000000000 == 1"])
def test_guards_too(text: str) -> None:
    assert guard_fault(text)


@pytest.mark.parametrize(
    "text",
    [
        S0,
        f"Mul(Integer(2), {S0})",
        f"Add(Mul(Integer(-1), {S0}), Integer(4096), Mul({S0}, {S1}))",
        f"Pow({S0}, Integer(2))",
        f"Pow({S0}, Integer(-1))",
        f"Pow({S0}, Rational(1, 2))",
        f"Pow(Add({S0}, Integer(1)), Integer(3))",
        f"Pow(Integer(2), {S0})",
        f"Pow(Integer(2), Add({S0}, Integer(-1)))",
        f"PowByNatural({S0}, Integer(64))",
        f"LShift({S0}, Integer(3))",
        f"FloorDiv(Mul({S0}, Add({S1}, Integer(7))), Integer(8))",
        f"Mul({', '.join([S0, S1] * 20)})",
        f"Add({', '.join([f'Mul(Integer(9223372036854775807), {S0})'] * 40)})",
        f"IntTrueDiv({S0}, Float('2.5', precision=53))",
        f"RoundDecimal(ToFloat({S0}), Integer(2))",
        "int_oo",
        "2*s17**2 - 1",
    ],
)
def test_what_exports_write_is_taken(text: str) -> None:
    assert size_fault(text) is None


@pytest.mark.parametrize(
    "text", ["L['x'].size()[0] == 2*L['y'].size()[0]", "L['x'].size()[0]**2 >= 4", "2**L['x'].size()[0] <= 4"]
)
def test_guards_that_exports_write_are_taken(text: str) -> None:
    assert guard_fault(text) is None
