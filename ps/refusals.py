"""Refusals: the versions that a member was told to open and could not, while it opened the others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from ringpull.ps.errors import RingpullError, Unavailable
from ringpull.ps.transfer.job import Cancelled

VersionName = tuple[str, int]
"""Model and version."""


class NotOpened(RingpullError):
    """Raised by a member that was told to open several versions, and could not open some. The others are open.

    Attributes:
        errors: Error of each version that is not.
    """

    def __init__(self, message: str, errors: Mapping[VersionName, RingpullError] | None = None) -> None:
        super().__init__(message)
        self.errors = dict(errors or {})


class Refusals:
    """Errors of the versions of one command, each kept while the next version is tried."""

    def __init__(self) -> None:
        self.errors: dict[VersionName, RingpullError] = {}

    @contextmanager
    def of(self, model: str, version: int) -> Iterator[None]:
        """Keep the error that ends the context, as that of a version. `Cancelled` ends all of them."""
        try:
            yield
        except Cancelled:
            raise
        except RingpullError as exc:
            # Without the frames that it came through: these keep it in turn, and with it all tables open then.
            self.errors[model, version] = exc.with_traceback(None)
        except OSError as exc:
            # Of whatever file: it is this version's, and passes or not as that is told by the next attempt.
            self.errors[model, version] = Unavailable(f"{model}/{version}: a file cannot be used now: {exc}")

    def check(self, asked: int) -> None:
        """Raise if a version was refused.

        Args:
            asked: Number of versions of the command.

        Raises:
            RingpullError: The error of the only version there was.
            NotOpened: Of several versions, some were refused.
        """
        if not self.errors:
            return
        if asked == 1:
            raise next(iter(self.errors.values()))
        raise NotOpened(
            "; ".join(f"{model}/{version}: {error}" for (model, version), error in self.errors.items()), self.errors
        )

    def __repr__(self) -> str:
        return f"<Refusals {self.errors}>"


def refused(
    error: RingpullError, asked: Iterator[VersionName] | list[VersionName]
) -> Mapping[VersionName, RingpullError]:
    """Return the error of each version that a member did not open, given what its call raised.

    Args:
        asked: Versions that it was told to open.
    """
    return error.errors if isinstance(error, NotOpened) else dict.fromkeys(asked, error)
