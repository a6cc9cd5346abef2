"""The end-to-end bench compares what it says: equal rates, pairs of rounds, and a Triton that has what we have."""

from __future__ import annotations

import ast
import dataclasses
import itertools
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from ringpull.inference.head.frontends.oip.messages import ModelInferRequest, ModelInferResponse
from ringpull.loadtest import dlrm
from ringpull.loadtest.bench import changes, e2e, e2e_tail, targets
from ringpull.loadtest.bench.baselines import triton
from ringpull.loadtest.bench.dlrm_requests import CANDIDATES, make_requests
from ringpull.loadtest.bench.e2e_contenders import PROTOCOLS, Contender
from ringpull.loadtest.bench.harness import Report, Samples
from ringpull.loadtest.bench.load import Run
from ringpull.loadtest.bench.strongest import in_setting, in_strongest_setting

RUNS = {
    name: [Run(took_s=[0.001] * 100, server_cpu_s=each, generator_cpu_s=each, server_waited_s=each)]
    for name, each in {"ours": 0.2, "triton": 0.1}.items()
}
"""Runs of which a request takes 4 ms of processor time, and 2 ms."""


@dataclass
class MadeUp:
    """A server that takes as long as it is told, and keeps the times it was asked at."""

    top: float
    took_s: float
    cpu_s: float = 0.002
    """Processor time of a request."""
    asked: list[list[float]] = field(default_factory=list)

    def closed_loop(self, payloads: Sequence[bytes], *, in_flight: int, seconds: float) -> Run:
        return Run(took_s=[in_flight / self.top] * round(self.top), wall_s=1.0)

    def open_loop(self, payloads: Sequence[bytes], arrivals: Iterable[float]) -> Run:
        self.asked.append(list(arrivals))
        return Run(took_s=[self.took_s] * 100, wall_s=1.0, server_cpu_s=self.cpu_s * 100)


def keys(report: Report) -> dict[str, Any]:
    return {name: value for name, value in report.finish().items() if name != "machine"}


class TestTail:
    @pytest.fixture(autouse=True)
    def few_queued(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(e2e_tail, "QUEUED", 2_000)

    def test_both_are_asked_at_the_same_times_at_shares_of_the_slower_ones_top(self) -> None:
        servers: dict[str, Any] = {"ours": MadeUp(400, 0.002), "triton": MadeUp(100, 0.004)}
        report = Report("")
        contenders = {name: Contender(each, [b""], _nothing) for name, each in servers.items()}
        tops = e2e_tail.compare_rates(report, contenders)
        e2e_tail.compare_at_shares(report, contenders, tops)
        ours, theirs = (each.asked for each in servers.values())
        assert ours == theirs
        rounds = 1 + e2e_tail.ROUNDS
        rates = [len(times) / e2e_tail.OPEN_SECONDS for times in ours]
        # at half once more: a request takes as much of the cores of either
        assert rates == pytest.approx([25.0] * rounds + [50.0] * 2 * rounds + [75.0] * rounds)
        found = keys(report)
        assert (found["e2e_vs_triton"], found[e2e_tail.BF16]) == (pytest.approx(4), None)
        ratios = [name for name in found if "_vs_triton" in name and not name.startswith("e2e_")]
        assert {name: found[name] for name in ratios} == dict.fromkeys(ratios, 0.5) | {e2e_tail.OF_QUEUES: 1.0}
        assert found.keys() | {e2e_tail.HEADS} == set(e2e_tail.TRITON_KEYS)

    def test_rates_of_heads_in_both_precisions(self) -> None:
        servers: dict[str, Any] = {"ours": MadeUp(200, 0.0), "bf16": MadeUp(300, 0.0), "triton": MadeUp(100, 0.0)}
        report = Report("")
        contenders = {name: Contender(each, [b""], _nothing) for name, each in servers.items()}
        e2e_tail.compare_rates(report, contenders)
        assert keys(report) == {"e2e_vs_triton": pytest.approx(2), e2e_tail.BF16: pytest.approx(3)}

    @pytest.mark.parametrize(("most", "rate"), [(500.0, 100.0), (90.0, 90.0)])
    def test_who_takes_half_the_processor_time_is_asked_at_twice_the_rate_for_an_equal_use(
        self, most: float, rate: float
    ) -> None:
        servers: dict[str, Any] = {"ours": MadeUp(400, 0.002, 0.004), "triton": MadeUp(400, 0.004, 0.003)}
        contenders = {name: Contender(each, [b""], _nothing) for name, each in servers.items()}
        report = Report("")
        e2e_tail.compare_at_equal_use(report, contenders, RUNS, 50.0, most)
        asked = {name: {len(times) / e2e_tail.OPEN_SECONDS for times in each.asked} for name, each in servers.items()}
        assert asked == {"ours": {50.0}, "triton": {rate}}
        found, cores = keys(report), len(os.sched_getaffinity(0))
        assert found[e2e_tail.EQUAL_USE] == 0.5
        # what they took there, not what they were to take
        assert found["core_use_at_equal_use"] == pytest.approx(0.2 / cores)
        assert found["triton_core_use_at_equal_use"] == pytest.approx(0.003 * rate / cores)

    def test_what_both_take_of_the_cores(self) -> None:
        report = Report("")
        e2e_tail.compare_use(report, RUNS, 50.0)
        found, cores = keys(report), len(os.sched_getaffinity(0))
        assert (found["core_use"], found["triton_core_use"]) == pytest.approx((0.2 / cores, 0.1 / cores))
        assert (found["core_wait_ms"], found["triton_core_wait_ms"]) == pytest.approx((2.0, 1.0))
        assert found["queue_p99_ms"] >= 4.0
        ratio = found["queue_p99_ms"] / found["triton_queue_p99_ms"]
        assert found[e2e_tail.OF_QUEUES] == pytest.approx(ratio, rel=1e-3)

    def test_where_the_kernel_counts_no_waits_they_are_null(self) -> None:
        report = Report("")
        runs = {name: [dataclasses.replace(run, server_waited_s=None) for run in each] for name, each in RUNS.items()}
        e2e_tail.compare_use(report, runs, 50.0)
        found = keys(report)
        assert (found["core_wait_ms"], found["triton_core_wait_ms"]) == (None, None)
        assert found["core_use"] is not None

    def test_the_p99_of_a_queue(self) -> None:
        times = np.array(list(itertools.islice(e2e_tail.endless(200.0), e2e_tail.QUEUED)))
        assert e2e_tail.queue_p99_s(200.0, 0.004, len(times)) == pytest.approx(0.004)
        ends = [0.0]
        for due in times:
            ends.append(max(due, ends[-1]) + 0.004)
        assert e2e_tail.queue_p99_s(200.0, 0.004, 1) == pytest.approx(np.percentile(np.array(ends[1:]) - times, 99))

    def test_the_first_run_of_each_is_to_warm_up(self) -> None:
        took_s = iter([9.0, 0.001, 0.003])
        runs = e2e_tail.in_turns({"ours": lambda: Run(took_s=[next(took_s)], wall_s=1.0)}, rounds=2)
        assert e2e_tail.percentiles(runs)[99].values == {"ours": [1.0, 3.0]}

    def test_what_is_at_half_of_the_top_is_the_key_with_a_bound(self) -> None:
        assert e2e_tail.key_of(99, 0.5) == "p99_vs_triton"
        assert e2e_tail.key_of(50, 0.25) == "p50_vs_triton_at_0_25"
        assert targets.reach_of("p99_vs_triton") == "<= 1.3, aim 1"


def _nothing(reply: bytes) -> Any:
    raise AssertionError(reply)


def test_processor_time_is_compared_by_round() -> None:
    """A machine that slows down by four after the first round changes no ratio."""
    report = Report("")
    runs = {
        name: [Run(took_s=[0.001] * 10, wall_s=1.0, server_cpu_s=each) for each in cpu_s]
        for name, cpu_s in {"ours": (1.0, 4.0), "remote": (2.0, 8.0), "grpc_torch": (2.0, 8.0)}.items()
    }
    e2e._report(report, Samples({"ours": [3.0, 1.0], "remote": [2.0, 0.5], "grpc_torch": [4.0, 1.0]}), runs)
    found = keys(report)
    assert found["cpu_vs_grpc_torch"] == 0.5
    assert found["cpu_us_per_sample"] == pytest.approx(2.5 / 10 / CANDIDATES * 1e6, rel=1e-3)
    assert (found["e2e_vs_grpc_torch"], found["e2e_remote_vs_grpc_torch"]) == (0.875, 0.5)


def test_heads_in_bfloat16_are_as_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """`auto` might choose another number for them, as there is less memory then."""
    started: list[tuple[str, ...]] = []

    @contextmanager
    def ringpull(requests: object, *options: str, precision: str = "float32") -> Iterator[Any]:
        started.append((precision, *options))
        yield SimpleNamespace(heads=3, by_connections=lambda count: None)

    @contextmanager
    def baseline(*arguments: object) -> Iterator[Any]:
        yield SimpleNamespace(by_connections=lambda count: None)

    monkeypatch.setattr(e2e_tail, "ringpull", ringpull)
    monkeypatch.setattr(e2e_tail, "baseline", baseline)
    monkeypatch.setattr(e2e_tail, "instructions", lambda device: True)
    for name in ("check_scores", "compare_rates", "compare_at_shares"):
        monkeypatch.setattr(e2e_tail, name, lambda *_, **__: None)
    e2e_tail.beside_triton(Report(""), [cast("Any", None)])
    assert started == [("float32", "--heads", "auto"), ("bfloat16", "--heads", "3")]


def test_one_head_beside_triton_has_keys_of_its_own() -> None:
    rates = {"ours": 8.0, "remote": 7.0, "grpc_torch": 5.0, "triton": 10.0, "bf16": 12.0}
    report = Report("")
    runs = {name: [Run(took_s=[0.001] * 10, wall_s=1.0, server_cpu_s=1.0)] for name in rates}
    e2e._report(report, Samples({name: [rate] for name, rate in rates.items()}), runs)
    found = keys(report)
    assert (found["e2e_one_head_vs_triton"], found["e2e_one_head_bf16_vs_triton"]) == (0.8, 1.2)
    assert (found["e2e_vs_grpc_torch"], found["e2e_bf16_vs_grpc_torch"]) == (1.6, 2.4)
    assert not found.keys() & {"e2e_vs_triton", "e2e_bf16_vs_triton"}, "these are of as many heads as pay off"


class TestStrongestSettings:
    """A rival that can be set up in several ways is compared in the strongest, figure by figure."""

    def test_its_median_counts(self) -> None:
        one, two = in_setting("rival", "1 thread"), in_setting("rival", "2 threads")
        samples = Samples({"ours": [1.0, 1.0, 1.0], one: [9.0, 2.0, 1.0], two: [3.0, 3.0, 4.0]})
        fastest, settings = in_strongest_setting(samples)
        assert settings == {"rival": "2 threads"}
        assert fastest.values["rival"] == [3.0, 3.0, 4.0]
        cheapest, settings = in_strongest_setting(samples, least=True)
        assert settings == {"rival": "1 thread"}
        assert cheapest.values["rival"] == [9.0, 2.0, 1.0]
        assert fastest.values["ours"] == cheapest.values["ours"] == [1.0, 1.0, 1.0]

    def test_rates_and_processor_time_each_choose(self) -> None:
        report = Report("")
        slow, costly = in_setting("grpc_torch", "1 thread"), in_setting("grpc_torch", "2 threads")
        runs = {
            name: [Run(took_s=[0.001] * 10, wall_s=1.0, server_cpu_s=cpu_s)]
            for name, cpu_s in {"ours": 1.0, "remote": 1.0, slow: 0.5, costly: 2.0}.items()
        }
        e2e._report(report, Samples({"ours": [2.0], "remote": [2.0], slow: [2.0], costly: [4.0]}), runs)
        found = keys(report)
        assert (found["e2e_vs_grpc_torch"], found["grpc_torch_fastest"]) == (0.5, "2 threads")
        assert (found["cpu_vs_grpc_torch"], found["grpc_torch_cheapest"]) == (2.0, "1 thread")


class TestTriton:
    def test_it_is_asked_with_the_numbers_of_the_request(self) -> None:
        (request,) = make_requests(1, 100)
        method, payload, scores = PROTOCOLS["triton"]
        message = ModelInferRequest.FromString(payload(request))
        assert method == "/inference.GRPCInferenceService/ModelInfer"
        configured = triton.config(100, instances=3)
        assert "count: 3 kind: KIND_CPU" in configured
        for given, content in zip(message.inputs, message.raw_input_contents, strict=True):
            array = getattr(request, given.name)
            assert tuple(given.shape) == array.shape
            assert content == array.tobytes()
            assert f'name: "{given.name}" data_type: TYPE_{given.datatype} ' in configured
        reply = ModelInferResponse(raw_output_contents=[np.array([0.5, 0.25], np.float32).tobytes()])
        np.testing.assert_array_equal(scores(reply.SerializeToString()), [0.5, 0.25])

    def test_what_its_instances_run_imports_nothing_of_ours(self) -> None:
        for path in (Path(triton.__file__).with_name("triton_model.py"), Path(dlrm.__file__)):
            statements = ast.parse(path.read_text(encoding="utf-8")).body
            names = [alias.name for each in statements if isinstance(each, ast.Import) for alias in each.names]
            names += [each.module or "" for each in statements if isinstance(each, ast.ImportFrom)]
            assert "torch" in names
            assert [name for name in names if name.split(".")[0] == "ringpull"] == []

    def test_without_the_variable_it_is_left_out_in_words(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv(triton.VARIABLE, raising=False)
        assert "RINGPULL_TRITON=VENV" in (triton.missing() or "")
        monkeypatch.setenv(triton.VARIABLE, "somewhere")
        assert triton.missing() is None

    def test_an_environment_without_it_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(RuntimeError, match="it has no bin/python"):
            triton.Installation.find(tmp_path)
        (tmp_path / "bin").mkdir()
        said = json.dumps({"site": str(tmp_path), "prefix": "/usr", "version": "3.11"})
        (tmp_path / "bin/python").write_text(f"#!/bin/sh\necho '{said}'\n")
        (tmp_path / "bin/python").chmod(0o755)
        with pytest.raises(RuntimeError, match=r"pip install nvidia-pytriton==0\.7\.0"):
            triton.Installation.find(tmp_path)

    def test_one_that_ends_at_once_is_an_error_with_its_last_words(self, made_up: triton.Installation) -> None:
        made_up.program.write_text('#!/bin/sh\nls "${1#*=}/dlrm/1" "${2#*=}/python"; echo $LD_LIBRARY_PATH; exit 1\n')
        with pytest.raises(RuntimeError, match=r"dlrm\.py\nmodel\.py\n") as failed, triton.served(made_up, 7):
            pass
        assert "triton_python_backend_stub" in str(failed.value)
        assert str(made_up.site / "nvidia_pytriton.libs") in str(failed.value)

    @pytest.fixture
    def made_up(self, tmp_path: Path) -> triton.Installation:
        found = triton.Installation(tmp_path / "venv", tmp_path, Path(sys.base_prefix), "3.11")
        for path in (found.program, found.stub, found.server / "backends/python/backend"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(0o755)
        return found


def test_changes_that_were_seen_are_no_figure() -> None:
    line = {"predicts": 10, "failed": 0, "wrong": 0, "p99_during_ms": 4.0, "p99_before_ms": 2.0, "moved_vs_least": 1.0}
    report = Report("")
    changes.tell(report, line | {"p99_during_vs_before": 2.0})
    assert keys(report)["p99_during_vs_before"] == 2.0
    with pytest.raises(RuntimeError, match="3 of 10 requests failed, 0 were wrong"):
        changes.tell(Report(""), line | {"failed": 3})
