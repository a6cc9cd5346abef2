"""The protocol that both ends of a connection share: bytes from the transport into frames, frames out, and its end.

Invariant: a connection that got bytes that are no frame, or a hello that means another, is poisoned: it takes in
nothing more and is never reused.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Collection, Sequence
from typing import cast

from ringpull.ps.errors import ConnectionLost
from ringpull.ps.wire.frames import Decoder, Frame, Kind, Limits, Refusal, Room

KEEPALIVE_IDLE_S = 5
KEEPALIVE_INTERVAL_S = 2
KEEPALIVE_PROBES = 3
UNACKNOWLEDGED_MS = 10_000
"""Time after which a peer whose machine vanished is given up, about, with or without bytes in flight."""

DISCARD_BYTES = 64 * 1024
"""Bytes read at a time of what a poisoned connection still brings."""


class FrameProtocol(asyncio.BufferedProtocol):
    """End of a connection. Subclasses say what a frame means, and what its end does.

    All methods run on the event loop.
    """

    def __init__(
        self, accepts: Collection[Kind], limits: Limits, room: Room | None = None, *, first: Kind | None = None
    ) -> None:
        self._decoder = Decoder(accepts, limits, room, first=first)
        self._transport: asyncio.Transport | None = None
        self._poisoned = False
        self._held_back = False
        """Whether frames that have arrived already wait."""
        self._taking = False

    # -- for subclasses to fill in ------------------------------------------------------------------------------------

    def frame_received(self, frame: Frame) -> None:
        """Take one complete frame. May raise ConnectionLost, such as ProtocolError, which poisons the connection."""
        raise NotImplementedError

    def frame_refused(self, refusal: Refusal) -> None:
        """Take that there was no room for a frame. May raise as `frame_received` does."""
        raise NotImplementedError

    def poisoned(self, error: ConnectionLost) -> None:
        """The peer's bytes are no valid frames, or it is not the one that was meant. To end the connection."""
        raise NotImplementedError

    # -- asyncio's side -----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are so without being subclasses
        _detect_dead_peer(transport.get_extra_info("socket"))

    def get_buffer(self, sizehint: int) -> memoryview:
        # A decoder that refused bytes has no place for more, and an empty buffer would be an error to the transport.
        return memoryview(bytearray(DISCARD_BYTES)) if self._poisoned else self._decoder.get_buffer()

    def buffer_updated(self, nbytes: int) -> None:
        if self._poisoned:
            return
        if self._decoder.buffer_updated(nbytes):
            self._take_frames()

    # -- shared -------------------------------------------------------------------------------------------------------

    def _take_frames(self) -> None:
        """Take what has arrived, until it is held back."""
        self._taking = True
        try:
            while not self._held_back and (frame := self._decoder.next_frame()) is not None:
                if isinstance(frame, Frame):
                    self.frame_received(frame)
                else:
                    self.frame_refused(frame)
        except ConnectionLost as error:
            self._poison(error)
        finally:
            self._taking = False

    def _poison(self, error: ConnectionLost) -> None:
        self._poisoned = True
        self._decoder.forget()
        self.poisoned(error)

    def send(self, pieces: Sequence[bytes | memoryview]) -> None:
        """Hand one frame to the transport; a connection that is gone drops it."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.writelines(pieces)


def _detect_dead_peer(sock: socket.socket) -> None:
    """Have the kernel notice a peer that vanished without a goodbye."""
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        ("TCP_KEEPIDLE", KEEPALIVE_IDLE_S),
        ("TCP_KEEPINTVL", KEEPALIVE_INTERVAL_S),
        ("TCP_KEEPCNT", KEEPALIVE_PROBES),
        ("TCP_USER_TIMEOUT", UNACKNOWLEDGED_MS),
    ):
        if hasattr(socket, option):  # Linux has them all
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
