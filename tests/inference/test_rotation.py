"""Channels in turn, and those that failed left out."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ringpull.inference.client.rotation import Rotation


def test_all_channels_take_turns() -> None:
    rotation = Rotation(["a", "b", "a", "b"])
    assert [rotation.take(0.0) for _ in range(8)] == [0, 1, 2, 3, 0, 1, 2, 3]


def test_one_that_failed_is_left_out_until_its_time_is_over() -> None:
    rotation = Rotation(["a"] * 3)
    rotation.avoid(1, until_s=5.0)
    assert {rotation.take(4.9) for _ in range(6)} == {0, 2}
    assert {rotation.take(5.0) for _ in range(3)} == {0, 1, 2}


def test_when_all_are_left_out_the_one_that_failed_first_is_next() -> None:
    rotation = Rotation(["a"] * 3)
    for place, until_s in ((0, 7.0), (1, 6.0), (2, 8.0)):
        rotation.avoid(place, until_s)
    assert rotation.take(5.0) == 1


def test_a_retry_goes_to_another_target() -> None:
    rotation = Rotation(["a", "b", "c", "a", "b", "c"])
    for _ in range(6):
        assert rotation.targets[rotation.take(0.0, tried=[0])] != "a"
        assert rotation.targets[rotation.take(0.0, tried=[0, 1])] == "c"


def test_a_retry_goes_to_another_channel_of_the_same_target_rather_than_to_one_that_failed_just_now() -> None:
    rotation = Rotation(["a", "b", "a", "b"])
    for place in (1, 3):
        rotation.avoid(place, until_s=2.0)
    assert rotation.take(1.0, tried=[0]) == 2


@given(
    channels=st.integers(1, 6),
    tried=st.lists(st.integers(0, 5), max_size=8),
    avoided=st.dictionaries(st.integers(0, 5), st.floats(0, 10), max_size=6),
    now_s=st.floats(0, 10),
)
def test_a_retry_repeats_a_channel_only_when_all_were_tried(channels, tried, avoided, now_s) -> None:
    rotation = Rotation(["a", "b", "c"][: (channels + 1) // 2] * 2)
    places = range(len(rotation.targets))
    for place, until_s in avoided.items():
        if place in places:
            rotation.avoid(place, until_s)
    taken = rotation.take(now_s, [place for place in tried if place in places])
    assert taken in places
    assert taken not in tried or set(places) <= set(tried)


def test_repr_says_where_the_channels_go() -> None:
    assert repr(Rotation(["a:1", "b:2", "a:1", "b:2"])) == "Rotation(4 channels to a:1, b:2)"
