"""State folder of this user, with served records, logs and states of coordinators.

Its files are small, and safe to delete while nothing is served.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from ringpull.ps.errors import InvalidInput, StartupError
from ringpull.ps.user_folder import user_folder

STATE_VARIABLE: Final = "RINGPULL_STATE_DIR"


def state_folder() -> Path:
    """Return `$RINGPULL_STATE_DIR`, `$XDG_STATE_HOME/ringpull` or `~/.local/state/ringpull`; it may not exist yet.

    A user who has no home, or cannot write there, has one below the temporary folder, by the user's number.

    Raises:
        InvalidInput: The variable names no folder.
        StartupError: There is no home, and no temporary folder that is safe.
    """
    if own := os.environ.get(STATE_VARIABLE):
        return _named(own)
    xdg = os.environ.get("XDG_STATE_HOME", "")
    if os.path.isabs(xdg):  # The specification has relative ones ignored.
        return Path(xdg) / "ringpull"
    home = _home()
    if home is not None:
        folder = home / ".local" / "state" / "ringpull"
        if _can_be_used(folder):
            return folder
    try:
        return user_folder("state")
    except StartupError as exc:
        raise StartupError(f"no folder for ringpull's state: {exc}, or {STATE_VARIABLE}") from exc


def _named(text: str) -> Path:
    if "\n" in text or text != text.strip():
        raise InvalidInput(f"{STATE_VARIABLE} is {text!r}; write the path of a folder, without blanks around it")
    try:
        return Path(text).expanduser().absolute()
    except (RuntimeError, OSError) as exc:  # `~` of a user without a home; a working folder that is gone
        raise InvalidInput(f"{STATE_VARIABLE} is {text!r}: {exc}; write the whole path of a folder") from exc


def _home() -> Path | None:
    try:
        home = Path.home()
    except RuntimeError:  # neither HOME nor an entry of the user
        return None
    return home if home.is_absolute() else None


def _can_be_used(folder: Path) -> bool:
    """Whether a folder is this user's or takes files; so the nearest one above it where it is not there yet.

    One that is this user's and takes none, as when its disk is read-only, is not passed over in silence.
    """
    try:
        found = next(each for each in (folder, *folder.parents) if each.exists())
        own = found == folder and found.stat().st_uid == os.geteuid()
    except OSError:  # somebody else's home
        return False
    return own or (found.is_dir() and os.access(found, os.W_OK | os.X_OK))
