"""The requests of a run, encoded before it starts: while it runs, a load tool only sends bytes.

That makes the tool cheap, and its figures a little kind: a real client spends time of its own on encoding. It is the
client's time, not the server's; `python -m ringpull.loadtest.bench.own_cost`, in a checkout, prints it beside the
tools' own cost.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice

from ringpull.inference.client.client import Client
from ringpull.inference.errors import InvalidInput
from ringpull.inference.proto import ringpull_pb2 as pb
from ringpull.inference.wire.codec import PredictCall, encode_request
from ringpull.loadtest.options import WorkloadOptions
from ringpull.loadtest.replay import recorded_calls
from ringpull.loadtest.workload import Workload


@dataclass(frozen=True, slots=True)
class Messages:
    """Encoded requests, to be sent in turns."""

    model: str
    version: int
    payloads: tuple[bytes, ...]
    first: PredictCall
    """First request, not encoded."""

    def rehearse(self, client: Client) -> None:
        """Send the first one and wait for its answer: what is wrong with all of them shows before the run.

        Raises:
            InvalidInput: The model cannot take it.
        """
        try:
            client.predict(self.model, self.first.features, self.first.context, version=self.first.version)
        except InvalidInput as exc:
            raise InvalidInput(f"{exc} (ids that a feature takes are given with --ids FEATURE=FIRST..LAST)") from exc


def prepare_messages(
    client: Client, model: str | None, options: WorkloadOptions, *, with_timings: bool = False
) -> Messages:
    """Ask a head for its model, make or read the requests, and encode them.

    Args:
        model: None: the only one served there.

    Raises:
        InvalidInput: No model is given and not exactly one is served, or options or recording do not fit the model.
        NotFound, Unavailable: From the head.
    """
    description = _describe(client, model)
    calls = list(islice(_calls(description, options), options.requests))
    if not calls:
        raise InvalidInput(f"--replay {options.replay}: holds no request")
    return Messages(
        model=description.name,
        version=description.version,
        payloads=tuple(encode_request(replace(call, with_timings=with_timings)).SerializeToString() for call in calls),
        first=calls[0],
    )


def _calls(model: pb.Model, options: WorkloadOptions) -> Iterator[PredictCall]:
    workload = Workload(model, options)
    return workload.calls() if options.replay is None else recorded_calls(options.replay, workload)


def _describe(client: Client, model: str | None) -> pb.Model:
    if model is not None:
        return client.model(model)
    served = client.models()
    if len(served) != 1:
        names = ", ".join(each.name for each in served) or "none"
        raise InvalidInput(f"{client.target} serves {names}: name the model to load")
    return served[0]
