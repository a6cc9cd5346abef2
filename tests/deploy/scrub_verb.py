"""A verb that ringpull does not have, added from outside: `python -m tests.deploy.scrub_verb`, a `ringpull` with it.

`serve FOLDER` serves it instead, by a head in front of a coordinator, until standard input ends.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Annotated

from ringpull.deploy import cli
from ringpull.deploy.commands.options import AsJson, Target
from ringpull.deploy.coordinator_client import connect
from ringpull.deploy.served import resolve_target
from ringpull.deploy.view.console import print_json, print_line
from ringpull.ps.errors import NotFound
from ringpull.ps.settings import at_least
from ringpull.router.control.operations import VERBS
from ringpull.router.control.process import CoordinatorProcess, Settings
from ringpull.router.control.verbs import Request, Role, Verb

# -- request, reply and a line in the table ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Scrubbed:
    table: str
    bad_rows: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scrub(Request[Scrubbed]):
    """Compare the rows of a table with their checksums."""

    table: str
    max_rows: Annotated[int, at_least(1)] = 10


VERBS.add(Verb("scrub", Scrub, Scrubbed, Role.OPERATE))

# -- a method of the coordinator ---------------------------------------------------------------------------------------


class ScrubbingCoordinator(CoordinatorProcess):
    def scrub(self, request: Scrub) -> Scrubbed:
        if request.table != "ranker/item":
            raise NotFound(f"there is no table {request.table}")
        return Scrubbed(request.table, tuple(range(request.max_rows)))


# -- a command ---------------------------------------------------------------------------------------------------------


@cli.app.command()
def scrub(table: str, max_rows: int = 10, target: Target = None, as_json: AsJson = False) -> None:
    with connect(resolve_target(target)) as operations:
        scrubbed = operations.call(Scrub(table=table, max_rows=max_rows))
    if as_json:
        print_json({"bad_rows": scrubbed.bad_rows})
    else:
        print_line(f"{scrubbed.table}: {len(scrubbed.bad_rows)} bad rows")


# ----------------------------------------------------------------------------------------------------------------------


def serve(folder: str) -> None:
    from ringpull.deploy.model_folders import find_version
    from ringpull.inference.head.config import HeadConfig
    from ringpull.inference.head.process import HeadProcess
    from ringpull.ps.ring import Ring
    from ringpull.router.control.state_files import open_files
    from ringpull.router.control.state_store import Owner, StateStore
    from ringpull.router.shard_map import ShardAddress, ShardMap
    from tests.router.members import FakeMembers

    coordinator = ScrubbingCoordinator(
        StateStore(open_files(folder)),
        FakeMembers(heads=1),
        owner=Owner("this one"),
        settings=Settings(place=find_version),
    )
    head = HeadProcess(HeadConfig(), coordinator)
    address = head.route(ShardMap(1, (ShardAddress(0, "127.0.0.1", 1),), Ring.even([0]), {}), {}, ())
    print(f"{address.host}:{address.grpc_port}", flush=True)
    sys.stdin.read()
    head.drain(timeout_s=0)
    coordinator.stop()


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2])
    else:
        cli.main()
