"""State store: the coordinator's saved state in a folder or below a URL, and who may write it.

Every file but the beat is made exclusively (`ringpull.router.control.state_files`), so there is no lock that a stopped
process could hold, and nothing is ever written over. `ringpull.router.control.saved_files` has the names of the files.

* A start makes the next term's file. Then it *seals* the terms before: it makes the file of their next generation
  itself. Then it reads the newest state. So what an earlier leader has saved by then is carried on, and what it would
  save later fails: a leader that wakes up writes nothing, and knows by that that it leads no longer.
* The newest intact state is the one of the highest term and generation. The last two are kept. If one that is newer is
  damaged, epochs and numbers of changes go on far ahead, so that none is used twice.
* A folder belongs to the deployment of its highest term. Another one takes it over once that has released it, or is
  provably dead, or has shown no beat for minutes: no clocks are compared, only whether the beat changes.
"""

from __future__ import annotations

import json
import logging
import math
import re
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, Final

from ringpull.ps.errors import CorruptData, StartupError, Superseded
from ringpull.router.control.change import CoordinatorState
from ringpull.router.control.coordinator_state import state_from_dict
from ringpull.router.control.reign import SEALS_KEPT, WITHOUT_ROWS, Reign, SavedState
from ringpull.router.control.saved_files import (
    LEGACY,
    decode,
    encode,
    generations,
    is_seal,
    state_name,
    term_name,
    terms,
)
from ringpull.router.control.state_files import StateFiles

logger: Final = logging.getLogger(__name__)

SKIPPED_EPOCHS: Final = 1_000_000
SKIPPED_IDS: Final = 1000
"""How far epochs and numbers of changes go ahead when the newest state is lost: further than it could have used."""

WATCH_S: Final = 120.0
"""Time for which no beat must be seen of a deployment before it counts as dead, where nobody can be asked. One that is
stopped, or whose machine is, does not beat, and goes on afterwards."""

BEATS: Final = 5
"""Beats for which none must be seen where what the deployment ran on is gone."""

UNREADABLE_S: Final = 60.0
"""Time for which a file cannot be read, while others can, before it counts as damaged."""

MANY_FILES: Final = 4 * SEALS_KEPT
"""Files in the folder from which on whoever begins to lead saves at once, so that old ones are deleted."""


class Life(Enum):
    """What is known of the deployment that has a folder, from where another one wants it."""

    LIVES = "lives"
    DEAD = "dead"
    GROUNDLESS = "what it ran on is gone"
    UNKNOWN = "unknown"


_OF_DEPLOYMENT: Final = re.compile(r"(?:beat|released)-(.+)")


@dataclass(frozen=True, slots=True)
class Owner:
    """Deployment that has the folder."""

    deployment: str
    name: str = ""
    """Name of the deployment, for people."""
    who: Mapping[str, Any] = field(default_factory=dict)
    """Where it is and which process `serve` is, as plain values; for people and for telling whether that lives."""


class StateStore:
    """State of the coordinators that lead by one folder, one after the other.

    Args:
        files: The folder's files.
        clock: Returns seconds since any origin.
    """

    def __init__(self, files: StateFiles, clock: Callable[[], float] = time.monotonic) -> None:
        self._files = files
        self._clock = clock
        self._unreadable: dict[str, float] = {}
        """File that cannot be read -> since when."""

    def __repr__(self) -> str:
        return f"<StateStore {self._files!r}>"

    @property
    def beat_s(self) -> float:
        """Interval at which whoever leads has to beat."""
        return self._files.beat_s

    def owner(self) -> Owner | None:
        """Return which deployment has the folder; None: none ever had.

        Raises:
            StartupError: The folder cannot be read.
        """
        return self._owner(self._names())

    def left_behind(self) -> CoordinatorState:
        """Return what the deployment that had the folder last leaves to the next one; changes nothing.

        Raises:
            StartupError: The folder cannot be read.
            CorruptData: No state in it can be read.
        """
        saved, _ = self._newest()
        return CoordinatorState() if saved is None else saved.state.left_behind

    def claim(self, owner: Owner, *, must_exist: bool = True) -> Reign:
        """Begin the next term of a deployment that has the folder.

        Args:
            must_exist: A state of the deployment must be there, or it is not the folder that it should be.

        Raises:
            Superseded: Another deployment has the folder, or somebody else begins to lead at the same time.
            StartupError: The folder cannot be read or written, or is not the one it should be.
            CorruptData: No state in it can be read.
        """
        names = self._names()
        found = self._owner(names)
        if found is not None and found.deployment != owner.deployment:
            raise Superseded(f"{self._files!r} belongs to {_called(found)} by now")
        if found is None and must_exist:
            raise StartupError(f"{self._files!r} holds no state of deployment {owner.deployment}; is it mounted here?")
        return self._begin(names, owner, must_exist=must_exist)

    def take_over(
        self,
        owner: Owner,
        *,
        lives: Callable[[Owner], Life] = lambda _: Life.UNKNOWN,
        say: Callable[[str], None] = lambda _: None,
        wait: Callable[[float], object] = time.sleep,
    ) -> Reign:
        """Have the folder belong to another deployment, which begins its first term there.

        Args:
            lives: Returns what is known of the deployment that has it. Where that is not sure, its beat is watched.
            say: Called with what is waited for.
            wait: Waits for so many seconds.

        Raises:
            StartupError: The folder belongs to a deployment that lives, or cannot be read or written.
            CorruptData: No state in it can be read.
            Superseded: Somebody else takes it over at the same time.
        """
        names = self._names()
        before = self._owner(names)
        if (
            before is not None
            and before.deployment != owner.deployment
            and self._lives(before, names, lives, say, wait)
        ):
            raise StartupError(
                f"{self._files!r} belongs to {_called(before)}, which lives; stop it, or give another --state-dir"
            )
        reign = self._begin(names, owner, must_exist=False)
        for name in self._names():
            of = _OF_DEPLOYMENT.fullmatch(name)
            if of is not None and of[1] != owner.deployment:
                self._files.delete(name)
        return reign

    def _begin(self, names: Iterable[str], owner: Owner, *, must_exist: bool) -> Reign:
        # Whatever is wrong for good is found before anything is made: whoever is restarted tries again and again.
        self._found(owner, must_exist=must_exist)
        term = max(terms(names), default=0) + 1
        nonce = secrets.token_hex(8)
        fields = {"deployment": owner.deployment, "name": owner.name, "who": dict(owner.who), "nonce": nonce}
        try:
            self._create(term_name(term), encode(fields))
        except FileExistsError as exc:
            raise Superseded(f"somebody else has begun term {term} at the same time") from exc
        names = self._names()
        if term > 1 and term - 1 not in terms(names):
            raise StartupError(f"{self._files!r} holds nothing of term {term - 1} any more; is it mounted here?")
        for earlier in sorted(terms(names)):
            if term - SEALS_KEPT <= earlier < term:
                self._seal(earlier, names, term)
        saved, newest = self._found(owner, must_exist=must_exist)
        reign = Reign(self._files, owner.deployment, term, saved, newest)
        reign.check()
        if saved is not None and len(names) > MANY_FILES:
            self._clear_away(reign, saved)
        return reign

    def _clear_away(self, reign: Reign, saved: SavedState) -> None:
        """Save what was found, so that what came before it can be deleted: starts that save nothing pile up files."""
        try:
            leads = reign.save(replace(saved.state, epoch=max(saved.state.epoch, saved.epochs_to)))
        except StartupError as exc:
            logger.warning("nothing is cleared away: %s", exc)
            return
        if not leads:
            raise Superseded(f"term {reign.term} is over: a higher one has begun")

    def _found(self, owner: Owner, *, must_exist: bool) -> tuple[SavedState | None, tuple[int, int]]:
        """Return the state that a deployment has to go on from, with its term and generation.

        Raises:
            StartupError, CorruptData: There is none that it could go on from.
        """
        saved, newest = self._newest()
        if saved is None and must_exist:
            raise StartupError(f"{self._files!r} holds no state of deployment {owner.deployment}; is it mounted here?")
        if saved is not None and saved.deployment != owner.deployment:
            if must_exist:
                raise StartupError(f"{self._files!r} holds no state of deployment {owner.deployment}")
            saved = self._handed_over(saved, owner)
        return saved, newest

    def _handed_over(self, saved: SavedState, owner: Owner) -> SavedState:
        """Return what another deployment begins with: it knows of pushed rows, what was live, and epochs."""
        left, warning = saved.state.left_behind, saved.warning
        released = f"released-{saved.deployment}"
        if left.pushed and released in self._names() and self._content(released) == WITHOUT_ROWS:
            tables = ", ".join(
                sorted({f"{each.model}/{each.table}" for names in left.pushed.values() for each in names})
            )
            gone = f"rows that were pushed to {tables} went when the deployment before was stopped: they were in memory"
            left, warning = replace(left, pushed={}), f"{gone} (--push-durability memory); the rows are as exported"
        state = replace(left, epoch=saved.epochs_to)
        return replace(saved, deployment=owner.deployment, state=state, warning=warning)

    def _seal(self, term: int, names: Iterable[str], by: int) -> None:
        """Take the place of the next state of an earlier term, whatever that is when it is taken."""
        generation = max((of for its, of in generations(names) if its == term), default=0)
        while True:
            with suppress(StartupError):  # Where it cannot be read, there is one more seal.
                if generation and is_seal(self._content(state_name(term, generation))):
                    return
            generation += 1
            with suppress(FileExistsError):
                self._create(state_name(term, generation), encode({"sealed_by": by}))
                return

    def _newest(self) -> tuple[SavedState | None, tuple[int, int]]:
        """Return the newest intact state, with its term and generation."""
        damaged: list[str] = []
        names = self._names()
        begun = set(terms(names))
        for term, generation in sorted(generations(names), reverse=True):
            if term not in begun:
                continue  # Made while another folder was in the place of this one, or the other way round.
            name = state_name(term, generation)
            try:
                fields = decode(name, self._readable(name))
                if "sealed_by" in fields:
                    continue
                state, epochs_to = state_from_dict(fields["state"]), int(fields["epochs_to"])
                saved = SavedState(str(fields["deployment"]), epochs_to, state)
            except (CorruptData, LookupError, TypeError, ValueError) as exc:
                logger.warning("%s is damaged: %s", name, exc)
                damaged.append(name)
                continue
            return (_skipped(saved, damaged) if damaged else saved), (term, generation)
        if LEGACY in names:
            return _legacy(self._content(LEGACY)), (0, 0)
        if damaged:
            raise CorruptData(f"{self._files!r}: no state can be read; {', '.join(damaged)} are damaged")
        return None, (0, 0)

    def _owner(self, names: Iterable[str]) -> Owner | None:
        for term in sorted(terms(names), reverse=True):
            try:
                fields = decode(term_name(term), self._readable(term_name(term)))
                return Owner(str(fields["deployment"]), str(fields["name"]), fields["who"])
            except (CorruptData, LookupError) as exc:
                logger.warning("%s: %s", term_name(term), exc)  # whoever made it fell over that
        if LEGACY in names:
            saved = _legacy(self._content(LEGACY))
            return Owner(saved.deployment, "an earlier build")
        return None

    def _lives(
        self,
        owner: Owner,
        names: Iterable[str],
        lives: Callable[[Owner], Life],
        say: Callable[[str], None],
        wait: Callable[[float], object],
    ) -> bool:
        if f"released-{owner.deployment}" in names:
            return False
        known = lives(owner)
        if known in (Life.LIVES, Life.DEAD):
            return known is Life.LIVES
        if owner.who == {} and LEGACY in names and not terms(names):
            return False  # It has no beat that could be watched.
        beat = self._beat(owner)
        beats = BEATS if known is Life.GROUNDLESS else math.ceil(WATCH_S / self.beat_s)
        for left in range(beats, 0, -1):
            say(f"{_called(owner)} had the folder; watching for {left * self.beat_s:.0f} s whether it lives")
            wait(self.beat_s)
            if self._beat(owner) != beat:
                return True
        return False

    def _beat(self, owner: Owner) -> bytes:
        try:
            return self._files.read(f"beat-{owner.deployment}")
        except FileNotFoundError:
            return b""
        except Exception as exc:
            raise self._away(exc) from exc

    def _names(self) -> list[str]:
        try:
            return self._files.names()
        except Exception as exc:  # every file system behind fsspec has errors of its own
            raise self._away(exc) from exc

    def _content(self, name: str) -> bytes:
        try:
            return self._files.read(name)
        except Exception as exc:
            raise self._away(exc) from exc

    def _readable(self, name: str) -> bytes:
        """Return what a file holds.

        Raises:
            CorruptData: It has been unreadable for long, while others were not.
            StartupError: It cannot be read now.
        """
        try:
            content = self._files.read(name)
        except StartupError as exc:  # The whole folder is away.
            raise self._away(exc) from exc
        except Exception as exc:
            if not self._others_can_be_read(name):
                self._unreadable.pop(name, None)
                raise self._away(exc) from exc
            since_s = self._unreadable.setdefault(name, self._clock())
            if self._clock() - since_s < UNREADABLE_S:
                raise self._away(exc) from exc
            raise CorruptData(f"{name} cannot be read: {exc}") from exc
        self._unreadable.pop(name, None)
        return content

    def _others_can_be_read(self, name: str) -> bool:
        names = self._names()
        for other in (*map(term_name, terms(names)), *(state_name(*each) for each in generations(names))):
            if other != name:
                with suppress(Exception):
                    self._files.read(other)
                    return True
        return False

    def _create(self, name: str, content: bytes) -> None:
        try:
            self._files.create(name, content)
        except FileExistsError:
            if self._content(name) != content:  # Ours, where an answer was lost and it was made again.
                raise
        except Exception as exc:
            raise StartupError(f"the coordinator's state cannot be saved to {self._files!r}: {exc}") from exc

    def _away(self, exc: BaseException) -> StartupError:
        return StartupError(f"the coordinator's state cannot be read from {self._files!r}: {exc}")


def _legacy(content: bytes) -> SavedState:
    """Read the state of an earlier build.

    Raises:
        CorruptData: It cannot be read.
    """
    try:
        fields = json.loads(content)
        deployment, state = str(fields["deployment"]), state_from_dict(fields["state"])
    except CorruptData as exc:
        raise CorruptData(f"{LEGACY}: {exc}") from exc
    except (LookupError, TypeError, ValueError, RecursionError) as exc:
        raise CorruptData(f"{LEGACY} does not hold a state that this build reads: {exc}") from exc
    return SavedState(deployment, state.epoch, state)


def _skipped(saved: SavedState, damaged: list[str]) -> SavedState:
    state = replace(saved.state, last_id=saved.state.last_id + SKIPPED_IDS)
    warning = f"the newest state was lost ({', '.join(damaged)} damaged); what was before it is carried on"
    return replace(saved, epochs_to=saved.epochs_to + SKIPPED_EPOCHS, state=state, warning=warning)


def _called(owner: Owner) -> str:
    place = f" on {owner.who['host']}" if owner.who.get("host") else ""
    return f"deployment {owner.name or owner.deployment}{place} ({owner.deployment})"
