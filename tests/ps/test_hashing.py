"""Golden values of the hash: changing one changes the file format, the wire and every ring."""

from __future__ import annotations

import mmh3
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringpull.ps.errors import InvalidInput, NoText
from ringpull.ps.hashing import (
    SLOT_SHIFT,
    SLOTS,
    as_keys,
    check_texts,
    keys_of,
    keys_of_strings,
    keys_of_texts,
    positions_of,
)
from tests.reference import key_of_string

MASK = 2**64 - 1

POSITIONS = {
    0: 0x0,
    1: 0xB456BCFC34C2CB2C,
    2: 0x3ABF2A20650683E7,
    42: 0x810879608E4259CC,
    2**63: 0x8F780810AF31A493,
    2**64 - 1: 0x64B5720B4B825F21,
}

STRING_KEYS = {
    "": 0x0,
    "a": 0x85555565F6597889,
    "user:42": 0xCD01081BF0AA3A68,
    "zürich": 0x7A5F88D93DDD7B31,
    "日本": 0x86D4E77D78BE1786,
}


def fmix64(key: int) -> int:
    """The documented line of ps/README.md, in Python's integers."""
    for multiplier in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        key = ((key ^ (key >> 33)) * multiplier) & MASK
    return key ^ (key >> 33)


def test_positions_are_the_golden_ones() -> None:
    positions = positions_of(np.array(list(POSITIONS), np.uint64))
    assert positions.tolist() == list(POSITIONS.values())


def test_string_keys_are_the_golden_ones() -> None:
    assert {text: key_of_string(text) for text in STRING_KEYS} == STRING_KEYS
    assert keys_of_strings(STRING_KEYS).tolist() == list(STRING_KEYS.values())


@settings(deadline=None)
@given(st.lists(st.binary(max_size=70)))
def test_strings_that_lie_end_to_end_have_the_same_keys(texts: list[bytes]) -> None:
    lengths = np.array([len(text) for text in texts], np.uint32)
    assert keys_of_texts(b"".join(texts), lengths).tolist() == [key_of_string(text) for text in texts]


def test_a_string_and_its_utf8_bytes_are_one_key() -> None:
    assert key_of_string("zürich".encode()) == STRING_KEYS["zürich"]


@settings(deadline=None)
@given(st.lists(st.integers(0, MASK)))
def test_position_is_the_documented_function_and_keys_of_inverts_it(keys: list[int]) -> None:
    array = np.array(keys, np.uint64)
    positions = positions_of(array)
    assert positions.tolist() == [fmix64(key) for key in keys]
    assert np.array_equal(keys_of(positions), array)


def test_the_slot_is_the_top_sixteen_bits() -> None:
    assert 1 << (64 - SLOT_SHIFT) == SLOTS
    assert (2**64 - 1) >> SLOT_SHIFT == SLOTS - 1


def test_slots_of_consecutive_keys_are_even() -> None:
    """Positions are uniform also for the ids people have: 1, 2, 3, ..."""
    counts = np.bincount((positions_of(np.arange(1 << 20, dtype=np.uint64)) >> np.uint64(60)).astype(np.int64))
    assert len(counts) == 16
    assert abs(counts - (1 << 16)).max() < 6 * 256  # six standard deviations


@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.int64])
def test_signed_ids_are_taken_bit_for_bit(dtype: type) -> None:
    assert as_keys(np.array([-1, 0, 7], dtype)).tolist() == [MASK, 0, 7]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint32, np.uint64])
def test_unsigned_ids_are_the_keys(dtype: type) -> None:
    top = int(np.iinfo(dtype).max)
    keys = as_keys(np.array([0, top], dtype))
    assert keys.dtype == np.uint64
    assert keys.tolist() == [0, top]


@pytest.mark.parametrize("ids", [np.array([1.0]), np.array(["a"]), np.array([True])])
def test_other_types_are_no_keys(ids: np.ndarray) -> None:
    with pytest.raises(InvalidInput, match="integers"):
        as_keys(ids)


@given(st.text(max_size=40))
def test_every_text_has_the_key_of_its_bytes(text: str) -> None:
    """As mmh3 gave it for a `str`: what was hashed before strings were encoded here has the same key."""
    if any("\ud800" <= each <= "\udfff" for each in text):
        with pytest.raises(NoText):
            key_of_string(text)
        return
    assert key_of_string(text) == key_of_string(text.encode()) == mmh3.hash64(text, 0, signed=False)[0]


@pytest.mark.parametrize("half", ["\ud83d", "bad\ud83d", "\udc00x", "\ude00\ud83d", "\ud83d" * 200])
def test_half_a_character_has_no_key(half: str) -> None:
    """Handed to mmh3 as a `str` it ends the process."""
    for hashes in (key_of_string, lambda text: keys_of_strings(["a", text])):
        with pytest.raises(NoText, match=r"strings\[\d\]: .*is no text: it holds half a character") as caught:
            hashes(half)
    assert caught.value.place == 1
    with pytest.raises(NoText, match=r"keys\[2\]: "):
        check_texts("keys", ["a", "\U0001f600", half])
    check_texts("keys", ["", "\U0001f600", "a"])
