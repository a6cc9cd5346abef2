"""Operators' doors of the deployments that are brought up here: what to remove of them, and what to warn of."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path

from ringpull.deploy.config import LOCALHOST, ServeConfig
from ringpull.deploy.state import state_folder
from ringpull.inference.head.frontends.ports import joined
from ringpull.inference.head.frontends.unix_socket import FOLDER, SHORTEST
from ringpull.inference.loopback import is_loopback
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


def warnings_of_shards(config: ServeConfig) -> list[str]:
    """Return the warning of shards that other machines reach, and that ask nobody who it is."""
    if config.private or config.head.tls:
        return []
    return [
        "shards listen on the addresses of their nodes in plain text (--tls-cert, --tls-key): whoever reaches them can"
        " read every row"
    ]


def warnings(config: ServeConfig) -> list[str]:
    """Return what an operator should know of a deployment that others can reach: a sentence each."""
    missing = []
    if not config.head.tls:
        missing.append("in plain text (--tls-cert, --tls-key)")
    if not config.head.tokens.asked:
        missing.append("without tokens (--tokens)")
    if not missing:
        return []
    how, found = " and ".join(missing), []
    host = config.host or (LOCALHOST if config.private else "the address of its node")
    if not is_loopback(host):
        pushes = ", and push rows of " + " and ".join(live_tables(config)) if live_tables(config) else ""
        found.append(
            f"gRPC and HTTP listen on {host}, {how}: {_who(config)} can predict, and look at everything{pushes}"
        )
    at = config.head.admin_at
    if at is not None and not is_loopback(at[0]):
        found.append(
            f"the operators' door listens on {joined(*at)}, {how}: {_who(config)} can publish, move shards and restart"
            " members"
        )
    return found


def warnings_of_live_tables(config: ServeConfig) -> list[str]:
    """Return the warning of tables that were exported as ones that take pushes, and take none here."""
    if config.data_dir is not None or config.push_durability is not None or not live_tables(config):
        return []
    return [
        f"{' and '.join(live_tables(config))} take no pushes: there is no --data-dir for the log; give one, or"
        " --push-durability memory"
    ]


def live_tables(config: ServeConfig) -> list[str]:
    """Return the tables that take pushes."""
    return [f"{version.model}/{table}" for version in config.versions for table in version.live_tables]


def _who(config: ServeConfig) -> str:
    if config.head.tokens.asked:
        return "whoever is on the way there"
    return "whoever has a certificate of --tls-ca" if config.head.tls.ca else "whoever reaches it"
