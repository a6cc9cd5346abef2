"""Entries of tokens: what a file of tokens says, checked to the last key.

    [[token]]
    name = "ranker-web"                  # in logs and metrics; never the secret
    token = "Zk1...", or ["new", "old"]  # or sha256 = "64 hex digits", or several of these
    roles = ["predict"]
    requests_per_s = 500                 # quotas; what is left out is not limited
    rows_per_s = 50_000
    in_flight = 64

A secret ends here: what is kept of it is its digest, and no message has a part of it.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from ringpull.inference.head.tokens.quotas import QuotaLimits
from ringpull.ps.errors import InvalidInput
from ringpull.router.control.verbs import Role

MIN_CHARS: Final = 16
"""Characters of the shortest token. Whoever makes one up should take 32 random ones."""
MAX_CHARS: Final = 4_096
"""Characters of the longest token: a header has to hold it."""
MAX_SECRETS: Final = 256
"""Secrets of all tokens together: each is compared with, for every request."""

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
SECRET: Final = re.compile(r"[\x21-\x7e]+")
SHA256: Final = re.compile(r"[0-9A-Fa-f]{64}")
_SHOWN: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,19}")
"""Text that may be repeated in a message: too short for a secret."""

KEYS: Final = ("name", "token", "sha256", "roles", "requests_per_s", "rows_per_s", "in_flight")


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenEntry:
    """Caller that is known by its token."""

    name: str
    digests: tuple[bytes, ...] = field(repr=False)
    """SHA-256 of each of its secrets; several while they are exchanged."""
    roles: frozenset[Role]
    limits: QuotaLimits


def digest_of(secret: str) -> bytes:
    """Return what is kept and compared of a token."""
    # Whatever a stranger sends has one, though only ASCII is ever known.
    return hashlib.sha256(secret.encode(errors="surrogatepass")).digest()


def parse_tokens(text: str | bytes, where: str) -> tuple[TokenEntry, ...]:
    """Return the entries of a text in TOML.

    Args:
        where: Where the text is from, for messages.

    Raises:
        InvalidInput: It is none, or an entry is not what it must be. The message names `where`, token and field.
    """
    try:
        top = tomllib.loads(text if isinstance(text, str) else text.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as exc:
        # Without its cause: that one holds the whole text.
        reason = "it is not UTF-8" if isinstance(exc, UnicodeDecodeError) else _place(exc)
        raise InvalidInput(f"{where} is not valid TOML: {reason}") from None
    for key in top:
        if key != "token":
            raise InvalidInput(f"{where} has {_shown(key)} at its top; it must have nothing but [[token]] tables")
    tables = top.get("token", [])
    if not isinstance(tables, list) or not all(isinstance(each, dict) for each in tables):
        raise InvalidInput(f"{where}: token must be tables; begin each with [[token]]")
    if not tables:
        raise InvalidInput(f"{where} has no token; it must have at least one [[token]] table")
    entries = tuple(_entry(each, number, where) for number, each in enumerate(tables, 1))
    _check_alone(entries, where)
    return entries


def _check_alone(entries: tuple[TokenEntry, ...], where: str) -> None:
    """Refuse a name or a secret that comes twice, and too many of them."""
    whose: dict[bytes, str] = {}
    names: set[str] = set()
    for each in entries:
        if each.name in names:
            raise InvalidInput(
                f"{where}: token {each.name}: name comes twice; give one token a list of secrets instead"
            )
        names.add(each.name)
        for digest in each.digests:
            if digest in whose:
                other = whose[digest]
                also = "twice" if other == each.name else f"also token {other}'s"
                raise InvalidInput(f"{where}: token {each.name}: its secret is {also}; each must be one of its own")
            whose[digest] = each.name
    if len(whose) > MAX_SECRETS:
        raise InvalidInput(f"{where} has {len(whose)} secrets; there must be at most {MAX_SECRETS}")


def _entry(table: Mapping[str, Any], number: int, where: str) -> TokenEntry:
    name = table.get("name")
    if not isinstance(name, str) or NAME.fullmatch(name) is None:
        raise InvalidInput(
            f"{where}: token number {number}: name must be 1 to 64 letters, digits, '.', '_' and '-',"
            " a letter or digit first"
        )

    def refuse(field: str, why: str) -> InvalidInput:
        return InvalidInput(f"{where}: token {name}: {field} {why}")

    for key in table:
        if key not in KEYS:
            raise refuse(_shown(key), f"is no key of a token; there are {', '.join(KEYS)}")
    return TokenEntry(
        name=name,
        digests=_digests(table, refuse),
        roles=_roles(table.get("roles"), refuse),
        limits=QuotaLimits(
            requests_per_s=_rate(table, "requests_per_s", refuse),
            rows_per_s=_rate(table, "rows_per_s", refuse),
            in_flight=_count(table, "in_flight", refuse),
        ),
    )


Refuse = Callable[[str, str], InvalidInput]


def _digests(table: Mapping[str, Any], refuse: Refuse) -> tuple[bytes, ...]:
    digests = []
    for secret in _texts(table, "token", refuse):
        if SECRET.fullmatch(secret) is None or not MIN_CHARS <= len(secret) <= MAX_CHARS:
            raise refuse(
                "token",
                f"must be {MIN_CHARS} to {MAX_CHARS} characters of ASCII, without spaces; 32 random ones are right",
            )
        digests.append(digest_of(secret))
    for digest in _texts(table, "sha256", refuse):
        if SHA256.fullmatch(digest) is None:
            raise refuse("sha256", "must be the 64 hex digits of a token's SHA-256")
        digests.append(bytes.fromhex(digest))
    if not digests:
        raise refuse("token", "is missing; give token or sha256")
    return tuple(digests)


def _texts(table: Mapping[str, Any], field: str, refuse: Refuse) -> list[str]:
    """Return the strings of a field that is a string or a list of them."""
    if field not in table:
        return []
    given = table[field]
    texts = given if isinstance(given, list) else [given]
    if not texts or not all(isinstance(each, str) for each in texts):
        raise refuse(field, "must be a string, or a list of strings")
    return texts


def _roles(given: Any, refuse: Refuse) -> frozenset[Role]:
    known = ", ".join(Role)
    if not isinstance(given, list) or not given:
        raise refuse("roles", f"must be a list of at least one of {known}")
    roles = set()
    for each in given:
        if each not in list(Role):
            raise refuse("roles", f"has {_shown(each)}, which is no role; there are {known}")
        roles.add(Role(each))
    return frozenset(roles)


def _rate(table: Mapping[str, Any], field: str, refuse: Refuse) -> float | None:
    if field not in table:
        return None
    value = table[field]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= QuotaLimits.MAX:
        raise refuse(field, f"must be a number above 0, and at most {QuotaLimits.MAX:g}")
    return float(value)


def _count(table: Mapping[str, Any], field: str, refuse: Refuse) -> int | None:
    if field not in table:
        return None
    value = table[field]
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= QuotaLimits.MAX:
        raise refuse(field, f"must be a whole number of at least 1, and at most {QuotaLimits.MAX:g}")
    return value


def _shown(given: Any) -> str:
    """Return text for a message: what was given, unless that might be a secret in the wrong place."""
    if isinstance(given, str):
        return repr(given) if _SHOWN.fullmatch(given) else "something else"
    return f"a {type(given).__name__}"


def _place(error: Exception) -> str:
    """Return where a parser has stopped: its own text may repeat what it has read."""
    found = re.search(r"\(at (line \d+, column \d+|end of document)\)", str(error))
    return f"see {found[1]}" if found else "it cannot be parsed"
