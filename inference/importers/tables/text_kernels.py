"""Kernels of texts: keys and numbers of whole lines in one pass, and where the last whole record of some bytes ends.

`parse_rows` takes what Arrow's reader takes, in the same sense, and gives up on all else (a quote within quotes, a word
for a number, a column more): its caller then has Arrow read these lines, whose errors say which it is.

A number is rounded correctly. Its first 19 digits are an integer w below 2^64, and w * 10^q is computed in float64 by
at most four roundings, of 2^-53 each; digits beyond are less than 10^-18 of it. So it is wrong by less than 2^-51, and
rounding it once more, to float32, is right unless half-way between two float32 lies within that: where the 29 bits that
are lost are within `_MARGIN` of half. Those numbers, one of thirty million, and those so small or large that float32
rounds them otherwise, are left to the caller.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ringpull.ps.compiled import kernel
from ringpull.ps.spec import Float32Array, UInt64Array

UInt8Array = NDArray[np.uint8]
Int64Array = NDArray[np.int64]

# What a column is; from 0 on it is a number, and this its place in the vector.
KEY: Final = -1
UNUSED: Final = -2
VECTOR: Final = -3
"""A text that holds the whole vector."""

# How keys are read.
TEXT: Final = 0
SIGNED: Final = 1
UNSIGNED: Final = 2

GAVE_UP: Final = -1

_BLANK, _TAB, _LINE_END, _RETURN = ord(" "), ord("\t"), ord("\n"), ord("\r")
_QUOTE, _MINUS, _PLUS, _POINT, _ZERO, _NINE = ord('"'), ord("-"), ord("+"), ord("."), ord("0"), ord("9")
_E, _LOWER = ord("e"), 0x20

_POWERS: Final = np.array([10.0**power for power in range(23)])
"""Powers of ten that float64 holds exactly."""
_LAST: Final = 22
_DIGITS: Final = 19
_EXACT: Final = 1 << 53
_MAX_EXPONENT: Final = 9999
_MARGIN: Final = 8
_LOST: Final = (1 << 29) - 1
_HALF: Final = 1 << 28
_SMALLEST: Final = 1.2e-38
_LARGEST: Final = 3.4028e38
_MAX_TENTH: Final = np.uint64((1 << 64) // 10)
_MAX_INT64: Final = np.uint64((1 << 63) - 1)

_BETWEEN: Final = np.zeros(256, np.bool_)
"""Characters between the numbers of a vector that is a text."""
_BETWEEN[np.frombuffer(b",;| \t\n\r\v\f", np.uint8)] = True
_AROUND: Final = np.zeros(256, np.bool_)
"""Characters around such a vector."""
_AROUND[np.frombuffer(b"[](){} \t", np.uint8)] = True


@kernel(forceinline=True)
def _number(data: UInt8Array, begin: int, end: int) -> tuple[Any, Any, Any]:
    """Return where the number at a place ends, its value, and whether float32 may round that wrongly.

    It ends where it begins where there is none. Digits are taken one by one: taking eight at once, as a word of eight
    bytes, was slower, as the word is put together byte by byte.
    """
    at = begin
    negative = False
    if at < end and (data[at] == _MINUS or data[at] == _PLUS):
        negative = data[at] == _MINUS
        at += 1
    digits, exponent, any_digit, behind_point = 0, 0, False, False
    significand = np.uint64(0)
    while at < end:
        sign = data[at]
        if sign < _ZERO or sign > _NINE:
            if sign != _POINT or behind_point:
                break
            behind_point = True
            at += 1
            continue
        any_digit = True
        if digits < _DIGITS:
            significand = significand * np.uint64(10) + np.uint64(sign - _ZERO)
            digits += significand != 0
            exponent -= behind_point
        else:
            exponent += not behind_point
        at += 1
    if not any_digit:
        return begin, 0.0, False
    if at < end and (data[at] | _LOWER) == _E:
        at += 1
        below = at < end and data[at] == _MINUS
        if at < end and (data[at] == _MINUS or data[at] == _PLUS):
            at += 1
        written: Any = 0
        first = at
        while at < end and _ZERO <= data[at] <= _NINE:
            written = min(written * 10 + np.int64(data[at] - _ZERO), _MAX_EXPONENT)
            at += 1
        if at == first:
            return begin, 0.0, False
        exponent += -written if below else written
    value, unsure = _scaled(significand, exponent)
    return at, -value if negative else value, unsure


@kernel(forceinline=True)
def _scaled(significand: np.uint64, exponent: int) -> tuple[Any, Any]:
    """Return significand * 10^exponent as float64, and whether float32 may round that wrongly."""
    value = np.float64(significand)
    if significand == 0 or (exponent == 0 and significand <= _EXACT):
        return value, False
    if abs(exponent) > 3 * _LAST:
        return value, True
    while exponent < -_LAST:
        value /= _POWERS[_LAST]
        exponent += _LAST
    while exponent > _LAST:
        value *= _POWERS[_LAST]
        exponent -= _LAST
    value = value / _POWERS[-exponent] if exponent < 0 else value * _POWERS[exponent]
    if value < _SMALLEST or value > _LARGEST:
        return value, True
    return value, abs((np.float64(value).view(np.int64) & _LOST) - _HALF) <= _MARGIN


@kernel()
def _integer(data: UInt8Array, at: int, end: int, kind: int) -> tuple[np.uint64, bool]:
    """Return an integer key as its 64 bits, and whether it is one of its kind, as 7 is, and not 007 or +7."""
    negative = data[at] == _MINUS
    at += negative
    if at >= end or end - at > _DIGITS + 1 or (data[at] == _ZERO and (end - at > 1 or negative)):
        return np.uint64(0), False
    value = np.uint64(0)
    for place in range(at, end):
        sign = data[place]
        if sign < _ZERO or sign > _NINE:
            return value, False
        digit = np.uint64(sign - _ZERO)
        if value > _MAX_TENTH or (value == _MAX_TENTH and digit > np.uint64(5)):
            return value, False
        value = value * np.uint64(10) + digit
    if kind == UNSIGNED:
        return value, not negative
    if value > _MAX_INT64:
        return value, False
    return np.uint64(0) - value if negative else value, True


@kernel()
def _vector(data: UInt8Array, at: int, end: int, row: int, rows: Float32Array, hard: Int64Array, many: int) -> int:
    """Read the numbers of a vector that is a text; return how many are `hard` by then, or that it gave up."""
    while at < end and _AROUND[data[at]]:
        at += 1
    while at < end and _AROUND[data[end - 1]]:
        end -= 1
    dim = rows.shape[1]
    for place in range(dim):
        while at < end and _BETWEEN[data[at]]:
            at += 1
        begin = at
        at, value, unsure = _number(data, begin, end)
        if at == begin or (at < end and not _BETWEEN[data[at]]) or (unsure and many == len(hard)):
            return GAVE_UP
        rows[row, place] = value
        if unsure:
            hard[many, 0], hard[many, 1], hard[many, 2], hard[many, 3] = row, place, begin, at
            many += 1
    while at < end and _BETWEEN[data[at]]:
        at += 1
    return many if at == end else GAVE_UP


@kernel()
def _field_end(data: UInt8Array, at: int, delimiter: int, quoted: bool, folded: bool) -> int:
    """Return where the field at a place ends, its closing quote included; or that it is left to others."""
    end = len(data)
    if not (quoted and at < end and data[at] == _QUOTE):
        while at < end and data[at] != delimiter and data[at] != _LINE_END and data[at] != _RETURN:
            at += 1
        return at
    at += 1
    while at < end and data[at] != _QUOTE:
        if data[at] == _LINE_END and not folded:
            return GAVE_UP
        at += 1
    return at + 1 if at < end else GAVE_UP


@kernel(forceinline=True)
def _number_column(data: UInt8Array, at: int, stop: int, delimiter: int) -> tuple[int, int, int, float, bool]:
    """Read a number with blanks around it; return where they end, where the number does, and what `_number` does."""
    while at < stop and (data[at] == _BLANK or data[at] == _TAB) and data[at] != delimiter:
        at += 1
    begin = at
    at, value, unsure = _number(data, begin, stop)
    end = at
    while at < stop and (data[at] == _BLANK or data[at] == _TAB) and data[at] != delimiter:
        at += 1
    return at if end > begin else GAVE_UP, begin, end, value, unsure


@kernel()
def parse_rows(
    data: UInt8Array,
    delimiter: int,
    quoted: bool,
    folded: bool,
    trailing: bool,
    roles: Int64Array,
    kind: int,
    keys: UInt64Array,
    key_places: Int64Array,
    rows: Float32Array,
    hard: Int64Array,
) -> tuple[int, int]:
    """Read all lines of `data`; return how many rows there are, and how many hard numbers; or that it gave up.

    Args:
        quoted: Whether fields may be in double quotes.
        folded: Whether these may have line ends in them.
        trailing: Whether every line ends with a delimiter.
        keys: (n,): gets keys that are integers; n is at least the number of line ends, and one.
        key_places: (n, 2): gets where the keys begin and end.
        rows: (n, dim): gets the numbers, but for those that are hard.
        hard: (h, 4): gets row, place, begin and end of each of these.
    """
    at, end, row, many = 0, len(data), 0, 0
    last = len(roles) - 1
    while at < end:
        if data[at] == _LINE_END or (data[at] == _RETURN and at + 1 < end and data[at + 1] == _LINE_END):
            at += 1 + (data[at] == _RETURN)
            continue
        for column in range(len(roles)):
            role = roles[column]
            in_quotes = quoted and at < end and data[at] == _QUOTE
            begin, stop = at, end
            if role < 0 or in_quotes:
                stop = _field_end(data, at, delimiter, quoted, folded)
                if stop == GAVE_UP:
                    return GAVE_UP, 0
                begin, at = at + in_quotes, stop
            if role >= 0:
                done, begin, close, rows[row, role], unsure = _number_column(data, begin, stop - in_quotes, delimiter)
                if unsure and many < len(hard):
                    hard[many, 0], hard[many, 1], hard[many, 2], hard[many, 3] = row, role, begin, close
                if done == GAVE_UP or (in_quotes and done + 1 != stop) or (unsure and many == len(hard)):
                    return GAVE_UP, 0
                many += unsure
                at = done + in_quotes
            elif role == VECTOR:
                many = _vector(data, begin, stop - in_quotes, row, rows, hard, many)
                if many == GAVE_UP:
                    return GAVE_UP, 0
            elif role == KEY:
                key_places[row, 0], key_places[row, 1] = begin, stop - in_quotes
                fits = begin < stop - in_quotes
                if fits and kind != TEXT:
                    keys[row], fits = _integer(data, begin, stop - in_quotes, kind)
                if not fits:
                    return GAVE_UP, 0
            if (column < last or trailing) and (at == end or data[at] != delimiter):
                return GAVE_UP, 0
            at += column < last or trailing
        at += at + 1 < end and data[at] == _RETURN
        if at < end and data[at] != _LINE_END:
            return GAVE_UP, 0
        at += 1
        row += 1
    return row, many


@kernel()
def gather_texts(data: UInt8Array, places: Int64Array, offsets: Int64Array, out: UInt8Array) -> None:
    """Copy texts that begin and end at `places` (n, 2) to where `offsets` (n + 1,) say, end to end."""
    for row in range(len(places)):
        begin, size = places[row, 0], places[row, 1] - places[row, 0]
        out[offsets[row] : offsets[row] + size] = data[begin : begin + size]


@kernel()
def last_record_end(data: UInt8Array, delimiter: int) -> int:
    """Return where the last whole record ends, whose fields may have line ends in quotes; 0: none does."""
    found, at, end = 0, 0, len(data)
    while at < end:
        if data[at] == _QUOTE:  # at the beginning of a field: elsewhere it is a character as any
            at += 1
            while at < end and (data[at] != _QUOTE or (at + 1 < end and data[at + 1] == _QUOTE)):
                at += 1 + (data[at] == _QUOTE)
            at += 1
        while at < end and data[at] != delimiter and data[at] != _LINE_END and data[at] != _RETURN:
            at += 1
        if at < end and (data[at] == _LINE_END or (data[at] == _RETURN and at + 1 < end and data[at + 1] != _LINE_END)):
            found = at + 1
        at += 1
    return found
