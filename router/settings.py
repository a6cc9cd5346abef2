"""The settings of a router as one frozen value: hedging, ejection, reconnecting, and time kept back for the answer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Final

from ringpull.ps.errors import InvalidInput
from ringpull.ps.hashing import SLOTS
from ringpull.ps.settings import Group, Option, above, at_least, check_bounds, within

SCAN_CAP_S: Final = 1.0
"""Time after which every shard is slow to scan; also the delay until times of scans are learnt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterSettings:
    """Settings of a router: how long it is patient, and what it may spend when it is not.

    Raises:
        InvalidInput: A value out of its bounds; names the setting.
    """

    hedge_quantile: Annotated[float, within(0.5, 0.9999)] = 0.99
    """Quantile of the recent answer times of all shards after which a shard is slow."""
    hedge_floor_s: Annotated[float, above(0)] = 0.005
    """Time before which no shard is slow: below it a hedge mostly meets the noise of the machines."""
    hedge_cap_s: float = 0.1
    """Time after which every shard is slow; also the delay until answer times are learnt."""
    hedge_share: Annotated[
        float,
        within(0, 1),
        Option("Keys that may be asked of a second shard, per key asked, when one is slow. 0: none.", Group.SHARDS),
    ] = 0.05
    """Share of the keys asked that may be asked twice. 0: nothing is hedged."""
    hedge_burst_keys: Annotated[int, at_least(1)] = 65_536
    """Keys that may be asked twice at once, saved up in good times."""
    eject_after_s: Annotated[float, above(0)] = 0.1
    """Silence after which a slow shard is ejected: no answer to anything, not to a ping either."""
    eject_failures: Annotated[int, at_least(1)] = 3
    """Failures in a row (refused and broken connections) after which a shard is ejected."""
    eject_slow: Annotated[int, at_least(1)] = 20
    """Slow answers in a row, over `eject_after_s` or longer, after which a shard is ejected although it answers; not
    while more than half of the shards are in trouble, though: then it is the load."""
    give_up_s: Annotated[
        float,
        above(0),
        Option("A silent shard whose keys nobody else has is waited for so long.", Group.SHARDS, "give-up", "SECONDS"),
    ] = 1.0
    """Time for which an ejected, silent shard is still waited for where no other shard has the keys; then the policy of
    the table answers at once, and connections to it are replaced."""
    ping_timeout_s: Annotated[float, above(0)] = 1.0
    """Time after which a ping to an ejected shard is given up, and sent again after a wait."""
    backoff_first_s: Annotated[float, above(0)] = 0.05
    """Wait before the second attempt to connect, and before the first ping to an ejected shard; doubled each time."""
    backoff_max_s: float = 2.0
    """The longest such wait. All are shortened at random by up to half."""
    reserve_share: Annotated[float, within(0, 0.9)] = 0.2
    """Share of a pull's time kept back for sending its results to the caller: shards get the rest."""
    reserve_max_s: Annotated[float, at_least(0)] = 0.05
    """Upper bound on what is kept back."""

    def __post_init__(self) -> None:
        check_bounds(self, "router: ")
        if self.hedge_cap_s < self.hedge_floor_s:
            raise InvalidInput(f"router: hedge_cap_s is {self.hedge_cap_s}, below hedge_floor_s, {self.hedge_floor_s}")
        if self.backoff_max_s < self.backoff_first_s:
            raise InvalidInput(
                f"router: backoff_max_s is {self.backoff_max_s}, below backoff_first_s, {self.backoff_first_s}"
            )

    def for_scans(self) -> RouterSettings:
        """Return the same settings for scans of tables, of which all may be slow: no answer is before `SCAN_CAP_S`."""
        return replace(self, hedge_cap_s=max(self.hedge_cap_s, SCAN_CAP_S), hedge_burst_keys=SLOTS)

    def answer_by_s(self, now_s: float, deadline_s: float) -> float:
        """Return until when shards may answer a pull that has until `deadline_s`."""
        return deadline_s - min(self.reserve_share * (deadline_s - now_s), self.reserve_max_s)
