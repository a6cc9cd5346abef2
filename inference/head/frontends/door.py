"""The operators' door of a head: a gRPC server beside that of predictions, on a Unix socket or a port of its own.

Whoever can open the socket is the user that serves, or root. It lies in a folder of the deployment below the state
folder, or where that path is too long for a socket, below the temporary one or /tmp. A head without a door still
predicts, and says so: predictions need no operator.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from ringpull.inference.head.access import Access, AtDoor
from ringpull.inference.head.config import HeadConfig
from ringpull.inference.head.frontends.grpc.answers import grpc_server
from ringpull.inference.head.frontends.parts import Parts
from ringpull.inference.head.frontends.ports import joined, told
from ringpull.inference.head.frontends.unix_socket import FOLDER, SHORTEST, UnixSocket, own_folder
from ringpull.ps.errors import StartupError
from ringpull.ps.user_folder import PREFIX, user_folder

logger: Final = logging.getLogger(__name__)


class Door:
    """Operators' door, from `open` to `close`.

    Args:
        parts: What answers there: all that the head's port answers too, so an operator needs no other way.
        config: Says where it is.
        tokens: Access by tokens; None: none are asked for. Whoever opens the socket needs none.
        folders: Functions that return a folder for the socket, in the order of preference; see `folders_of`.
        name: Name of the socket.
    """

    def __init__(
        self,
        parts: Parts,
        config: HeadConfig,
        tokens: Access | None,
        folders: Sequence[Callable[[], Path]],
        name: str,
    ) -> None:
        access = AtDoor() if tokens is None or config.admin_at is None else tokens
        self._server = grpc_server(parts, config, access, at_door=True)
        self._config = config
        self._folders = folders
        self._name = name
        self._socket: UnixSocket | None = None
        self.address = ""
        """Address to connect to: `unix:/PATH` or HOST:PORT; empty while it is not open."""
        self.warning = ""
        """Why it is not open, though it should be."""

    def __repr__(self) -> str:
        return f"<Door {self.address or 'not open'}>"

    async def open(self) -> None:
        """Let operators in.

        Raises:
            StartupError: A port was asked for, and cannot be used.
        """
        at = self._config.admin_at
        if at is not None:
            host, port = at
            self.address = joined(told(host, self._config.host), await self._server.start_at("admin", host, port))
            return
        try:
            self._socket = UnixSocket.claim(self._folders, self._name)
            self.address = await self._server.start_on(self._socket)
        except StartupError as exc:
            self.warning = f"operators have no door: {exc}; give one with --admin-host and --admin-port"
            logger.warning(self.warning)

    async def close(self, grace_s: float) -> None:
        """Take no more of operators, and end what they have asked within `grace_s`."""
        await self._server.stop(grace_s)
        if self._socket is not None:
            self._socket.remove()


def folders_of(deployment: str, state: Callable[[], Path] | None) -> list[Callable[[], Path]]:
    """Return where the sockets of a deployment may be, in the order of preference.

    Args:
        deployment: Its id, or a name that no other one has.
        state: Returns the state folder; None: there is none.
    """

    def in_state() -> Path:
        assert state is not None
        return own_folder(own_folder(state() / FOLDER) / deployment)

    def below_temporary() -> Path:
        return own_folder(user_folder(FOLDER) / deployment)

    def below_shortest() -> Path:
        return own_folder(own_folder(own_folder(SHORTEST / f"{PREFIX}{os.geteuid()}") / FOLDER) / deployment)

    return [*([] if state is None else [in_state]), below_temporary, below_shortest]
