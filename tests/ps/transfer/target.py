"""A shard in a process of its own that prepares what it is told, slowly, so that it can be killed on the way.

`python -m tests.ps.transfer.target PLACEMENT DATA_DIR BYTES_PER_S` prints `ready` when a pickled placement is stored.
"""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

from ringpull.ps.process import ShardProcess


def main(placement: str, data_dir: str, bytes_per_s: str) -> None:
    actor = ShardProcess(2, data_dir=Path(data_dir))
    actor.throttle(float(bytes_per_s))
    actor.prepare([pickle.loads(Path(placement).read_bytes())])
    print("ready", flush=True)
    actor.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
