"""The record of a locust run, in one process or many, and the report that is made of it.

Every process records its own `Latencies`; workers send theirs along with locust's own reports, and the master adds
them up.

Locust's master waits half a second for the workers' last reports after it has told them to quit; a worker that then
still waits for an answer reports too late, and its last requests are lost. So the master here ends a run in two steps
(`end_run`): it stops the users everywhere and waits, and only then quits.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final

import gevent
from locust.env import Environment
from locust.runners import WORKER_REPORT_INTERVAL, MasterRunner, Runner, WorkerRunner

from ringpull.inference.client.client import Client
from ringpull.inference.client.credentials import Credentials
from ringpull.loadtest.latencies import Latencies
from ringpull.loadtest.report import Moment, ServerCounts, Summary, summarize, write_report

logger = logging.getLogger(__name__)

MESSAGE_FIELD: Final = "ringpull_latencies"
LATE_REPORT_S: Final = 1.0
"""Time that a worker's last report may take beyond its interval."""
SAMPLE_S: Final = 0.1
"""Time between looks at the number of users, which a shape changes at any moment of a second."""


class RunRecord:
    """One process's record of the run it is in.

    Args:
        credentials: Credentials for asking the head; None: those of the environment.
    """

    def __init__(self, environment: Environment, credentials: Credentials | None = None) -> None:
        self.environment = environment
        self._credentials = credentials
        self.latencies = Latencies()
        self._before: ServerCounts | None = None
        self._users: dict[int, int] = {}
        self._fields: dict[str, Any] = {}
        self._sampler: gevent.Greenlet | None = None
        events = environment.events
        if isinstance(environment.runner, WorkerRunner):
            events.report_to_master.add_listener(self._send)
        elif isinstance(environment.runner, MasterRunner):
            events.worker_report.add_listener(self._receive)

    def start(self, target: str, model: str, settings: dict[str, Any]) -> None:
        """Begin a run: forget the last one, and note the server's counters where the report will be written."""
        self.latencies = Latencies()
        self._fields = {"target": target, "model": model, "settings": settings}
        self._users = {}
        self._stop_sampling()
        if not isinstance(self.environment.runner, WorkerRunner):
            self._before = self._counts()
            self._sampler = gevent.spawn(self._sample_users)

    def write(self, folder: Path) -> Summary:
        """Write the report of the run that has ended."""
        self._stop_sampling()
        began_s = min(self.latencies.first_s, time.time())
        summary = summarize(
            self.latencies,
            before=self._before,
            after=self._counts(),
            started_s=began_s,
            tool="locust",
            seconds=round(self.latencies.seconds, 3),
            timeline=self._timeline(int(began_s), int(began_s + self.latencies.seconds)),
            **self._fields,
        )
        report = write_report(folder, summary)
        logger.info("ringpull report: %s", report)
        return summary

    def _counts(self) -> ServerCounts | None:
        with Client(self._fields["target"], credentials=self._credentials) as client:
            return ServerCounts.ask(client, self._fields["model"])

    def _stop_sampling(self) -> None:
        """Stop the sampler, also that of a run without a report: the web UI's next run begins another."""
        if self._sampler is not None:
            self._sampler.kill()
            self._sampler = None

    def _sample_users(self) -> None:
        while True:
            runner = self.environment.runner
            second, users = int(time.time()), 0 if runner is None else runner.user_count
            self._users[second] = max(self._users.get(second, 0), users)
            gevent.sleep(SAMPLE_S)

    def _timeline(self, first: int, last: int) -> list[Moment]:
        total = self.environment.stats.total
        requests, failures = Counter(total.num_reqs_per_sec), Counter(total.num_fail_per_sec)
        moments, users = [], 0
        for second in range(first, last + 1):
            users = self._users.get(second, users)
            moments.append(Moment(second - first, requests[second], failures[second], users))
        return moments

    def _send(self, client_id: str, data: dict[str, Any]) -> None:
        data[MESSAGE_FIELD], self.latencies = self.latencies.to_message(), Latencies()

    def _receive(self, client_id: str, data: dict[str, Any]) -> None:
        self.latencies.add(Latencies.from_message(data[MESSAGE_FIELD]))


def end_run(runner: Runner) -> None:
    """Stop the users of every process and wait until they have finished: a `quit` that follows loses nothing."""
    if isinstance(runner, MasterRunner):
        runner.stop()


def report_delay_s(runner: Runner) -> float:
    """Return how long after a run's end the last report of a worker may come."""
    return WORKER_REPORT_INTERVAL + LATE_REPORT_S if isinstance(runner, MasterRunner) else 0.0
