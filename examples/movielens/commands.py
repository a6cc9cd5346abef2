"""The `ringpull` command as this example runs it: the same command that anybody types, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

COMMAND: Final = Path(sys.executable).with_name("ringpull")


def shown() -> str:
    """Return how to type the command from here."""
    return os.path.relpath(COMMAND) if COMMAND.is_relative_to(Path.cwd()) else str(COMMAND)


def run(*arguments: str | Path) -> str:
    """Run `ringpull ARGUMENTS`; what it tells people appears here, its result is returned.

    Raises:
        subprocess.CalledProcessError: It failed, and has said why.
    """
    # The module rather than the script: both work in a checkout that is not installed.
    command = [sys.executable, "-m", "ringpull", *map(str, arguments)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, encoding="utf-8").stdout.strip()


def serve(model_folder: Path, *, shards: int) -> str:
    """Bring a model up in the background on free ports; return the HOST:PORT of its gRPC when predictions work."""
    ready = run("serve", model_folder, "--shards", str(shards), "--grpc-port", "0", "--http-port", "0", "--detach")
    fields = dict(field.split("=", 1) for field in ready.splitlines()[-1].split() if "=" in field)
    return fields["grpc"]


def stop(target: str) -> None:
    """End what `serve` brought up; return when it is gone."""
    run("stop", "--target", target)
