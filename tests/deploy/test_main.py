"""The command from its first moment."""

from __future__ import annotations

import signal
import subprocess
import sys

from ringpull.deploy.cluster.ray_session import CODE_ROOT

INTERRUPTED_WHILE_LOADING = """
import signal, sys

class Interrupts:
    def find_spec(self, name, path=None, target=None):
        if name == "ringpull.deploy.view.console":
            signal.raise_signal(signal.SIGINT)

sys.meta_path.insert(0, Interrupts())
from ringpull.__main__ import main
main()
"""


def test_an_interrupt_while_modules_load_says_nothing() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_WHILE_LOADING], cwd=CODE_ROOT, capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (-signal.SIGINT, "", "")


def test_it_is_the_command_line() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "ringpull", "serve"], cwd=CODE_ROOT, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 2
    assert "MODEL_DIR" in ran.stderr
