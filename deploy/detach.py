"""Detached serving: a child process in its own session runs the same `serve` command in the foreground.

The parent copies the child's output until the child has written its served record, or has died.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, TextIO

from ringpull.deploy import served
from ringpull.deploy.cluster.ray_session import CODE_ROOT
from ringpull.deploy.served import ServedRecord
from ringpull.deploy.state import state_folder
from ringpull.ps.errors import StartupError
from ringpull.ps.private_files import make_private_folder, open_private

POLL_S: Final = 0.05

STOP_TIMEOUT_S: Final = 30.0


def serve_detached(arguments: Sequence[str], watch: TextIO) -> ServedRecord:
    """Run `ringpull ARGUMENTS`, a foreground `serve`, in the background; return its record when predictions work.

    Args:
        arguments: Command line, without `--detach`.
        watch: Stream that the child's output is copied to meanwhile.

    Raises:
        StartupError: The child ended before it was ready. Its output is in the log, whose path the message gives.
    """
    log = _new_log()
    path = os.pathsep.join([str(CODE_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    with open_private(log, "wb") as sink:
        child = subprocess.Popen(
            [sys.executable, "-m", "ringpull", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=sink,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": path},
        )
    try:
        record = replace(_await_ready(child, log, watch), log=str(log))
    except BaseException:
        _end(child)
        raise
    served.save(record)
    return record


def _await_ready(child: subprocess.Popen[bytes], log: Path, watch: TextIO) -> ServedRecord:
    with log.open(encoding="utf-8", errors="replace") as said:
        while True:
            code = child.poll()
            watch.write(said.read())
            watch.flush()
            if code is not None:
                raise StartupError(f"serving ended with exit status {code} before it was ready; see {log}")
            record = served.of_child(child.pid)
            if record is not None:
                return record
            time.sleep(POLL_S)


def _end(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _new_log() -> Path:
    folder = state_folder() / "logs"
    make_private_folder(folder, ours=True)
    return folder / f"serve-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
