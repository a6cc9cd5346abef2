"""A version that is unloaded and loaded again counts on: its numbers grow with every call."""

from __future__ import annotations

import pytest

from ringpull.inference.head.batcher import StageTimes
from ringpull.inference.head.metrics.call_tally import LET_GO_KEPT, CallTally
from ringpull.router.control import head_counts
from tests.inference.test_head_deployment_counts import RANKER, Coordinator, Head, at_once  # noqa: F401  # a fixture


@pytest.mark.parametrize("looked_meanwhile", [False, True])
async def test_calls_after_a_reload_are_counted(looked_meanwhile: bool) -> None:
    coordinator = Coordinator()
    head, other, ended = Head(0, coordinator), Head(1, coordinator), Head(0, coordinator, life=0)
    ended.answer(7)
    coordinator.overviews.heard(0, ended.heartbeat())
    head.answer(50)
    coordinator.overviews.heard(0, head.heartbeat())
    before = await head.told()
    head.tally.let_go(*RANKER)  # `ringpull unload ranker`, `ringpull load ranker`
    if looked_meanwhile:
        coordinator.overviews.heard(0, head.heartbeat())
        await other.counts.of_models()
    head.tally.loaded(*RANKER)
    head.answer(5)
    coordinator.overviews.heard(0, head.heartbeat())
    assert [await head.told(), await other.told()] == [before + 5, before + 5] == [62, 62]


def test_versions_that_come_and_go_for_ever_do_not_fill_the_memory() -> None:
    tally = CallTally()
    for version in range(1, LET_GO_KEPT + 3):
        tally.loaded("passing", version)
        tally.answered("passing", version, 1, StageTimes(0, 0, 0, 0, 1), decode_s=0, encode_s=0, total_s=0.001)
        tally.let_go("passing", version)
    assert len(tally.totals()) == 1, "of loaded versions alone, and overall"
    for version in (1, 2, 3):
        tally.loaded("passing", version)
    assert [tally.totals()["passing", version][0] for version in (1, 2, 3)] == [0, 0, 1]
    assert LET_GO_KEPT > 2 * (head_counts.LET_GO_KEPT), "nobody remembers more of it than it does itself"
