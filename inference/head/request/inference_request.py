"""A prediction that is asked for, whatever protocol it comes over."""

from __future__ import annotations

from dataclasses import dataclass

from ringpull.inference.head.catalog import ServedVersion, check_one_of
from ringpull.inference.head.request.received import ReceivedColumns
from ringpull.ps.errors import InvalidInput


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class InferenceRequest:
    """A request as a front-end has decoded it.

    Raises:
        InvalidInput: The version is negative, or a label is given beside it.
    """

    columns: ReceivedColumns
    model: str
    version: int = 0
    """Version asked for; 0: the live one, or the one with the label."""
    label: str = ""
    """Label of the version asked for; empty: none."""
    outputs: tuple[str, ...] = ()
    """Names of outputs; empty: all."""
    with_timings: bool = False
    with_unknown: bool = False
    """Whether the answer is to tell in which rows ids were unknown."""
    request_id: str = ""
    """Id that the caller gave; empty: one is made."""
    served: ServedVersion | None = None
    """Version that a front-end found for this when it made the columns: it is asked, though another one be live by now.
    None: the catalog is asked."""

    def __post_init__(self) -> None:
        check_version(self.version)
        check_one_of(self.version, self.label)


def check_version(version: int) -> None:
    """Check a version that is asked for.

    Raises:
        InvalidInput: It is negative.
    """
    if version < 0:
        raise InvalidInput(f"version is {version}; it must be 1 or more, or 0 for the live one")
