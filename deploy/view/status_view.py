"""Text of `ringpull status`: models, shards, tables and their use, and warnings."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Final

from rich.console import Group, RenderableType
from rich.text import Text

from ringpull.deploy.view.fields_table import Column, FieldsTable
from ringpull.deploy.view.outputs import output_text
from ringpull.inference.proto import ringpull_pb2 as pb
from ringpull.inference.short_form import and_more, most_important
from ringpull.inference.wire.status_warnings import short_of_copies, warnings_seen
from ringpull.ps.text.byte_size import size

_DTYPE_NAMES: Final[Mapping[int, str]] = {
    pb.INT64: "int64",
    pb.UINT64: "uint64",
    pb.FLOAT32: "float32",
    pb.STRING: "string",
}

SHOWN_FEATURES: Final = 4
"""Number of feature names shown of one type; the JSON has all."""


def status_view(
    target: str,
    status: pb.ClusterStatus,
    memory: Callable[[int], int | None],
    change: str = "",
    told: Iterable[str] = (),
    *,
    every: bool = True,
) -> RenderableType:
    """Return the state of a deployment for printing.

    Args:
        target: HOST:PORT of the head that answered.
        status: Its answer.
        memory: Returns the memory in bytes of a shard, given its pid; None if that is not known here.
        change: Change under way, in one line; empty if there is none.
        told: Warnings that the head and the coordinator tell of.
        every: Whether every table is shown; otherwise the largest, and before them those that lack copies.
    """
    parts: list[RenderableType] = [_headline(target, status)]
    if status.requests:
        parts.append(Text(f"a request: {fan_out(status)}{local_share(status.tables)}", style="dim"))
    if status.heads_because:
        parts.append(Text(status.heads_because, style="dim"))
    parts += [Text(recent_line(each)) for each in status.recent[:1] if each.requests]
    if change:
        parts.append(Text(change, style="bold yellow"))
    parts.append(models_table(status.models))
    if status.degrade:
        parts.append(degrade_table(status.degrade))
    if len(status.heads) > 1:
        parts.append(heads_table(status.heads))
    live = live_tables(status)
    parts += [shards_table(status.shards, memory), tables_table(status.tables, live, every=every)]
    if live and status.straight_pushes:
        parts.append(Text(f"straight pushes: {status.straight_pushes}", style="dim"))
    parts += [Text(f"! {warning}", style="yellow") for warning in (*told, *warnings_seen(status))]
    return Group(*parts)


def fan_out(status: pb.ClusterStatus) -> str:
    """Return the average traffic of a request to shards: `3.8 messages to shards, 1.2 KiB sent, 20.1 KiB received`."""
    messages, sent, received = (
        total / max(status.requests, 1) for total in (status.messages, status.sent_bytes, status.received_bytes)
    )
    return f"{messages:.1f} messages to shards, {size(round(sent))} sent, {size(round(received))} received"


def local_share(tables: Iterable[pb.TableStatus]) -> str:
    """Return the share of the keys of the last minute that heads answered themselves: `, 94% of keys local`."""
    rates = [(each.keys_per_s, each.here_per_s) for each in tables]
    keys, here = sum(rate for rate, _ in rates), sum(own for _, own in rates)
    return f", {here / keys:.0%} of keys local" if here else ""


def recent_line(recent: pb.RecentStatus) -> str:
    """Return the last minutes as text: `last 15 min: 48,011 requests, 53.2/s now, p50 2.1 ms, p99 8.0 ms`."""
    failed = f" ({recent.failed:,} failed)" if recent.failed else ""
    text = f"last 15 min: {recent.requests:,} requests{failed}, {recent.requests_per_s:,.1f}/s now"
    return f"{text}, p50 {recent.p50_ms:.1f} ms, p99 {recent.p99_ms:.1f} ms" if recent.p99_ms else text


def _headline(target: str, status: pb.ClusterStatus) -> Text:
    alive = sum(shard.alive for shard in status.shards)
    text = Text.assemble((f"ringpull {status.server_version}".rstrip() + " ", "bold"), (target, "bold cyan"))
    text.append(f"  {alive}/{len(status.shards)} shards", style="green" if alive == len(status.shards) else "bold red")
    text.append(f"  epoch {status.epoch}  device {status.device}  up {duration(status.uptime_s)}")
    text.append(f"  {status.requests:,} requests")
    text.append(f", {status.failed:,} failed", style="red" if status.failed else "dim")
    return text


def _run_by(model: pb.Model) -> str:
    """Return what runs a model's dense program: `torch 2.13.0, cpu, 1 or 2 threads, bfloat16, compiled`; nothing of
    heads that do not say it."""
    program = model.program
    if not program.runtime:
        return ""
    parts = [f"{program.runtime} {program.version.partition('+')[0]}", program.device]
    parts += [f"{program.threads} or {program.max_threads} threads"] if program.max_threads > program.threads else []
    parts += [program.precision] if program.precision else []
    if program.eager_because:
        parts.append(f"eager: {program.eager_because}")
    elif program.runtime == "torch":
        parts.append("compiled")
    return ", ".join(parts)


def models_table(models: Iterable[pb.Model]) -> FieldsTable:
    """Return a row for each model, with its versions and features."""
    table = FieldsTable(
        "models",
        (
            Column("model", "name"),
            Column("live"),
            Column("open", "wrapped", rank=1),
            Column("takes", "wrapped"),
            Column("gives", "wrapped"),
            Column("run by", rank=2),
        ),
    )
    for model in models:
        gives = ", ".join(output_text(each) for each in model.outputs)
        versions = ", ".join(_with_labels(number, model.labels) for number in model.versions)
        table.add(model.name, str(model.version), versions, "\n".join(takes(model.features)), gives, _run_by(model))
    return table


def _with_labels(version: int, labels: Mapping[str, int]) -> str:
    """Return a version as text, with the labels that it has: `7 (stable)`."""
    own = [label for label, number in sorted(labels.items()) if number == version]
    return f"{version} ({', '.join(own)})" if own else str(version)


def degrade_table(versions: Iterable[pb.DegradeStatus]) -> FieldsTable:
    """Return the degrade steps of each version in order, whether each is in force, and the replies it has changed."""
    table = FieldsTable(
        "degrade steps of this head",
        (
            Column("model", "name"),
            Column("version"),
            Column("step", "number"),
            Column("replies say", "wrapped"),
            Column("in force"),
            Column("replies", "number"),
        ),
    )
    for each in versions:
        for place, step in enumerate(each.steps, 1):
            taken = Text("yes", style="yellow") if place <= each.level else Text("no", style="dim")
            table.add(each.model, str(each.version), str(place), step.step, taken, f"{step.replies:,}")
    return table


def takes(features: Iterable[pb.FeatureInfo]) -> list[str]:
    """Return the features of a model, a line per type: `int64: user_id, item_id`; only some names if there are many."""
    names: defaultdict[str, list[str]] = defaultdict(list)
    for feature in features:
        width = f" x {feature.width}" if feature.width > 1 else ""
        kind = f"{_DTYPE_NAMES.get(feature.dtype, '?')}{'[]' if feature.many else ''}{width}"
        names[kind].append(f"{feature.name}{'?' if feature.optional else ''}")
    return [
        f"{kind}: {', '.join(each)}"
        if len(each) <= SHOWN_FEATURES
        else f"{len(each)} {kind}: {', '.join(each[: SHOWN_FEATURES - 1])} ... {each[-1]}"
        for kind, each in names.items()
    ]


def heads_table(heads: Iterable[pb.HeadStatus]) -> FieldsTable:
    """Return a row for each head."""
    table = FieldsTable(
        "heads",
        (
            Column("head"),
            Column("address"),
            Column("http", rank=1),
            Column("requests", "number"),
            Column("failed", "number"),
        ),
    )
    for head in heads:
        if head.alive:
            table.add(str(head.head), head.address, head.http, f"{head.requests:,}", f"{head.failed:,}")
        else:
            gone = f"{head.head} gone {head.heard_s:.0f} s"
            table.add(gone, head.address, head.http, f"{head.requests:,}", f"{head.failed:,}", style="red")
    return table


def shards_table(shards: Iterable[pb.ShardStatus], memory: Callable[[int], int | None]) -> FieldsTable:
    """Return a row for each shard, with its memory by pid where that is known."""
    table = FieldsTable(
        "shards",
        (
            Column("shard"),
            Column("address", rank=1),
            Column("pid", rank=3),
            Column("ranges", "number", rank=2),
            Column("share", "number"),
            Column("rows", "number"),
            Column("bytes", "number"),
            Column("requests", "number"),
            Column("memory", "number"),
        ),
    )
    for shard in shards:
        if not shard.alive:
            table.add(f"{shard.shard} gone", shard.address, "", str(shard.ranges), f"{shard.share:.1%}", style="red")
            continue
        taken = memory(shard.pid)
        table.add(
            str(shard.shard),
            shard.address,
            str(shard.pid),
            str(shard.ranges),
            f"{shard.share:.1%}",
            f"{sum(each.rows for each in shard.tables):,}",
            size(sum(each.bytes for each in shard.tables)),
            f"{shard.requests:,}",
            "-" if taken is None else size(taken),
        )
    return table


def live_tables(status: pb.ClusterStatus) -> set[tuple[str, str]]:
    """Return the tables that take pushes, by model and name."""
    return {(model.name, table.name) for model in status.models for table in model.tables if table.live}


def tables_table(
    tables: Sequence[pb.TableStatus], live: Collection[tuple[str, str]] = (), *, every: bool = True
) -> FieldsTable:
    """Return a row for each table, with its copies and look-ups; of many only those that lack copies and the largest,
    without `every`.

    Args:
        live: Tables that take pushes, by model and name.
    """
    shown = most_important(tables, lambda each: (short_of_copies(each), each.bytes, each.keys), every=every)
    table = FieldsTable(
        "tables",
        (
            Column("table", "name"),
            Column("version", rank=2),
            Column("rows", "number"),
            Column("dim", "number", rank=3),
            Column("bytes", "number", rank=1),
            Column("replicas", "number"),
            Column("keys", "number"),
            Column("missing", "number"),
            Column("keys/s", "number", rank=4),
            Column("local", "number", rank=5),
        ),
        below=and_more(len(tables), len(shown), f"of {size(sum(each.bytes for each in tables))} in all"),
    )
    for each in shown:
        replicas = Text(
            f"{each.replicas_effective} of {each.replicas_wanted}", style="yellow" if short_of_copies(each) else ""
        )
        missing = f"{each.missing:,} ({each.missing / each.keys:.1%})" if each.keys else f"{each.missing:,}"
        table.add(
            f"{each.model}/{each.table}{' (live)' * ((each.model, each.table) in live)}",
            str(each.version),
            f"{each.rows:,}",
            str(each.dim or ""),  # rows of bytes have none
            size(each.bytes),
            replicas,
            f"{each.keys:,}",
            missing,
            f"{each.keys_per_s:,.0f}",
            f"{each.here_per_s / each.keys_per_s:.0%}" if each.keys_per_s else "",
        )
    return table


def duration(seconds: float) -> str:
    """Return a duration as text: `42 s`, `3 min 5 s`, `2 h 7 min`, `3 d 4 h`."""
    total = int(seconds)
    for unit, name, below, below_name in ((86_400, "d", 3_600, "h"), (3_600, "h", 60, "min"), (60, "min", 1, "s")):
        if total >= unit:
            return f"{total // unit} {name} {total % unit // below} {below_name}"
    return f"{total} s"
