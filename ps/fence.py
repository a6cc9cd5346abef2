"""Fence of a member: whose orders it obeys.

A *term* is the number of a coordinator's reign. One that was stopped and wakes up, or was cut off, may still believe
that it leads; what it orders must not be done. So each order names the deployment, the term, and the life of the member
that is meant, and a member that has heard of a higher term obeys no lower one.

A member that restarts has heard of no term. It obeys nobody before it is introduced to one (`obey`): a leader does that
only after it has seen that incarnation and *then* found its own term to be the highest still.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ringpull.ps.errors import Superseded, Unavailable


@dataclass(frozen=True, slots=True)
class Order:
    """Order of a coordinator: who commands, and which life of the member is meant."""

    deployment: str
    term: int
    incarnation: str
    number: int = 0
    """Number of the order in its term: of two, the one with the larger number was given later."""


class Fence:
    """Fence of one incarnation of a member. Thread-safe.

    Args:
        deployment: Id of the deployment that the member belongs to; empty: any.
        incarnation: Id of this life of the member.
    """

    def __init__(self, deployment: str, incarnation: str) -> None:
        self._deployment = deployment
        self._incarnation = incarnation
        self._lock = threading.RLock()
        self._term = 0
        self._last: dict[str, tuple[int, int]] = {}
        """Subject -> term and number of the last order about it."""

    def __repr__(self) -> str:
        return f"<Fence {self._deployment!r} term={self._term}>"

    @property
    def term(self) -> int:
        """Highest term that the member was introduced to; 0: none yet."""
        return self._term

    def obey(self, order: Order) -> bool:
        """Obey this term from now on, and no lower one; return whether a lower one was obeyed before.

        Raises:
            Superseded: A higher term leads, or the member belongs to another deployment.
            Unavailable: Another life of the member is meant.
        """
        with self._lock:
            self._check(order)
            before, self._term = self._term, order.term
            return 0 < before < order.term

    @contextmanager
    def obeyed(self, order: Order, about: str = "") -> Iterator[None]:
        """Check an order, and let nobody else be obeyed while the context lasts: for what is done at once.

        Raises:
            Superseded, Unavailable: See `check`.
        """
        with self._lock:
            self.check(order, about)
            yield

    def check(self, order: Order, about: str = "") -> None:
        """Check that an order is to be obeyed: it is of the term that the member was introduced to.

        Args:
            about: What it is about, where the later of two orders holds, in whichever sequence they arrive. A call may
                be given up by its caller, made again otherwise, and come through after all.

        Raises:
            Superseded: A higher term leads, or the member belongs to another deployment.
            Unavailable: Another life of the member is meant, this one was not introduced to the term yet, or a later
                order about the same was obeyed already.
        """
        with self._lock:
            self._check(order)
            if order.term > self._term:
                raise Unavailable(f"the member was not introduced to term {order.term} yet; {self._known()}")
            if about:
                given = order.term, order.number
                if given < self._last.get(about, given):
                    raise Unavailable(f"order {order.number} of term {order.term} was overtaken by a later one")
                self._last[about] = given

    def _check(self, order: Order) -> None:
        if self._deployment not in ("", order.deployment):
            raise Superseded(f"the member belongs to deployment {self._deployment}, not to {order.deployment}")
        if order.incarnation != self._incarnation:
            raise Unavailable(f"the order is for incarnation {order.incarnation}; this one is {self._incarnation}")
        if order.term < self._term:
            raise Superseded(f"term {order.term} is over: {self._known()}")

    def _known(self) -> str:
        return f"term {self._term} leads" if self._term else "it has heard of none"
