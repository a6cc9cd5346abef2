"""The page in a real browser: what it shows, to whom, and that nothing it is told becomes HTML."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from ringpull.inference.proto import ringpull_pb2 as pb
from ringpull.ps.errors import Unavailable
from tests.chromium import Tab, tab
from tests.inference.page.deployments import HOSTILE, busy, growing, hostile
from tests.inference.page.page_head import PageHead, page_head
from tests.inference.page.tokens import READER, WRITER, tokens
from tests.ports import free_port

pytestmark = [pytest.mark.net, pytest.mark.medium]

SHOWN = "#main:not([hidden]):not(.stale)"


@pytest.fixture
def page(browser: Any, head: PageHead) -> Iterator[Any]:
    with tab(browser, head.url) as opened:
        opened.page.wait_for_selector(SHOWN)
        yield opened.page


def text(page: Any, selector: str) -> str:
    return " ".join(page.inner_text(selector).split())


def wait_for_text(page: Any, selector: str, wanted: str) -> None:
    page.wait_for_function(
        "([selector, wanted]) => document.querySelector(selector).textContent.includes(wanted)", arg=[selector, wanted]
    )


@pytest.mark.parametrize("width", [400, 768, 1200])
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("deployment", ["busy", "growing", "hostile", "empty"])
def test_it_fits_and_complains_of_nothing(
    browser: Any, head: PageHead, deployment: str, dark: bool, width: int
) -> None:
    head.status = {"busy": busy, "growing": growing, "hostile": hostile, "empty": pb.ClusterStatus}[deployment]()
    with tab(browser, head.url, width=width, dark=dark) as opened:
        opened.page.wait_for_selector(SHOWN)
        assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
        assert {address.removeprefix(head.url).partition("?")[0] for address in opened.asked} == {
            "",
            "page.css",
            "page.js",
            "ring.js",
            "try.js",
            "status",
        }


def test_names_that_would_be_html_stay_text(browser: Any, head: PageHead) -> None:
    head.status = hostile()
    head.predict = lambda request: {"model": HOSTILE, "version": HOSTILE, "outputs": {HOSTILE: [HOSTILE]}}
    with tab(browser, head.url) as opened:
        page = opened.page
        page.wait_for_selector(SHOWN)
        page.click("#try button.main")
        page.wait_for_selector("#try-answer:not([hidden])")
        places = (
            "#warnings",
            "#change",
            "#models",
            "#tables",
            "#heads",
            "#where",
            "#shards",
            "#try-features",
            "#built",
        )
        for place in (*places, "#traffic-of", "#try-model", "#out-head", "#out-rows", "#out-notes"):
            assert HOSTILE in page.text_content(place), place
        assert page.locator("img").count() == 0
        assert "pwned" not in page.title()


def test_at_a_glance(page: Any) -> None:
    assert text(page, "#health") == "all is well"
    tiles = [" ".join(tile.split()) for tile in page.locator("#tiles li").all_inner_texts()]
    assert tiles == [
        "900 requests a second",
        "2.10 ms p50, 15 min",
        "7.60 ms p99, 15 min",
        tiles[3],
        "3/3 shards",
        "2/2 heads",
    ]
    assert page.is_hidden("#warnings")
    assert page.is_hidden("#change")
    assert text(page, "#models").startswith("ranker 7 6 7")
    assert "ranker/genre 7 19 1.0 MiB all (3)" in text(page, "#tables")
    assert text(page, "#heads").startswith("0 answers here 10.0.0.5:8500")
    assert page.text_content("#ring-text").startswith("The ring of 3 shards: shard 0 owns 33.3%")
    assert page.locator("#rate .bar").count() >= 59
    assert page.locator("#latency polyline").count() == 2


def test_traffic_of_one_model(page: Any, head: PageHead) -> None:
    page.select_option("#traffic-of", "retrieval")
    assert text(page, "#rate-now") == "270 now"
    looks = head.looks
    while head.looks < looks + 2:  # the first may have been on its way
        page.wait_for_timeout(100)
    assert page.input_value("#traffic-of") == "retrieval", "it stays chosen when the page is told anew"


def test_labels_stand_beside_their_versions(browser: Any, head: PageHead) -> None:
    for model in head.status.models:
        if model.name == "ranker":
            model.labels["stable"] = 6
    with tab(browser, head.url) as opened:
        opened.page.wait_for_selector(SHOWN)
        assert opened.page.locator("#models .tag").all_inner_texts() == ["6 · stable", "7", "12"]
        assert opened.page.locator("#models .tag.live").all_inner_texts() == ["7", "12"]


def test_a_change_is_followed_live(page: Any, head: PageHead) -> None:
    head.status = growing(0.25)
    wait_for_text(page, "#change-amount", "18.9 GiB of 75.7 GiB copied")
    assert text(page, "#change-what") == "rebalance shards 3 → 4"
    assert page.evaluate("document.getElementById('change-done').value") == 0.25
    assert page.locator("#change-phases [aria-current=step]").inner_text() == "preparing"
    assert page.locator("#ring path.next").count() > 0
    assert "25.0% of it goes to another shard" in text(page, "#ring-note")
    head.status = busy(4)
    wait_for_text(page, "#ring", "4shardsepoch 8")
    assert page.is_hidden("#change")
    assert page.locator("#shards tr").count() == 4
    assert page.locator("#ring path.next").count() == 0
    assert text(page, "#news") == "all is well, epoch 8"


def test_a_dead_shard_and_warnings_come_first(page: Any, head: PageHead) -> None:
    head.status.shards[1].alive, head.status.shards[1].error = False, "connection refused"
    head.status.warnings.append("shard 1 at 10.0.0.11:7010 does not answer: connection refused")
    page.wait_for_selector("#warnings:not([hidden])")
    assert text(page, "#health") == "not whole"
    assert "no answer: connection refused" in text(page, "#shards")
    assert page.locator("#ring path.gone").count() == 1
    top = {name: page.locator(name).bounding_box()["y"] for name in ("#warnings", "#tiles")}
    assert top["#warnings"] < top["#tiles"]


def test_a_head_that_is_away_is_asked_again(browser: Any) -> None:
    port = free_port()
    with page_head(port=port) as first:
        with_tab = Tab(browser)
        with_tab.page.goto(first.url)
        with_tab.page.wait_for_selector(SHOWN)
    try:
        with_tab.page.wait_for_selector("#away:not([hidden])")
        assert "It is asked again every 3 s; below is what it said last." in text(with_tab.page, "#away-text")
        assert text(with_tab.page, "#health") == "no answer"
        assert with_tab.page.is_visible("#ring"), "what was known stays to be seen"
        with page_head(port=port):
            with_tab.page.wait_for_selector(SHOWN)
            assert text(with_tab.page, "#health") == "all is well"
    finally:
        with_tab.close()


def test_a_head_that_cannot_tell_says_why(browser: Any, head: PageHead) -> None:
    head.error = Unavailable("there is no shard map yet")
    opened = Tab(browser)
    try:
        opened.page.goto(head.url)
        opened.page.wait_for_selector("#away:not([hidden])")
        assert "there is no shard map yet" in text(opened.page, "#away-text")
    finally:
        opened.close()


def test_everything_is_reached_by_the_keyboard_and_seen_to_be(page: Any) -> None:
    reached, outlines = [], set()
    for _ in range(60):
        page.keyboard.press("Tab")
        focused = page.evaluate(
            "() => { const at = document.activeElement, style = getComputedStyle(at);"
            " return [at.id || at.className || at.getAttribute('aria-label') || at.tagName, style.outlineStyle,"
            " parseFloat(style.outlineWidth)]; }"
        )
        if focused[0] == "BODY":
            break
        reached.append(focused[0])
        outlines.add((focused[1] != "none" and focused[2] >= 2) or focused[0])
    assert reached[0] == "skip"
    for wanted in ("traffic-of", "try-model", "try-more", "try-fewer", "value", "main"):
        assert wanted in reached
    assert outlines == {True}


def test_landmarks_labels_and_headings(page: Any) -> None:
    assert page.locator("main").count() == page.locator("h1").count() == 1
    nameless = page.evaluate(
        "() => [...document.querySelectorAll('input, select, button, section, [role=region], progress, svg[role=img]')]"
        ".filter((each) => !(each.labels?.length || each.getAttribute('aria-label') || each.textContent.trim()"
        " || document.getElementById(each.getAttribute('aria-labelledby')))).map((each) => each.outerHTML)"
    )
    assert nameless == []
    assert page.evaluate("document.documentElement.lang") == "en"


@pytest.mark.parametrize("dark", [False, True])
def test_text_can_be_read_on_what_is_behind_it(browser: Any, head: PageHead, dark: bool) -> None:
    head.status = hostile()
    with tab(browser, head.url, dark=dark) as opened:
        opened.page.wait_for_selector(SHOWN)
        poor = opened.page.evaluate(CONTRAST)
        assert poor == [], "below 4.5 to 1, what WCAG 2.2 asks of text"


CONTRAST = """() => {
  const linear = (c) => c / 255 <= 0.03928 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4;
  const lum = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const behind = (at) => { for (; at; at = at.parentElement) { const c = parse(getComputedStyle(at).backgroundColor);
                           if (c.length < 4 || c[3] > 0) return c.slice(0, 3); } return [255, 255, 255]; };
  const poor = [];
  for (const at of document.querySelectorAll('body *:not(svg):not(svg *)')) {
    const own = [...at.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || !at.checkVisibility() || at.disabled) continue;
    const [one, other] = [lum(parse(getComputedStyle(at).color)), lum(behind(at))].sort((a, b) => b - a);
    const ratio = (one + 0.05) / (other + 0.05);
    if (ratio < 4.5) poor.push([at.className, at.textContent.slice(0, 30), ratio]);
  }
  return poor;
}"""


# -- the form ----------------------------------------------------------------------------------------------------------


def test_the_form_sends_what_was_typed(page: Any, head: PageHead) -> None:
    head.predict = lambda request: {
        "model": "ranker",
        "version": 7,
        "outputs": {"score": [0.25, 0.123456789], "embedding": [[1.0] * 16, [2.0] * 16]},
        "degraded": ["cut history to 50"],
        "filled": [{"feature": "price", "reason": "MISSING", "values": 1}],
    }
    page.click("#try-fewer")
    page.fill("[aria-label='user_id, all rows']", "9223372036854775807")
    page.fill("[aria-label='item_id, row 1']", "-5")
    page.fill("[aria-label='history, row 1']", "12:0.5, 7")
    page.fill("[aria-label='history, row 2']", "")
    page.fill("[aria-label='genres, row 2']", "drama")
    page.fill("[aria-label='price, row 2']", "1e3")
    page.keyboard.press("Enter")
    page.wait_for_selector("#try-answer:not([hidden])")
    assert head.asked == [
        {
            "model": "ranker",
            "features": {
                "item_id": [-5, 2],
                "history": {"int64s": {"values": [12, 7]}, "offsets": [0, 2, 2], "weights": [0.5, 1]},
                "genres": [["a", "a"], ["drama"]],
                "price": [0.5, 1000],
                "vector": [[0.5, 0.5, 0.5], [0.5, 0.5, 0.5]],
            },
            "context": {"user_id": [9223372036854775807]},
        }
    ]
    assert text(page, "#out-head") == "row score embedding"
    assert (
        text(page, "#out-rows")
        == "1 0.25 [1, 1, 1, 1, 1, 1, 1, 1, … 16 in all] 2 0.123457 [2, 2, 2, 2, 2, 2, 2, 2, … 16 in all]"
    )
    notes = page.locator("#out-notes li").all_inner_texts()
    assert notes == ["ranker version 7 answered", "cut history to 50", "price: 1 values were filled in (missing)"]
    assert "9223372036854775807" in page.text_content("#out-curl"), "not 9223372036854775808"


@pytest.mark.parametrize(
    ("field", "typed", "error"),
    [
        ("item_id, row 2", "1.5", "item_id: “1.5” is not a whole number"),
        ("item_id, row 2", "", "item_id: nothing is not a whole number"),
        ("price, row 1", "cheap", "price: “cheap” is not a number"),
        ("vector, row 1", "1, 2", "vector: 2 numbers; it takes 3, separated by commas"),
        ("history, row 1", "3:heavy", "history, weight: “heavy” is not a number"),
    ],
)
def test_what_is_wrong_is_said_before_it_is_sent(page: Any, head: PageHead, field: str, typed: str, error: str) -> None:
    page.fill(f"[aria-label='{field}']", typed)
    page.click("#try button.main")
    page.wait_for_selector("#try-error:not([hidden])")
    assert text(page, "#try-error") == error
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == field
    assert page.get_attribute(f"[aria-label='{field}']", "aria-invalid") == "true"
    assert head.asked == []


def test_errors_of_the_head_are_told_in_words(browser: Any, head: PageHead) -> None:
    def refuse(request: dict[str, Any]) -> dict[str, Any]:
        raise Unavailable("no live shard holds these keys")

    head.predict = refuse
    opened = Tab(browser)
    try:
        opened.page.goto(head.url)
        opened.page.wait_for_selector(SHOWN)
        opened.page.click("#try button.main")
        opened.page.wait_for_selector("#try-error:not([hidden])")
        assert text(opened.page, "#try-error") == "no live shard holds these keys (UNAVAILABLE)"
    finally:
        opened.close()


def test_what_was_typed_stays_when_the_page_is_told_anew_or_a_row_is_added(page: Any, head: PageHead) -> None:
    page.fill("[aria-label='item_id, row 1']", "77")
    page.check("[aria-label='price: one for all rows']")
    page.click("#try-more")
    looks = head.looks
    while head.looks < looks + 2:
        page.wait_for_timeout(100)
    assert page.input_value("[aria-label='item_id, row 1']") == "77"
    assert page.is_visible("[aria-label='price, all rows']")
    assert page.locator("#try-head th").count() == 6
    page.click("#try-fewer")
    page.click("#try-fewer")
    page.uncheck("[aria-label='price: one for all rows']")
    page.click("#try-more")
    assert page.input_value("[aria-label='item_id, row 1']") == "77"


# -- tokens ------------------------------------------------------------------------------------------------------------


def test_a_token_is_asked_for_and_kept_in_memory_only(browser: Any) -> None:
    with page_head(tokens()) as head:
        opened = Tab(browser)
        try:
            page = opened.page
            page.goto(head.url)
            page.wait_for_selector("#token-form:not([hidden])")
            assert page.is_hidden("#main")
            page.fill("#token", "not one that is known here, of whatever length")
            page.keyboard.press("Enter")
            wait_for_text(page, "#token-why", "oken")
            page.fill("#token", WRITER)
            page.keyboard.press("Enter")
            wait_for_text(page, "#token-why", "read")
            page.fill("#token", READER)
            page.keyboard.press("Enter")
            page.wait_for_selector(SHOWN)
            assert page.is_hidden("#token-form")
            assert page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]
            assert READER not in page.content()
            page.reload()
            page.wait_for_selector("#token-form:not([hidden])")
        finally:
            opened.close()
