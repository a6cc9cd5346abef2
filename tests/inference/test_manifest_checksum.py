"""The text that a manifest's checksum is of: yielded in pieces, and the same as in one."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from ringpull.inference.model.manifest import canonical

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)


@given(JSON | st.dictionaries(st.text(max_size=3), st.lists(JSON, max_size=3), max_size=4))
@settings(max_examples=30, deadline=None)
def test_pieces_are_the_text_that_every_build_has_its_checksum_of(body: Any) -> None:
    whole = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    assert "".join(canonical(body)) == whole


def test_each_entry_of_a_list_is_a_piece() -> None:
    pieces = list(canonical({"tables": [{"name": str(number)} for number in range(1_000)]}))
    assert len(pieces) > 1_000
    assert max(map(len, pieces)) < 20
