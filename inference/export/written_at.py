"""Places in the user's code that the nodes of a captured graph come from."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import torch
from torch import fx

_FRAME: Final = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in (?P<function>\S+)')
_NOT_THE_USERS: Final = (str(Path(torch.__file__).parent), str(Path(__file__).parent))


def written_at(node: fx.Node) -> str:
    """Return where the user wrote what a node does, as in ` (ranker.py:37, in forward)`; "" when torch does not say."""
    found = ""
    for frame in _FRAME.finditer(str(node.meta.get("stack_trace") or "")):
        if not frame["file"].startswith(_NOT_THE_USERS):
            found = f" ({Path(frame['file']).name}:{frame['line']}, in {frame['function']})"
    return found
