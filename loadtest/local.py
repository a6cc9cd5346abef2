"""`make loadtest`: a cluster of this machine's own, locust against it, a report, and one last line of JSON.

    python -m ringpull.loadtest.local --seconds 60 --report runs/loadtest

It serves with the real command, on a private Ray and free ports, and takes everything down at the end. The model is a
generated DLRM (26 tables) unless a folder is given. With `--workers N` locust runs as a master and N workers.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from ringpull.loadtest.deployment import deployed
from ringpull.loadtest.process import free_port
from ringpull.loadtest.report import REPORT_FILE, SUMMARY_FILE
from ringpull.loadtest.shapes import SHAPES

LOCUSTFILE: Final = Path(__file__).with_name("locustfile.py")
LINE: Final = ("requests", "failures", "rps", "p50_ms", "p99_ms")
GRACE_S: Final = 120.0
"""Time that locust may take beyond the run itself before it counts as hung: for the messages, and the report."""


def run_locust(
    target: str, report: Path, *, seconds: float, users: int, workers: int = 0, options: Sequence[str] = ()
) -> dict[str, Any]:
    """Run locust against a head and return the figures of its last line.

    Args:
        report: Folder of report.md, locust.html and locust's CSV files.
        workers: 0: one process. Else a master and as many workers.
        options: More of the locustfile's.

    Raises:
        RuntimeError: Locust failed, or did not end.
    """
    report.mkdir(parents=True, exist_ok=True)
    (report / SUMMARY_FILE).unlink(missing_ok=True)
    arguments = ["--headless", "--only-summary", "-H", target, "-u", str(users)]
    arguments += ["-t", f"{max(round(seconds), 1)}s", "--report", str(report)]
    arguments += ["--html", str(report / "locust.html"), "--csv", str(report / "locust"), *options]
    with ExitStack() as stack:
        if workers:
            port = free_port()
            arguments += ["--master", "--master-bind-host", "127.0.0.1", "--master-bind-port", str(port)]
            arguments += ["--expect-workers", str(workers)]
            for _ in range(workers):
                worker = _start(["--worker", "--master-host", "127.0.0.1", "--master-port", str(port)])
                stack.callback(_end, worker)
        locust = _start(arguments)
        stack.callback(_end, locust)
        try:
            status = locust.wait(seconds + GRACE_S)
        except subprocess.TimeoutExpired as exc:
            raise RuntimeError(f"locust did not end within {seconds + GRACE_S:.0f} s") from exc
    summary = report / SUMMARY_FILE
    if not summary.exists():
        raise RuntimeError(f"locust ended with {status} and without a report")
    figures = json.loads(summary.read_text(encoding="utf-8"))
    return {**{name: figures[name] for name in LINE}, "report": str(report / REPORT_FILE)}


def _start(arguments: Sequence[str]) -> subprocess.Popen[bytes]:
    # What locust prints is for people: it goes where warnings go, so that the last line of JSON stands alone.
    command = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), *arguments]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(LOCUSTFILE.parents[2]), *sys.path[1:]])}
    return subprocess.Popen(command, env=environment, stdout=sys.stderr.fileno())


def _end(process: subprocess.Popen[bytes]) -> None:
    """Let a process that is about to end do so, and end one that is not."""
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m ringpull.loadtest.local", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--users", type=int, default=8, help="users at the peak")
    parser.add_argument("--shape", choices=SHAPES, default="steady")
    parser.add_argument("--workers", type=int, default=0, help="locust processes besides a master; 0: one for all")
    parser.add_argument("--model", type=Path, help="folder of a model; default: a generated DLRM")
    parser.add_argument("--rows", type=int, default=10_000, help="rows of each table of the generated DLRM")
    parser.add_argument("--shards", type=int, default=2)
    parser.add_argument("--report", type=Path, default=Path("runs/loadtest"))
    parser.add_argument("options", nargs="*", help="more of the locustfile's, after --")
    given = parser.parse_args()
    if given.model is None:
        from ringpull.loadtest.dlrm import dlrm_folder

        given.model = dlrm_folder(given.rows)
    with deployed(given.model, given.shards) as ours:
        figures = run_locust(
            ours.target,
            given.report,
            seconds=given.seconds,
            users=given.users,
            workers=given.workers,
            options=["--shape", given.shape, *given.options],
        )
    print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
