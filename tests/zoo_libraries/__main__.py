"""`python -m tests.zoo_libraries [--library NAME...] [--only MODEL...] [--table FILE]`, in the zoo's environment.

Each library's models run in processes of their own, two at a time. A process that dies takes one model with it: the
rest go on in the next. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ringpull.loadtest.bench.harness import machine
from tests.zoo_libraries.libraries.names import LIBRARIES
from tests.zoo_libraries.outcome import Outcome
from tests.zoo_libraries.report import summary, table

WORKER = (sys.executable, "-W", "ignore", "-m", "tests.zoo_libraries.worker")
AT_A_TIME = 2
REASON = 200
"""Characters of a reason that are shown while the rest is tried; the table has all."""
LIMIT_S = 300
"""Seconds without a word after which a process is given up."""


def main() -> int:
    """Run; return 1 when a model that was served is wrong, or fails on ids that it should take or refuse, and 2 when
    `--only` names one that no library has.
    """
    options = _options()
    begin = time.monotonic()
    libraries = queue.Queue[str]()
    for library in options.library:
        libraries.put(library)
    outcomes: list[Outcome] = []
    known: set[str] = set()
    work = (libraries, options.only or [], outcomes, known, begin)
    threads = [threading.Thread(target=_work, args=work) for _ in range(AT_A_TIME)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    if unknown := sorted({*(options.only or [])} - known):
        print(f"--only: no such model: {', '.join(unknown)}; there are: {', '.join(sorted(known))}", file=sys.stderr)
        return 2
    outcomes.sort(key=lambda each: options.library.index(each.library))
    text = table(outcomes)
    if options.table is not None:
        options.table.write_text(text, encoding="utf-8")
    print(text)
    print(json.dumps({**summary(outcomes), "seconds": round(time.monotonic() - begin), **machine()}))
    return int(any(each.faults for each in outcomes))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.zoo_libraries", description=__doc__)
    parser.add_argument("--library", nargs="+", choices=LIBRARIES, default=list(LIBRARIES))
    parser.add_argument("--only", nargs="+", metavar="MODEL", help="names of models")
    parser.add_argument("--table", type=Path, metavar="FILE", help="where the table is written, as markdown")
    return parser.parse_args()


def _work(
    libraries: queue.Queue[str], only: Sequence[str], outcomes: list[Outcome], known: set[str], begin: float
) -> None:
    """Try the models of one library after the other, until none is left."""
    while True:
        try:
            library = libraries.get_nowait()
        except queue.Empty:
            return
        for outcome in _outcomes(library, only, known):
            outcomes.append(outcome)
            said = f"{outcome.status}, {len(outcome.tables)} tables, {outcome.seconds:.0f} s {outcome.reason[:REASON]}"
            print(f"[{time.monotonic() - begin:5.0f} s] {library} {outcome.name}: {said}", flush=True)


def _outcomes(library: str, only: Sequence[str], known: set[str]) -> Iterator[Outcome]:
    """Yield the outcomes of a library's models, from as many processes as die of them, and one; add their names."""
    names: list[str] | None = None
    while names is None or names:
        process = _Process([library, *(only if names is None else names)])
        told = process.lines()
        first = next(told, None)
        if first is None:
            yield Outcome("all", library, reason=f"the library's process ended with {process.code()}")
            return
        known.update(first["models"])
        names = list(first["tried"])
        for line in told:
            outcome = Outcome(**line)
            names.remove(outcome.name)
            yield outcome
        if names and process.code() != 0:
            yield Outcome(names.pop(0), library, reason=f"its process ended with {process.code()}")


class _Process:
    """One worker, which is killed when it says nothing for too long."""

    def __init__(self, arguments: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            [*WORKER, *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=_environment()
        )

    def lines(self) -> Iterator[Any]:
        """Yield the JSON of each line."""
        assert self._process.stdout is not None
        while True:
            timer = threading.Timer(LIMIT_S, self._process.kill)
            timer.start()
            line = self._process.stdout.readline()
            timer.cancel()
            if not line:
                return
            yield json.loads(line)

    def code(self) -> int:
        """Return its exit status, when it has ended."""
        return self._process.wait()


def _environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


if __name__ == "__main__":
    sys.exit(main())
