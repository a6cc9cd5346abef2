"""Logs of pushed rows that no shard of a deployment will read, as there were more shards when they were written."""

from __future__ import annotations

import re
from typing import Final

from ringpull.deploy.config import ServeConfig
from ringpull.ps.live.log_file import log_file_numbers
from ringpull.ps.live.settings import Durability

_FOLDER: Final = re.compile(r"shard-(\d+)\.live")


def other_logs(config: ServeConfig) -> list[str]:
    """Return the warning of such logs in the data folder; none where that is another machine's."""
    if config.data_dir is None or not config.private or config.push_durability is Durability.MEMORY:
        return []
    there = config.data_dir.iterdir() if config.data_dir.is_dir() else ()
    found = {int(name[1]): path for path in there if (name := _FOLDER.fullmatch(path.name)) is not None}
    others = sorted(shard for shard, path in found.items() if shard >= config.shards and log_file_numbers(path))
    if not others:
        return []
    names = ", ".join(found[shard].name for shard in others)
    return [
        f"{config.data_dir} has logs of pushed rows of {others[-1] + 1} shards or more, and there are {config.shards}"
        f" now: what was pushed to the others ({names}) is not found; serve with as many shards as then, and keep"
        " --state-dir with --data-dir, or remove these folders if nobody wants their rows"
    ]
