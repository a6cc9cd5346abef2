"""Shard in a process of its own that takes pushes, to be killed: `python -m tests.integration.pushed_shard ...`.

It confirms its own first pushes, as a coordinator would, and remembers in a file that it has.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from ringpull.ps.live.settings import LiveSettings
from ringpull.ps.process import ShardProcess
from tests.ps.live.pushing import EPOCH, LINEAGE, RING, placed
from tests.ps.tables import MODEL, VERSION

LIVE = {MODEL: LINEAGE}


def main(table: Path, data_dir: Path, log_limit_bytes: int) -> None:
    saved = data_dir / "pushed.json"
    pushed = {tuple(name) for name in json.loads(saved.read_text())} if saved.exists() else set()
    actor = ShardProcess(0, data_dir=data_dir, live=LiveSettings(log_limit_bytes=log_limit_bytes), metrics=False)
    actor.prepare([placed(table)])
    actor.assign(EPOCH, [RING], [(MODEL, VERSION)], pushed, LIVE)
    print(*actor.address(), flush=True)
    while True:
        time.sleep(0.02)
        heartbeat = actor.heartbeat()
        if not pushed.issuperset(heartbeat.wants_to_push):
            pushed |= set(heartbeat.wants_to_push)
            saved.write_text(json.dumps(sorted(pushed)))
            actor.assign(EPOCH, [RING], [(MODEL, VERSION)], pushed, LIVE)
        if heartbeat.warnings:
            print(*heartbeat.warnings, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
