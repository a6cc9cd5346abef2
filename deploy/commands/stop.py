"""`ringpull stop`: end a deployment, and return when it is gone."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated, Final

import psutil
import typer

from ringpull.deploy import served
from ringpull.deploy.commands.options import AsJson, Target
from ringpull.deploy.ended import wait_ended
from ringpull.deploy.served import ServedRecord
from ringpull.deploy.view.console import err, print_json, print_line, warn
from ringpull.extras import needing
from ringpull.ps.errors import InvalidInput, NotFound, Unavailable
from ringpull.ps.settings import MAX_WAIT_S, at_least

KILL_WAIT_S: Final = 10.0


def stop(
    target: Target = None,
    address: Annotated[
        str | None,
        typer.Option(help="End a deployment on this Ray cluster by its --name, wherever it was started from."),
    ] = None,
    name: Annotated[str, typer.Option(help="With --address: the deployment's name.")] = "ringpull",
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", help="Longest wait for requests in flight and for processes to end.")
    ] = 60.0,
    as_json: AsJson = False,
) -> None:
    """Stop a deployment: requests in flight finish, then everything it started ends. Waits until it is gone."""
    at_least(0, ceiling=MAX_WAIT_S).check("--timeout", timeout)
    served.clean()
    if address is not None:
        if target is not None:
            raise InvalidInput("--target and --address both say what to stop; give one")
        _stop_on_ray(address, name, timeout)
        stopped = f"{name} on {address}"
    else:
        record = served.find(target)
        _stop_served(record, timeout)
        stopped = record.target
        if record.in_memory:
            warn(f"what was pushed to {' and '.join(record.in_memory)} went with it (--push-durability memory)")
    if as_json:
        print_json({"stopped": stopped})
    else:
        print_line(f"stopped {stopped}")


def _stop_on_ray(address: str, name: str, timeout_s: float) -> None:
    with needing("server", "ringpull stop --address"):
        from ringpull.deploy.cluster import cluster

    found, joined = cluster.stop_joined(address, name, drain_timeout_s=timeout_s)
    for record in served.on_ray(joined, name):
        served.discard(record, seen_ended=True)
    if not found:
        raise NotFound(f"there is no deployment named {name} on {address}")


def _stop_served(record: ServedRecord, timeout_s: float) -> None:
    process = record.process()
    if process is None and record.address is None:
        raise Unavailable(_out_of_reach(record))
    ended = process is not None and _end(process, timeout_s)
    if record.address is not None and not ended:
        # Its actors are still on a joined Ray: left there by --detach, or by a `serve` that was killed.
        _stop_its_actors(record, record.address, timeout_s)
    served.discard(record, seen_ended=True)


def _out_of_reach(record: ServedRecord) -> str:
    """Say why a deployment cannot be stopped from here: a process id is nothing to go by, but where it was given."""
    if record.identity is None:
        return (
            f"{record.target} was served by an earlier build, and its process is not found from here; if it lives, end"
            f" process {record.pid} (SIGTERM) where it runs; if not, remove {served.file_of(record)}"
        )
    return (
        f"{record.target} is served by process {record.pid} on host {record.host}, in another boot or PID namespace"
        " than this command; run `ringpull stop` there"
    )


def _stop_its_actors(record: ServedRecord, address: str, timeout_s: float) -> None:
    """End the actors of a record. If nothing listens at their Ray any more, they have ended with it.

    Raises:
        NoRay: Nothing listens there, and the record is another host's, which may see that Ray.
    """
    with needing("server", "to stop what lives on a joined Ray, ringpull"):
        from ringpull.deploy.cluster import cluster
        from ringpull.deploy.cluster.ray_session import NoRay

    name = record.name
    try:
        cluster.stop_joined(address, name, drain_timeout_s=timeout_s)
    except NoRay as exc:
        if not record.of_this_host:
            raise NoRay(f"{exc}; it was joined on host {record.host}: run `ringpull stop` there") from exc
        warn(
            f"{exc}; it is taken for ended, and forgotten here. If that Ray lives, end it there with"
            f" `ringpull stop --address {address} --name {name}`"
        )


def _end(process: psutil.Process, timeout_s: float) -> bool:
    """Ask a `serve` process to end, and kill it and its children after a time; return whether asking was enough.

    Raises:
        Unavailable: It is another user's.
    """
    try:
        below = process.children(recursive=True)
        process.terminate()
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied as exc:
        raise Unavailable(f"process {process.pid}, which serves, is another user's: stop it as that user") from exc
    if not wait_ended([process], timeout_s):
        return True
    err.print(f"process {process.pid} did not end in time; killing it", style="yellow", highlight=False)
    for victim in (process, *below):
        with suppress(psutil.Error):
            victim.kill()
    wait_ended([process, *below], KILL_WAIT_S)
    return False
