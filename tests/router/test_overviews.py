"""What heads are told for whoever looks at the deployment, by a coordinator's process."""

from __future__ import annotations

from pathlib import Path

import pytest

from ringpull.router.control.head_counts import HeadCounts
from ringpull.router.control.operations import Asker
from tests.router.test_process import Deployment, over, spec, until


@pytest.mark.medium
def test_heads_are_told_the_change_all_heads_and_what_others_counted(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path, heads=2)
    coordinator = deployment.start()
    coordinator.bring_up(spec(2))
    over(coordinator)
    until(lambda: sum(head.grpc_port > 0 for head in coordinator.heads().values()) == 2)
    asker, other = Asker(0, "life 1"), Asker(1, "life 2")
    counts = HeadCounts({("ranker", 1): (5,), ("gone", 3): (1,)}, {("ranker", 100): (5,)})
    coordinator.overview(asker, counts, {"life 0": {("ranker", 1): (2,)}})
    told = coordinator.overview(other, HeadCounts(), {})
    assert told.counts.totals == {
        "life 1": {("ranker", 1): (5,), ("gone", 3): (1,)},
        "life 0": {("ranker", 1): (2,)},
    } | {life: {} for life in told.counts.totals if not life.startswith("life ") or life == "life 2"}
    assert told.counts.recent == {("ranker", 100): (5,)}
    assert [(head.head, head.host, head.grpc_port) for head in told.heads] == [
        (0, "127.0.0.1", 8500),
        (1, "127.0.0.1", 8500),
    ]
    assert all(0 <= head.heard_s < 60 for head in told.heads)
    assert (told.change.under_way, told.change.error) == (False, "")
    deployment.kill()
