"""What is lost while something is away: nothing with two copies, with one what the table's policy says, and no change.

One deployment of three models on three shards: `ranker` has two copies of everything; of `strict` and `lenient` a shard
has the only copy of some users.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import httpx
import numpy as np
import psutil
import pytest

from ringpull import Client, Prediction
from ringpull.ps.errors import RingpullError, Unavailable
from ringpull.ps.spec import OnUnavailable
from ringpull.router.control.controls import LEASE_S
from tests.cluster.conftest import RingpullRun, Serving, alive
from tests.cluster.models import score, write_model
from tests.cluster.watching import USERS, Watch, actors, gcs_of, until

pytestmark = pytest.mark.ray

ROWS: Final = {1: 1000, 2: 500}
"""Version of `ranker` -> rows of its user table: every answer tells which version it is from."""

STOPPED_S: Final = 5.0
"""For how long a shard is stopped: many times as long as any delay of ours."""

LATE_S: Final = 8.0
"""Deadline that nothing misses here unless it waits for something that does not come: shorter than `LEASE_S`."""

AWAY_S: Final = 20.0
"""For how long Ray is without its control store: the design says that it is tested at so many seconds."""

EXPECTED: Final = np.array([score(user, ["drama"]) for user in USERS])
OF_DEFAULTS: Final = score(-1, ["drama"])
"""What the model says of a user who is a default vector."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def serving(folder: Path, serve: Callable[..., Serving]) -> Serving:
    models = [
        write_model(folder / "ranker", 1, rows=ROWS[1], user_replicas=2),
        write_model(folder / "strict"),
        write_model(folder / "lenient", user_on_unavailable=OnUnavailable.DEFAULT),
    ]
    everywhere = [part for model in models for part in ("--replicas", f"{model.name}/genre=all")]
    return serve(*models, "--shards", 3, *everywhere)


@pytest.fixture
def process(serving: Serving) -> psutil.Process:
    return psutil.Process(serving.process.pid)


@contextmanager
def stopped(process: psutil.Process) -> Iterator[None]:
    """SIGSTOP a process for as long as the context lasts."""
    process.suspend()
    try:
        yield
    finally:
        process.resume()


def answered_in(watch: Watch, seconds: float) -> int:
    """Wait for some seconds, and for right answers all the time; return how many there were."""
    before, until_s = watch.right, time.monotonic() + seconds
    while time.monotonic() < until_s:
        watch.goes_on()
    return watch.right - before


class Asked:
    """Every way in which a model answered, asked again and again."""

    def __init__(self, client: Client, model: str) -> None:
        self._client = client
        self._model = model
        self.answers: list[Prediction] = []
        self.failed: list[RingpullError] = []
        self.ill_s = 0.0
        """When an answer that was not whole, or none, was last got; `time.monotonic()`."""

    def whole(self) -> bool:
        """Ask once; return whether all is well."""
        features = {"user_id": USERS, "genres": [["drama"]] * len(USERS)}
        try:
            self.answers.append(self._client.predict(self._model, features))
        except RingpullError as exc:
            self.failed.append(exc)
        else:
            if not self.answers[-1].filled:
                return True
        self.ill_s = time.monotonic()
        return False


def test_one_copy_fails_by_name_or_is_defaulted_by_name_until_its_shard_is_back(
    serving: Serving, process: psutil.Process
) -> None:
    """Refusals at once: a request that waited for the shard would be answered. Models with two copies do not notice."""
    target = serving.ready["grpc"]
    with Watch(target, ROWS, retries=0) as watch, Client(target, timeout_s=60.0, retries=0) as client:
        strict, lenient = Asked(client, "strict"), Asked(client, "lenient")
        assert strict.whole()
        assert lenient.whole()
        watch.goes_on()
        killed_s = time.monotonic()
        actors(process, "Shard")[0].kill()
        until("a failure", lambda: not strict.whole())
        until("default vectors", lambda: not lenient.whole())
        until("all is well", lambda: strict.whole() and lenient.whole())
        watch.goes_on()
    print(f"a killed shard answers again after {max(strict.ill_s, lenient.ill_s) - killed_s:.1f} s")
    assert strict.failed
    assert all(type(error) is Unavailable and "user" in str(error) for error in strict.failed)
    assert all(answer.filled == () for answer in strict.answers)
    assert lenient.failed == []
    defaulted = [answer for answer in lenient.answers if answer.filled]
    assert defaulted
    for answer in lenient.answers:
        scores = answer.outputs["score"]
        of_defaults = ~np.isclose(scores, EXPECTED, rtol=1e-5, atol=1e-5)
        assert np.allclose(scores[of_defaults], OF_DEFAULTS)
        named = {filled.feature: filled.values for filled in answer.filled if filled.reason == "unavailable"}
        assert set(named) <= {"user_id"}
        assert of_defaults.sum() <= named.get("user_id", 0) < len(USERS)
    assert (watch.wrong, watch.failed, watch.filled) == ([], [], 0)


def test_a_stopped_shard_costs_no_request_that_has_another_copy(serving: Serving, process: psutil.Process) -> None:
    with Watch(serving.ready["grpc"], ROWS, retries=0) as watch:
        watch.goes_on()
        until_s = time.monotonic() + STOPPED_S
        with stopped(actors(process, "Shard")[0]):
            while time.monotonic() < until_s:
                watch.goes_on()
            answered = watch.right
        watch.goes_on()
    print(f"{answered} predictions while a shard was stopped for {STOPPED_S:.0f} s")
    assert (watch.wrong, watch.failed, watch.filled) == ([], [], 0)


def test_a_coordinator_stopped_for_longer_than_a_lease_costs_no_request(
    serving: Serving, process: psutil.Process, ringpull: RingpullRun
) -> None:
    """A request that waits for it is late, and were it half a second each, far fewer would be answered than before;
    when it goes on, it leads as before."""
    assert LATE_S < LEASE_S
    [coordinator] = actors(process, "Coordinator")
    with Watch(serving.ready["grpc"], ROWS, retries=0, threads=2, timeout_s=LATE_S) as watch:
        watch.goes_on()
        before = answered_in(watch, STOPPED_S) / STOPPED_S
        with stopped(coordinator):
            answered = answered_in(watch, LEASE_S + 3)
            health = httpx.get(f"http://{serving.ready['http']}/healthz").json()
        watch.goes_on()
    print(f"{answered} predictions while the coordinator was stopped for {LEASE_S + 3:.0f} s, {before:.0f}/s before")
    assert answered / (LEASE_S + 3) > before / 10
    assert (watch.wrong, watch.failed, watch.filled) == ([], [], 0)
    assert health["status"] == "SERVING"
    until("it answers", lambda: ringpull("status", "--target", serving.ready["grpc"]).returncode == 0)
    assert actors(process, "Coordinator") == [coordinator]


def test_a_killed_coordinator_costs_no_request_and_the_next_one_publishes(
    serving: Serving, process: psutil.Process, folder: Path, ringpull: RingpullRun
) -> None:
    write_model(folder / "ranker", 2, rows=ROWS[2], user_replicas=2)
    with Watch(serving.ready["grpc"], ROWS, retries=0) as watch:
        watch.goes_on()
        [coordinator] = actors(process, "Coordinator")
        killed_s = time.monotonic()
        coordinator.send_signal(signal.SIGKILL)
        watch.goes_on()
        done = ringpull("publish", "ranker/2", "--target", serving.ready["grpc"])
        while done.returncode == 1 and "restarted" in done.stderr:
            done = ringpull("publish", "ranker/2", "--target", serving.ready["grpc"])
        assert done.returncode == 0, done.stderr
        print(f"published {time.monotonic() - killed_s:.1f} s after the coordinator was killed")
        until("version 2 is live", lambda: 2 in watch.versions)
        watch.goes_on()
    assert (watch.wrong, watch.failed, watch.filled) == ([], [], 0)
    assert actors(process, "Coordinator") != [coordinator]


def test_predictions_go_on_without_rays_control_store(
    serving: Serving, process: psutil.Process, ringpull: RingpullRun
) -> None:
    """A change is refused, and the deployment is still stopped in good order. The last test: this one is not healed."""
    everything = process.children(recursive=True)
    ours = [each for kind in ("Shard", "Head", "Coordinator") for each in actors(process, kind)]
    with Watch(serving.ready["grpc"], ROWS, retries=0) as watch:
        watch.goes_on()
        gcs_of(everything).kill()
        # The time is what is tested: the clocks of Ray and of ours run meanwhile, a head's lease of 10 s among them.
        until_s = time.monotonic() + AWAY_S
        while time.monotonic() < until_s:
            watch.goes_on()
        print(f"{watch.right} predictions in {AWAY_S:.0f} s without a control store")
        refused = ringpull("rollback", "ranker", "--target", serving.ready["grpc"])
        watch.goes_on()
    assert (refused.returncode, "control store (GCS) is gone" in refused.stderr) == (1, True), refused.stderr
    assert (watch.wrong, watch.failed, watch.filled) == ([], [], 0)
    assert serving.end(signal.SIGTERM) == 0
    assert alive(ours) == []
    for left in everything:  # Ray's own agents take up to a minute.
        with suppress(psutil.NoSuchProcess):
            left.kill()
