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
from ringpull.deploy.commands.config_options import built, check_given, taking
from ringpull.deploy.config import ServeConfig
from ringpull.deploy.model_folders import choose_versions
from ringpull.deploy.served import ServedRecord
from ringpull.deploy.signals import StopSignals
from ringpull.deploy.state import state_folder
from ringpull.deploy.view.console import err, print_line
from ringpull.deploy.view.progress import Progress
from ringpull.extras import needing
from ringpull.inference.degrade.control import MAX_PRESSURE
from ringpull.inference.head.config import HeadConfig
from ringpull.ps.errors import InvalidInput
from ringpull.ps.settings import Group

if TYPE_CHECKING:
    from ringpull.deploy.cluster.cluster import Cluster

CHECK_INTERVAL_S: Final = 2.0
"""Interval at which a foreground `serve` looks whether its heads live."""

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
        rich_help_panel=Group.DEPLOYMENT,
    ),
]
Detach = Annotated[
    bool,
    typer.Option(
        "--detach", help="Serve in the background; return when predictions work.", rich_help_panel=Group.DEPLOYMENT
    ),
]


@taking(ServeConfig)
def serve(models: Models, replicas: Replicas = None, detach: Detach = False, **given: Any) -> None:
    """Serve models; prints `ringpull ready ...` when predictions work.

    In the foreground it serves until SIGINT or SIGTERM, lets requests in flight finish, stops everything it started,
    and exits 0.
    """
    check_given(ServeConfig, given)
    _check_pressures(given["degrade_low"], given["degrade_high"])
    state_dir = given["state_dir"]
    with StopSignals() as signals, _state_dir(state_dir, given["name"], keep=detach) as folder:
        config = built(
            ServeConfig,
            given,
            versions=choose_versions(models, replicas or ()),
            head=built(HeadConfig, given, share_port=given["heads"] > 1),
            state_dir=folder,
        )
        made = folder if state_dir is None else None
        with needing("server", "ringpull serve"):
            if not detach:
                _serve_here(config, signals, made)
            elif config.private:
                _serve_in_background()
            else:
                _leave_on_ray(config, made)


def _check_pressures(low: float, high: float) -> None:
    if not 0 < low < high < MAX_PRESSURE:
        raise InvalidInput(
            f"--degrade-low is {low} and --degrade-high is {high}; they must be 0 < low < high < {MAX_PRESSURE:g}"
        )


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
