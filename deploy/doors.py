"""Operators' doors of the deployments that are brought up here: what to remove of them, and what to warn of."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path

from ringpull.deploy.config import LOCALHOST, ServeConfig
from ringpull.deploy.state import state_folder
from ringpull.inference.head.frontends.ports import is_loopback, joined
from ringpull.inference.head.frontends.unix_socket import FOLDER, SHORTEST
from ringpull.ps.errors import RingpullError
from ringpull.ps.user_folder import PREFIX


def folders(deployment: str) -> list[Path]:
    """Return the folders in which heads of this machine may have left their sockets.

    Args:
        deployment: Id of their deployment.
    """
    found = []
    with suppress(RuntimeError, RingpullError):  # a user without a home
        found.append(state_folder().absolute())
    own = f"{PREFIX}{os.geteuid()}"
    with suppress(OSError):
        found.append(Path(tempfile.gettempdir()) / own)
    return [folder / FOLDER / deployment for folder in dict.fromkeys([*found, SHORTEST / own])]


def warnings(config: ServeConfig) -> list[str]:
    """Return what an operator should know of a deployment that others can reach: a sentence each."""
    found = []
    host = config.host or (LOCALHOST if config.private else "its node's address")
    if not is_loopback(host):
        found.append(
            f"gRPC and HTTP listen on {host}, to whoever reaches it, in plain text: anyone there may predict and look"
        )
    at = config.head.admin_at
    if at is not None and not is_loopback(at[0]):
        found.append(
            f"the operators' door listens on {joined(*at)}, to whoever reaches it, in plain text: anyone there may"
            " publish, move shards and restart members"
        )
    return found
