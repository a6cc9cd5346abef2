"""Models that come and go as the protocol asks for it: what operators' verb a load or an unload is."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ringpull.inference.head.access import Access
from ringpull.inference.head.frontends.parts import Parts
from ringpull.ps.errors import AlreadyLive, InvalidInput, RingpullError
from ringpull.ps.spec import check_name
from ringpull.router.control.operations import ChangeStatus, LoadModel, Publish, UnloadModel
from ringpull.router.control.verbs import Request, Role

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


@contextmanager
def reading(access: Access, authorization: str | None) -> Iterator[None]:
    """Context in which a load or an unload is read: whoever may not ask for it learns that, and not what is wrong."""
    try:
        yield
    except RingpullError:
        access.admit(authorization, Role.OPERATE)
        raise


async def load(parts: Parts, name: str, parameters: Collection[str], asker: Asker) -> None:
    """Serve a model: its newest version where it is served already, else what lies below the roots of models.

    Args:
        parameters: Names of the parameters that came with it.

    Raises:
        Unauthenticated, Forbidden: The caller may not.
        NotFound: There is no such model.
        InvalidInput: A parameter asks for something else to be loaded.
        RingpullError: See `Operators.change`.
    """
    _check(name, parameters, asker)
    served = any(each.key[0] == name for each in parts.catalog.served())
    try:
        await _change(parts, Publish(model=name) if served else LoadModel(folder=name), asker)
    except AlreadyLive:
        return  # Clients load to be sure that it is there.


async def unload(parts: Parts, name: str, parameters: Collection[str], asker: Asker) -> None:
    """Serve a model no more, with all its versions. Arguments and errors as `load`."""
    _check(name, parameters, asker)
    await _change(parts, UnloadModel(model=name), asker)


async def _change(parts: Parts, request: Request[ChangeStatus], asker: Asker) -> None:
    await parts.operators.change(
        request,
        authorization=asker.authorization,
        access=asker.access,
        peer=asker.peer,
        door=asker.door,
        timeout_s=asker.timeout_s,
    )


def _check(name: str, parameters: Iterable[str], asker: Asker) -> None:
    """Check what a load or an unload asks for."""
    wrong = next((each for each in parameters if each not in ADVICE), None)
    with reading(asker.access, asker.authorization):
        check_name("model", name)
        if wrong is not None:
            raise InvalidInput(
                f"parameter {wrong[:40]}: a model is loaded as it lies below the roots of models, without files or"
                " configuration of the caller's"
            )
