"""The folder of a deployment's state, from before its actors are made until it has stopped: taken over, and released.

The process that brings a deployment up takes the folder over, writes the first state there, and shows that it lives for
as long as it does. So the coordinator is always made with a state that must be there, and a folder that is empty or not
mounted when it restarts is never taken for a first start.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from typing import Any, Final, Self

from ringpull.deploy.cluster.ray_actors import count_actors
from ringpull.deploy.process_identity import ProcessIdentity, own_identity
from ringpull.ps.errors import RingpullError
from ringpull.router.control.reign import Reign
from ringpull.router.control.state_files import open_files, probe
from ringpull.router.control.state_store import Life, Owner, StateStore

logger: Final = logging.getLogger(__name__)


class OwnedStateFolder:
    """State folder of a deployment that this process brings up, as a context; leaving it releases the folder."""

    def __init__(self, reign: Reign, beat_s: float, *, rows_in_memory: bool = False) -> None:
        """Use `OwnedStateFolder.take`."""
        self._reign = reign
        self._rows_in_memory = rows_in_memory
        self._left = False
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._beat, args=(beat_s,), name="beat", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<OwnedStateFolder {self._reign!r}>"

    @classmethod
    def take(
        cls,
        folder: str,
        owner: Owner,
        *,
        heads: int,
        say: Callable[[str], None],
        warn: Callable[[str], None] = lambda _: None,
        rows_in_memory: bool = False,
    ) -> Self:
        """Take a folder over for a deployment, and write its first state there.

        Args:
            folder: Path, or URL.
            heads: Number of heads.
            say: Called with what is waited for.
            warn: Called with what an operator should know of what was found there.
            rows_in_memory: Whether pushed rows go with the deployment, when it is stopped.

        Raises:
            InvalidInput: The folder cannot make a file only where there is none.
            StartupError: It belongs to a deployment that lives, or cannot be read or written.
            CorruptData: No state in it can be read.
            Superseded: Somebody else takes it over at the same time.
        """
        files = open_files(folder)
        probe(files, folder)
        store = StateStore(files)
        reign = store.take_over(owner, lives=lives, say=say)
        # It serves nothing yet, so it needs no epochs ahead: the first map of the deployment has the next one.
        reign.save(reign.first_state(tuple(range(heads))), ahead=0)
        reign.beat()
        if reign.saved is not None and reign.saved.warning:
            warn(reign.saved.warning)
        return cls(reign, store.beat_s, rows_in_memory=rows_in_memory)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        self._stop_beating()
        if self._left:
            return
        try:
            # Where it was not stopped but failed, nobody chose that rows go: the next one says that they are missing.
            self._reign.release(without_rows=self._rows_in_memory and failure is None)
        except RingpullError as exc:
            # Whoever comes next watches for a while whether this one lives.
            logger.warning("%s was not released: %s", self._reign, exc)

    def leave_to_coordinator(self) -> None:
        """Leave the folder to the deployment's coordinator, which lives on when this context is left."""
        self._left = True

    def _stop_beating(self) -> None:
        self._ending.set()
        self._thread.join()

    def _beat(self, beat_s: float) -> None:
        while not self._ending.wait(beat_s):
            with suppress(RingpullError):
                self._reign.beat()


def owner_of(deployment: str, name: str, *, ray: str | None) -> Owner:
    """Return a deployment as the owner of a state folder, brought up by this process.

    Args:
        deployment: Its id.
        name: Its name.
        ray: Address of the joined Ray that its actors are on; None: they are on a private one, and end with this
            process.
    """
    who: dict[str, Any] = {"host": socket.gethostname(), "process": asdict(own_identity())}
    if ray is not None:
        who |= {"ray": ray, "actors": name}
    return Owner(deployment, name, who)


def lives(owner: Owner, *, count: Callable[[str, str], int | None] = count_actors) -> Life:
    """Return what is known of the owner of a state folder.

    A deployment on a private Ray ends with its `serve`. One on a joined Ray lives while its actors do, also where all
    of its processes are stopped: that Ray is asked. A control store that is gone may come back to them, and a `serve`
    elsewhere may be about to make them: both are seen by the beat.

    Args:
        count: Returns how many actors there are on a Ray of a deployment; see `count_actors`.
    """
    try:
        alive = ProcessIdentity(**owner.who["process"]).alive()
    except (KeyError, TypeError):
        alive = None
    if alive:
        return Life.LIVES
    if "ray" not in owner.who:
        return Life.UNKNOWN if alive is None else Life.DEAD
    try:
        found = count(str(owner.who["ray"]), str(owner.who.get("actors", "")))
    except ConnectionRefusedError:
        return Life.GROUNDLESS
    if found is None:
        return Life.UNKNOWN
    return Life.LIVES if found else Life.GROUNDLESS
