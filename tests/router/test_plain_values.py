"""Every value comes back from its plain form as it was, and what is no such form is told by its place."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringpull.ps.errors import InvalidInput
from ringpull.ps.ring import Ring
from ringpull.ps.settings import at_least, within
from ringpull.router.control.plain_values import PlainValues, plain_name


class Colour(StrEnum):
    RED = "red"
    GREEN = "green"
    BLUE = "blue"


@dataclass(frozen=True, slots=True)
class Point:
    x: int
    y: float

    def __post_init__(self) -> None:
        if self.x == 13:
            raise InvalidInput("x is 13; it must bring luck")


@dataclass(frozen=True, slots=True)
class Entry:
    name: str
    colour: Colour


@dataclass(frozen=True, slots=True)
class Everything:
    flag: bool
    count: Annotated[int, within(0, 9)]
    ratio: Annotated[float, at_least(0)] | None
    role: Literal["shard", "head"]
    copies: Annotated[int, at_least(0)] | Literal["all"]
    points: tuple[Point, ...]
    pair: tuple[int, str]
    ids: frozenset[int]
    by_name: Mapping[str, Entry]
    by_id: Mapping[int, str]
    by_two: Mapping[tuple[str, str], int]
    inner: Point | None
    ring: Ring
    nothing: None = None
    renamed: str = field(default="", metadata=plain_name("old"))


VALUES = PlainValues(rows=(Entry,))

RING = Ring.even([0, 1], 2)

EVERYTHING = Everything(
    flag=True,
    count=3,
    ratio=0.5,
    role="head",
    copies="all",
    points=(Point(1, 2.0), Point(-1, -0.5)),
    pair=(1, "one"),
    ids=frozenset((3, 1, 2)),
    by_name={"a": Entry("one", Colour.RED)},
    by_id={4: "four"},
    by_two={("m", "t"): 2},
    inner=None,
    ring=RING,
    renamed="new",
)

PLAIN = {
    "flag": True,
    "count": 3,
    "ratio": 0.5,
    "role": "head",
    "copies": "all",
    "points": [{"x": 1, "y": 2.0}, {"x": -1, "y": -0.5}],
    "pair": [1, "one"],
    "ids": [1, 2, 3],
    "by_name": {"a": ["one", "red"]},
    "by_id": [[4, "four"]],
    "by_two": [["m", "t", 2]],
    "inner": None,
    "ring": RING.to_dict(),
    "nothing": None,
    "old": "new",
}


def test_each_type_has_its_plain_form() -> None:
    assert VALUES.encode(Everything, EVERYTHING) == PLAIN
    assert VALUES.decode(Everything, json.loads(json.dumps(PLAIN))) == EVERYTHING
    assert VALUES.from_json(Everything, VALUES.to_json(Everything, EVERYTHING)) == EVERYTHING


@given(
    st.builds(
        Everything,
        flag=st.booleans(),
        count=st.integers(0, 9),
        ratio=st.none() | st.floats(min_value=0, allow_nan=False, allow_infinity=False),
        role=st.sampled_from(["shard", "head"]),
        copies=st.integers(0, 2**70) | st.just("all"),
        points=st.lists(st.builds(Point, st.integers(14), st.floats(allow_nan=False))).map(tuple),
        pair=st.tuples(st.integers(), st.text()),
        ids=st.frozensets(st.integers()),
        by_name=st.dictionaries(st.text(), st.builds(Entry, st.text(), st.sampled_from(Colour))),
        by_id=st.dictionaries(st.integers(), st.text()),
        by_two=st.dictionaries(st.tuples(st.text(), st.text()), st.integers()),
        inner=st.none() | st.just(Point(0, 0.0)),
        ring=st.just(RING),
        renamed=st.text(),
    )
)
def test_any_value_comes_back_as_it_was(value: Everything) -> None:
    assert VALUES.from_json(Everything, VALUES.to_json(Everything, value)) == value


@pytest.mark.parametrize(
    ("name", "plain", "error"),
    [
        ("flag", 1, "flag is 1; it must be true or false"),
        ("count", "3", "count is '3'; it must be a whole number from 0 to 9"),
        ("count", True, "count is True; it must be a whole number"),
        ("count", 2.0, "count is 2.0; it must be a whole number"),
        ("count", 10, "count is 10; it must be a whole number from 0 to 9"),
        ("count", -1, "count is -1; it must be a whole number from 0 to 9"),
        ("ratio", float("nan"), "ratio is nan; it must be a number of 0 or more"),
        ("ratio", -0.5, "ratio is -0.5; it must be a number of 0 or more"),
        ("ratio", 10**400, f"ratio is 1{'0' * 79}...; it must be a number that fits a double"),
        ("role", "router", "role is 'router'; it must be 'shard' or 'head'"),
        ("role", ["head"], "role is ['head']; it must be 'shard' or 'head'"),
        ("copies", "many", "copies is 'many'; it must be a whole number of 0 or more or 'all'"),
        ("copies", -1, "copies is -1; it must be"),
        ("points", {}, "points is {}; it must be a list"),
        ("points", [{"x": 1, "y": 2.0}, {"x": 1}], "points[1].y is missing"),
        ("points", [{"x": 1, "y": 2.0, "z": 3}], "points[0].z is unknown; the fields are x, y"),
        ("points", [{"x": 13, "y": 2.0}], "points[0]: x is 13; it must bring luck"),
        ("points", [7], "points[0] is 7; it must be an object"),
        ("pair", [1], "pair is [1]; it must be a list of 2"),
        ("pair", [1, 2], "pair[1] is 2; it must be text"),
        ("ids", ["wrong"], "ids[0] is 'wrong'; it must be a whole number"),
        ("by_name", [], "by_name is []; it must be an object"),
        ("by_name", {"a": ["one", "pink"]}, "by_name['a'].colour is 'pink'; it must be one of 'red', 'green', 'blue'"),
        ("by_name", {"a": ["one"]}, "by_name['a'] is ['one']; it must be a list of name, colour"),
        ("by_id", {"4": "four"}, "by_id is {'4': 'four'}; it must be a list"),
        ("by_id", [["4", "four"]], "by_id[0][0] is '4'; it must be a whole number"),
        ("by_two", [["m", "t", 1], ["m", "t", 2]], "by_two has two entries for one key"),
        ("by_two", [["m", 1]], "by_two[0] is ['m', 1]; it must be a list of 3"),
        ("inner", 0, "inner is 0; it must be an object"),
        ("ring", {"wanted": 1}, "ring: ring: field 'ranges' is missing"),
        ("ring", [], "ring is []; it must be an object"),
        ("nothing", 0, "nothing is 0; it must be null"),
        ("old", "x" * 100, None),
        ("old", ["x" * 100], f"old is ['{'x' * 78}...; it must be text"),
        ("renamed", "new", "renamed is unknown"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(name: str, plain: Any, error: str | None) -> None:
    wrong = {**PLAIN, name: plain}
    if error is None:
        assert VALUES.decode(Everything, wrong).renamed == plain
        return
    with pytest.raises(InvalidInput) as raised:
        VALUES.decode(Everything, wrong)
    assert str(raised.value).startswith(error)


@pytest.mark.parametrize("name", PLAIN)
def test_every_field_has_to_be_there(name: str) -> None:
    with pytest.raises(InvalidInput, match=f"^{name} is missing$"):
        VALUES.decode(Everything, {key: value for key, value in PLAIN.items() if key != name})


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "9" * 5_000])
def test_what_is_not_json_is_told(text: str) -> None:
    with pytest.raises(InvalidInput, match="the value is not JSON"):
        VALUES.from_json(Everything, text)


def test_whole_values_that_are_wrong_are_told() -> None:
    with pytest.raises(InvalidInput, match="the value is 7; it must be null"):
        VALUES.decode(type(None), 7)
    with pytest.raises(InvalidInput, match="the value is \\[\\]; it must be an object"):
        VALUES.decode(Everything, [])


@pytest.mark.parametrize("kind", [bytes, set[int], Point | Entry, object])
def test_types_without_a_plain_form_are_refused(kind: Any) -> None:
    with pytest.raises(TypeError):
        VALUES.encode(kind, None)
