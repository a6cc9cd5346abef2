"""Settings of tokens: the file they are in, or what was read elsewhere when the head's settings were made."""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from dataclasses import dataclass, field
from typing import Annotated, Final

from ringpull.inference.head.tokens.entries import TokenEntry, parse_tokens
from ringpull.ps.errors import InvalidInput
from ringpull.ps.settings import Group, Option

VARIABLE: Final = "RINGPULL_TOKENS"


def _absolute(option: str, given: str) -> str:
    """Return the path of a file. Links in it are kept: orchestrators exchange them, and delete where they led."""
    if not given:
        raise InvalidInput(f"{option} names no file; leave it out, and nothing is asked of anyone")
    return os.path.abspath(given)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenSettings:
    """Tokens that callers have to show; neither a file nor entries: nothing is asked of anyone."""

    file: Annotated[
        str | None,
        Option(
            "File of tokens with their roles and quotas, read again when it changes. Default: the text in"
            " RINGPULL_TOKENS; without either, nothing is asked of anyone.",
            Group.SECURITY,
            "tokens",
            "FILE",
            parse=_absolute,
        ),
    ] = None
    """Path of the file; None: there is none."""
    entries: tuple[TokenEntry, ...] = field(default=(), repr=False)
    """Entries that do not change. They hold digests: no secret is handed on with a head's settings."""

    def __post_init__(self) -> None:
        if self.file is not None and self.entries:
            raise InvalidInput("tokens are in a file or are given as entries, not both")

    @property
    def asked(self) -> bool:
        """Whether callers have to show a token."""
        return self.file is not None or bool(self.entries)


def token_settings(option: str | None, environment: MutableMapping[str, str], *, keep: bool) -> TokenSettings:
    """Return the settings that a command was given: its option, or else the text in the environment.

    Args:
        keep: Whether to leave the text there, for a process that is started to do the same. Else nobody needs it.

    Raises:
        InvalidInput: The option names no file, or the text is not what it must be. A variable that is set and empty is
            refused too: a secret that was to be there would else leave the head open.
    """
    text = environment.get(VARIABLE) if keep else environment.pop(VARIABLE, None)
    if option is not None:
        return TokenSettings(file=_absolute("--tokens", option))
    return TokenSettings() if text is None else TokenSettings(entries=parse_tokens(text, VARIABLE))
