"""Reign: one term of a coordinator, in which it alone saves the state. See `ringpull.router.control.state_store`."""

from __future__ import annotations

import itertools
import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from ringpull.ps.errors import StartupError, Superseded, Unavailable
from ringpull.ps.fence import Order
from ringpull.router.control.change import CoordinatorState
from ringpull.router.control.coordinator_state import state_to_dict
from ringpull.router.control.saved_files import (
    LEGACY,
    encode,
    generations,
    is_left_over,
    is_seal,
    state_name,
    term_name,
    terms,
)
from ringpull.router.control.state_files import StateFiles

logger: Final = logging.getLogger(__name__)

EPOCHS_AHEAD: Final = 1000
"""Epochs that a saved state reserves: so many maps of new addresses need no save."""

WITHOUT_ROWS: Final = b"without pushed rows, which were in memory\n"
"""Content of the file that releases a folder, where pushed rows went with the deployment that had it."""

SEALS_KEPT: Final = 16
"""Terms whose seals are kept. A leader that slept through more of them writes into a term that was cleared away; it
finds the newer terms and takes nothing for saved."""


@dataclass(frozen=True, slots=True)
class SavedState:
    """State as it was found."""

    deployment: str
    epochs_to: int
    """Last epoch that may have been used."""
    state: CoordinatorState
    warning: str = ""
    """What an operator should know about it."""


class Reign:
    """One term: whoever has it leads, until a higher one begins. Made by `StateStore.claim` and `take_over`."""

    def __init__(
        self, files: StateFiles, deployment: str, term: int, saved: SavedState | None, newest: tuple[int, int]
    ) -> None:
        """Use `StateStore.claim`.

        Args:
            saved: State to go on from.
            newest: Its term and generation.
        """
        self._files = files
        self.deployment = deployment
        self.term = term
        self.saved = saved
        """State to go on from; None: there never was one."""
        self.epochs_to = 0 if saved is None else saved.epochs_to
        """Last epoch that may be used before a state is saved again."""
        self._orders = itertools.count(1)
        self._kept = {newest}
        self._generation = 0
        self._beats = 0
        self._nonce = secrets.token_hex(8)

    def __repr__(self) -> str:
        return f"<Reign term={self.term} generation={self._generation} {self._files!r}>"

    def save(
        self,
        state: CoordinatorState,
        *,
        ahead: int | None = None,
        beside: Callable[[Callable[[], None]], object] = lambda work: work(),
    ) -> bool:
        """Save the next generation. When this returns, whoever leads next goes on from it, or from a later one.

        Args:
            ahead: Epochs that it reserves; None: `EPOCHS_AHEAD`.
            beside: Runs what nobody has to wait for: that what nobody will read is deleted.

        Returns:
            Whether this term leads still, as far as can be seen. If not, the state is safe, but others act on it.

        Raises:
            Superseded: A higher term has begun; this state was not saved, and nobody will go on from it.
            StartupError: It cannot be saved now. It is not certain that it was not: save again what holds.
        """
        epochs_to = state.epoch + (EPOCHS_AHEAD if ahead is None else ahead)
        fields = {"deployment": self.deployment, "term": self.term, "epochs_to": epochs_to}
        content = encode(fields | {"state": state_to_dict(state)})
        while True:
            name = state_name(self.term, self._generation + 1)
            try:
                self._files.create(name, content)
                break
            except FileExistsError:
                there = self._read(name)
                if there == content:
                    break  # Made by an attempt whose answer was lost.
                if is_seal(there):
                    raise Superseded(f"term {self.term} is over: a higher one has begun") from None
                self._generation += 1  # An attempt that was given up has come through after all: this one is newer.
            except StartupError as exc:
                raise self._unsure(exc) from exc
            except Exception as exc:
                raise StartupError(f"the coordinator's state cannot be saved to {self._files!r}: {exc}") from exc
        names = self._names_after_save()
        leads = max(terms(names), default=0) <= self.term
        if name not in names or (not leads and self._read(name) != content):
            # It went to another folder, or into one that was; in its place is nothing, or the seal.
            raise self._unsure(StartupError(f"{name} is not what was saved"))
        self._generation += 1
        self.epochs_to = epochs_to
        old = self._outdated(names)
        if old:
            beside(lambda: self._delete(old))
        return leads

    def first_state(self, heads: tuple[int, ...]) -> CoordinatorState:
        """Return the state that the term begins with: no epoch is used that an earlier one may have used.

        Args:
            heads: Numbers of the heads, where no state says so yet.
        """
        saved = self.saved
        state = CoordinatorState(heads=heads) if saved is None else saved.state
        if state.spec is None and state.change is None:
            state = replace(state, heads=heads)
        state = replace(state, epoch=max(state.epoch, self.epochs_to))
        if state.map is None:
            return state
        # The map is this term's from now on, and so another one.
        epoch, deployment, term = state.epoch + 1, self.deployment, self.term
        return replace(state, epoch=epoch, map=replace(state.map, epoch=epoch, deployment=deployment, term=term))

    def order(self, incarnation: str) -> Order:
        """Return the next order of this term, for an incarnation of a member; from any thread."""
        return Order(self.deployment, self.term, incarnation, next(self._orders))

    def check(self) -> None:
        """Check that this term is the highest still.

        Raises:
            Superseded: It is not.
            Unavailable: The folder cannot be read now, or is another one, as where nothing is mounted any more.
        """
        try:
            names = self._files.names()
        except Exception as exc:
            raise Unavailable(f"the coordinator's state cannot be read from {self._files!r}: {exc}") from exc
        highest = max(terms(names), default=0)
        if highest > self.term:
            raise Superseded(f"term {self.term} is over: term {highest} leads")
        self._check_is_there(names)

    def beat(self) -> None:
        """Show that the deployment lives.

        Raises:
            StartupError: It cannot be shown.
        """
        self._beats += 1
        try:
            self._files.replace(
                f"beat-{self.deployment}", f"{self.term:010d} {self._nonce} {self._beats:010d}\n".encode()
            )
        except Exception as exc:
            raise StartupError(f"{self._files!r} cannot be written: {exc}") from exc

    def release(self, *, without_rows: bool = False) -> None:
        """Let any other deployment have the folder from now on.

        Args:
            without_rows: Pushed rows were in memory, and went with the deployment when it was stopped: nobody is to
                look for them.

        Raises:
            StartupError: The folder cannot be written.
        """
        try:
            self._files.create(f"released-{self.deployment}", WITHOUT_ROWS if without_rows else b"")
            self._files.delete(f"beat-{self.deployment}")
        except FileExistsError:
            return
        except Exception as exc:
            raise StartupError(f"{self._files!r} cannot be written: {exc}") from exc

    def _read(self, name: str) -> bytes:
        try:
            return self._files.read(name)
        except Exception as exc:
            raise StartupError(f"the coordinator's state cannot be read from {self._files!r}: {exc}") from exc

    def _names_after_save(self) -> list[str]:
        """Return the names of all files, the file of this term among them.

        Raises:
            Superseded: The term is so long over that its seal may be gone, and with it the proof that this was in time.
            StartupError: That is not there: it is another folder, as where nothing is mounted now. Or nobody can tell.
        """
        try:
            names = self._files.names()
            highest = max(terms(names), default=0)
            if highest - self.term > SEALS_KEPT:
                raise Superseded(f"term {self.term} is over: term {highest} leads")
            self._check_is_there(names)
        except Superseded:
            raise
        except Exception as exc:
            raise self._unsure(exc) from exc
        return names

    def _unsure(self, exc: Exception) -> StartupError:
        return StartupError(
            f"it is not certain that the coordinator's state was saved to {self._files!r}: {exc}; look at the status"
            " before you ask again"
        )

    def _check_is_there(self, names: list[str]) -> None:
        if self.term not in terms(names):
            raise Unavailable(f"{self._files!r} holds nothing of term {self.term} any more; is it mounted here?")

    def _outdated(self, names: list[str]) -> list[str]:
        """Return what nobody will read: all but the last two generations, and the seals of the last terms."""
        self._kept = set(sorted(self._kept | {(self.term, self._generation)})[-2:])
        last: dict[int, int] = {}
        for term, generation in generations(names):
            last[term] = max(last.get(term, 0), generation)
        keep = self._kept | {(term, of) for term, of in last.items() if self.term - SEALS_KEPT <= term < self.term}
        old = [
            state_name(*each)
            for each in generations(names)
            if each < (self.term, self._generation) and each not in keep
        ]
        old += [term_name(term) for term in terms(names) if term < self.term - SEALS_KEPT]
        if min(self._kept) > (0, 0) and LEGACY in names:
            old.append(LEGACY)
        return old + [name for name in names if is_left_over(name, self.term)]

    def _delete(self, names: list[str]) -> None:
        for name in names:
            try:
                self._files.delete(name)
            except Exception as exc:
                logger.warning("%s cannot be deleted: %s", name, exc)
