"""Settings as fields of frozen dataclasses, with their bounds and what an operator reads about them beside each field.

    max_batch_rows: Annotated[int, at_least(1), Option("Rows of a micro-batch.", Group.COMPUTING)] = 4_096

The dataclass refuses what is out of bounds by the field's name (`check_bounds`). The command line makes an option of
every field that has an `Option`, and refuses it by the option's name before anything is started.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from functools import lru_cache
from typing import Any, Final, get_type_hints

from ringpull.ps.errors import InvalidInput

MAX_INT32: Final = 2**31 - 1
MAX_INT64: Final = 2**63 - 1

MAX_WAIT_S: Final = 1e6
"""Eleven days: the system's waits, and gRPC's, count milliseconds in 32 bits."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """Numbers that a setting may have. NaN and infinity are refused everywhere: waiting for ever ends nothing."""

    minimum: float
    maximum: float = math.inf
    above: bool = False
    """Whether `minimum` itself is out of bounds."""
    unit: str = ""
    ceiling: float = math.inf
    """Number over which what takes the setting would overflow; far over what anybody wants."""

    def allows(self, value: float) -> bool:
        """Return whether a number is within them."""
        enough = value > self.minimum if self.above else value >= self.minimum
        return enough and value <= min(self.maximum, self.ceiling) and value < math.inf

    def check(self, name: str, value: float) -> None:
        """Refuse what is out of bounds.

        Raises:
            InvalidInput: Names the setting.
        """
        if self.allows(value):
            return
        if math.isfinite(self.maximum):
            raise InvalidInput(f"{name} is {value}; it must be from {self.minimum} to {self.maximum}")
        if self.ceiling < value < math.inf:
            raise InvalidInput(f"{name} is {value}; it must be {self.ceiling:,.0f} or less")
        unit = f" {self.unit}" if self.unit else ""
        allowed = f"above {self.minimum}{unit}" if self.above else f"{self.minimum}{unit} or more"
        finite = ", and finite" if unit or not abs(value) < math.inf else ""
        raise InvalidInput(f"{name} is {value}; it must be {allowed}{finite}")


def at_least(minimum: float, unit: str = "", *, ceiling: float = math.inf) -> Bounds:
    """Return bounds that allow `minimum` and everything over it, up to a ceiling."""
    return Bounds(minimum, unit=unit, ceiling=ceiling)


def above(bound: float, unit: str = "", *, ceiling: float = math.inf) -> Bounds:
    """Return bounds that allow everything over `bound`, up to a ceiling."""
    return Bounds(bound, above=True, unit=unit, ceiling=ceiling)


def within(minimum: float, maximum: float) -> Bounds:
    """Return bounds that allow `minimum`, `maximum` and everything between."""
    return Bounds(minimum, maximum)


class Group(StrEnum):
    """The groups of options in the help, in its order."""

    DEPLOYMENT = "The deployment"
    DATA = "Versions and rows"
    COMPUTING = "Computing"
    LIMITS = "Limits"
    OVERLOAD = "Overload"
    SHARDS = "Slow and lost shards"
    SECURITY = "Who may, and over what"
    LOGS = "Logs and metrics"


@dataclass(frozen=True, slots=True)
class Option:
    """Option of the command line that gives a setting."""

    help: str
    group: Group
    name: str = ""
    """Name without the dashes; empty: the field's. `no-NAME` turns off what is on by default."""
    metavar: str | None = None
    default: Any = None
    """Default on the command line, where it is not the field's."""
    given_as: Any = None
    """Type on the command line, where it is not the field's."""
    parse: Callable[[str, Any], Any] | None = None
    """Function from the option's name and what was given to the field's value."""


@dataclass(frozen=True, slots=True)
class Setting:
    """Field of a dataclass of settings."""

    field: str
    type: Any
    default: Any
    """Default of the field; `dataclasses.MISSING` where there is none."""
    bounds: Bounds | None
    option: Option | None

    @property
    def name(self) -> str:
        """Name of the option, without the dashes."""
        return (self.option.name if self.option is not None else "") or self.field.replace("_", "-")


def settings_of(kind: Any) -> tuple[Setting, ...]:
    """Return the settings of a dataclass, in the order of its fields.

    Args:
        kind: The class.
    """
    return _read(kind)


@lru_cache(maxsize=32)
def _read(kind: Any) -> tuple[Setting, ...]:
    hints = get_type_hints(kind, include_extras=True)
    return tuple(_setting(each.name, hints[each.name], each.default) for each in fields(kind))


def _setting(field: str, hint: Any, default: Any) -> Setting:
    about: Mapping[type, Any] = {type(each): each for each in getattr(hint, "__metadata__", ())}
    return Setting(
        field, getattr(hint, "__origin__", hint) if about else hint, default, about.get(Bounds), about.get(Option)
    )


def check_bounds(config: Any, prefix: str = "", *, by_option: bool = False) -> None:
    """Refuse a dataclass of settings that has one out of its bounds; None is within any.

    Args:
        prefix: Goes before the setting's name in the message.
        by_option: Settings are named as options: `--max-batch-rows`.

    Raises:
        InvalidInput: Names the setting.
    """
    for each in settings_of(type(config)):
        value = getattr(config, each.field)
        if each.bounds is not None and value is not None:
            each.bounds.check(f"--{each.name}" if by_option else f"{prefix}{each.field}", value)
