"""Ways past the heads: whether pushes of a model go to its shards straight just now, and when a head is asked. No I/O.

A head tells the route once, and again each second while pushes go by it: so a client that hears of no change, as all
that it is connected to was cut off from the rest, is not sure of its route for long. Whatever fails on the straight way
goes through a head, which has the last word, and so do all pushes until it is tried again: after a second where the
shards were reached before, as they change just now or one is restarted; after half a minute where they never were, or
take requests and say nothing. A shard that is short of room says when to come back, and the head is asked then.
"""

from __future__ import annotations

import math
import os
import random
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from ringpull.inference.client.numbers import timeout
from ringpull.inference.client.retry import LATER_BY
from ringpull.inference.proto import writer_pb2 as pb
from ringpull.inference.wire.push_codec import PushTarget
from ringpull.ps.errors import (
    ConnectionLost,
    DeadlineExceeded,
    InvalidInput,
    LimitExceeded,
    NotOwner,
    ProtocolError,
    RingpullError,
    StaleLineage,
    Stranger,
    Unavailable,
)

if TYPE_CHECKING:
    from ringpull.inference.push_route import PushRoute

RENEW_S: Final = 1.0
"""Age of a route at which the next push asks for it again, and goes on by it meanwhile."""
OLDEST_S: Final = 5.0
"""Age of a route from which on nothing goes by it: no head has said for so long that it still holds."""
PAUSE_S: Final = 1.0
"""Time for which pushes go through heads after a failure that may pass; twice as long after each further one."""
LONG_PAUSE_S: Final = 30.0
"""The longest such time: also where shards cannot be reached from here, or heads know of no straight way."""
MAX_S: Final = 30.0
"""Longest time that a push is on the straight way; what is left of its timeout after that is for a head."""
SHARE: Final = 2
"""A push is on the straight way for one part in so many of its timeout at most: a head has the other."""
ASK_S: Final = 1.0
"""Time that a head has to tell a route: a push waits for it."""


class Way:
    """Way of the pushes of one model."""

    __slots__ = ("asking", "failures", "next_s", "renew_s", "route", "told_s")

    def __init__(self) -> None:
        self.route: PushRoute | None = None
        self.told_s = 0.0
        """When the route was last told."""
        self.renew_s = float("-inf")
        """When it is to be asked for again."""
        self.next_s = float("-inf")
        """When the way is tried again; pushes go through heads until then."""
        self.asking = False
        self.failures = 0
        """Failures in a row; those of pushes that were in flight together are one."""


class _Ways:
    """Ways of one process, by model, and the lock that guards them."""

    __slots__ = ("by_model", "lock")

    def __init__(self) -> None:
        self.by_model: dict[str, Way] = {}
        self.lock = threading.Lock()


class StraightWays:
    """Ways of all models of one client. Thread-safe.

    A forked process asks anew: what it was told is well, but its connections are those of its parent.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._of_process: dict[int, _Ways] = {}

    def _here(self) -> _Ways:
        """Return the ways of this process: the same for all of its threads, whichever is first in a forked one."""
        process = os.getpid()
        found = self._of_process.get(process)
        return self._of_process.setdefault(process, _Ways()) if found is None else found

    def __repr__(self) -> str:
        ways = self._here().by_model.copy()
        return f"<StraightWays {sorted(model for model, way in ways.items() if way.route is not None)}>"

    def to_ask(self, target: PushTarget) -> bool:
        """Return whether whoever pushes now is to ask a head for the route first, and then to say what it told."""
        if not _may_be_live(target):
            return False
        now_s, ways = self.clock(), self._here()
        with ways.lock:
            way = ways.by_model.setdefault(target.model, Way())
            if way.asking or now_s < way.next_s or now_s < way.renew_s:
                return False
            way.asking = True
            return True

    def known(self, model: str) -> PushRoute | None:
        """Return the route that a head told last; None: there is none."""
        return self._here().by_model[model].route

    def told(self, model: str, route: PushRoute) -> None:
        """Note the route that a head told."""
        now_s, ways = self.clock(), self._here()
        with ways.lock:
            way = ways.by_model[model]
            way.asking, way.route = False, route
            way.told_s, way.renew_s = now_s, now_s + RENEW_S

    def not_told(self, model: str, pause_s: float = PAUSE_S) -> None:
        """Note that no head told a route; pushes go through heads for so long at least."""
        ways = self._here()
        with ways.lock:
            way = ways.by_model[model]
            way.asking, way.route = False, None
            way.next_s = max(way.next_s, self.clock() + pause_s)

    def route(self, target: PushTarget) -> PushRoute | None:
        """Return the route of a push; None: it goes through a head."""
        way = self._here().by_model.get(target.model) if _may_be_live(target) else None
        route = None if way is None else way.route
        if way is None or route is None:
            return None
        now_s = self.clock()
        if now_s < way.next_s or now_s >= way.told_s + OLDEST_S or target.table not in route.specs:
            return None
        return route if target.lineage is None or target.lineage == route.lineage else None

    def worked(self, model: str) -> None:
        """Note that a push was acknowledged on the straight way."""
        self._here().by_model[model].failures = 0

    def failed_of(self, model: str) -> Callable[[RingpullError, bool], None]:
        """Return a function that notes, in any thread, that a push of a model failed; see `failed`."""
        return lambda error, reached: self.failed(model, error, reached=reached)

    def failed(self, model: str, error: RingpullError, *, reached: bool) -> None:
        """Note that a push failed on the straight way, and goes through a head now.

        Args:
            reached: Whether all shards can be reached from here, or could before, and answer.
        """
        ways = self._here()
        with ways.lock:
            way = ways.by_model[model]
            if not isinstance(error, _OF_THE_WAY):
                way.renew_s = float("-inf")  # Of the push alone; or the tables are others by now.
                return
            now_s, pause_s = self.clock(), 0.0
            if now_s >= way.next_s:  # else it was in flight when the way was found barred
                way.failures += 1
                pause_s = min(PAUSE_S * 2.0 ** min(way.failures - 1, 5), LONG_PAUSE_S)
            if not reached or isinstance(error, ProtocolError):
                pause_s = LONG_PAUSE_S
            way.next_s = max(way.next_s, now_s + pause_s)
            way.renew_s = float("-inf")


_OF_THE_WAY: Final = (ConnectionLost, DeadlineExceeded, NotOwner, ProtocolError, StaleLineage, Stranger, Unavailable)
"""Errors by which a push finds the way barred to all."""


def pause_after(error: RingpullError) -> float:
    """Return for how long nobody asks for a route again after asking failed."""
    # A head of a build that knows of no routes is none of these.
    return PAUSE_S if isinstance(error, DeadlineExceeded | InvalidInput | Unavailable) else LONG_PAUSE_S


def straight_until_s(timeout_s: float) -> float | None:
    """Return until when a push may be on the straight way, `time.monotonic()` seconds; None: it has no time at all, as
    a head's way says.

    Raises:
        InvalidInput: Its timeout is no number, or NaN.
    """
    given_s = timeout("timeout_s", timeout_s)
    return time.monotonic() + min(given_s / SHARE, MAX_S) if given_s > 0 else None


def left_of(given_s: float | None, default_s: float, gone_s: float) -> float:
    """Return what is left of a push's timeout when some time has gone by, None being the client's."""
    return timeout("timeout_s", default_s if given_s is None else given_s) - gone_s


def pause_before_head_s(error: RingpullError, retries: int) -> float:
    """Return how long a push waits before it goes through a head, as a shard asked for; infinite: it does not go.

    Args:
        retries: Most retries of a call; 0: it is not to be asked again, whoever says when.
    """
    asked_s = error.retry_after_s if isinstance(error, LimitExceeded) else None
    if not asked_s:
        return 0.0
    return asked_s * random.uniform(1.0, 1.0 + LATER_BY) if retries else math.inf


def ask_s(ways: StraightWays, until_s: float) -> float:
    """Return the time that a head has to tell a route, so that some is left to push."""
    return min(ASK_S, (until_s - ways.clock()) / 2)


def route_request(model: str, known: PushRoute | None) -> pb.RouteRequest:
    """Return the question for a model's route.

    Args:
        known: Route that is known.
    """
    term, epoch, version = (0, 0, 0) if known is None else known.edition
    return pb.RouteRequest(model=model, term=term, epoch=epoch, version=version)


def tell(ways: StraightWays, model: str, reply: pb.RouteResponse, known: PushRoute | None) -> None:
    """Take what a head has told.

    Raises:
        ProtocolError: It cannot be read.
    """
    if reply.same and known is not None:
        ways.told(model, known)
    elif reply.reason or reply.same:
        ways.not_told(model, LONG_PAUSE_S)
    else:
        from ringpull.inference.push_route import PushRoute  # loaded by whoever pushes

        route = PushRoute.of(
            model=model,
            version=reply.version,
            lineage=reply.lineage,
            tables=reply.tables,
            packed_map=reply.shard_map,
        )
        ways.told(model, route)


def _may_be_live(target: PushTarget) -> bool:
    """Return whether a push is for the live lineage, or for one that may be it: no others go straight."""
    return target.version is None and target.label is None
