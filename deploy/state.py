"""State folder of this user, with served records, logs and states of coordinators.

Its files are small, and safe to delete while nothing is served.
"""

from __future__ import annotations

import os
from pathlib import Path


def state_folder() -> Path:
    """Return `$RINGPULL_STATE_DIR`, `$XDG_STATE_HOME/ringpull` or `~/.local/state/ringpull`; it may not exist yet."""
    if own := os.environ.get("RINGPULL_STATE_DIR"):
        return Path(own)
    if xdg := os.environ.get("XDG_STATE_HOME"):
        return Path(xdg) / "ringpull"
    return Path.home() / ".local" / "state" / "ringpull"
