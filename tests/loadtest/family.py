"""A server that starts a child and leaves it behind: `up` is ready and stays, `down` ends at once. `bench` runs two of
the first kind, says what they are, and stays."""

from __future__ import annotations

import signal
import subprocess
import sys

from ringpull.loadtest.process import server

if __name__ == "__main__" and sys.argv[1] == "up":
    child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    print("ready", child.pid, flush=True)
    signal.pause()

if __name__ == "__main__" and sys.argv[1] == "bench":
    with (
        server("tests.loadtest.family", "up") as (first, one),
        server("tests.loadtest.family", "up") as (second, other),
    ):
        print(one.pid, first, other.pid, second, flush=True)
        print("and this line makes `ringpull.loadtest.bench.all` pass on the one above", flush=True)
        signal.pause()
