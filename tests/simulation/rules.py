"""Rules of the product that can be taken out, one at a time, to see that the simulation notices.

Each is a function or method that is replaced for a while, by what somebody might have written who did not know better.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Final
from unittest.mock import patch

from ringpull.ps.errors import Superseded, Unavailable
from ringpull.ps.fence import Fence, Order
from ringpull.router.control import head_steps
from ringpull.router.control.change import CoordinatorState, Kind
from ringpull.router.control.coordinator import Coordinator
from ringpull.router.control.deployment_spec import DeploymentSpec
from ringpull.router.control.events import HeadExpired
from ringpull.router.control.introductions import Introductions
from ringpull.router.control.leader import Leader
from ringpull.router.control.reign import Reign
from ringpull.router.control.state_store import StateStore

Rule = Callable[[], AbstractContextManager[Any]]


def members_obey_whoever_comes() -> AbstractContextManager[Any]:
    def check(fence: Fence, order: Order, about: str = "") -> None:
        if order.incarnation != fence._incarnation:
            raise Unavailable("another life")
        fence._term = max(fence._term, order.term)

    return patch.multiple(Fence, check=check, obey=check)


def members_do_not_look_at_the_incarnation() -> AbstractContextManager[Any]:
    def check(fence: Fence, order: Order, about: str = "") -> None:
        if order.term < fence._term:
            raise Superseded("a higher one leads")

    def obey(fence: Fence, order: Order) -> None:
        check(fence, order)
        fence._term = order.term

    return patch.multiple(Fence, check=check, obey=obey)


def orders_that_were_overtaken_are_carried_out() -> AbstractContextManager[Any]:
    plain = Fence.check
    return patch.object(Fence, "check", lambda fence, order, about="": plain(fence, order))


def terms_before_are_not_sealed() -> AbstractContextManager[Any]:
    return patch.object(StateStore, "_seal", lambda *_: None)


def introductions_do_not_look_who_leads() -> AbstractContextManager[Any]:
    def introduce(self: Introductions, member: Any, heartbeat: Any) -> None:
        control = self._members.shard(member.id) if member.role == "shard" else self._members.head(member.id)
        try:
            control.obey(self._reign.order(heartbeat.incarnation))
        except Superseded as exc:
            self._tell_over(exc)
            raise
        self._done[member] = heartbeat.incarnation
        self._tell_done(member, heartbeat)

    return patch.object(Introductions, "introduce", introduce)


def state_is_not_saved_before_it_is_acted_on() -> AbstractContextManager[Any]:
    return patch.object(CoordinatorState, "must_be_saved", lambda *_: False)


def what_could_not_be_saved_is_carried_out() -> AbstractContextManager[Any]:
    return patch.object(Coordinator, "revert", lambda *_: None)


def a_new_term_goes_on_with_the_epochs_of_the_last() -> AbstractContextManager[Any]:
    def first_state(of: Reign, heads: tuple[int, ...]) -> CoordinatorState:
        return CoordinatorState(heads=heads) if of.saved is None else of.saved.state

    return patch.object(Reign, "first_state", first_state)


def slots_are_dropped_before_heads_have_acknowledged() -> AbstractContextManager[Any]:
    return patch.object(Coordinator, "_all_routed", lambda _: True)


def leases_are_not_waited_for() -> AbstractContextManager[Any]:
    """A head that has not been heard of for a moment counts as if it did not serve."""
    plain = Leader._look_at_the_clock

    def look_at_the_clock(self: Leader) -> None:
        for head, known in self._successions._heads.items():
            if self._clock() - known.heard_s > self._timing.lease_s / 3 and not known.expired:
                known.expired = True
                self._handle(HeadExpired(head))
        plain(self)

    return patch.object(Leader, "_look_at_the_clock", look_at_the_clock)


def heads_not_seen_yet_do_not_count() -> AbstractContextManager[Any]:
    return patch.object(
        Coordinator, "_serving_heads", lambda self: (head for head in self.heads.values() if head.incarnation)
    )


def shards_need_not_serve_before_heads_route() -> AbstractContextManager[Any]:
    return patch.object(Coordinator, "_all_serve", lambda *_: True)


def heads_need_not_load_before_they_route() -> AbstractContextManager[Any]:
    return patch.object(Coordinator, "_all_loaded", lambda *_: True)


def paused_changes_go_on() -> AbstractContextManager[Any]:
    plain = Coordinator._advance

    def advance(self: Coordinator) -> bool:
        change = self._state.change
        if change is not None and change.paused:
            object.__setattr__(change, "paused", False)
            try:
                return plain(self)
            finally:
                object.__setattr__(change, "paused", True)
        return plain(self)

    return patch.object(Coordinator, "_advance", advance)


def a_restarted_shard_is_taken_for_the_one_before() -> AbstractContextManager[Any]:
    plain = Coordinator.take

    def take(self: Coordinator, event: Any) -> None:
        shard = getattr(event, "shard", None)
        if hasattr(event, "address") and shard in self.shards:
            self.shards[shard].incarnation = event.incarnation
            return
        plain(self, event)

    return patch.object(Coordinator, "take", take)


def labels_are_shown_before_their_versions_are_there() -> AbstractContextManager[Any]:
    plain = head_steps.shown_by_heads

    def shown_by_heads(state: CoordinatorState) -> head_steps.Shown:
        shown = plain(state)
        return shown if state.change is None else shown._replace(labels=state.change.target.labels)

    return patch.object(head_steps, "shown_by_heads", shown_by_heads)


def models_go_before_heads_have_let_go_of_them() -> AbstractContextManager[Any]:
    """Shards serve only the next spec from the first phase on that is not given up any more."""
    plain = Coordinator._specs

    def specs(self: Coordinator) -> dict[int, DeploymentSpec]:
        change = self._state.change
        if change is not None and change.kind is Kind.UNLOAD and not change.phase.reversible:
            return {change.id: change.target}
        return plain(self)

    return patch.object(Coordinator, "_specs", specs)


RULES: Final[dict[Rule, tuple[str, int]]] = {
    members_obey_whoever_comes: ("obeys term", 38),
    members_do_not_look_at_the_incarnation: ("not loaded|not stored", 6),
    orders_that_were_overtaken_are_carried_out: ("come to rest|not loaded|stored", 490),
    terms_before_are_not_sealed: ("ended twice|never ended|acted on|acts on", 23),
    introductions_do_not_look_who_leads: ("obeys term", 565),
    state_is_not_saved_before_it_is_acted_on: ("acted on|nobody asked for", 10),
    what_could_not_be_saved_is_carried_out: ("nobody asked for", 20),
    a_new_term_goes_on_with_the_epochs_of_the_last: ("used twice", 62),
    slots_are_dropped_before_heads_have_acknowledged: ("nobody answers", 10),
    leases_are_not_waited_for: ("nobody answers", 381),
    heads_not_seen_yet_do_not_count: ("nobody answers", 13),
    shards_need_not_serve_before_heads_route: ("nobody answers|serves or stores", 2),
    heads_need_not_load_before_they_route: ("not loaded|come to rest", 30),
    paused_changes_go_on: ("is paused", 4),
    a_restarted_shard_is_taken_for_the_one_before: ("lacks|lacked|nobody answers", 33),
    labels_are_shown_before_their_versions_are_there: ("which it has not loaded", 175),
    models_go_before_heads_have_let_go_of_them: ("nobody answers", 63),
}
"""Rule -> what a history says that fails without it, and the seed of one that did when this was written."""
