"""A table of verbs: by what name each is called, what it is asked with, what it answers, and who may ask.

A request is a frozen dataclass that names the type of its reply, so `call` is typed by what it is given:

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Publish(Request[ChangeStatus]): ...

    status = operations.call(Publish(model="ranker"))  # a ChangeStatus

What carries a verb from the command line to the coordinator, over gRPC and over Ray, knows the table and no verb. A new
verb is a request and a line in a table, and a method of its name on the object that answers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Generic, TypeVar, cast

from ringpull.ps.errors import NotFound

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class Request(Generic[R_co]):
    """Base of every request. `R_co` is the type of the reply; both have plain forms
    (`ringpull.router.control.plain_values`)."""

    __slots__ = ()


class Role(StrEnum):
    """Right that is needed to ask for something; every verb names one. A head asks for it (`Access`)."""

    READ = "read"
    """Right to look: status, models, metrics, plans."""
    PREDICT = "predict"
    WRITE = "write"
    """Right to write rows."""
    OPERATE = "operate"
    """Right to change the deployment."""


@dataclass(frozen=True, slots=True)
class Verb(Generic[R]):
    """Line of the table."""

    name: str
    """Name on the wire, and of the method that answers."""
    request: type[Request[R]]
    reply: type[R]
    role: Role


class VerbTable:
    """Verbs by name and by request."""

    def __init__(self, *verbs: Verb[Any]) -> None:
        self._by_name: dict[str, Verb[Any]] = {}
        self._by_request: dict[type, Verb[Any]] = {}
        for verb in verbs:
            self.add(verb)

    def __repr__(self) -> str:
        return f"<VerbTable {', '.join(self._by_name)}>"

    def __iter__(self) -> Iterator[Verb[Any]]:
        return iter(tuple(self._by_name.values()))

    def add(self, verb: Verb[Any]) -> None:
        """Add a verb.

        Raises:
            ValueError: Another one has its name or its request.
        """
        if verb.name in self._by_name or verb.request in self._by_request:
            raise ValueError(f"{verb.name} or {verb.request.__name__} is in the table already")
        self._by_name[verb.name] = self._by_request[verb.request] = verb

    def named(self, name: str) -> Verb[Any]:
        """Return a verb.

        Raises:
            NotFound: There is none of that name.
        """
        verb = self._by_name.get(name)
        if verb is None:
            raise NotFound(f"there is no verb {name!r:.80}; there is {', '.join(self._by_name)}")
        return verb

    def find(self, name: str) -> Verb[Any] | None:
        """Return a verb; None: there is none of that name."""
        return self._by_name.get(name)

    def of(self, request: Request[R]) -> Verb[R]:
        """Return the verb that a request asks for."""
        return self._by_request[type(request)]

    def answer(self, target: object, request: Request[R]) -> R:
        """Return what the method of `target` answers that has the name of the request's verb."""
        return cast("R", getattr(target, self.of(request).name)(request))
