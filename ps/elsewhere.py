"""Work for another process, one piece at a time: seconds of Python, as a plan for a thousand shards or the script of a
wide program takes, in which nothing else would be stepped, renewed or answered here. It ends with its caller's time.

The process is started for one function and ended after it. It is a plain interpreter that reads a pickle and writes
one: it starts nothing else, shares nothing but the files that it is given, and ends when its standard input does, so
also when we are killed. What ends us by the terminal does not reach it, and where memory ends, it is the one to go.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TypeVar

from ringpull.ps.errors import DeadlineExceeded, LimitExceeded, RingpullError, Unavailable

T = TypeVar("T")

RETRY_AFTER_S: Final = 2.0
"""Time after which whoever was refused may ask again."""

_SERVE: Final = "from ringpull.ps.elsewhere import serve; serve({niceness})"
_AUTOGROUP_TRIES: Final = 5


class Elsewhere:
    """Runs functions in a process of their own. All methods may be called from any thread."""

    def __init__(self, what: str, owner: str, *, niceness: int, longest_s: float) -> None:
        """Prepare to start processes.

        Args:
            what: What is made there, for messages: plan.
            owner: Who wants it, for messages: coordinator.
            niceness: Niceness of the processes: whatever else this machine does goes before.
            longest_s: Time after which a piece of work is ended whose caller waits for longer.
        """
        self._what, self._owner = what, owner
        self._niceness, self._longest_s = niceness, longest_s
        self._turn = threading.Lock()
        self._guard = threading.Lock()  # guards what follows; taken inside the turn, never around it
        self._waiting = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False

    def __repr__(self) -> str:
        process = self._process
        state = "stopped" if self._stopped else "idle" if process is None else f"in {process.pid}"
        return f"<Elsewhere {self._what} {state}>"

    def run(
        self, function: Callable[[], T], *, wait: bool, within_s: float | None = None, files: Sequence[int] = ()
    ) -> T:
        """Return what a function returns in another process.

        Args:
            function: Picklable, as its result must be.
            wait: Wait for what runs there; otherwise be refused, also while another waits.
            within_s: Time after which its caller is gone, and the process is ended; at most `longest_s`.
            files: Descriptors that it has, too, by the same numbers.

        Raises:
            DeadlineExceeded: It was not done in time.
            LimitExceeded: Something else runs there.
            Unavailable: The process ended before it was done.
            RingpullError: What the function raised.
        """
        until_s = time.monotonic() + min(self._longest_s, self._longest_s if within_s is None else within_s)
        with self._guard:
            refused = not wait and (self._waiting > 0 or self._turn.locked())
            self._waiting += wait
        try:
            if wait and not self._turn.acquire(timeout=max(0.0, until_s - time.monotonic())):
                raise DeadlineExceeded(f"another {self._what} was not made in time; nothing was begun, ask again")
            if refused or not (wait or self._turn.acquire(blocking=False)):
                raise LimitExceeded(
                    f"another {self._what} is being made, and only one is at a time; ask again",
                    retry_after_s=RETRY_AFTER_S,
                )
        finally:
            with self._guard:
                self._waiting -= wait
        try:
            return self._run(function, until_s, files)
        finally:
            self._turn.release()

    def stop(self) -> None:
        """End what runs, whose caller gets Unavailable; nothing is begun afterwards."""
        with self._guard:
            self._stopped = True
            if self._process is not None:
                self._process.kill()

    def _run(self, function: Callable[[], T], until_s: float, files: Sequence[int]) -> T:
        work = pickle.dumps(function)
        process = self._start(files)
        late = threading.Event()

        def end() -> None:
            late.set()
            process.kill()

        limit = threading.Timer(max(0.0, until_s - time.monotonic()), end)
        limit.daemon = True
        limit.start()
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                process.stdin.write(len(work).to_bytes(8, "little") + work)
                process.stdin.flush()
                answer = process.stdout.read()
            except OSError:  # it has ended already
                answer = b""
            if not answer:
                process.wait()  # for how it ended
        finally:
            limit.cancel()
            with self._guard:
                self._process = None
            process.kill()
            process.communicate()
        if not answer and late.is_set():
            raise DeadlineExceeded(f"the {self._what} was not made in time; nothing was begun")
        if not answer:
            raise Unavailable(f"the process that made the {self._what} ended with {process.returncode}")
        done, value = pickle.loads(answer)
        if not done:
            raise value
        result: T = value
        return result

    def _start(self, files: Sequence[int]) -> subprocess.Popen[bytes]:
        # What is importable here is importable there, wherever it was shipped to.
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
        with self._guard:
            if self._stopped:
                raise Unavailable(f"the {self._owner} has stopped")
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-c", _SERVE.format(niceness=self._niceness)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    env=env,
                    pass_fds=files,
                    start_new_session=True,
                )
            except OSError as exc:
                raise Unavailable(f"no process can be started to make the {self._what}: {exc.strerror or exc}") from exc
            return self._process


def serve(niceness: int) -> None:
    """Run the one function that standard input has, write what it returned, and end."""
    os.nice(niceness)
    _take_niceness_between_sessions(niceness)
    with suppress(OSError):  # no Linux, or not to be written to
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    source, sink = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the function prints is no answer
    work = source.read(int.from_bytes(source.read(8), "little"))
    threading.Thread(target=_end_with, args=(source,), daemon=True).start()
    answer: tuple[bool, Any]
    code = 1
    try:
        try:
            answer = True, pickle.loads(work)()
        except RingpullError as exc:
            answer = False, exc
        sink.write(pickle.dumps(answer))
        sink.flush()
        code = 0
    except Exception:
        traceback.print_exc()
    os._exit(code)  # not by the interpreter's end, which waits for the thread that reads


def _take_niceness_between_sessions(niceness: int) -> None:
    """Give this session a niceness: where Linux shares processors out by sessions first, a process's says little."""
    for _ in range(_AUTOGROUP_TRIES):
        try:
            Path("/proc/self/autogroup").write_text(str(niceness), encoding="ascii")
            return
        except BlockingIOError:  # Those of all who are not privileged may be set once in a tenth of a second.
            time.sleep(0.1)
        except OSError:  # no Linux, or no such groups
            return


def _end_with(source: Any) -> None:
    source.read()
    os._exit(1)
