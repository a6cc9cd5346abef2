"""Sources of a kernel: its module and those of ours that it imports, and so on, as one digest.

numba keeps compiled code by the content of the kernel's own file alone; but what the kernel calls is compiled into it,
wherever it is written. Without this an upgrade could go on with code that reads what was laid out otherwise.
"""

from __future__ import annotations

import re
import sys
from functools import cache
from pathlib import Path
from typing import Final

import xxhash

_IMPORT: Final = re.compile(r"^from (ringpull[\w.]*) import (?:\(([^)]*)\)|(.*))$", re.MULTILINE)
_NAME: Final = re.compile(r"\w+")


def digest_of(module: str) -> str:
    """Return the digest of a module's source and of all that it imports of ours."""
    digest, seen, waiting = xxhash.xxh3_128(), {module}, [module]
    while waiting:
        file = getattr(sys.modules.get(waiting.pop()), "__file__", None)
        if file is None:
            continue
        source, imported = _read(file)
        digest.update(source)
        new = [each for each in imported if each in sys.modules and each not in seen]
        seen.update(new)
        waiting += new
    return digest.hexdigest()


@cache
def _read(file: str) -> tuple[bytes, list[str]]:
    """Return the digest of a module's source, and the names of what it may import of ours."""
    try:
        source = Path(file).read_bytes()
    except OSError:
        return b"", []
    names: list[str] = []
    for match in _IMPORT.finditer(source.decode(errors="replace")):
        module, several, one = match.groups()
        names += [module, *(f"{module}.{name}" for name in _NAME.findall(several or one))]
    return xxhash.xxh3_128_digest(source), names
