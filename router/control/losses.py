"""Losses: versions that serve, and whose files are gone or are other ones by now, so that nobody can open them again.

Who has a version open serves on with it, and needs no file. So the files are looked at beside everything else, every
few seconds and before a change begins. Storage that cannot be read loses nothing: what cannot be told is left as it
was. What is let go cannot be had back, so it takes several looks in a row that say the same.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from typing import Final

from ringpull.ps.errors import RingpullError
from ringpull.router.control.change import CoordinatorState
from ringpull.router.control.deployment_spec import PlacedVersion

logger: Final = logging.getLogger(__name__)

LossOf = Callable[[PlacedVersion], str]
"""Function that returns why a version cannot be opened again; empty: it can be. Raises where it cannot be told now."""

TOLD_S: Final = 3600.0
"""Time for which operators are told of a version that was let go."""

LOOKS: Final = 3
"""Looks in a row that must find a version lost for the same reason."""

AGAIN_S: Final = 0.5
"""Time between these, where a change waits for them; the others are seconds apart."""

LOOK_S: Final = 5.0
"""Longest wait for a look. Storage that hangs holds up no rollback."""


class Losses:
    """What is known of the files of versions. May be used from any thread.

    Args:
        loss_of: Looks at the files of one version; None: nothing is ever lost.
        let_go: Called with a version that is lost and not live, and why; returns whether it is open no more.
        clock: Returns seconds since any origin.
    """

    def __init__(
        self,
        loss_of: LossOf | None,
        let_go: Callable[[PlacedVersion, str], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._loss_of = loss_of
        self._let_go = let_go
        self._clock = clock
        self._looking = threading.Lock()
        self._thread: threading.Thread | None = None
        self._suspects: dict[tuple[str, int], tuple[str, int]] = {}
        """Versions that are not live and were lost at the last look: why, and at how many looks in a row."""
        self._live: dict[tuple[str, int], str] = {}
        self._away: dict[str, str] = {}
        self._gone: dict[tuple[str, int], tuple[float, str]] = {}

    def __repr__(self) -> str:
        return f"<Losses live: {self._live} let go: {self._gone}>"

    def look(self, state: CoordinatorState) -> None:
        """Look at the files of all versions of a state, and have those let go that are lost. Blocks."""
        if self._loss_of is None:
            return
        with self._looking:
            live: dict[tuple[str, int], str] = {}
            away: dict[str, str] = {}
            suspects: dict[tuple[str, int], tuple[str, int]] = {}
            for version in _versions(state):
                name = version.model, version.version
                try:
                    reason = self._loss_of(version)
                except RingpullError as exc:
                    away[version.name] = str(exc)
                    continue
                if not reason:
                    continue
                if _is_live(state, version):
                    live[name] = reason
                    if name not in self._live:
                        logger.warning("%s serves on without its files: %s", version.name, reason)
                    continue
                before, looks = self._suspects.get(name, (reason, 0))
                looks = 1 + (looks if before == reason else 0)
                suspects[name] = reason, looks
                if looks >= LOOKS and self._drop(version, reason):
                    del suspects[name]
            self._live, self._away, self._suspects = live, away, suspects

    def look_in_time(self, state: CoordinatorState) -> None:
        """Look, and return when that is done or has taken too long; then it goes on beside.

        While storage hangs there is one look that waits for it, however often this is called.
        """
        if self._loss_of is None:
            return
        until_s = time.monotonic() + LOOK_S
        before = self._thread
        if before is not None and before.is_alive():
            before.join(LOOK_S)
            if before.is_alive():
                return
        looking = threading.Thread(target=self._look_until_sure, args=(state,), name="look at files", daemon=True)
        self._thread = looking
        looking.start()
        looking.join(max(0.0, until_s - time.monotonic()))

    def _look_until_sure(self, state: CoordinatorState) -> None:
        self.look(state)
        for _ in range(LOOKS - 1):
            if self._suspects:
                time.sleep(AGAIN_S)
                self.look(state)

    def of_live(self) -> dict[str, str]:
        """Return the live versions that are lost, `MODEL/VERSION` -> why."""
        return {f"{model}/{version}": reason for (model, version), reason in sorted(self._live.items())}

    def let_go_of(self, model: str) -> str:
        """Return which versions of a model were let go, and why, for messages; empty: none."""
        return "; ".join(
            f"{model}/{version} was let go: {reason}" for (name, version), reason in self._recent() if name == model
        )

    def warnings(self, served: Iterable[PlacedVersion]) -> tuple[str, ...]:
        """Return what an operator should know, a sentence each.

        Args:
            served: Versions that are served now; of one that was unloaded since the last look there is nothing to say.
        """
        names = {version.name: version for version in served}
        live = [
            f"{name} serves on with what is open, but cannot be opened again: {reason}; {_way_out(names[name])}"
            for name, reason in self.of_live().items()
            if name in names
        ]
        away = [
            f"{name} serves on with what is open; its files cannot be looked at now: {reason}"
            for name, reason in sorted(self._away.items())
            if name in names
        ]
        gone = [f"{model}/{version} was let go: {reason}" for (model, version), reason in self._recent()]
        return (*live, *away, *gone)

    def _drop(self, version: PlacedVersion, reason: str) -> bool:
        try:
            gone = self._let_go(version, reason)
        except RingpullError as exc:
            logger.warning("%s is lost, and not let go yet: %s", version.name, exc)
            return False
        if gone:
            # A new one each time, for others read it meanwhile.
            kept = {name: told for name, told in self._gone.items() if self._clock() < told[0]}
            self._gone = {**kept, (version.model, version.version): (self._clock() + TOLD_S, reason)}
            logger.warning("%s is let go: %s", version.name, reason)
        return gone

    def _recent(self) -> list[tuple[tuple[str, int], str]]:
        now_s = self._clock()
        return [(name, reason) for name, (until_s, reason) in sorted(self._gone.items()) if now_s < until_s]


def _way_out(version: PlacedVersion) -> str:
    anew = f", or have `ringpull compact {version.model}` write it anew, which needs its own folder alone"
    return "publish it under a new number" + (anew if version.chain else "")


def _versions(state: CoordinatorState) -> Iterable[PlacedVersion]:
    specs = [state.spec, None if state.change is None else state.change.target]
    return {each.name: each for spec in specs if spec is not None for each in spec.versions}.values()


def _is_live(state: CoordinatorState, version: PlacedVersion) -> bool:
    """Return whether a version is live or has a label, or is to."""
    specs = [state.spec, None if state.change is None else state.change.target]
    return any(spec is not None and spec.relies_on(version.model, version.version) for spec in specs)
