"""Rivals that can be set up in several ways: each is measured in all of them, and compared in its strongest.

Which that is depends on the machine and on who else runs there: two threads of torch win on two idle cores, and lose to
one where a load generator has part of them, as each thread spins while it waits for another that has no core. A user
would keep the better setting, so ratios are taken against that.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ringpull.loadtest.bench.harness import Samples

_SEPARATOR: Final = ": "


def in_setting(rival: str, setting: str) -> str:
    """Return the name of a rival's samples in a setting."""
    return f"{rival}{_SEPARATOR}{setting}"


def in_strongest_setting(samples: Samples, *, least: bool = False) -> tuple[Samples, Mapping[str, str]]:
    """Return the samples with those of each rival's strongest setting under its own name, and which setting that is.

    Args:
        samples: Figures, of rivals with settings by `in_setting`; others stay as they are.
        least: Whether the smaller figure is the stronger.
    """
    values, chosen = dict(samples.values), dict[str, str]()
    settings: dict[str, list[str]] = {}
    for name in samples.values:
        rival, separator, setting = name.partition(_SEPARATOR)
        if separator:
            settings.setdefault(rival, []).append(setting)
    for rival, those in settings.items():
        order = sorted(those, key=lambda setting: samples.median(in_setting(rival, setting)), reverse=not least)
        chosen[rival] = order[0]
        values[rival] = list(samples.values[in_setting(rival, order[0])])
    return Samples(values), chosen
