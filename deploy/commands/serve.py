"""`ringpull serve`: bring models up, say when predictions work, and take everything down at the end."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from ringpull.deploy import served
from ringpull.deploy.cluster.logs import LogFormat, LogLevel, LogSettings
from ringpull.deploy.commands.bounds import check_above, check_at_least, check_within
from ringpull.deploy.served import ServedRecord
from ringpull.deploy.signals import StopSignals
from ringpull.deploy.state import state_folder
from ringpull.deploy.view.console import err, print_line
from ringpull.deploy.view.progress import Progress
from ringpull.inference.degrade.control import MOST_PRESSURE
from ringpull.ps.errors import InvalidInput

if TYPE_CHECKING:
    from ringpull.deploy.cluster.cluster import Cluster
    from ringpull.deploy.config import ServeConfig

MAX_PORT: Final = 65_535

CHECK_INTERVAL_S: Final = 2.0
"""How often a foreground `serve` looks whether its heads live."""

Models = Annotated[
    list[str],
    typer.Argument(
        metavar="MODEL_DIR...",
        help="Folders NAME/ with NAME/VERSION/ in them, or their URLs (s3://bucket/NAME, any that fsspec knows);"
        " the highest complete version is served.",
    ),
]
Replicas = Annotated[
    list[str] | None,
    typer.Option(
        metavar="TABLE=R",
        help="Copies of a table: a number, or `all`. MODEL/TABLE=R where models share a table's name. Repeatable.",
    ),
]
Address = Annotated[
    str | None,
    typer.Option(
        help="Ray cluster to join: `auto` or HOST:PORT. Default: a private Ray on this machine, ended with `serve`."
    ),
]
StateDir = Annotated[
    str | None,
    typer.Option(
        metavar="FOLDER",
        help="Folder of the coordinator's state, or its URL (any that fsspec knows); kept."
        " Default: one below the user's state folder, removed at the end.",
    ),
]
DataDir = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="Each shard keeps its own copy of its ranges below it, as models at URLs need."
        " Default: files are opened where they lie.",
    ),
]


def serve(
    models: Models,
    shards: Annotated[int, typer.Option(help="Shard actors the tables are cut over.")] = 1,
    replicas: Replicas = None,
    address: Address = None,
    name: Annotated[
        str, typer.Option(help="Of the deployment; its actors on a joined Ray are NAME/shard-0 and so on.")
    ] = "ringpull",
    host: Annotated[
        str | None,
        typer.Option(help="Interface of gRPC and HTTP. Default: 127.0.0.1; on a joined Ray the node's address."),
    ] = None,
    grpc_port: Annotated[int, typer.Option(help="0: any free one; the ready line tells it.")] = 8500,
    http_port: Annotated[int, typer.Option(help="Health and status as JSON. 0: any free one.")] = 8501,
    detach: Annotated[
        bool, typer.Option("--detach", help="Serve in the background; return when predictions work.")
    ] = False,
    heads: Annotated[int, typer.Option(help="Heads, which share the ports.")] = 1,
    keep: Annotated[
        int, typer.Option(help="Versions of a model that stay open behind the live one: for rollback and pins.")
    ] = 1,
    watch: Annotated[
        float, typer.Option(metavar="SECONDS", help="Look for new versions this often, and publish them. 0: never.")
    ] = 0.0,
    data_dir: DataDir = None,
    data_limit: Annotated[
        str | None, typer.Option(metavar="SIZE", help="With --data-dir: most that one shard keeps, such as 16GiB.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="Of the dense program: cpu, cuda, cuda:1. Default: CUDA when there is one.")
    ] = None,
    dense_threads: Annotated[int, typer.Option(help="CPU threads of the dense program.")] = 1,
    shard_threads: Annotated[int, typer.Option(help="Look-up threads of each shard.")] = 1,
    prefault: Annotated[
        bool, typer.Option("--prefault", help="Touch every page of every table before going live.")
    ] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Check every row's checksum before going live.")] = False,
    max_batch_rows: Annotated[int, typer.Option(help="Rows of a micro-batch.")] = 4096,
    max_candidates: Annotated[int, typer.Option(help="Rows of one request.")] = 16_384,
    max_message_bytes: Annotated[int, typer.Option(help="Bytes of one gRPC message.")] = 64 << 20,
    max_values_per_row: Annotated[int, typer.Option(help="Values of one row of a list feature.")] = 65_536,
    max_requests: Annotated[int, typer.Option(help="Requests that one head has in flight.")] = 4_096,
    max_pending: Annotated[int, typer.Option(help="Requests that wait for a head within gRPC.")] = 200,
    max_request_bytes: Annotated[int, typer.Option(help="Of the requests that one head has in flight.")] = 256 << 20,
    max_connections: Annotated[int, typer.Option(help="Connections of one head.")] = 4_096,
    max_queue: Annotated[
        float, typer.Option(metavar="SECONDS", help="The longest wait for other requests, in a burst.")
    ] = 1.0,
    standing_queue: Annotated[
        float, typer.Option(metavar="SECONDS", help="The same, once that has lasted for longer than --max-queue.")
    ] = 0.2,
    max_shard_connections: Annotated[int, typer.Option(help="Connections of one shard.")] = 1_024,
    max_pull_bytes: Annotated[int, typer.Option(help="Of the pulls that one shard has in flight.")] = 256 << 20,
    hedge_share: Annotated[
        float, typer.Option(help="Keys that may be asked of a second shard, per key asked, when one is late. 0: none.")
    ] = 0.05,
    give_up: Annotated[
        float, typer.Option(metavar="SECONDS", help="A silent shard whose keys nobody else has is waited for so long.")
    ] = 1.0,
    degrade_high: Annotated[
        float, typer.Option(help="Pressure over which models take their degrade steps; at 1 requests are refused.")
    ] = 0.5,
    degrade_low: Annotated[float, typer.Option(help="Pressure under which they give them back.")] = 0.2,
    degrade_down: Annotated[
        float, typer.Option(help="Seconds that it must be so low before a step is given back.")
    ] = 3.0,
    default_timeout: Annotated[
        float, typer.Option(metavar="SECONDS", help="Deadline of a call that brings none.")
    ] = 5.0,
    start_timeout: Annotated[float, typer.Option(metavar="SECONDS", help="Actors must be up by then.")] = 120.0,
    drain_timeout: Annotated[
        float, typer.Option(metavar="SECONDS", help="Requests in flight get this long at the end.")
    ] = 10.0,
    state_dir: StateDir = None,
    ship_code: Annotated[
        bool, typer.Option("--ship-code", help="With --address: send ringpull's packages to nodes that lack them.")
    ] = False,
    log_level: Annotated[LogLevel, typer.Option(help="What every process logs from.")] = LogLevel.INFO,
    log_format: Annotated[LogFormat, typer.Option(help="Of a line: for people, or for machines.")] = LogFormat.TEXT,
    log_dir: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Each process logs to a file in it. Default: to where Ray keeps its own."),
    ] = None,
    no_metrics: Annotated[bool, typer.Option("--no-metrics", help="Count nothing for /metrics.")] = False,
) -> None:
    """Serve models; prints `ringpull ready ...` when predictions work.

    In the foreground it serves until SIGINT or SIGTERM, lets requests in flight finish, stops everything it started,
    and exits 0.
    """
    # What belongs to a deployment as a whole is checked by `ServeConfig`, by the same names.
    check_within(0, MAX_PORT, {"--grpc-port": grpc_port, "--http-port": http_port})
    check_within(0, 1, {"--hedge-share": hedge_share})
    check_at_least(0, {"--watch": watch})
    check_at_least(
        1,
        {
            "--dense-threads": dense_threads,
            "--max-batch-rows": max_batch_rows,
            "--max-candidates": max_candidates,
            "--max-message-bytes": max_message_bytes,
            "--max-values-per-row": max_values_per_row,
            "--max-requests": max_requests,
            "--max-pending": max_pending,
            "--max-request-bytes": max_request_bytes,
            "--max-connections": max_connections,
            "--max-shard-connections": max_shard_connections,
            "--max-pull-bytes": max_pull_bytes,
        },
    )
    check_above(
        0,
        {
            "--max-queue": max_queue,
            "--standing-queue": standing_queue,
            "--give-up": give_up,
            "--degrade-down": degrade_down,
            "--default-timeout": default_timeout,
        },
    )
    if not 0 < degrade_low < degrade_high < MOST_PRESSURE:
        raise InvalidInput(
            f"--degrade-low is {degrade_low} and --degrade-high is {degrade_high}; they must be"
            f" 0 < low < high < {MOST_PRESSURE:g}"
        )
    with StopSignals() as signals, _state_dir(state_dir, name, keep=detach) as folder:
        # Imported by the commands that need them: `ringpull --help` and `predict` answer without waiting for them.
        from ringpull.deploy.config import ServeConfig
        from ringpull.deploy.model_folders import choose_versions
        from ringpull.deploy.view.size_text import parse_size
        from ringpull.inference.head.config import HeadConfig
        from ringpull.ps.wire.admission import AdmissionLimits
        from ringpull.router.settings import RouterSettings

        config = ServeConfig(
            versions=choose_versions(models, replicas or ()),
            shards=shards,
            address=address,
            name=name,
            host=host,
            heads=heads,
            head=HeadConfig(
                watch_s=watch,
                share_port=heads > 1,
                grpc_port=grpc_port,
                http_port=http_port,
                device=device,
                dense_threads=dense_threads,
                max_batch_rows=max_batch_rows,
                max_candidates=max_candidates,
                max_message_bytes=max_message_bytes,
                max_values_per_row=max_values_per_row,
                max_concurrent_requests=max_requests,
                max_pending_requests=max_pending,
                max_in_flight_bytes=max_request_bytes,
                max_connections=max_connections,
                max_queue_s=max_queue,
                standing_queue_s=standing_queue,
                degrade_high=degrade_high,
                degrade_low=degrade_low,
                degrade_down_s=degrade_down,
                default_timeout_s=default_timeout,
                router=RouterSettings(hedge_share=hedge_share, give_up_s=give_up),
                metrics=not no_metrics,
            ),
            shard_threads=shard_threads,
            shard_admission=AdmissionLimits(max_connections=max_shard_connections, max_in_flight_bytes=max_pull_bytes),
            data_dir=None if data_dir is None else data_dir.resolve(),
            data_limit_bytes=None if data_limit is None else parse_size("--data-limit", data_limit),
            keep=keep,
            prefault=prefault,
            verify=verify,
            ship_code=ship_code,
            state_dir=folder,
            start_timeout_s=start_timeout,
            drain_timeout_s=drain_timeout,
            log=LogSettings(
                level=log_level, format=log_format, folder=None if log_dir is None else str(log_dir.resolve())
            ),
        )
        made = folder if state_dir is None else None
        if not detach:
            _serve_here(config, signals, made)
        elif config.private:
            _serve_in_background()
        else:
            _leave_on_ray(config, made)


def _serve_here(config: ServeConfig, signals: StopSignals, made: str | None) -> None:
    """Serve until a signal comes.

    Args:
        made: The state folder, when it was made up here: if this process is killed, whoever comes next removes it.
    """
    from ringpull.deploy.cluster.cluster import Cluster

    progress = Progress(err)
    with Cluster.bring_up(config, progress) as cluster:
        signals.hold()
        pid, started_s = served.own_process()
        record = _record(config, cluster, pid=pid, pid_started_s=started_s, made_folder=made)
        served.save(record)
        try:
            print_line(record.ready_line)
            known = ""
            while not signals.wait(CHECK_INTERVAL_S):
                trouble = cluster.check()
                if trouble and not known:
                    err.print(f"warning: {trouble}", style="yellow", highlight=False, markup=False, soft_wrap=True)
                known = trouble
            with progress.step("answered the requests in flight"):
                cluster.drain()
        finally:
            served.forget(record)


def _serve_in_background() -> None:
    """Run this same command line again, as a foreground `serve` in a session of its own."""
    from ringpull.deploy.detach import serve_detached

    record = serve_detached([argument for argument in sys.argv[1:] if argument != "--detach"], sys.stderr)
    print_line(record.ready_line)


def _leave_on_ray(config: ServeConfig, made: str | None) -> None:
    """Bring up on a joined Ray, and leave: the actors live there.

    Args:
        made: The state folder, when it was made up here: whoever stops the deployment removes it.
    """
    from ringpull.deploy.cluster.cluster import Cluster

    with Cluster.bring_up(config, Progress(err)) as cluster:
        record = _record(config, cluster, made_folder=made)
        served.save(record)
        cluster.leave_up()
    print_line(record.ready_line)


def _record(config: ServeConfig, cluster: Cluster, **by_whom: Any) -> ServedRecord:
    return ServedRecord(
        target=cluster.target,
        http=cluster.http,
        models=config.model_names,
        shards=config.shards,
        name=config.name,
        address=cluster.joined,
        ray_folder=None if cluster.ray_folder is None else str(cluster.ray_folder),
        **by_whom,
    )


@contextmanager
def _state_dir(given: str | None, name: str, *, keep: bool) -> Iterator[str]:
    """The folder of the coordinator's state; one made up here is removed at the end, unless it is to be kept."""
    if given is not None:
        yield given if "://" in given else str(Path(given).resolve())
        return
    folder = state_folder() / "coordinators" / f"{name}-{os.getpid()}"
    done = False
    try:
        yield str(folder)
        done = True
    finally:
        if not (keep and done):
            shutil.rmtree(folder, ignore_errors=True)
