"""What `ringpull status` shows."""

from __future__ import annotations

import re

from rich.console import Console

from ringpull.deploy.view.message_values import plain_values
from ringpull.deploy.view.status_view import duration, status_view, takes
from ringpull.inference.proto import ringpull_pb2 as pb
from ringpull.inference.wire.status_warnings import warnings_seen

MIB = 1 << 20


def cluster() -> pb.ClusterStatus:
    shards = [
        pb.ShardStatus(
            shard=shard,
            address=f"127.0.0.1:700{shard}",
            alive=True,
            epoch=5,
            ranges=2,
            share=0.5,
            requests=1234,
            pid=4000 + shard,
            tables=[
                pb.ShardTable(model="ranker", version=3, table="user", rows=5000, bytes=2 * MIB, keys=90, missing=9)
            ],
        )
        for shard in (0, 1)
    ]
    return pb.ClusterStatus(
        head="127.0.0.1:8500",
        epoch=5,
        shards=shards,
        tables=[
            pb.TableStatus(
                model="ranker",
                version=3,
                table="user",
                rows=10_000,
                bytes=4 * MIB,
                dim=64,
                replicas_wanted="1",
                replicas_effective=1,
                keys=180,
                missing=18,
            )
        ],
        models=[
            pb.Model(
                name="ranker",
                version=3,
                versions=[3],
                features=[
                    pb.FeatureInfo(name="user_id", dtype=pb.INT64),
                    pb.FeatureInfo(name="genres", dtype=pb.STRING, many=True, optional=True),
                    pb.FeatureInfo(name="vector", dtype=pb.FLOAT32, width=3),
                ],
                outputs=[pb.OutputInfo(name="score"), pb.OutputInfo(name="tasks", shape=[2], classes=["no", "yes"])],
            )
        ],
        requests=2468,
        device="cpu",
        uptime_s=3700,
    )


def shown(status: pb.ClusterStatus, memory: int | None = None, width: int = 200) -> str:
    console = Console(width=width)
    with console.capture() as capture:
        console.print(status_view("127.0.0.1:8500", status, lambda pid: memory))
    return capture.get()


def row_of(text: str, *words: str) -> list[str]:
    """The cells of the one line that holds all the words."""
    [line] = [line for line in text.splitlines() if all(word in line for word in words)]
    return re.split(r"\s{2,}", line.strip())


def test_the_headline_sums_it_up() -> None:
    headline = shown(cluster()).splitlines()[0]
    for part in ("127.0.0.1:8500", "2/2 shards", "epoch 5", "device cpu", "up 1 h 1 min", "2,468 requests, 0 failed"):
        assert part in headline


def test_a_shard_shows_what_it_holds_and_how_it_is_used() -> None:
    cells = row_of(shown(cluster(), memory=300 * MIB), "127.0.0.1:7001")
    expected = ["1", "127.0.0.1:7001", "4001", "2", "50.0%", "5,000", "2.0 MiB", "1,234", "300.0 MiB"]
    assert cells == expected


def test_memory_that_cannot_be_known_is_a_dash() -> None:
    assert row_of(shown(cluster()), "127.0.0.1:7001")[-1] == "-"


def test_a_table_shows_rows_copies_and_missing_keys() -> None:
    cells = row_of(shown(cluster()), "ranker/user")
    assert cells == ["ranker/user", "3", "10,000", "64", "4.0 MiB", "1 of 1", "180", "18 (10.0%)", "0"]


def test_a_model_shows_what_it_takes_and_gives() -> None:
    text = shown(cluster())
    assert row_of(text, "user_id") == ["ranker", "3", "3", "int64: user_id", "score, tasks[2: no, yes]"]
    assert row_of(text, "genres") == ["string[]: genres?"]
    assert row_of(text, "vector") == ["float32 x 3: vector"]


def test_a_model_shows_what_runs_it() -> None:
    status = cluster()
    program = pb.Program(runtime="torch", version="2.13.0+cpu", device="cpu", threads=1, precision="bfloat16")
    status.models[0].program.CopyFrom(program)
    assert row_of(shown(status), "user_id")[-1] == "torch 2.13.0, cpu, bfloat16, compiled"
    status.models[0].program.max_threads = 2
    assert row_of(shown(status), "user_id")[-1] == "torch 2.13.0, cpu, 1 or 2 threads, bfloat16, compiled"
    program.precision, program.eager_because = "float32", "no script"
    status.models[0].program.CopyFrom(program)
    assert row_of(shown(status), "user_id")[-1] == "torch 2.13.0, cpu, float32, eager: no script"
    status.models[0].program.CopyFrom(pb.Program(runtime="onnxruntime", version="1.23.0", device="cpu"))
    assert row_of(shown(status), "user_id")[-1] == "onnxruntime 1.23.0, cpu"


def test_many_features_are_a_few_names_and_a_number() -> None:
    features = [pb.FeatureInfo(name="price", dtype=pb.FLOAT32)]
    features += [pb.FeatureInfo(name=f"cat_{i}", dtype=pb.INT64) for i in range(26)]
    assert takes(features) == ["float32: price", "26 int64: cat_0, cat_1, cat_2 ... cat_25"]


def test_eighty_columns_show_whole_numbers_and_the_ends_of_names() -> None:
    status = cluster()
    for shard in status.shards:
        shard.requests = 123_456_789
        shard.tables[0].rows, shard.tables[0].bytes = 1_250_000_000, 300 << 30
    status.tables[0].table = "a_long_prefix_that_all_tables_of_this_model_share_user_history"
    status.tables[0].keys, status.tables[0].missing = 9_876_543_210, 987_654_321
    text = shown(status, memory=290 << 30, width=80)
    assert max(map(len, text.splitlines())) <= 80
    for whole in ("123,456,789", "1,250,000,000", "300.0 GiB", "290.0 GiB", "9,876,543,210", "987,654,321 (10.0%)"):
        assert whole in text
    assert re.search(r"…\w*_user_history\b", text)
    assert "not shown at this width: " in text
    assert "not shown" not in shown(status, memory=290 << 30)


def test_what_is_wrong_is_said() -> None:
    status = cluster()
    status.shards[0].alive = False
    status.shards[0].error = "connection lost"
    status.shards[1].epoch = 6
    status.tables[0].replicas_wanted = "3"
    status.tables[0].replicas_effective = 2
    status.heads.add(head=0, address="127.0.0.1:8500", alive=True)
    status.heads.add(head=1, address="127.0.0.1:8502", heard_s=77)
    status.heads.add(head=2)
    assert warnings_seen(status) == [
        "shard 0 at 127.0.0.1:7000 does not answer: connection lost",
        "head 1 at 127.0.0.1:8502 is not heard",
        "head 2 is not up",
        "shard 1 is at epoch 6, the head still at 5",
        "table ranker/user wants 3 copies and has 2: there are 2 shards",
    ]
    text = shown(status)
    assert "1/2 shards" in text
    assert "does not answer" in text
    assert warnings_seen(cluster()) == []


def test_why_there_are_so_many_heads_is_shown_where_that_was_chosen() -> None:
    status = cluster()
    assert "--heads" not in shown(status)
    status.heads_because = "--heads auto: 1 head, for 1 core"
    assert "--heads auto: 1 head, for 1 core" in shown(status)


def test_whether_pushes_go_straight_is_shown_where_tables_are_live() -> None:
    status = cluster()
    status.straight_pushes = "on"
    assert "straight" not in shown(status)
    status.models[0].tables.add(name="user", live=True)
    assert "straight pushes: on" in shown(status)
    status.straight_pushes = "it is turned off (--straight-pushes off)"
    assert "straight pushes: it is turned off (--straight-pushes off)" in shown(status)
    status.straight_pushes = ""  # of a head of an older build
    assert "straight" not in shown(status)


def test_all_copies_is_never_short_of_any() -> None:
    status = cluster()
    status.tables[0].replicas_wanted, status.tables[0].replicas_effective = "all", 2
    assert warnings_seen(status) == []


def test_times_as_people_read_them() -> None:
    assert [duration(seconds) for seconds in (0.4, 59.9, 60, 185, 7620, 273_600)] == [
        "0 s",
        "59 s",
        "1 min 0 s",
        "3 min 5 s",
        "2 h 7 min",
        "3 d 4 h",
    ]


def test_plain_values_keep_numbers_and_name_enums() -> None:
    plain = plain_values(cluster())
    assert plain["requests"] == 2468
    assert plain["shards"][1]["tables"][0]["bytes"] == 2 * MIB
    assert plain["models"][0]["features"][0]["dtype"] == "INT64"


def test_a_change_under_way_and_the_fan_out_are_shown() -> None:
    status = cluster()
    status.requests, status.messages, status.sent_bytes, status.received_bytes = 10, 38, 20_480, 512_000
    console = Console(width=160)
    with console.capture() as capture:
        console.print(status_view("127.0.0.1:8500", status, lambda pid: None, "rebalance shards 2 -> 4: preparing"))
    assert "a request: 3.8 messages to shards, 2.0 KiB sent, 50.0 KiB received" in capture.get()
    assert "rebalance shards 2 -> 4: preparing" in capture.get()


def test_degrade_steps_show_which_are_in_force_and_what_they_changed() -> None:
    status = cluster()
    assert "degrade" not in shown(status)
    steps = [
        pb.DegradeStep(step="cut history to 50", replies=1234),
        pb.DegradeStep(step="scored the first 64 candidates"),
    ]
    status.degrade.append(pb.DegradeStatus(model="ranker", version=3, level=1, steps=steps))
    text = shown(status)
    rows = [row_of(text, "ranker  ", step.step) for step in steps]
    assert rows == [
        ["ranker", "3", "1", "cut history to 50", "yes", "1,234"],
        ["ranker", "3", "2", "scored the first 64 candidates", "no", "0"],
    ]
    assert warnings_seen(status) == ["model ranker version 3 answers degraded, level 1 of 2: cut history to 50"]
    status.degrade[0].level = 0
    assert warnings_seen(status) == []


def test_the_last_minutes_and_several_heads() -> None:
    status = cluster()
    status.recent.add(requests=48_011, failed=2, requests_per_s=53.21, p50_ms=2.1, p99_ms=8.0)
    status.recent.add(model="ranker", requests=1)
    assert "last 15 min: 48,011 requests (2 failed), 53.2/s now, p50 2.1 ms, p99 8.0 ms" in shown(status)
    status.heads.add(head=0, address="127.0.0.1:8500", alive=True, requests=7)
    assert "heads" not in shown(status), "one head is the one that answered"
    status.heads.add(head=1, address="127.0.0.1:8502", heard_s=12.3)
    assert "1 gone 12 s" in shown(status)


def test_maps_are_plain_values() -> None:
    status = cluster()
    status.live["ranker"] = 3
    status.models[0].labels["stable"] = 3
    plain = plain_values(status)
    assert (plain["live"], plain["models"][0]["labels"]) == ({"ranker": 3}, {"stable": 3})


def test_keys_a_second() -> None:
    status = cluster()
    status.tables[0].keys_per_s = 12_345.6
    assert "12,346" in shown(status)
