"""Tokens: the access of a head that asks everyone for one.

A token that is shown is hashed and held against every one that is known, to the last, so that the time it takes tells
nothing. A file is read again every second, whole: what was written in place, renamed over it or put behind a link is
found alike. One that is broken, another user's, or that others may write, changes nothing; the head warns until it is
mended.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import os
import stat
import time
from collections.abc import Callable, Mapping
from typing import Final

from ringpull.inference.head.access import Caller
from ringpull.inference.head.tokens.entries import MAX_CHARS, TokenEntry, digest_of, parse_tokens
from ringpull.inference.head.tokens.quotas import Quota
from ringpull.inference.head.tokens.settings import VARIABLE, TokenSettings
from ringpull.ps.errors import Forbidden, InvalidInput, Unauthenticated
from ringpull.router.control.verbs import Role

logger: Final = logging.getLogger(__name__)

LOOK_S: Final = 1.0
"""Interval at which the file is read: a token that was taken out is refused so much later."""
MAX_BYTES: Final = 1 << 20
"""Bytes of the largest file."""

SCHEME: Final = "bearer"
"""Scheme of an authorization, in whatever case (RFC 9110, 11.1)."""
MAX_SHOWN: Final = len(SCHEME) + 2 * MAX_CHARS
"""Characters of an authorization that is looked at: more than one space may follow the scheme."""

ALSO: Final[Mapping[Role, frozenset[Role]]] = {Role.OPERATE: frozenset({Role.READ})}
"""Roles that a role has besides itself: whoever operates has to look."""


class _Known:
    """A token as callers are held against it."""

    __slots__ = ("caller", "digest", "roles")

    def __init__(self, digest: bytes, entry: TokenEntry, quota: Quota) -> None:
        self.digest = digest
        # A tuple: of so few, that is found faster than in a set.
        self.roles = tuple(entry.roles.union(*(ALSO.get(role, frozenset()) for role in entry.roles)))
        self.caller = Caller(entry.name, quota)


class Tokens:
    """Access by tokens. `admit` belongs to one thread; `look` may run in another."""

    def __init__(self, settings: TokenSettings, clock: Callable[[], float] = time.monotonic) -> None:
        """Take the tokens.

        Args:
            settings: Where they are; see `TokenSettings.asked`.
            clock: Seconds, for quotas.

        Raises:
            InvalidInput: The file cannot be read, others may write it, or it says something that no token has.
        """
        self._file = settings.file
        self._clock = clock
        self._quotas: dict[str, Quota] = {}
        self._known: tuple[_Known, ...] = ()
        self._text = b""
        self.warnings: tuple[str, ...] = ()
        """What an operator should know of the file."""
        if self._file is None:
            self._take(settings.entries)
            return
        self._read(self._file)

    def __repr__(self) -> str:
        return f"<Tokens {self._file or VARIABLE}: {', '.join(sorted(self._quotas))}>"

    def admit(self, authorization: str | None, *roles: Role) -> Caller:
        """See `Access.admit`."""
        if authorization is None:
            raise Unauthenticated("a token is asked for here: send the header `authorization: Bearer TOKEN`")
        digest, found = digest_of(_secret_of(authorization)), None
        for each in self._known:  # all of them, always
            if hmac.compare_digest(each.digest, digest):
                found = each
        if found is None:
            raise Unauthenticated("the token is not known here")
        for role in roles:
            if role in found.roles:
                return found.caller
        raise Forbidden(
            f"token {found.caller.name} may not do that: it has {_roles_text(found.roles)},"
            f" and {_roles_text(roles, ' or ')} is needed"
        )

    def look(self) -> None:
        """Read the file again; what is wrong with it is in `warnings`, and the tokens of before stay in force."""
        if self._file is None:
            return
        try:
            self._read(self._file)
        except InvalidInput as exc:
            self._warn(f"the tokens of before are in force: {exc}")

    async def follow(self) -> None:
        """Look again and again; for a task that is cancelled at the end."""
        while self._file is not None:
            await asyncio.sleep(LOOK_S)
            try:
                await asyncio.to_thread(self.look)
            except Exception:  # such as no thread to be had: a token that was taken out must not stay for that
                logger.exception("the tokens file could not be looked at; it is tried again")

    def _read(self, file: str) -> None:
        text, mode = read_file(file)
        if text != self._text:
            entries = parse_tokens(text, f"tokens file {file}")
            if self._text:
                logger.info("tokens were read again", extra={"tokens": ",".join(each.name for each in entries)})
            self._take(entries)
            self._text = text
        if mode & stat.S_IROTH:
            self._warn(f"tokens file {file} can be read by every user of the machine (mode {mode:04o}); chmod o-r it")
        else:
            self.warnings = ()

    def _warn(self, warning: str) -> None:
        if self.warnings != (warning,):
            logger.warning(warning)
        self.warnings = (warning,)

    def _take(self, entries: tuple[TokenEntry, ...]) -> None:
        quotas = {}
        for each in entries:
            quota = self._quotas.get(each.name) or Quota(each.name, each.limits, self._clock)
            quota.limits = each.limits
            quotas[each.name] = quota
        self._quotas = quotas
        self._known = tuple(_Known(digest, each, quotas[each.name]) for each in entries for digest in each.digests)


def read_file(file: str) -> tuple[bytes, int]:
    """Return what is in a file of tokens, and its mode.

    Raises:
        InvalidInput: It cannot be read, is no file, is too large, or is another's, or another's to write.
    """
    what = f"tokens file {file}"
    try:
        opened = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # or a pipe would be waited for
        try:
            there = os.fstat(opened)
            found = there.st_mode
            if not stat.S_ISREG(found):
                raise InvalidInput(f"{what} is no regular file; it must be one that can be read again")
            if there.st_uid not in (0, os.geteuid()):
                raise InvalidInput(
                    f"{what} belongs to another user ({there.st_uid}), who can write it; chown it to the user that"
                    f" serves ({os.geteuid()}), or to root"
                )
            mode = stat.S_IMODE(found)
            if mode & (stat.S_IWGRP | stat.S_IWOTH):
                raise InvalidInput(f"{what} can be written by others than its owner (mode {mode:04o}); chmod 600 it")
            with open(opened, "rb", closefd=False) as stream:
                text = stream.read(MAX_BYTES + 1)
        finally:
            os.close(opened)
    except (OSError, ValueError) as exc:
        raise InvalidInput(f"{what} cannot be read: {getattr(exc, 'strerror', None) or exc}") from None
    if len(text) > MAX_BYTES:
        raise InvalidInput(f"{what} has more than {MAX_BYTES} bytes")
    return text, mode


def _secret_of(authorization: str) -> str:
    """Return the token in an authorization.

    Raises:
        Unauthenticated: It is written in another way.
    """
    if len(authorization) <= MAX_SHOWN:
        scheme, _, rest = authorization.partition(" ")
        secret = rest.lstrip(" ")
        if scheme.lower() == SCHEME and 0 < len(secret) <= MAX_CHARS:
            return secret
    raise Unauthenticated(
        "the authorization is none that is taken here: send one header `authorization: Bearer TOKEN`, and nothing else"
    )


def _roles_text(roles: tuple[Role, ...], between: str = ", ") -> str:
    return between.join(each for each in Role if each in roles)
