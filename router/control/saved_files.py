"""Files of the coordinator's saved state: their names, and their content, which carries a checksum.

term-TTTTTTTTTT.json              made by whoever begins to lead: deployment, and who it is
state-TTTTTTTTTT-GGGGGGGGGG.json  generation G of term T; or the seal of term T, after which it has no more
beat-DEPLOYMENT                   replaced every few seconds while the deployment lives
released-DEPLOYMENT               made when it has stopped
NAME.PID-RANDOM.tmp               one of these while it is made
coordinator.json                  state of earlier builds, which had neither terms nor generations
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

import xxhash

from ringpull.ps.errors import CorruptData

LEGACY: Final = "coordinator.json"
"""File in which earlier builds kept the state."""

_TERM: Final = re.compile(r"term-(\d{10})\.json")
_TEMPORARY: Final = re.compile(r"(?:term|state)-(\d{10})[-.].*\.tmp")
_STATE: Final = re.compile(r"state-(\d{10})-(\d{10})\.json")


def term_name(term: int) -> str:
    """Return the name of a term's file."""
    return f"term-{term:010d}.json"


def state_name(term: int, generation: int) -> str:
    """Return the name of the state of a term and generation, or of the term's seal."""
    return f"state-{term:010d}-{generation:010d}.json"


def terms(names: Iterable[str]) -> list[int]:
    """Return the terms among names, in no order."""
    return [int(found[1]) for name in names if (found := _TERM.fullmatch(name))]


def generations(names: Iterable[str]) -> list[tuple[int, int]]:
    """Return the states and seals among names, as (term, generation), in no order."""
    return [(int(found[1]), int(found[2])) for name in names if (found := _STATE.fullmatch(name))]


def is_left_over(name: str, term: int) -> bool:
    """Return whether a file was being made by a leader of a lower term than this, which was killed over it."""
    found = _TEMPORARY.fullmatch(name)
    return found is not None and int(found[1]) < term


def encode(fields: Mapping[str, Any]) -> bytes:
    """Return the content of a file that holds these fields."""
    plain = json.loads(json.dumps(fields))
    return json.dumps({"checksum": _checksum(plain), "saved": plain}, indent=1).encode()


def decode(name: str, content: bytes) -> dict[str, Any]:
    """Read what `encode` wrote.

    Raises:
        CorruptData: It is damaged.
    """
    try:
        file = json.loads(content)
        fields, checksum = file["saved"], file["checksum"]
    except (LookupError, TypeError, ValueError, RecursionError) as exc:
        raise CorruptData(f"{name} is not whole: {exc}") from exc
    if not isinstance(fields, dict) or checksum != _checksum(fields):
        raise CorruptData(f"{name}: the checksum does not match")
    return fields


def is_seal(content: bytes) -> bool:
    """Return whether a file is the seal of its term."""
    try:
        return "sealed_by" in decode("", content)
    except CorruptData:
        return False


def _checksum(fields: Mapping[str, Any]) -> str:
    return xxhash.xxh3_64_hexdigest(json.dumps(fields, sort_keys=True, separators=(",", ":")).encode())
