"""`ringpull label`: names for versions, which clients ask for instead of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from ringpull.deploy import served
from ringpull.deploy.commands.options import AsJson, Target, with_credentials
from ringpull.deploy.signals import StopSignals
from ringpull.deploy.view.console import err, print_json, print_line
from ringpull.ps.errors import InvalidInput
from ringpull.ps.text.version_number import RANGE, version_number


@with_credentials
def label(
    model: Annotated[str, typer.Argument(metavar="NAME", help="Name of the model.")],
    labels: Annotated[
        list[str] | None, typer.Argument(metavar="LABEL=VERSION", help="Labels to set, such as `stable=7`.")
    ] = None,
    remove: Annotated[list[str] | None, typer.Option(metavar="LABEL", help="Label to take away. Repeatable.")] = None,
    target: Target = None,
    as_json: AsJson = False,
) -> None:
    """Have labels name versions of a model that are open, on all heads at once.

    Clients ask for a label instead of a version. A version stays open while it has one, however many are published; it
    goes with the next publish after its label is taken away. `ringpull status` lists versions and labels.
    """
    from ringpull.deploy.coordinator_client import connect
    from ringpull.deploy.view.change_watch import change_fields, follow
    from ringpull.router.control.operations import GetStatus, LabelVersion

    wanted = parse_labels(labels or ())
    if not wanted and not remove:
        raise InvalidInput("there is nothing to do: give LABEL=VERSION, or --remove LABEL")
    request = LabelVersion(model=model, labels=wanted, remove=tuple(remove or ()))
    with StopSignals(), connect(served.resolve_target(target)) as operations:
        done = follow(operations, operations.call(request), err)
        there = operations.call(GetStatus()).spec.labels.get(model, {})
    if as_json:
        print_json({**change_fields(done), "labels": dict(there)})
    else:
        print_line(f"labels of {model}: {', '.join(f'{name}={version}' for name, version in there.items()) or 'none'}")


def parse_labels(given: Sequence[str]) -> dict[str, int]:
    """Read labels, each `LABEL=VERSION`.

    Raises:
        InvalidInput: One has another form, or is given twice.
    """
    found: dict[str, int] = {}
    for text in given:
        name, _, number = text.partition("=")
        version = version_number(number)
        if not name or not version:
            raise InvalidInput(f"{text!r:.200}: write LABEL=VERSION, VERSION an integer {RANGE}, such as stable=7")
        if name in found:
            raise InvalidInput(f"label {name} is given twice")
        found[name] = version
    return found
