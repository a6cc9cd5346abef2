"""The coordinator's newest saved state, as a test reads it from its folder while it is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ringpull.router.control.saved_files import generations, state_name


def newest_state(folder: Path) -> dict[str, Any]:
    """Return the fields of the newest state: `deployment`, `term`, `epochs_to` and `state`.

    Raises:
        LookupError: There is none.
    """
    while True:
        names = sorted(generations([path.name for path in folder.iterdir()]), reverse=True)
        for term, generation in names:
            try:
                saved: dict[str, Any] = json.loads((folder / state_name(term, generation)).read_text())["saved"]
            except FileNotFoundError:
                break  # A newer one is there.
            if "state" in saved:
                return saved
        else:
            raise LookupError(f"no state in {folder}: {names}")
