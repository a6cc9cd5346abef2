"""The settings of a router as one frozen value: hedging, ejection, reconnecting, and time kept back for the answer."""

from __future__ import annotations

from dataclasses import dataclass

from ringpull.ps.errors import InvalidInput


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterSettings:
    """How long a router is patient, and what it may spend when it is not.

    Raises:
        InvalidInput: A value out of its bounds; names the setting.
    """

    hedge_quantile: float = 0.99
    """Quantile of the recent answer times of all shards after which a shard is slow."""
    hedge_floor_s: float = 0.005
    """Time before which no shard is slow: below it a hedge mostly meets the noise of the machines."""
    hedge_cap_s: float = 0.1
    """Time after which every shard is slow; also the delay until answer times are learnt."""
    hedge_share: float = 0.05
    """Share of the keys asked that may be asked twice. 0: nothing is hedged."""
    hedge_burst_keys: int = 65_536
    """Keys that may be asked twice at once, saved up in good times."""
    eject_after_s: float = 0.1
    """Silence after which a slow shard is ejected: no answer to anything, not to a ping either."""
    eject_failures: int = 3
    """Failures in a row (refused and broken connections) after which a shard is ejected."""
    eject_slow: int = 20
    """Slow answers in a row, over `eject_after_s` or longer, after which a shard is ejected although it answers; not
    while more than half of the shards are in trouble, though: then it is the load."""
    give_up_s: float = 1.0
    """Time for which an ejected, silent shard is still waited for where no other shard has the keys; then the policy of
    the table answers at once, and connections to it are replaced."""
    ping_timeout_s: float = 1.0
    """Time after which a ping to an ejected shard is given up, and sent again after a wait."""
    backoff_first_s: float = 0.05
    """Wait before the second attempt to connect, and before the first ping to an ejected shard; doubled each time."""
    backoff_max_s: float = 2.0
    """The longest such wait. All are shortened at random by up to half."""
    reserve_share: float = 0.2
    """Share of a pull's time kept back for sending its results to the caller: shards get the rest."""
    reserve_max_s: float = 0.05
    """Upper bound on what is kept back."""

    def __post_init__(self) -> None:
        for name, lowest, highest in (
            ("hedge_quantile", 0.5, 0.9999),
            ("hedge_share", 0.0, 1.0),
            ("reserve_share", 0.0, 0.9),
        ):
            if not lowest <= getattr(self, name) <= highest:
                raise InvalidInput(f"router: {name} is {getattr(self, name)}; it must be {lowest:g} to {highest:g}")
        for name in ("hedge_floor_s", "eject_after_s", "give_up_s", "ping_timeout_s", "backoff_first_s"):
            if not getattr(self, name) > 0:
                raise InvalidInput(f"router: {name} is {getattr(self, name)}; it must be more than 0")
        for name in ("hedge_burst_keys", "eject_failures", "eject_slow"):
            if getattr(self, name) < 1:
                raise InvalidInput(f"router: {name} is {getattr(self, name)}; it must be 1 or more")
        if self.hedge_cap_s < self.hedge_floor_s:
            raise InvalidInput(f"router: hedge_cap_s is {self.hedge_cap_s}, below hedge_floor_s, {self.hedge_floor_s}")
        if self.backoff_max_s < self.backoff_first_s:
            raise InvalidInput(
                f"router: backoff_max_s is {self.backoff_max_s}, below backoff_first_s, {self.backoff_first_s}"
            )
        if self.reserve_max_s < 0:
            raise InvalidInput(f"router: reserve_max_s is {self.reserve_max_s}; it must be 0 or more")

    def answer_by_s(self, now_s: float, deadline_s: float) -> float:
        """Return until when shards may answer a pull that has until `deadline_s`."""
        return deadline_s - min(self.reserve_share * (deadline_s - now_s), self.reserve_max_s)
