"""Access: who may have a head do what.

A front-end tells what a caller shows of itself, and the role that is needed; what is not allowed raises. It knows no
protocol: `authorization` is the value of a header of that name, in gRPC and HTTP alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

from ringpull.inference.head.tokens.quotas import Quota
from ringpull.ps.errors import Forbidden
from ringpull.router.control.verbs import Role


@dataclass(frozen=True, slots=True)
class Caller:
    """Caller that was let in."""

    name: str
    """Name for logs: of its token, or what else is known of it."""
    quota: Quota | None = None
    """What it may have, and has had, of this head; the predictor holds it to that. None: it came without a token."""


class Access(Protocol):
    """Rule of who may do what."""

    def admit(self, authorization: str | None, *roles: Role) -> Caller:
        """Let a caller in.

        Args:
            authorization: What it shows, such as `Bearer TOKEN`; None: nothing.
            roles: Right that is needed for what it asks; of several, any one is enough.

        Raises:
            Unauthenticated: It has to show a token that is known here.
            Forbidden: It may not; the message says what would be right.
        """
        ...


ANYONE: Final = Caller("anyone")
OPERATOR: Final = Caller("operator")


ANY_ROLE: Final = tuple(Role)
"""Roles of which any is enough: for what everyone may who is known."""


class Unasked:
    """Access of a port that asks nothing of anyone: everything but to operate, which has a door of its own."""

    def __init__(self, door: str = "") -> None:
        """Remember how operators are let in.

        Args:
            door: Address of the operators' door, for the error; empty: there is none.
        """
        self._door = door

    def __repr__(self) -> str:
        return f"Unasked(door {self._door!r})"

    def admit(self, authorization: str | None, *roles: Role) -> Caller:
        """See `Access.admit`."""
        if roles == (Role.OPERATE,):
            raise Forbidden(f"operators are not let in here; their door is {self._door or 'not open'}")
        return ANYONE


class AtDoor:
    """Access of the operators' own door: whoever came that far may do everything."""

    def admit(self, authorization: str | None, *roles: Role) -> Caller:
        """See `Access.admit`."""
        return OPERATOR
