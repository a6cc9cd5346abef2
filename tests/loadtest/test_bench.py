"""The benches measure what they say: ratios, key draws and formulas, without measuring anything here."""

from __future__ import annotations

import importlib
import json
import pkgutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest

import ringpull.loadtest.bench
from ringpull.inference.model.manifest import Manifest
from ringpull.loadtest import dlrm
from ringpull.loadtest.bench import all as every_bench
from ringpull.loadtest.bench import dlrm_requests, gpu_head, growth, large_model, ready, routing, stage_budget, targets
from ringpull.loadtest.bench.dlrm_requests import BAG, CANDIDATES
from ringpull.loadtest.bench.growth_model import CpuModel, PullShape, sub_bags, wire_bytes_per_sample
from ringpull.loadtest.bench.harness import Report, Samples, interleave
from ringpull.loadtest.bench.load import Run
from ringpull.loadtest.bench.pulls import dlrm_lookups
from ringpull.loadtest.bench.tables import bench_keys, bench_rows, generated_table, keys_of, zipf_rows
from ringpull.loadtest.process import server, unwound_by_sigterm
from ringpull.ps.hashing import positions_of
from ringpull.ps.pull_messages import PullReply

ROOT = Path(__file__).parent.parent.parent
MODULES = sorted(
    found.name for found in pkgutil.walk_packages(ringpull.loadtest.bench.__path__, "ringpull.loadtest.bench.")
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep generated tables to the test."""
    monkeypatch.setenv("RINGPULL_BENCH_CACHE", str(tmp_path))


# Locust is one of the tools compared, and a program that uses it patches its whole process.
@pytest.mark.parametrize(
    "module", [name for name in MODULES if ".baselines." not in name and not name.endswith("own_cost_locust")]
)
def test_every_module_is_imported_without_what_it_compares_with(module: str) -> None:
    importlib.import_module(module)


@pytest.mark.parametrize("bench", every_bench.BENCHES)
def test_every_bench_can_be_run_and_is_described(bench: str) -> None:
    module = importlib.import_module(f"ringpull.loadtest.bench.{bench}")
    assert callable(module.main)
    assert f"| `{bench}` |" in (ROOT / "loadtest/README.md").read_text()


def test_every_target_is_in_the_readme() -> None:
    written = (ROOT / "loadtest/README.md").read_text()
    shortened = {"kernel_vs_torch_d64", "kernel_vs_torch_d128"}
    unnamed = [target.key for target in targets.TARGETS if target.key not in written and target.key not in shortened]
    assert not unnamed


class TestHarness:
    def test_a_ratio_is_the_median_over_pairs_not_the_ratio_of_medians(self) -> None:
        # The machine slows down by ten after the first round: pairs still agree.
        samples = Samples({"ours": [30.0, 3.0, 3.0], "theirs": [10.0, 1.0, 1.5]})
        assert samples.ratio("ours", "theirs") == 3.0
        assert samples.median("ours") == 3.0

    def test_contenders_take_turns_after_one_unmeasured_turn(self) -> None:
        turns: list[str] = []

        def contender(name: str) -> float:
            turns.append(name)
            return float(len(turns))

        samples = interleave({"a": lambda: contender("a"), "b": lambda: contender("b")}, rounds=2)
        assert turns == ["a", "b"] * 3
        assert samples.values == {"a": [3.0, 5.0], "b": [4.0, 6.0]}

    def test_the_last_line_has_the_keys_and_the_machine(self, capsys: pytest.CaptureFixture[str]) -> None:
        report = Report("title")
        report.row("what", "1.0", "other 0.5", 2.0, ">= 1")
        report.key("ratio", 2.00001)
        report.absent("redis", "not installed", "other_ratio")
        report.finish()
        last = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert (last["ratio"], last["other_ratio"]) == (2.0, None)
        assert last["machine"]["cores"] >= 1

    def test_a_part_that_fails_costs_the_others_nothing(self, capsys: pytest.CaptureFixture[str]) -> None:
        report = Report("title")
        with report.part("the tail", "tail_ms", "tail_ratio"):
            report.key("tail_ms", 7.0)
            raise RuntimeError("calls failed: 60")
        with report.part("the rest", "rest_ms"):
            report.key("rest_ms", 2.0)
        report.finish()
        said = capsys.readouterr().out
        last = json.loads(said.splitlines()[-1])
        assert (last["tail_ms"], last["tail_ratio"], last["rest_ms"]) == (None, None, 2.0)
        assert "failed: calls failed: 60" in said


class TestTables:
    def test_a_generated_table_has_the_rows_of_its_keys(self) -> None:
        table = generated_table(1_000, 8)
        rows = np.array([0, 1, 999])
        numbers = table.find(positions_of(keys_of(rows)))
        np.testing.assert_array_equal([table.row(int(number)) for number in numbers], bench_rows(0, 1_000, 8)[rows])
        np.testing.assert_array_equal(bench_keys(1_000)[rows], keys_of(rows))
        assert len(np.unique(bench_keys(1_000))) == 1_000

    def test_zipf_draws_follow_their_weights(self) -> None:
        """The k-th hottest of R rows is drawn in proportion to the integral of x^-s over [k, k+1)."""
        rows, count, exponent = 1_000, 200_000, 1.05
        drawn = zipf_rows(np.random.default_rng(1), rows, count, exponent)
        assert drawn.min() >= 0
        assert drawn.max() < rows
        edges = np.arange(1, rows + 1, dtype=float) ** (1 - exponent)
        weights = np.diff(edges) / (edges[-1] - edges[0])
        hottest = np.sort(np.bincount(drawn, minlength=rows))[::-1][:10] / count
        np.testing.assert_allclose(hottest, weights[:10], rtol=0.1)

    def test_a_higher_exponent_is_hotter(self) -> None:
        def hottest(exponent: float) -> int:
            return int(np.bincount(zipf_rows(np.random.default_rng(1), 10_000, 50_000, exponent)).max())

        assert hottest(0.5) < hottest(1.05) < hottest(1.5)


class TestDlrm:
    def test_a_request_survives_its_bytes(self) -> None:
        (request,) = dlrm_requests.make_requests(1, 100)
        read = dlrm_requests.Request.from_bytes(request.to_bytes())
        np.testing.assert_array_equal(read.dense, request.dense)
        np.testing.assert_array_equal(read.context, request.context)
        np.testing.assert_array_equal(read.candidates, request.candidates)

    def test_ours_asks_for_the_same_ids(self) -> None:
        (request,) = dlrm_requests.make_requests(1, 100, candidates=3)
        call = dlrm_requests.call_of(request)
        assert call.rows == request.rows == 3
        bags = call.features["candidate_5"]
        np.testing.assert_array_equal(bags.values, request.candidates[5].reshape(-1))
        np.testing.assert_array_equal(bags.offsets, [0, 10, 20, 30])
        np.testing.assert_array_equal(call.context["context_2"].values, request.context[2])

    def test_context_pooled_once_gives_the_scores_of_the_plain_model(self) -> None:
        import torch

        model = dlrm.make_model(50)
        (request,) = dlrm_requests.make_requests(1, 50, candidates=4)
        bags = {}
        for i, name in enumerate(dlrm.CONTEXT):
            bags[name] = torch.from_numpy(np.tile(request.context[i], request.rows))
        for i, name in enumerate(dlrm.CANDIDATE):
            bags[name] = torch.from_numpy(request.candidates[i].reshape(-1))
        offsets = torch.arange(0, request.rows * BAG + 1, BAG)
        arguments = bags | {f"{name}_offsets": offsets for name in bags}
        with torch.inference_mode():
            plain = model(torch.from_numpy(request.dense), **arguments)
            torch.testing.assert_close(dlrm_requests.score_request(model, request), plain)


class TestGrowthModel:
    SHAPE = PullShape(keys_per_bag=10, bags=1_000, lookups=26, samples=100)

    @pytest.mark.parametrize("shards", [1, 2, 4, 8])
    def test_bytes_of_a_routed_pull_are_those_predicted(self, shards: int) -> None:
        """The formula against what the router cuts."""
        lookups = dlrm_lookups(np.random.default_rng(0), 100_000, 1)
        dim = 8
        _, parts = routing.route("m", lookups, routing.placement(shards))
        there = sum(part.positions.nbytes + part.lengths.nbytes for part in parts)
        back = sum(4 * dim * len(part.lengths) + 4 * np.count_nonzero(part.keys) for part in parts)
        shape = PullShape(BAG, sum(lookup.outputs for lookup in lookups), len(lookups), CANDIDATES)
        assert (there + back) / CANDIDATES == pytest.approx(wire_bytes_per_sample(shape, shards, dim), rel=0.02)

    def test_a_bag_meets_all_its_shards_in_the_end(self) -> None:
        assert sub_bags(10, 1) == 1
        assert sub_bags(1, 8) == pytest.approx(1)
        assert sub_bags(1_000, 8) == pytest.approx(8)
        assert sub_bags(10, 10**6) == pytest.approx(10, rel=1e-4)

    def test_costs_are_found_again(self) -> None:
        costs = CpuModel(pull_s=5e-4, message_s=2e-4, key_s=3e-8, sub_bag_s=1e-7)
        tiny = PullShape(1, 26, 26, 1)
        points = [(shape, shards, costs.pull(shape, shards)) for shape in (tiny, self.SHAPE) for shards in (1, 2)]
        solved = CpuModel.solve(points)
        for shards in (1, 2, 4, 8):
            assert solved.pull(self.SHAPE, shards) == pytest.approx(costs.pull(self.SHAPE, shards), rel=1e-6)

    def test_the_bench_pulls_what_its_shape_says(self) -> None:
        lookups = dlrm_lookups(np.random.default_rng(0), 1_000, growth.REQUESTS)
        assert sum(lookup.keys.size for lookup in lookups) == growth.FULL.keys
        assert sum(lookup.outputs for lookup in lookups) == growth.FULL.bags
        assert len(lookups) == growth.FULL.lookups


def test_routing_and_merge_of_the_bench_pool_every_key_once() -> None:
    lookups = dlrm_lookups(np.random.default_rng(0), 1_000, 1)
    batch, parts = routing.route("m", lookups, routing.placement(4))
    answers = []
    for part in parts:
        # A shard whose rows are all ones: each partial is the length of its sub-bag.
        values = np.repeat(part.lengths.astype(np.float32), 2)
        missing = np.zeros(np.count_nonzero(part.keys), np.uint32)
        answers.append((part, PullReply(values, missing, np.empty(0, np.uint8))))
    for result in routing.merge(batch, np.full(len(lookups), 2, np.int64), answers):
        np.testing.assert_array_equal(result.values, BAG)


def test_the_stages_of_a_budget_add_up_to_what_the_client_sees() -> None:
    timings = {"decode_us": 10, "features_us": 20, "queue_us": 30, "lookup_us": 400, "dense_us": 500, "total_us": 1_000}
    parts = {"route": 100, "look-up + pool": 120, "merge": 80, "encode": 15}
    budget = stage_budget.stages(stage_budget.Served(1_500.0, timings), parts)
    whole = [us for name, us in budget.items() if not name.startswith("- ") and name != "client sees"]
    inside = [us for name, us in budget.items() if name.startswith("- ")]
    assert sum(whole) == budget["client sees"] == 1_500
    assert sum(inside) == budget["look-up"] == 400
    assert budget["- wire"] == 100


def test_the_aim_of_memory_is_rows_and_keys() -> None:
    assert targets.limit(256) * 256 == pytest.approx(1.05 * 256 + 9)


def test_reading_files_reads_them_whole(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    path.write_bytes(bytes(3 * ready.READ_BYTES + 1))
    ready.forget([path])
    ready.read_files([path])


def test_a_rate_counts_calls_over_the_time_they_took() -> None:
    assert Run(took_s=[0.001] * 50, wall_s=2.0).calls_per_s == 25


class TestAll:
    def test_a_target_is_reached_at_its_bound(self) -> None:
        least = targets.Target("k", "", "", minimum=0.4, aim=0.8)
        most = targets.Target("k", "", "", maximum=5)
        stated = targets.Target("k", "", "")
        assert [least.reached(value) for value in (0.4, 0.39)] == [True, False]
        assert [most.reached(value) for value in (5, 5.1)] == [True, False]
        assert stated.reached(0)
        assert targets.Target("k", "", "", aim=0.7).reach == "stated, aim 0.7"
        assert [target.reach for target in (least, most, stated)] == [">= 0.4, aim 0.8", "<= 5", "stated"]

    def test_the_keys_of_a_bench_are_those_of_its_last_line(self) -> None:
        assert every_bench.keys_of_line("b", '{"a": 1, "machine": {}}') == {"a": 1}
        for line in ("", "Killed", "[1]"):
            with pytest.raises(RuntimeError, match="b did not end with a line of JSON"):
                every_bench.keys_of_line("b", line)

    def test_a_bench_that_fails_does_not_stop_the_others(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def run(bench: str) -> dict[str, float]:
            if bench == "e2e":
                raise RuntimeError("e2e failed with exit status 1")
            return {"small_vs_echo": 0.5}

        monkeypatch.setattr(every_bench, "run", run)
        monkeypatch.setattr("sys.argv", ["all", "e2e", "small"])
        with pytest.raises(SystemExit) as ended:
            every_bench.main()
        assert ended.value.code == 1
        last = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert (last["failed"], last["small_vs_echo"]) == (["e2e"], 0.5)

    def test_what_each_bench_took_is_told(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Also of one that failed; the longest comes first in the table, and the line has them in their order."""
        now_s = 0.0

        def run(bench: str) -> dict[str, float]:
            nonlocal now_s
            now_s += {"kernel": 95.04, "e2e": 300.0, "small": 80.0}[bench]
            if bench == "e2e":
                raise RuntimeError("e2e failed with exit status 1")
            return {}

        monkeypatch.setattr(every_bench, "run", run)
        monkeypatch.setattr("time.perf_counter", lambda: now_s)
        monkeypatch.setattr("sys.argv", ["all", "kernel", "e2e", "small"])
        with pytest.raises(SystemExit):
            every_bench.main()
        said = capsys.readouterr().out.splitlines()
        assert json.loads(said[-1])["seconds"] == {"kernel": 95.0, "e2e": 300.0, "small": 80.0}
        assert "e2e took 300 s" in said
        rows = [line.split()[1:4:2] for line in said if line.startswith("│") and len(line.split()) == 5]
        assert rows == [["e2e", "300"], ["kernel", "95"], ["small", "80"], ["all", "475"]]


class TestServer:
    @pytest.mark.medium
    def test_a_server_is_ended_with_what_it_started(self) -> None:
        with server("tests.loadtest.family", "up", ready="ready ") as (said, process):
            (below,) = process.children()
            assert said == str(below.pid)
        assert not process.is_running()
        assert not below.is_running()

    @pytest.mark.medium
    @pytest.mark.parametrize("runner", ["bench", "all"])
    def test_a_sigterm_ends_what_was_started(self, runner: str, tmp_path: Path) -> None:
        """Of one bench, and of the process that runs all of them."""
        command = [sys.executable, "-m", "tests.loadtest.family", "bench"]
        if runner == "all":
            python = tmp_path / "python"
            python.write_text(f"#!/bin/sh\nexec {' '.join(command)}\n")
            python.chmod(0o755)
            code = f"import sys\nsys.executable = {str(python)!r}\n"
            code += "from ringpull.loadtest.bench import all; all.run('kernel')"
            command = [sys.executable, "-c", code]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            started = [psutil.Process(int(pid)) for pid in process.stdout.readline().split()]
            process.terminate()
        assert process.returncode == 128 + signal.SIGTERM
        assert len(started) == 4
        assert [each for each in started if each.is_running()] == []

    def test_a_handler_that_is_there_stays(self) -> None:
        """Such as that of a server, or an outer one of these."""
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            with unwound_by_sigterm():
                assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler
        finally:
            signal.signal(signal.SIGTERM, before)
        with unwound_by_sigterm():
            assert signal.getsignal(signal.SIGTERM) is not before
        assert signal.getsignal(signal.SIGTERM) is before

    def test_one_that_ends_before_it_is_ready_is_an_error(self) -> None:
        with pytest.raises(RuntimeError, match="ended before it was ready"), server("tests.loadtest.family", "down"):
            pass


@pytest.mark.medium
def test_the_model_of_one_table_has_no_samples_of_another_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A head would hold them against the table that was put in the exported one's place, and refuse the version."""
    monkeypatch.setenv("RINGPULL_BENCH_CACHE", str(tmp_path))
    manifest = Manifest.load(large_model.one_table_model(100) / str(large_model.VERSION))
    assert (manifest.tables[0].rows, manifest.samples) == (100, None)


def test_without_a_gpu_its_keys_are_null(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(gpu_head.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(gpu_head, "BATCHES", (2,))
    monkeypatch.setattr(gpu_head, "REPEATS", 1)
    gpu_head.main()
    keys = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {"gpu", "gpu_dense_vs_copy_8192"} <= keys.keys()
    assert keys["gpu"] is keys["gpu_dense_vs_copy_8192"] is None
    assert targets.reach_of("gpu_dense_vs_copy_8192") == "<= 1.3"
    assert gpu_head.bytes_moved(2) == 4 * (2 * 13 + 2 * 26 * 64 + 2)
