"""Models that come and go as the protocol asks for it: what operators' verb a load or an unload is."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from ringpull.inference.head.access import Access
from ringpull.inference.head.frontends.parts import Parts
from ringpull.ps.errors import InvalidInput
from ringpull.ps.spec import check_name
from ringpull.router.control.operations import ChangeStatus, LoadModel, UnloadModel
from ringpull.router.control.verbs import Request

ADVICE = frozenset({"unload_dependents"})
"""Parameters that change nothing: no model depends on another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asker:
    """Whoever asks, as it is known by the way that it came."""

    authorization: str | None
    """What it shows of itself; None: nothing."""
    access: Access
    """Rule of who may have what by this way in."""
    peer: str
    """Address that it comes from."""
    door: str
    """Name of the way in, for the audit log."""
    timeout_s: float | None
    """Time that it waits; None: as long as it takes."""


async def load(parts: Parts, name: str, parameters: Collection[str], asker: Asker) -> None:
    """Serve a model, of that name: its newest version where it is served already, else what lies below the roots of
    models. Where nothing is newer than what is served, nothing is to be done.

    Args:
        parameters: Names of the parameters that came with it.

    Raises:
        Unauthenticated, Forbidden: The caller may not.
        InvalidInput: There is no such model, or a parameter asks for something else to be loaded.
        RingpullError: See `Operators.change`.
    """
    with reading(parts, "load", name, asker):
        _check(name, parameters)
    await _change(parts, LoadModel(folder=name, model=name), asker)


async def unload(parts: Parts, name: str, parameters: Collection[str], asker: Asker) -> None:
    """Serve a model no more, with all its versions. Arguments and errors as `load`."""
    with reading(parts, "unload", name, asker):
        _check(name, parameters)
    await _change(parts, UnloadModel(model=name), asker)


def reading(parts: Parts, verb: str, name: str, asker: Asker) -> AbstractContextManager[None]:
    """Return the context of reading what is asked for, see `Operators.reading`."""
    return parts.operators.reading(
        verb,
        name,
        authorization=asker.authorization,
        access=asker.access,
        peer=asker.peer,
        door=asker.door,
    )


async def _change(parts: Parts, request: Request[ChangeStatus], asker: Asker) -> None:
    await parts.operators.change(
        request,
        authorization=asker.authorization,
        access=asker.access,
        peer=asker.peer,
        door=asker.door,
        timeout_s=asker.timeout_s,
    )


def _check(name: str, parameters: Iterable[str]) -> None:
    """Check what a load or an unload asks for."""
    check_name("model", name)
    if (wrong := next((each for each in parameters if each not in ADVICE), None)) is not None:
        raise InvalidInput(
            f"parameter {wrong[:40]}: a model is loaded as it lies below the roots of models, without files or"
            " configuration of the caller's"
        )
