"""`ringpull stop`: end a deployment, and return when it is gone."""

from __future__ import annotations

from typing import Annotated, Final

import psutil
import typer

from ringpull.deploy import served
from ringpull.deploy.commands.options import AsJson, Target
from ringpull.deploy.served import ServedRecord
from ringpull.deploy.view.console import err, print_json, print_line
from ringpull.extras import needing
from ringpull.ps.errors import InvalidInput, NotFound
from ringpull.ps.settings import at_least

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
    at_least(0).check("--timeout", timeout)
    if address is not None:
        if target is not None:
            raise InvalidInput("--target and --address both say what to stop; give one")
        _stop_on_ray(address, name, timeout)
        stopped = f"{name} on {address}"
    else:
        record = served.find(target)
        _stop_served(record, timeout)
        stopped = record.target
    if as_json:
        print_json({"stopped": stopped})
    else:
        print_line(f"stopped {stopped}")


def _stop_on_ray(address: str, name: str, timeout_s: float) -> None:
    with needing("server", "ringpull stop --address"):
        from ringpull.deploy.cluster import cluster

    found, joined = cluster.stop_joined(address, name, drain_timeout_s=timeout_s)
    for record in served.on_ray(joined, name):
        served.discard(record)
    if not found:
        raise NotFound(f"there is no deployment named {name} on {address}")


def _stop_served(record: ServedRecord, timeout_s: float) -> None:
    process = record.process()
    ended = process is not None and _end(process, timeout_s)
    if record.address is not None and not ended:
        # Its actors are still on a joined Ray: left there by --detach, or by a `serve` that was killed.
        _stop_its_actors(record.address, record.name, timeout_s)
    served.discard(record)


def _stop_its_actors(address: str, name: str, timeout_s: float) -> None:
    """End the actors of a record. If nothing listens at their Ray any more, they have ended with it."""
    with needing("server", "to stop what lives on a joined Ray, ringpull"):
        from ringpull.deploy.cluster import cluster
        from ringpull.deploy.cluster.ray_session import NoRay

    try:
        cluster.stop_joined(address, name, drain_timeout_s=timeout_s)
    except NoRay as exc:
        err.print(
            f"warning: {exc}; it is taken for ended, and forgotten here. If that Ray lives, end it there with"
            f" `ringpull stop --address {address} --name {name}`",
            style="yellow",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )


def _end(process: psutil.Process, timeout_s: float) -> bool:
    """Ask a `serve` process to end, and kill it and its children after a time; return whether asking was enough."""
    try:
        below = process.children(recursive=True)
        process.terminate()
        process.wait(timeout_s)
        return True
    except psutil.NoSuchProcess:
        return False
    except psutil.TimeoutExpired:
        err.print(f"process {process.pid} did not end in time; killing it", style="yellow", highlight=False)
        for victim in (process, *below):
            try:
                victim.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs([process, *below], timeout=KILL_WAIT_S)
        return False
