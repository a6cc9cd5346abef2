"""The page where there is nothing to predict, and where a token is sent twice."""

from __future__ import annotations

from typing import Any

import pytest

from ringpull.inference.proto import ringpull_pb2 as pb
from tests.chromium import tab
from tests.inference.page.page_head import PageHead, page_head
from tests.inference.page.test_page import SHOWN
from tests.inference.page.tokens import READER, tokens

pytestmark = [pytest.mark.net, pytest.mark.medium]


def test_tables_alone_offer_no_prediction(browser: Any, head: PageHead) -> None:
    del head.status.models[:]
    head.status.models.add(name="vectors", version=3, versions=[3])
    with tab(browser, head.url) as opened:
        opened.page.wait_for_selector(SHOWN)
        assert "No model that can be asked is served." in opened.page.inner_text("#try-table")
        assert not opened.page.is_enabled("#try button.main")


@pytest.mark.parametrize(
    ("feature", "left_empty"),
    [
        (pb.FeatureInfo(name="seen", kind="sparse", dtype=pb.INT64, optional=True), True),
        (pb.FeatureInfo(name="vector", kind="dense", dtype=pb.FLOAT32, width=700), False),
    ],
    ids=["optional", "wide"],
)
def test_what_the_form_offers_can_be_sent(
    browser: Any, head: PageHead, feature: pb.FeatureInfo, left_empty: bool
) -> None:
    user = pb.FeatureInfo(name="user", kind="sparse", dtype=pb.INT64)
    outputs = [pb.OutputInfo(name="score")]
    del head.status.models[:]
    head.status.models.add(name="ranker", version=7, versions=[7], features=[user, feature], outputs=outputs)
    with tab(browser, head.url) as opened:
        page = opened.page
        page.wait_for_selector(SHOWN)
        if left_empty:  # the help says: What is optional may stay empty.
            page.fill(f'input[aria-label="{feature.name}, row 2"]', "")
        page.click("#try button.main")
        page.wait_for_selector("#try-answer:not([hidden]), #try-error:not([hidden])")
        assert page.text_content("#try-error") == ""


def test_a_live_version_beyond_the_numbers_of_a_browser_is_shown_as_it_is(browser: Any, head: PageHead) -> None:
    versions = [2**53, 2**53 + 1]  # such as nanoseconds since 1970
    del head.status.models[:]
    for version in versions:
        head.status.models.add(name="ranker", version=version, versions=versions, outputs=[pb.OutputInfo(name="score")])
    head.status.live["ranker"] = versions[1]
    with tab(browser, head.url) as opened:
        opened.page.wait_for_selector(SHOWN)
        assert opened.page.locator("#models .tag.live").all_inner_texts() == [str(versions[1])]


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
