"""`python -m tests.simulation SEED [SEED]`: the history of a seed, or of all from the first to before the second."""

from __future__ import annotations

import sys
import time

from tests.simulation.checks import Violation
from tests.simulation.history import run


def main() -> int:
    """Run the histories that were asked for; tell a single one's story, of several only those that fail."""
    first = int(sys.argv[1])
    last = int(sys.argv[2]) if len(sys.argv) > 2 else first + 1
    failed = steps = 0
    begin_s = time.process_time()
    for seed in range(first, last):
        try:
            world = run(seed)
            steps += world.kernel.steps
            if last == first + 1:
                print(world.story())
        except Violation as exc:
            failed += 1
            failed <= 15 and print(f"seed {seed}: {exc if last == first + 1 else str(exc).splitlines()[0]}")
    took_s = time.process_time() - begin_s
    print(f"{last - first} histories, {failed} failed, {steps} steps, {1000 * took_s / (last - first):.1f} ms each")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
