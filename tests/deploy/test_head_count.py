"""`--heads auto`: how many heads pay off, and why."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ringpull.deploy import head_count as count_module
from ringpull.deploy.cluster import cluster
from ringpull.deploy.commands import serve as serve_module
from ringpull.deploy.head_count import HEAD_BYTES, Circumstances, HeadCount, circumstances, gpu_here, head_count
from ringpull.inference.head.config import HeadConfig
from ringpull.inference.model.manifest import Manifest
from ringpull.ps import allowance

GIB = 1 << 30
TWO_CORES = Circumstances(cores=2, threads=1, memory_bytes=16 * GIB, head_bytes=GIB // 2)
QUOTA = '[[token]]\nname = "web"\ntoken = "s3cret-of-the-web-0123456789"\nroles = ["predict"]\n'


@pytest.mark.parametrize(
    ("changes", "heads", "because"),
    [
        ({}, 2, "for 2 cores"),
        ({"cores": 1}, 1, "for 1 core"),
        ({"cores": 1.5}, 1, "for 1.5 cores"),
        ({"cores": 3}, 2, "for 3 cores"),
        ({"cores": 4}, 2, "for 4 cores"),
        ({"cores": 6}, 3, "for 6 cores"),
        ({"cores": 16}, 8, "for 16 cores"),
        ({"cores": 64}, 8, "the most that are chosen, for 64 cores"),
        ({"threads": 2}, 1, "for 2 cores and 2 threads of the dense program in each"),
        ({"cores": 4, "threads": 2}, 2, "for 4 cores and 2 threads of the dense program in each"),
        ({"cores": 12, "threads": 2}, 4, "for 12 cores and 2 threads of the dense program in each"),
        ({"cores": 16, "memory_bytes": 6 * GIB}, 3, "for 25% of 6.0 GiB available memory, at 512.0 MiB a head"),
        ({"memory_bytes": GIB}, 1, "for 25% of 1.0 GiB available memory, at 512.0 MiB a head"),
        ({"memory_bytes": 0}, 1, "for 25% of 0 B available memory, at 512.0 MiB a head"),
        ({"gpu": True}, 1, "as there is a GPU, which heads would share, and batches for it want to be large"),
        ({"joined": True, "fixed_ports": True}, 2, "for 2 cores"),
        ({"joined": True}, 1, "as more on a joined Ray need a --grpc-port and a --http-port that are not 0"),
        ({"quotas": True}, 1, "as tokens have quotas, which are of each head"),
        ({"quotas": None}, 1, "as quotas are of each head, and it is not known here whether --tokens has any"),
    ],
)
def test_how_many(changes: dict[str, Any], heads: int, because: str) -> None:
    assert head_count(replace(TWO_CORES, **changes)) == HeadCount(heads, because)


@pytest.fixture
def four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allowance, "cores", lambda: 4.0)
    monkeypatch.setattr(allowance, "memory_bytes", lambda: 8 * GIB)
    installed(monkeypatch, torch="2.13.0")


def installed(monkeypatch: pytest.MonkeyPatch, **versions: str) -> None:
    """Have packages that run programs be installed in these versions, and no others."""
    monkeypatch.setattr(count_module, "_version", lambda package: versions.get(package.replace("-", "_"), ""))


@pytest.mark.medium
@pytest.mark.usefixtures("four_cores")
class TestCircumstances:
    def test_of_a_deployment(self, serve: Callable[..., Any]) -> None:
        config = serve("--heads", "auto", "--dense-threads", 2).config
        found = circumstances(config, gpu=True)
        assert (found.cores, found.memory_bytes, found.threads) == (4.0, 8 * GIB, 2)
        assert (found.gpu, found.joined, found.quotas) == (True, False, False)
        chosen = serve("--heads", "auto", "--dense-threads", "auto").config
        assert circumstances(chosen, gpu=True).threads == 1, "more only where a core is idle"
        folder = Path(config.versions[0].folder)
        programs = sum(file.stat().st_size for file in folder.glob("dense*"))
        assert found.head_bytes == HEAD_BYTES + 4 * programs, "two copies of each of two versions"
        joined = serve("--heads", "auto", "--address", "auto", "--device", "cpu").config
        found = circumstances(joined, gpu=True)
        assert (found.gpu, found.joined, found.fixed_ports) == (False, True, True)
        free = serve("--heads", "auto", "--address", "auto", "--grpc-port", 0).config
        assert not circumstances(free, gpu=False).fixed_ports

    @pytest.mark.parametrize(
        ("changes", "packages", "gpu"),
        [
            ({}, {"torch": "2.13.0"}, True),
            ({}, {"torch": "2.13.0+cu130"}, True),
            ({}, {"torch": "2.13.0+cpu"}, False),
            ({"schema": None, "program": None, "lookups": (), "inputs": (), "outputs": ()}, {"torch": "2.13.0"}, False),
            ({"runtime": "onnxruntime"}, {"torch": "2.13.0", "onnxruntime": "1.32.0"}, False),
            ({"runtime": "onnxruntime"}, {"torch": "2.13.0+cpu", "onnxruntime_gpu": "1.32.0"}, True),
        ],
    )
    def test_a_gpu_that_no_program_can_use_is_none(
        self,
        serve: Callable[..., Any],
        monkeypatch: pytest.MonkeyPatch,
        changes: dict[str, Any],
        packages: dict[str, str],
        gpu: bool,
    ) -> None:
        config = serve("--heads", "auto").config
        folder = Path(config.versions[0].folder)
        replace(Manifest.load(folder), **changes).save(folder)
        installed(monkeypatch, **packages)
        assert circumstances(config, gpu=True).gpu is gpu
        assert not circumstances(config, gpu=False).gpu

    def test_quotas(self, serve: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        file = tmp_path / "tokens.toml"
        file.touch(mode=0o600)
        for text, quotas in ((QUOTA, False), (f"{QUOTA}in_flight = 3\n", True)):
            file.write_text(text)
            assert circumstances(serve("--heads", "auto", "--tokens", file).config, gpu=False).quotas is quotas
        elsewhere = serve("--heads", "auto", "--tokens", "/not/here.toml", "--address", "auto").config
        assert circumstances(elsewhere, gpu=False).quotas is None
        monkeypatch.setenv("RINGPULL_TOKENS", f"{QUOTA}rows_per_s = 5\n")
        assert circumstances(serve("--heads", "auto").config, gpu=False).quotas is True

    def test_it_is_said_and_goes_with_the_heads(
        self, serve: Callable[..., Any], capsys: pytest.CaptureFixture[str]
    ) -> None:
        config = cluster._choose_heads(serve("--heads", "auto").config, gpu=False)
        assert (config.head_count, config.head.share_port) == (2, True)
        assert config.head.heads_because == "--heads auto: 2 heads, for 4 cores"
        assert capsys.readouterr().err == "--heads auto: 2 heads, for 4 cores\n"
        config = cluster._choose_heads(serve("--heads", "auto").config, gpu=True)
        assert (config.head_count, config.head.share_port) == (1, False)
        assert config.head.heads_because.startswith("--heads auto: 1 head, as there is a GPU, which heads would")

    def test_a_number_is_what_it_is(self, serve: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
        for options, heads in (((), 1), (("--heads", 3), 3)):
            config = cluster._choose_heads(serve(*options).config, gpu=True)
            assert (config.head_count, config.head.share_port, config.head.heads_because) == (heads, heads > 1, "")
        assert capsys.readouterr().err == ""


@pytest.mark.parametrize("given", ["two", "", "1.5", "Auto"])
def test_what_is_no_number_is_refused(serve: Callable[..., Any], given: str) -> None:
    said = serve("--heads", given)
    assert said.config is None
    assert said.err == f"error: --heads is {given!r}; it must be a number from 1 to 64, or auto\n"


@pytest.mark.parametrize("given", ["0", "65", "-1"])
def test_a_number_out_of_bounds_is_refused(serve: Callable[..., Any], given: str) -> None:
    said = serve("--heads", given)
    assert (said.config, said.err) == (None, f"error: --heads is {given}; it must be from 1 to 64\n")


@pytest.mark.parametrize(("option", "given"), [("--heads", "65"), ("--heads", "many")])
def test_what_is_refused_is_so_before_models_are_read(
    serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, option: str, given: str
) -> None:
    """They may be at URLs, and take a while."""

    def choose_versions(*others: object) -> None:
        raise AssertionError("models were read")

    monkeypatch.setattr(serve_module, "choose_versions", choose_versions)
    assert serve(option, given).err.startswith(f"error: {option} is ")


def test_a_gpu_is_known_by_its_device(tmp_path: Path) -> None:
    assert HeadConfig().device is None
    assert not gpu_here({}, tmp_path)
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/nvidiactl").touch()
    assert not gpu_here(os.environ, tmp_path)
    (tmp_path / "dev/nvidia0").touch()
    assert gpu_here({"CUDA_VISIBLE_DEVICES": "0"}, tmp_path)
    assert not gpu_here({"CUDA_VISIBLE_DEVICES": ""}, tmp_path)
    assert not gpu_here({"CUDA_VISIBLE_DEVICES": "-1"}, tmp_path)
    (tmp_path / "dev/nvidia0").unlink()
    (tmp_path / "dev/kfd").touch()
    assert gpu_here({}, tmp_path)
