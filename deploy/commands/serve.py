"""`ringpull serve`: bring models up, say when predictions work, and take everything down at the end."""

from __future__ import annotations

import os
import secrets
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from ringpull.deploy import served
from ringpull.deploy.commands.config_options import built, check_given, taking
from ringpull.deploy.config import ServeConfig
from ringpull.deploy.folders import as_folder
from ringpull.deploy.model_folders import ALL_OF, absolute, choose_versions, models_below
from ringpull.deploy.serve_lock import ServeLock
from ringpull.deploy.served import ServedRecord
from ringpull.deploy.signals import StopSignals
from ringpull.deploy.state import state_folder
from ringpull.deploy.view.console import err, print_line, say, say_line, warn
from ringpull.deploy.view.progress import Progress
from ringpull.deploy.view.streams import OutputLost, standard_error
from ringpull.extras import needing
from ringpull.inference.degrade.control import MAX_PRESSURE
from ringpull.inference.head.config import HeadConfig
from ringpull.inference.head.tokens.settings import token_settings
from ringpull.inference.head.tokens.tokens import Tokens
from ringpull.ps.errors import InvalidInput
from ringpull.ps.settings import Group
from ringpull.ps.tls import check_tls

if TYPE_CHECKING:
    from ringpull.deploy.cluster.cluster import Cluster
    from ringpull.router.control.deployment_spec import PlacedVersion

CHECK_INTERVAL_S: Final = 1.0
"""Interval at which a foreground `serve` looks whether its heads live, and whether somebody leads."""

Models = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="MODEL_DIR",
        help="Folders NAME/ with NAME/VERSION/ in them, or their URLs (s3://bucket/NAME, any that fsspec knows);"
        " the highest complete version is served, but with a --state-dir none that was rolled back from.",
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
Live = Annotated[
    list[str] | None,
    typer.Option(
        metavar="TABLE",
        help="Table whose rows may be pushed while it is served; MODEL/TABLE where models share its name. Repeatable.",
        rich_help_panel=Group.DATA,
    ),
]
Detach = Annotated[
    bool,
    typer.Option(
        "--detach", help="Serve in the background; return when predictions work.", rich_help_panel=Group.DEPLOYMENT
    ),
]


@taking(ServeConfig)
def serve(
    models: Models = None, replicas: Replicas = None, live: Live = None, detach: Detach = False, **given: Any
) -> None:
    """Serve models; prints `ringpull ready ...` when predictions work.

    In the foreground it serves until SIGINT or SIGTERM, lets requests in flight finish, stops everything it started,
    and exits 0.
    """
    if not models and not given["all_of"]:
        raise typer.BadParameter(f"give MODEL_DIR, or {ALL_OF} FOLDER", param_hint="MODEL_DIR")
    check_given(ServeConfig, given)
    _check_pressures(given["degrade_low"], given["degrade_high"])
    background = detach and given["address"] is None
    with StopSignals() as signals, _state(given["state_dir"], given["name"], serves=not background) as state:
        tokens = token_settings(given["tokens"], os.environ, keep=background)
        if tokens.file is not None and given["address"] is None:
            # Which refuses, before anything is started, what the head would refuse.
            for warning in Tokens(tokens).warnings:
                warn(warning)
        head = built(HeadConfig, given, tokens=tokens)
        config = built(
            ServeConfig,
            given,
            versions=choose_versions(
                _folders(models or (), head), replicas or (), live or (), _chooser(state, head, told=background)
            ),
            asked_live=bool(live),
            head=head,
            state_dir=state.folder,
        )
        if config.private or Path(config.head.tls.cert).exists():  # Elsewhere they may be on the nodes only.
            check_tls(config.head.tls)
        with needing("server", "ringpull serve"):
            if background:
                _serve_in_background()
            elif detach:
                _leave_on_ray(config, state)
            else:
                _serve_here(config, signals, state)


def _chooser(state: _State, head: HeadConfig, *, told: bool) -> Callable[[str | Path], PlacedVersion] | None:
    """Return what chooses the version to serve: what was live, where a state is there; None: the highest.

    Args:
        told: Whether somebody else tells which it is, and why.
    """
    if state.made is not None:
        return None
    from ringpull.deploy.live_before import LiveBefore
    from ringpull.router.control.state_files import open_files
    from ringpull.router.control.state_store import StateStore

    left = StateStore(open_files(state.folder)).left_behind()
    quiet: Callable[[str], None] = lambda _: None  # noqa: E731
    return LiveBefore(left, say=quiet if told else say, warn=quiet if told else warn).choose


def _folders(given: Sequence[str], head: HeadConfig) -> list[str]:
    """Return the folders of all models to serve: those that were given, and those below others."""
    named = list(map(absolute, given))
    return named + [folder for folder in models_below(head.all_of) if folder not in named]


def _check_pressures(low: float, high: float) -> None:
    if not 0 < low < high < MAX_PRESSURE:
        raise InvalidInput(
            f"--degrade-low is {low} and --degrade-high is {high}; they must be 0 < low < high < {MAX_PRESSURE:g}"
        )


def _serve_here(config: ServeConfig, signals: StopSignals, state: _State) -> None:
    """Serve until a signal comes."""
    from ringpull.deploy.cluster.cluster import Cluster

    progress = Progress(err)
    _warn_and_check(config, keeps_state=state.made is None)
    with Cluster.bring_up(config, progress, state.note) as cluster:
        signals.hold()
        record = _record(config, cluster, made_folder=state.made, **served.by_this_process(state.lock))
        served.save(record)
        try:
            say_line(record.ready_line)
            known = ""
            while not signals.wait(CHECK_INTERVAL_S):
                trouble = cluster.check()
                if trouble != known:
                    warn(trouble) if trouble else say(f"over: {known}")
                known = trouble
            with progress.step("answered the requests in flight"):
                cluster.drain()
        finally:
            served.forget(record)


def _warn_and_check(config: ServeConfig, *, keeps_state: bool) -> None:
    """Warn of what others can reach and what is not served, and look at the audit log, before anything is started.

    Args:
        keeps_state: Whether the state of the deployment before is there, by which other shards are refused.

    Raises:
        StartupError: The audit log cannot be written.
    """
    from ringpull.deploy import doors
    from ringpull.deploy.other_logs import other_logs
    from ringpull.inference.head import audit_file

    for warning in (
        *doors.warnings(config),
        *doors.warnings_of_shards(config),
        *doors.warnings_of_live_tables(config),
        *([] if keeps_state else other_logs(config)),
    ):
        warn(warning)
    if config.head.audit_log is not None and config.private:  # Elsewhere it is a file of each head's node.
        audit_file.check(Path(config.head.audit_log))


def _serve_in_background() -> None:
    """Run this same command line again, as a foreground `serve` in a session of its own."""
    from ringpull.deploy.detach import serve_detached

    record = serve_detached([argument for argument in sys.argv[1:] if argument != "--detach"], standard_error)
    _tell(record)


def _leave_on_ray(config: ServeConfig, state: _State) -> None:
    """Bring up on a joined Ray, and leave: the actors live there. Whoever stops the deployment removes its state."""
    from ringpull.deploy.cluster.cluster import Cluster

    _warn_and_check(config, keeps_state=state.made is None)
    with Cluster.bring_up(config, Progress(err)) as cluster:
        record = _record(config, cluster, made_folder=state.made, **served.from_this_host())
        state.lock.note_folders([])  # From now on the record says what was made, and nothing ends with this process.
        served.save(record)
        cluster.leave_up()
        state.keep = True
    _tell(record)


def _tell(record: ServedRecord) -> None:
    """Print the ready line of what goes on without this process, and fail if nobody can have it."""
    try:
        print_line(record.ready_line)
    except OutputLost:
        warn(f"it serves all the same, until `ringpull stop`: {record.ready_line}")
        raise


def _record(config: ServeConfig, cluster: Cluster, **by_whom: Any) -> ServedRecord:
    from ringpull.deploy import doors

    return ServedRecord(
        target=cluster.target,
        http=cluster.http,
        admin=cluster.admin,
        models=config.model_names,
        shards=config.shards,
        name=config.name,
        address=cluster.joined,
        ray_folder=None if cluster.ray_folder is None else str(cluster.ray_folder),
        in_memory=tuple(doors.live_tables(config)) if config.rows_in_memory else (),
        **by_whom,
    )


@dataclass(slots=True, kw_only=True)
class _State:
    """Where the coordinator's state is, and the lock under which it is removed."""

    folder: str
    """Folder, or its URL."""
    made: str | None = None
    """The folder, when it was made up here: whoever ends the deployment removes it, or `serve` itself at its end."""
    lock: ServeLock
    keep: bool = False
    """Whether the deployment outlives this process."""
    noted: list[str] = field(default_factory=list)
    """Other folders that were made for it."""

    def note(self, *folders: Path) -> None:
        """Say in the lock what else was made for this deployment, which a `serve` that is killed leaves behind."""
        self.noted += map(str, folders)
        self.lock.note_folders([each for each in (self.made, *self.noted) if each is not None])


@contextmanager
def _state(given: str | None, name: str, *, serves: bool) -> Iterator[_State]:
    """Yield where the state of a deployment is to be; at the end, a folder made up for it goes, and the lock is free.

    Args:
        given: What the command line says; None: a new folder.
        serves: Whether this process is the one that brings the deployment up.
    """
    if serves:
        served.clean()
    with served.lock() as lock:
        if given is not None:
            folder = given if "://" in given else str(as_folder("--state-dir", Path(given)))
            yield _State(folder=folder, lock=lock)
            return
        # Of its own name, whoever else shares the folder of all states: process ids of two containers may be equal.
        folder = str(state_folder() / "coordinators" / f"{name}-{secrets.token_hex(8)}")
        state = _State(folder=folder, made=folder, lock=lock)
        state.note()
        try:
            yield state
        finally:
            if not state.keep:
                shutil.rmtree(folder, ignore_errors=True)
