"""Calls to actors by handle or by name, with what goes wrong translated into our errors.

Errors cross Ray as values: a `RingpullError` raised in an actor arrives wrapped in Ray's own, with a stack of both
sides as its message; `result` unwraps it again. An actor that is being restarted is `Unavailable`: the call may be made
again. So is one that was ended, whose name somebody may give to another (`ActorGone`). One that cannot even be made is
a `StartupError`.
"""

from __future__ import annotations

from typing import Any

import ray

from ringpull.deploy.cluster import control_store
from ringpull.deploy.cluster.actor_spec import NAMESPACE
from ringpull.ps.errors import RingpullError, StartupError, Unavailable


class ActorGone(Unavailable):
    """Raised when an actor was ended for good: this handle of it never works again."""


def result(reference: Any, *, timeout_s: float | None = None) -> Any:
    """Return what an actor's call returned.

    Raises:
        RingpullError: The call raised it.
        Unavailable: The actor died while it was asked; Ray restarts it.
        ActorGone: It was ended; Ray does not restart it.
        StartupError: It could not be made, or failed with an error that is not one of ours.
        TimeoutError: No answer within `timeout_s` seconds.
    """
    try:
        return ray.get(reference, timeout=timeout_s)
    except ray.exceptions.GetTimeoutError as exc:
        raise TimeoutError from exc
    except ray.exceptions.RayTaskError as exc:
        if isinstance(exc.cause, RingpullError):
            raise exc.cause from exc
        raise StartupError(f"an actor failed: {type(exc.cause).__name__}: {exc.cause}") from exc
    except ray.exceptions.ActorUnavailableError as exc:
        raise Unavailable(f"an actor is being restarted: {_reason(exc)}") from exc
    except ray.exceptions.ActorDiedError as exc:
        if exc.actor_init_failed:
            raise StartupError(f"an actor could not be made: {_reason(exc)}") from exc
        raise ActorGone(f"an actor was ended: {_reason(exc)}") from exc
    except ray.exceptions.RayError as exc:
        raise StartupError(f"Ray failed: {_reason(exc)}") from exc


def find(name: str) -> Any:
    """Return the handle of a named actor.

    Raises:
        Unavailable: There is none.
    """
    try:
        return ray.get_actor(name, namespace=NAMESPACE)
    except ValueError as exc:
        raise Unavailable(f"there is no actor {name}") from exc


class NamedActor:
    """Calls to the actor of a name, whoever has it now."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._handle: Any = None

    def __repr__(self) -> str:
        return f"<NamedActor {self._name}>"

    def call(self, verb: str, *args: Any, timeout_s: float | None = None, **named: Any) -> Any:
        """Call a verb and return its answer.

        Raises:
            RingpullError: As for `result`; `Unavailable` also where there is no such actor.
            TimeoutError: No answer within `timeout_s` seconds.
        """
        handle = self._handle
        if handle is None:
            control_store.check()
            handle = self._handle = find(self._name)
        try:
            return result(getattr(handle, verb).remote(*args, **named), timeout_s=timeout_s)
        except ActorGone:
            self._handle = None
            raise


def _reason(exc: Exception) -> str:
    """Return the last line of Ray's message: above it are the stacks."""
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
    return lines[-1] if lines else type(exc).__name__
