"""Calls to actors by handle or by name, with what goes wrong translated into our errors.

Errors cross Ray as values: a `RingpullError` raised in an actor arrives wrapped in Ray's own, with a stack of both
sides as its message; `result` unwraps it again. An actor that is being restarted is `Unavailable`: the call may be made
again. So is one that was ended, whose name somebody may give to another (`ActorGone`). One that cannot even be made is
a `StartupError`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

import ray

from ringpull.deploy.cluster import control_store
from ringpull.deploy.cluster.actor_spec import NAMESPACE
from ringpull.ps.errors import RingpullError, StartupError, Unavailable

BEGUN_SHARE: Final = 0.5
"""Part of a call's time in which it has to be begun, where that is asked for; the rest is for its answer."""


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


class RemoteProcess:
    """The process that the actor of a name runs, whoever has that name now: its methods, as if it were here.

    A call raises what `result` says; `Unavailable` also where there is no such actor or no answer in time. Its methods
    are those of the type that it is taken for: `typing.cast("ShardControl", RemoteProcess(name))`.

    Args:
        name: The actor's full name.
        timeout_s: Longest wait for an answer; None: as long as the actor lives.
        called: Name of the process in messages; default: the actor's.
        in_time: Methods that are begun in time or not at all, with their longest wait: they take `within_s`, too.
    """

    def __init__(
        self,
        name: str,
        *,
        timeout_s: float | None = None,
        called: str = "",
        in_time: Mapping[str, float] | None = None,
    ) -> None:
        self._name = name
        self._called = called or name
        self._timeout_s = timeout_s
        self._in_time = in_time or {}
        self._handle: Any = None

    def __repr__(self) -> str:
        return f"<RemoteProcess {self._name}>"

    def __getattr__(self, method: str) -> Callable[..., Any]:
        if method.startswith("_"):  # what Python itself looks for, as in copying
            raise AttributeError(method)
        return partial(self._invoke, method)

    def _invoke(self, method: str, *args: Any, within_s: float | None = None) -> Any:
        handle = self._handle
        if handle is None:
            control_store.check()
            handle = self._handle = find(self._name)
        timeout_s = self._timeout_s
        try:
            if method not in self._in_time:
                return result(handle.invoke.remote(method, *args), timeout_s=timeout_s)
            longest_s = self._in_time[method]
            timeout_s = longest_s if within_s is None else min(longest_s, within_s)
            until_s = time.monotonic() + timeout_s
            ticket = result(handle.ticket.remote(), timeout_s=timeout_s)
            left_s = until_s - time.monotonic()
            call = handle.invoke_in_time.remote(ticket, BEGUN_SHARE * left_s, method, *args)
            return result(call, timeout_s=max(0.0, left_s))
        except TimeoutError as exc:
            raise Unavailable(f"{self._called} has not answered for {timeout_s:g} s") from exc
        except ActorGone:
            self._handle = None
            raise


def _reason(exc: Exception) -> str:
    """Return the last line of Ray's message: above it are the stacks."""
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
    return lines[-1] if lines else type(exc).__name__
