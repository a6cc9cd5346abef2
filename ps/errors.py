"""Errors that ringpull raises, by who must act.

`RingpullError` is the only root. Below it: the caller sent something wrong (`InvalidInput` and its kin), the operator
has to look (`CorruptData`, `ExportError`), or time and the cluster did it and the caller may try again (`Retryable`).
Foreign errors are translated into these once, where they enter, with `raise ... from exc`.
"""

from __future__ import annotations


class RingpullError(Exception):
    """Root of all errors of ringpull."""


# -- the caller must change the request ------------------------------------------------------------------------------


class InvalidInput(RingpullError):
    """Raised when a value given by the caller breaks a rule. The message names the field and what would be right."""


class NoText(InvalidInput):
    """Raised for a string that has no UTF-8, and so no key: it holds half a character, or is bytes that are none.

    Attributes:
        place: Which of the strings that were given it is.
        why: What is wrong with it, without where it is.
    """

    def __init__(self, message: str, *, place: int = 0, why: str = "") -> None:
        super().__init__(message)
        self.place = place
        self.why = why or message


class UnmetCondition(InvalidInput):
    """Raised when a request relies on what is not so here, such as a signature that the model does not have."""


class StaleLineage(UnmetCondition):
    """Raised for a push that means a lineage of which no version is open. The message names both."""


class StaleNumber(UnmetCondition):
    """Raised for a push whose writer has sent a later one since: it is not applied, and never will be."""


class AlreadyLive(InvalidInput):
    """Raised when the version to go live is live: nothing is to be done."""


class NotFound(RingpullError):
    """Raised when the caller names a model, version, table or feature that is not served here."""


class LimitExceeded(RingpullError):
    """Raised when a request is over a limit: larger than configured, or more than can be done in its time.

    The message names the limit and its value.

    Attributes:
        retry_after_s: The same request may be taken after so many seconds; None: not by waiting alone.
    """

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Unauthenticated(RingpullError):
    """Raised when whoever asks has to say who it is, and has not: there is no token, or none that is known here."""


class Forbidden(RingpullError):
    """Raised when whoever asks may not have done what is asked. The message names the role or the door that may."""


class Unsupported(RingpullError):
    """Raised when what is asked is part of a protocol, and not done here. The message says what is instead."""


# -- the exporter must change the data or the model -------------------------------------------------------------------


class ExportError(RingpullError):
    """Raised when a model or a table cannot be exported. The message names the module or table and the reason."""


class OneKey(ExportError):
    """Base of the errors of two rows of a table that have one key.

    Attributes:
        key: That key, a uint64; None: whoever raises does not know it.
    """

    def __init__(self, message: str, *, key: int | None = None) -> None:
        super().__init__(message)
        self.key = key


class DuplicateKey(OneKey):
    """Raised when one key was given to a table twice."""


class HashCollision(OneKey):
    """Raised when two different strings hash to one key."""


# -- the operator must look -------------------------------------------------------------------------------------------


class CorruptData(RingpullError):
    """Raised when a stored file is damaged, truncated, half-written, or of a format this build does not read."""


class OtherContent(CorruptData):
    """Raised when what is found under a version's number is not what the deployment serves under it.

    Rows of two contents never make one answer, so whoever finds it leaves it alone. The message says both identities.
    """

    @classmethod
    def found(cls, what: str, found: str, served: str) -> OtherContent:
        """Return the error for `what`, which has the identity `found` where the deployment serves `served`."""
        return cls(
            f"{what} has other content now than when it was opened (identity {found}, the deployment serves {served});"
            " export under a new number"
        )


class ChangeGivenUp(RingpullError):
    """Raised when a change of the deployment was given up; what served before it serves on. The message says why."""


class ProgramFailed(RingpullError):
    """Raised when a model's dense program fails for a request: on its values, or for want of memory.

    Whether the request or the model is wrong, the server cannot tell. The message has the program's own last words.
    """


class StartupError(RingpullError):
    """Raised when a cluster cannot come up: a port in use, a resource Ray does not have, a process that died."""


class Superseded(RingpullError):
    """Raised for whoever leads no longer: a higher term leads, or another deployment has what this one had."""


class Replaced(Superseded):
    """Raised for a process whose actor has another process by now: it is an orphan, and has to stop."""


# -- no one did wrong; a retry may succeed -----------------------------------------------------------------------------


class Retryable(RingpullError):
    """Base of the errors after which the same request may succeed."""


class DeadlineExceeded(Retryable):
    """Raised when a request's time ran out before its answer was complete. Nothing was changed."""


class Unavailable(Retryable):
    """Raised when no live shard or head could answer. The message names the table or address."""


class Busy(Unavailable):
    """Raised when a change is to begin and another one is under way: there is one at a time."""


class RequestCancelled(DeadlineExceeded):
    """Raised by a shard for a request that its caller does not wait for any more, who hears nothing of it."""


class NotChecked(Unavailable):
    """Raised by a head for a version whose self-check could not be made, as no shard answers for its samples' rows."""


class NotAnswered(Unavailable):
    """Raised by a shard for slots that it owns and does not answer for: they are damaged here, or not stored yet.

    Attributes:
        table: Table that they are of.
        slots: Ranges [begin, end) of slots that it does not answer for; one of them it was asked for.
    """

    def __init__(self, message: str, *, table: str = "", slots: tuple[tuple[int, int], ...] = ()) -> None:
        super().__init__(message)
        self.table = table
        self.slots = slots


class ConnectionLost(Unavailable):
    """Raised for every request in flight on a connection that broke; the connection is never reused."""


class ProtocolError(ConnectionLost):
    """Raised when a peer sent bytes that are not a valid frame. The connection is closed with this reason."""


class Stranger(ConnectionLost):
    """Raised when who listens at an address is not the shard that was meant, so that its rows are not what they seem.

    The connection is closed with this reason, before anything else was asked or answered.
    """


class NotOwner(Retryable):
    """Raised by a shard asked for a slot it does not serve; the caller refreshes its shard map and routes again.

    Attributes:
        epoch: The epoch of the shard's own map, to compare with the caller's.
    """

    def __init__(self, message: str, *, epoch: int = 0) -> None:  # a default, so that the error can be pickled
        super().__init__(message)
        self.epoch = epoch


def may_pass(error: BaseException) -> bool:
    """Return whether the same request may succeed later although nobody does anything about it."""
    return isinstance(error, Retryable) or (isinstance(error, LimitExceeded) and error.retry_after_s is not None)
