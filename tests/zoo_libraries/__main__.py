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

from ringpull.loadtest.bench.harness import machine
from tests.zoo_libraries.libraries.names import LIBRARIES
from tests.zoo_libraries.outcome import Outcome
from tests.zoo_libraries.report import summary, table

WORKER = (sys.executable, "-W", "ignore", "-m", "tests.zoo_libraries.worker")
AT_A_TIME = 2
IN_A_PROCESS = 12
"""Models after which a process ends, so that two share the work to the end."""
LIMIT_S = 300
"""Seconds without an outcome after which a process is given up."""


def main() -> int:
    """Run; return 1 when a model that was served is wrong, or fails on ids that it should take or refuse."""
    options = _options()
    begin = time.monotonic()
    jobs: queue.Queue[tuple[str, list[str]]] = queue.Queue()
    for library in options.library:
        names = [name for name in _names(library) if not options.only or name in options.only]
        for first in range(0, len(names), IN_A_PROCESS):
            jobs.put((library, names[first : first + IN_A_PROCESS]))
    outcomes: list[Outcome] = []
    threads = [threading.Thread(target=_work, args=(jobs, outcomes, begin)) for _ in range(AT_A_TIME)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    order = list(options.library)
    outcomes.sort(key=lambda each: order.index(each.library))
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


def _names(library: str) -> list[str]:
    """Return the names of a library's models, which only its own process can import."""
    run = subprocess.run([*WORKER, library, "--list"], stdout=subprocess.PIPE, check=True, text=True)
    return list(json.loads(run.stdout.splitlines()[-1]))


def _work(jobs: queue.Queue[tuple[str, list[str]]], outcomes: list[Outcome], begin: float) -> None:
    while True:
        try:
            library, names = jobs.get_nowait()
        except queue.Empty:
            return
        while names:
            for outcome in _outcomes(library, names):
                outcomes.append(outcome)
                names.remove(outcome.name)
                said = f"{outcome.status}, {len(outcome.tables)} tables, {outcome.seconds:.0f} s"
                print(f"[{time.monotonic() - begin:5.0f} s] {library} {outcome.name}: {said}", flush=True)


def _outcomes(library: str, names: Sequence[str]) -> Iterator[Outcome]:
    """Yield the outcomes of one process; where it dies early, that of the model it died of, last."""
    process = subprocess.Popen(
        [*WORKER, library, *names], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=_environment()
    )
    assert process.stdout is not None
    told = 0
    timer = threading.Timer(LIMIT_S, process.kill)
    try:
        timer.start()
        for line in process.stdout:
            timer.cancel()
            told += 1
            yield Outcome(**json.loads(line))
            timer = threading.Timer(LIMIT_S, process.kill)
            timer.start()
    finally:
        timer.cancel()
        process.kill() if process.poll() is None and told < len(names) else None
    code = process.wait()
    if told < len(names):
        yield Outcome(names[told], library, reason=f"its process ended with {code}")


def _environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


if __name__ == "__main__":
    sys.exit(main())
