"""The form of the page: what is typed is sent as it is meant, or said to be wrong, and stays while it fits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from ringpull.inference.proto import ringpull_pb2 as pb
from tests.chromium import tab
from tests.inference.page.page_head import PageHead
from tests.inference.page.test_page import SHOWN

pytestmark = [pytest.mark.net, pytest.mark.medium]

USER = pb.FeatureInfo(name="user", kind="sparse", dtype=pb.INT64)
OPTIONAL = pb.FeatureInfo(name="seen", kind="sparse", dtype=pb.INT64, optional=True)
FEATURES = (
    USER,
    OPTIONAL,
    pb.FeatureInfo(name="price", kind="dense", dtype=pb.FLOAT32, optional=True),
    pb.FeatureInfo(name="city", kind="sparse", dtype=pb.STRING, optional=True),
    pb.FeatureInfo(name="title", kind="sparse", dtype=pb.STRING),
    pb.FeatureInfo(name="words", kind="sparse", dtype=pb.STRING, many=True),
    pb.FeatureInfo(name="links", kind="sparse", dtype=pb.STRING, many=True, weighted=True),
    pb.FeatureInfo(name="history", kind="sparse", dtype=pb.INT64, many=True, weighted=True),
    pb.FeatureInfo(name="vector", kind="dense", dtype=pb.FLOAT32, width=700),
)


def serve(head: PageHead, features: Sequence[pb.FeatureInfo], version: int = 7) -> None:
    status = pb.ClusterStatus()
    status.CopyFrom(head.status)
    del status.models[:]
    outputs = [pb.OutputInfo(name="score")]
    status.models.add(name="ranker", version=version, versions=[version], features=features, outputs=outputs)
    status.models.add(name="other", version=1, versions=[1], features=[USER], outputs=outputs)
    status.live["ranker"], status.live["other"] = version, 1
    head.status = status


@pytest.fixture
def page(browser: Any, head: PageHead) -> Iterator[Any]:
    serve(head, FEATURES)
    with tab(browser, head.url) as opened:
        opened.page.wait_for_selector(SHOWN)
        yield opened.page


def box(name: str, row: int = 1) -> str:
    return f'input[aria-label="{name}, row {row}"]'


def sent(page: Any, head: PageHead) -> dict[str, Any]:
    page.click("#try button.main")
    page.wait_for_selector("#try-answer:not([hidden]), #try-error:not([hidden])")
    assert page.text_content("#try-error") == ""
    asked = head.asked[-1]
    return {**asked["features"], **asked["context"]}


def test_its_examples_can_be_sent(page: Any, head: PageHead) -> None:
    columns = sent(page, head)
    assert columns["history"] == {
        "int64s": {"values": [1, 2, 2, 3, 3, 4]},
        "offsets": [0, 2, 4, 6],
        "weights": [1, 0.5] * 3,
    }
    assert [len(row) for row in columns["vector"]] == [700] * 3
    assert "int64 list, weighted" in page.inner_text("#try-features")


def test_what_is_optional_is_left_out(page: Any, head: PageHead) -> None:
    for name in ("seen", "city"):
        for row in (1, 2, 3):
            page.fill(box(name, row), "")
    page.fill(box("price", 2), "")
    columns = sent(page, head)
    assert {"seen", "city"} & columns.keys() == set()
    assert str(columns["price"]) == "[0.5, nan, 0.5]", "what a head takes for a number that is missing"


@pytest.mark.parametrize(
    ("name", "typed", "error"),
    [
        ("seen", "", "seen: is left out of all rows, or of none: no whole number stands for nothing"),
        ("title", "  ", 'title: nothing; a text that is empty, or has spaces alone, goes in quotes: ""'),
        ("words", "a,,b", 'words: nothing; a text that is empty, or has spaces alone, goes in quotes: ""'),
        ("title", '"open', 'title: "open is no text in quotes; within them, \\" is a quote and \\\\ a backslash'),
        ("links", '"a":heavy', "links, weight: “heavy” is not a number"),
    ],
    ids=["missing number", "empty text", "empty text of a list", "open quotes", "weight"],
)
def test_what_cannot_be_meant_is_said(page: Any, head: PageHead, name: str, typed: str, error: str) -> None:
    page.fill(box(name, 2), typed)
    page.click("#try button.main")
    page.wait_for_selector("#try-error:not([hidden])")
    assert (page.text_content("#try-error"), head.asked) == (error, [])


@pytest.mark.parametrize(
    ("typed", "text"),
    [
        (" leading and, comma: kept ", " leading and, comma: kept "),
        ('""', ""),
        ('" a\\"b"', ' a"b'),
    ],
)
def test_a_text_is_sent_as_it_is_typed_or_as_it_is_quoted(page: Any, head: PageHead, typed: str, text: str) -> None:
    page.fill(box("title"), typed)
    assert sent(page, head)["title"][0] == text


@pytest.mark.parametrize(
    ("typed", "values"),
    [
        ("a, b", ["a", "b"]),
        ('" a, b", c', [" a, b", "c"]),
        ('"", "x\\\\", y', ["", "x\\", "y"]),
        ("", []),
        ("http://x:80", ["http://x:80"]),
    ],
    ids=["plain", "quoted", "empty and backslash", "none", "colon"],
)
def test_texts_of_a_list(page: Any, head: PageHead, typed: str, values: list[str]) -> None:
    page.fill(box("words"), typed)
    assert sent(page, head)["words"][0] == values


@pytest.mark.parametrize(
    ("typed", "values", "weights"),
    [
        ("http://a:b, c", ["http://a:b", "c"], [1, 1]),
        ("a:0.5, b", ["a", "b"], [0.5, 1]),
        ('"host:80", "host:80":2', ["host:80", "host:80"], [1, 2]),
        ("", [], []),
    ],
    ids=["colon", "weight", "quoted", "none"],
)
def test_weighted_texts(page: Any, head: PageHead, typed: str, values: list[str], weights: list[float]) -> None:
    page.fill(box("links"), typed)
    links = sent(page, head)["links"]
    assert links["strings"]["values"][: len(values)] == values
    assert links["weights"][: len(values)] == weights
    assert links["offsets"][1] == len(values)


def test_what_was_typed_stays_as_far_as_it_fits_another_version(page: Any, head: PageHead) -> None:
    page.fill(box("words", 2), "kept")
    page.fill(box("seen", 1), "77")
    page.fill(box("title"), "being typed")
    changed = [*FEATURES]
    changed[1] = pb.FeatureInfo(name="seen", kind="sparse", dtype=pb.STRING)
    serve(head, [*changed, pb.FeatureInfo(name="new", kind="dense", dtype=pb.FLOAT32)], version=8)
    page.wait_for_selector(box("new"))
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "title, row 1"
    assert [page.input_value(box(name)) for name in ("title", "seen", "new")] == ["being typed", "a", "0.5"]
    assert page.input_value(box("words", 2)) == "kept"
    serve(head, [])
    page.wait_for_selector(box("title"), state="detached")
    serve(head, FEATURES)
    page.wait_for_selector(box("title"))
    assert page.input_value(box("words", 2)) == "kept"


def test_an_answer_goes_when_another_model_is_chosen(page: Any, head: PageHead) -> None:
    sent(page, head)
    page.select_option("#try-model", "other")
    assert page.is_hidden("#try-answer")
    assert page.text_content("#try-took") == ""
    assert page.locator("#try-features tr").count() == 1
