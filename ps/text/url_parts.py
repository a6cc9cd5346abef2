"""Parts of paths at URLs: which may lead elsewhere, for one server or another.

What a part means is up to who serves it: servers decode percent signs once or more, put letters of full width in the
place of plain ones, pass over what follows a semicolon, and lose blanks. So a part is held to what the most eager of
them would make of it.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final
from urllib.parse import unquote

_BEHIND: Final = re.compile(r"[;?#].*", re.DOTALL)
_UNSEEN: Final = ("Cc", "Cf", "Cs", "Zl", "Zp")


def leads_elsewhere(part: str) -> bool:
    """Return whether some server may take a part of a path, between slashes, for the folder above, or for several."""
    decoded = _decoded(part)
    if any(unicodedata.category(sign) in _UNSEEN for sign in decoded):
        return True
    if set("/\\") & set(decoded):
        return True
    name = "".join(_BEHIND.sub("", decoded).split())
    return name in (".", "..")


def _decoded(part: str) -> str:
    """Return a part with percent signs decoded and letters made plain, until neither changes it."""
    while (decoded := unicodedata.normalize("NFKC", unquote(part))) != part:
        part = decoded
    return part
