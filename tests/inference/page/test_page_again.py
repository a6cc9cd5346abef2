"""The page where there is nothing to predict or nothing known, with many shards, and for how long things stay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ringpull.inference.head.frontends.page import routes
from ringpull.inference.proto import ringpull_pb2 as pb
from ringpull.ps.errors import Unavailable
from ringpull.router.control.change import PHASES
from tests.chromium import tab
from tests.inference.page.deployments import busy
from tests.inference.page.page_head import PageHead, page_head
from tests.inference.page.test_page import SHOWN
from tests.inference.page.tokens import READER, tokens

pytestmark = [pytest.mark.net, pytest.mark.medium]


def wait_for_looks(page: Any, head: PageHead, more: int = 2) -> None:
    looks = head.looks
    while head.looks < looks + more:
        page.wait_for_timeout(100)


def test_phases_are_those_of_a_change() -> None:
    names = ", ".join(f'"{phase.value}"' for phase in PHASES)
    assert f"const PHASES = [{names}];" in (Path(routes.FOLDER) / "page.js").read_text(encoding="utf-8")


def test_tables_alone_offer_no_prediction(browser: Any, head: PageHead) -> None:
    del head.status.models[:]
    head.status.models.add(name="vectors", version=3, versions=[3])
    with tab(browser, head.url) as opened:
        opened.page.wait_for_selector(SHOWN)
        assert "No model that can be asked is served." in opened.page.inner_text("#try-table")
        assert opened.page.locator("#try button:enabled").count() == 0
        head.status = busy()
        opened.page.wait_for_selector("#try button.main:enabled")


def test_a_page_that_opens_before_its_head_is_ready_shows_nothing_but_that(browser: Any, head: PageHead) -> None:
    head.error = Unavailable("there is no shard map yet")
    with tab(browser, head.url) as opened:
        page = opened.page
        page.wait_for_selector("#away:not([hidden])")
        assert page.locator("main > :visible").count() == 1
        assert page.locator("#try button:enabled").count() == 0
        opened.complaints.clear()  # the 503
        head.error = None
        page.wait_for_selector(SHOWN)
        page.click("#try-more")
        opened.complaints[:] = [each for each in opened.complaints if "503" not in each]


def test_a_live_version_beyond_the_numbers_of_a_browser_is_shown_as_it_is(browser: Any, head: PageHead) -> None:
    versions = [2**53, 2**53 + 1]  # such as nanoseconds since 1970
    del head.status.models[:]
    for version in versions:
        head.status.models.add(name="ranker", version=version, versions=versions, outputs=[pb.OutputInfo(name="score")])
    head.status.live["ranker"] = versions[1]
    with tab(browser, head.url) as opened:
        opened.page.wait_for_selector(SHOWN)
        assert opened.page.locator("#models .tag.live").all_inner_texts() == [str(versions[1])]


def test_of_heads_with_one_address_one_answers(browser: Any, head: PageHead) -> None:
    for each in head.status.heads:
        each.address = head.status.head
    head.status.head_number = 1
    with tab(browser, head.url) as opened:
        opened.page.wait_for_selector(SHOWN)
        assert opened.page.locator("#heads th").all_inner_texts() == ["0", "1 answers here"]


def test_a_token_that_is_sent_twice_begins_one_loop(browser: Any) -> None:
    with page_head(tokens()) as head, tab(browser, head.url) as opened:
        page = opened.page
        page.wait_for_selector("#token-form:not([hidden])")
        opened.complaints.clear()  # the 401
        page.fill("#token", READER)
        page.evaluate(
            "() => { const f = document.getElementById('token-form'); f.requestSubmit(); f.requestSubmit(); }"
        )
        page.wait_for_selector(SHOWN)
        page.wait_for_timeout(500)
        looks = head.looks
        page.wait_for_timeout(6500)
        assert head.looks - looks <= 3, "two loops ask the head from now on"


def test_text_that_is_selected_stays_so(browser: Any, head: PageHead) -> None:
    with tab(browser, head.url) as opened:
        page = opened.page
        page.wait_for_selector(SHOWN)
        page.evaluate("getSelection().selectAllChildren(document.querySelector('#tables th'))")
        head.status.tables[0].keys += 5
        head.status.warnings.append("a row more above it")
        wait_for_looks(page, head)
        assert page.is_visible("#warnings")
        assert page.evaluate("getSelection().toString()") == "ranker/item"


# -- the ring ----------------------------------------------------------------------------------------------------------


def test_many_shards_are_seen_and_told_apart(browser: Any, head: PageHead) -> None:
    head.status = busy(64)
    with tab(browser, head.url) as opened:
        page = opened.page
        page.wait_for_selector(SHOWN)
        assert page.locator("#ring path").count() > 1000
        edged = page.evaluate(
            "() => [...document.querySelectorAll('#ring path')].filter((each) => {"
            " const box = each.getBBox(); return getComputedStyle(each).stroke !== 'none'"
            " && Math.max(box.width, box.height) < 4; }).length"
        )
        assert edged == 0, "such parts are all edge, in the colour of what is behind them"
        assert page.evaluate("document.querySelector('.two').getBoundingClientRect().height") < 1000
        assert page.evaluate("document.querySelector('#rate').getBoundingClientRect().height") <= 260
        page.hover("#shards tr:nth-child(18)")
        page.wait_for_selector("#ring path.picked")
        assert page.eval_on_selector_all(
            "#ring path.picked", "all => [...new Set(all.map((e) => e.dataset.shard))]"
        ) == ["17"]
        assert page.inner_text("#shards tr.picked th") == "17"
        assert page.text_content("#ring .count") == "17"
        page.hover("#models-title")
        page.wait_for_function("document.querySelectorAll('#ring path.faded').length === 0")
        page.focus("#shards-region")
        for _ in range(40):
            page.keyboard.press("ArrowDown")
        assert page.text_content("#ring .count") == "39"


def test_one_shard_has_no_seams(browser: Any, head: PageHead) -> None:
    head.status = busy(1)
    with tab(browser, head.url) as opened:
        opened.page.wait_for_selector(SHOWN)
        assert opened.page.locator("#ring path").count() == 1
        assert opened.page.eval_on_selector("#ring path", "path => getComputedStyle(path).stroke") == "none"
        box = opened.page.evaluate(
            "(({ width, height }) => [width, height])(document.querySelector('#ring path').getBBox())"
        )
        assert [round(each) for each in box] == [208, 208]
