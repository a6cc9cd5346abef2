"""The end of a change, as whoever began it learns of it: carried through, or given up."""

from __future__ import annotations

from ringpull.ps.errors import ChangeGivenUp
from ringpull.router.control.operations import ChangeStatus


def check_ended(begun: ChangeStatus, status: ChangeStatus) -> None:
    """Check that a change has been carried through.

    Args:
        begun: Its status as it began.
        status: Status of what came last.

    Raises:
        ChangeGivenUp: It was given up, or nobody can tell by now.
    """
    what = f"{begun.kind.value} {begun.subject}"
    if status.id < begun.id:
        raise ChangeGivenUp(f"{what} is not known to the coordinator that leads now; see `ringpull status`")
    if status.id != begun.id:
        raise ChangeGivenUp(f"{what} is over; {status.kind.value} {status.subject} came after it")
    if status.error:
        raise ChangeGivenUp(f"{what} was given up: {status.error}")
