"""A command line of `ringpull` in a process whose clock was stepped: by so many seconds, as the kernel tells it.

    python -m ringpull.loadtest.chaos.kinds.programs.stepped_clock 3600 status

When a clock is stepped, the time of day moves, and so does the time of boot that the kernel says in /proc/stat, from
which the start of every process is computed.
"""

from __future__ import annotations

import builtins
import io
import sys
import time
from types import SimpleNamespace
from typing import Any, Final

import grpc
import grpc._channel

BOOT_TIMES: Final = "/proc/stat"
BOOT_TIME: Final = "btime "


def step(seconds: float) -> None:
    """Step the clock of this process from now on."""
    tell, tell_ns, open_file = time.time, time.time_ns, builtins.open
    # gRPC tells its core deadlines as times of day, and the core goes by the machine's clock, which is not stepped.
    vars(grpc._channel)["time"] = SimpleNamespace(**vars(time))

    def open_stepped(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if str(file) != BOOT_TIMES:
            return open_file(file, mode, *args, **kwargs)
        with open_file(file) as told:
            text = "".join(map(stepped_line, told))
        return io.BytesIO(text.encode()) if "b" in mode else io.StringIO(text)

    def stepped_line(line: str) -> str:
        if not line.startswith(BOOT_TIME):
            return line
        return f"{BOOT_TIME}{int(line.removeprefix(BOOT_TIME)) + round(seconds)}\n"

    for module, names in (
        (time, {"time": lambda: tell() + seconds, "time_ns": lambda: tell_ns() + round(seconds * 1e9)}),
        (builtins, {"open": open_stepped}),
        (io, {"open": open_stepped}),
    ):
        vars(module).update(names)


def main() -> None:
    step(float(sys.argv.pop(1)))
    from ringpull.deploy.cli import main as command_line

    sys.argv[0] = "ringpull"
    command_line()


if __name__ == "__main__":
    main()
