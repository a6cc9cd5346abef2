"""Whom a member obeys: the highest term that it was introduced to, of its own deployment, in this life only."""

from __future__ import annotations

import pytest

from ringpull.ps.errors import Superseded, Unavailable
from ringpull.ps.fence import Fence, Order


def order(term: int, *, deployment: str = "mine", incarnation: str = "a") -> Order:
    return Order(deployment, term, incarnation)


def test_nobody_is_obeyed_before_an_introduction() -> None:
    fence = Fence("mine", "a")
    with pytest.raises(Unavailable, match="was not introduced to term 3 yet; it has heard of none"):
        fence.check(order(3))
    fence.obey(order(3))
    fence.check(order(3))
    assert fence.term == 3


def test_a_higher_term_has_to_introduce_itself_too() -> None:
    fence = Fence("mine", "a")
    fence.obey(order(3))
    with pytest.raises(Unavailable, match="was not introduced to term 4 yet; term 3 leads"):
        fence.check(order(4))
    fence.check(order(3))


@pytest.mark.parametrize("call", [Fence.obey, Fence.check])
def test_a_lower_term_is_over_for_good(call: object) -> None:
    fence = Fence("mine", "a")
    fence.obey(order(3))
    fence.obey(order(4))
    with pytest.raises(Superseded, match="term 3 is over: term 4 leads"):
        call(fence, order(3))  # type: ignore[operator]
    fence.check(order(4))


@pytest.mark.parametrize("call", [Fence.obey, Fence.check])
def test_another_deployment_is_told_that_it_leads_here_no_longer(call: object) -> None:
    fence = Fence("mine", "a")
    fence.obey(order(1))
    with pytest.raises(Superseded, match="belongs to deployment mine, not to theirs"):
        call(fence, order(9, deployment="theirs"))  # type: ignore[operator]
    assert fence.term == 1


@pytest.mark.parametrize("call", [Fence.obey, Fence.check])
def test_an_order_for_another_life_says_nothing_about_who_leads(call: object) -> None:
    """It is not a reason to step down: the member was restarted, and is introduced anew."""
    fence = Fence("mine", "b")
    with pytest.raises(Unavailable, match="for incarnation a; this one is b"):
        call(fence, order(1))  # type: ignore[operator]


def test_an_order_that_was_overtaken_is_not_carried_out() -> None:
    """Of 2520 of the simulation: a pause came through after the resume that had overtaken it, and held for ever."""
    fence = Fence("mine", "a")
    fence.obey(order(3))
    pause, resume = Order("mine", 3, "a", number=1), Order("mine", 3, "a", number=2)
    fence.check(resume, "throttle")
    with pytest.raises(Unavailable, match="order 1 of term 3 was overtaken by a later one"):
        fence.check(pause, "throttle")
    fence.check(resume, "throttle")
    fence.check(pause, "tables")
    fence.check(pause)
    fence.obey(order(4))
    fence.check(Order("mine", 4, "a", number=1), "throttle")


def test_a_member_of_no_deployment_obeys_any() -> None:
    fence = Fence("", "a")
    fence.obey(order(1, deployment="anybody"))
    fence.check(order(1, deployment="anybody"))
