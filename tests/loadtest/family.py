"""A server that starts a child and leaves it behind: `up` is ready and stays, `down` ends at once."""

from __future__ import annotations

import signal
import subprocess
import sys

if __name__ == "__main__" and sys.argv[1] == "up":
    child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    print("ready", child.pid, flush=True)
    signal.pause()
