"""Locust, for ringpull: `locust -f loadtest/locustfile.py -H HOST:PORT`, with the web UI or `--headless`.

Locust's own options do what they always do: `-u` users at the peak, `-t` how long, `--html`, `--csv`, `--master`,
`--worker`. Ours are at the end of `--help`; each is a field of the web UI and an environment variable too.
"""

from __future__ import annotations

# Locust has patched the standard library by now; gRPC must follow before anything makes a channel.
from grpc.experimental.gevent import init_gevent

init_gevent()

import logging  # noqa: E402
import math  # noqa: E402
import sys  # noqa: E402
from argparse import Namespace  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import gevent  # noqa: E402
from locust import LoadTestShape, events, stats  # noqa: E402
from locust.argument_parser import LocustArgumentParser  # noqa: E402
from locust.env import Environment  # noqa: E402
from locust.runners import WorkerRunner  # noqa: E402

from ringpull.inference.client.client import Client  # noqa: E402
from ringpull.inference.client.credentials import Credentials  # noqa: E402
from ringpull.inference.errors import InvalidInput, RingpullError  # noqa: E402
from ringpull.loadtest.grpc_user import PredictUser, finish_requests  # noqa: E402
from ringpull.loadtest.locust_record import RunRecord, end_run, report_delay_s  # noqa: E402
from ringpull.loadtest.messages import Messages, prepare_messages  # noqa: E402
from ringpull.loadtest.options import parse_options  # noqa: E402
from ringpull.loadtest.shapes import SHAPES, Shape  # noqa: E402

logger = logging.getLogger(__name__)

DEFAULT_SECONDS = 60.0
"""Time of a shape that has to end, without `-t`."""
_NEVER_S = 1_000_000
WORKLOAD = ("seed", "requests", "candidates", "context", "zipf", "bag", "unknown", "ids", "replay", "replay_columns")
PREFIX = "--ringpull-"
CREDENTIALS = {
    "tls_ca": "CA that the deployment's certificate has to be of: speak TLS. Default: RINGPULL_TLS_CA.",
    "tls_cert": "Certificate to show, where the deployment demands one. Default: RINGPULL_TLS_CERT.",
    "tls_key": "Its key, not encrypted. Default: RINGPULL_TLS_KEY.",
    "token": "Token that says who asks; others see it in the list of processes. Default: RINGPULL_TOKEN.",
}
"""Options of the credentials, which are named by their variables."""
SETTINGS = ("shape", "num_users", "run_time", "timeout", *WORKLOAD)
"""Options that a report shows."""


class Predict(PredictUser):
    """One client of the head."""


class Traffic(LoadTestShape):
    """Numbers of users over time, by `--shape`, `-u` and `-t`. The steady shape goes on until stopped without `-t`."""

    use_common_options = True

    def tick(self) -> tuple[int, float] | None:
        assert self.runner is not None
        options = options_of(self.runner.environment)
        peak = options.num_users or 1
        rate = float(options.spawn_rate or peak)
        if options.shape == "steady" and not options.run_time:
            return peak, rate
        users = shape_of(options).users_at(self.get_run_time())
        if users is None:
            end_run(self.runner)
            return None
        return users, rate


def options_of(environment: Environment) -> Namespace:
    """Return locust's options and ours; the web UI and a master change them between runs."""
    options = environment.parsed_options
    assert isinstance(options, Namespace)
    return options


def shape_of(options: Namespace) -> Shape:
    """Return the shape that the options ask for.

    Raises:
        InvalidInput: A measure of it makes no sense.
    """
    return Shape(
        name=options.shape,
        peak=options.num_users or 1,
        seconds=float(options.run_time or DEFAULT_SECONDS),
        base=options.base_share,
        steps=options.steps,
    )


@events.init_command_line_parser.add_listener
def add_options(parser: LocustArgumentParser) -> None:
    """Add ours to locust's options."""

    def add(name: str, help_text: str, default: Any = "", **how: Any) -> None:
        variable = f"RINGPULL_LOADTEST_{name.strip('-').replace('-', '_').upper()}"
        how.setdefault("type", type(default))
        parser.add_argument(name, default=default, env_var=variable, help=help_text, **how)

    add("--model", "Model to ask; default: the only one served.")
    add("--shape", "Traffic over the run.", "steady", choices=SHAPES)
    add("--base-share", "Quiet users of a spike or a day, as a share of the peak's.", 0.2)
    add("--steps", "Steps of the step shape.", 5)
    add("--timeout", "Deadline of a request, seconds.", 10.0)
    add("--report", "Folder for report.md, its plots and summary.json; default: none.")
    add("--seed", "Seed of the workload.", 0)
    add("--requests", "Different requests, sent in turns.", 512)
    add("--candidates", "Rows of a request.", 128)
    add("--context", "Patterns of features carried once per request; default: user*,context*.")
    add("--zipf", "Exponent of ids, as VALUE,FEATURE=VALUE,...; default: 1.05.")
    add("--bag", "Mean length of bags, as VALUE,FEATURE=VALUE,...; default: 10.")
    add("--unknown", "Share of ids in no table, as VALUE,FEATURE=VALUE,...; default: 0.01.")
    add("--ids", "Known ids, as FEATURE=FIRST..LAST or FEATURE=FILE, with commas; default: row numbers.")
    add("--replay", "Recorded requests: .jsonl, .csv or .parquet.")
    add("--replay-columns", "Columns of a recording, as FEATURE=COLUMN,...; default: the features' names.")
    # Locust has a --tls-cert and a --tls-key itself, for its web UI. Each process has its own of ours: none is sent.
    for name, text in CREDENTIALS.items():
        parser.add_argument(f"{PREFIX}{name.replace('_', '-')}", help=text, include_in_web_ui=False)


def take_credentials(options: Namespace) -> Credentials:
    """Return the credentials that the options give, and take them out: locust sends options to workers.

    Raises:
        InvalidInput: They cannot be used; the message names the option or the variable.
    """
    given: list[str | None] = []
    for name in CREDENTIALS:
        given.append(getattr(options, f"ringpull_{name}", None))
        setattr(options, f"ringpull_{name}", None)
    return Credentials.given(*given, options=PREFIX)


class Session:
    """One locust process around its runs: messages before, a report after.

    Raises:
        InvalidInput: The credentials cannot be used.
    """

    def __init__(self, environment: Environment) -> None:
        self.environment = environment
        self.credentials = take_credentials(options_of(environment))
        self.record = RunRecord(environment, self.credentials)
        self._prepared: tuple[str, Namespace, Messages] | None = None
        self._unwritten = False
        PredictUser.record = self.record
        finish_requests(environment, options_of(environment).timeout)
        environment.events.test_start.add_listener(self.on_start)
        environment.events.test_stop.add_listener(self.on_stop)
        environment.events.quitting.add_listener(self.on_quitting)

    def prepare(self) -> None:
        """Make the messages, unless those at hand were made for the same host and options. Asks the head.

        Raises:
            InvalidInput: There is no host, or the options do not fit each other or the model.
            NotFound, Unavailable: From the head.
        """
        options, host = options_of(self.environment), self.environment.host
        if not host:
            raise InvalidInput("no head to ask: give -H HOST:PORT")
        if not 0 < options.timeout < math.inf:  # every user has to stop
            raise InvalidInput(f"--timeout is {options.timeout}; it must be above 0, and finite")
        if self._prepared is None or self._prepared[:2] != (host, options):
            shape_of(options)
            workload = parse_options(**{name: getattr(options, name) for name in WORKLOAD})
            with Client(host, timeout_s=options.timeout, credentials=self.credentials) as client:
                messages = prepare_messages(client, options.model or None, workload, with_timings=True)
                if not isinstance(self.environment.runner, WorkerRunner):  # the master has done so for its workers
                    messages.rehearse(client)
            self._prepared = host, Namespace(**vars(options)), messages

    def on_start(self, **_: Any) -> None:
        """Begin a run, in the master, in a worker, or in the one process that is both."""
        options = options_of(self.environment)
        try:
            self.prepare()
        except RingpullError as exc:
            self._give_up(exc)
            return
        assert self._prepared is not None
        host, _options, messages = self._prepared
        PredictUser.begin(self.environment, messages, options.timeout, self.credentials)
        self.record.start(host, messages.model, {name: getattr(options, name) for name in SETTINGS})
        self._unwritten = True

    def on_stop(self, **_: Any) -> None:
        """End a run. A worker has nothing left to wait for; a web UI goes on, and so writes its report now."""
        runner, options = self.environment.runner, options_of(self.environment)
        if isinstance(runner, WorkerRunner):
            # Locust would now sleep through its stop_timeout, deaf to the master; the next run sets it again.
            self.environment.stop_timeout = 0.0
        elif runner is not None and not options.headless:
            gevent.spawn_later(report_delay_s(runner), self.write)

    def on_quitting(self, **_: Any) -> None:
        """Write the report, and let locust write its CSV files once more: it would leave out its last second."""
        self.write()
        if options_of(self.environment).csv_prefix:
            interval_s = stats.CSV_STATS_INTERVAL_SEC
            # Its writer wakes up once more, and must not do so again when its files are closed.
            stats.CSV_STATS_INTERVAL_SEC = _NEVER_S
            gevent.sleep(interval_s)

    def write(self) -> None:
        """Write the report of the last run, once, where one is wanted."""
        options = options_of(self.environment)
        if self._unwritten and options.report and not isinstance(self.environment.runner, WorkerRunner):
            self._unwritten = False
            self.record.write(Path(options.report))

    def _give_up(self, error: RingpullError) -> None:
        logger.error("%s", error)
        self.environment.process_exit_code = 1
        runner = self.environment.runner
        if runner is not None:
            gevent.spawn(runner.quit if options_of(self.environment).headless else runner.stop)


@events.init.add_listener
def on_init(environment: Environment, **_: Any) -> None:
    """Look at the head before anything starts; a worker gets host and options from its master later."""
    options = options_of(environment)
    try:
        session = Session(environment)
    except RingpullError as exc:
        logger.error("%s", exc)
        sys.exit(1)
    if options.spawn_rate is None:
        # All at once: locust's own default of one user a second would round the corners of every shape.
        options.spawn_rate = options.num_users
    if options.headless and not isinstance(environment.runner, WorkerRunner):
        try:
            session.prepare()
        except RingpullError as exc:
            logger.error("%s", exc)
            sys.exit(1)
