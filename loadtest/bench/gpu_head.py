"""The dense part on a GPU: what the device could do, what the head gets of it, and what each shortcut is worth.

Measured on the DLRM of the end-to-end bench (`ringpull.loadtest.dlrm`): pooled float32 vectors lie in pinned host
memory, as merges could leave them; scores end on the host. Without CUDA it says so and measures the same path on the
CPU, in float32 only.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from ringpull.loadtest import dlrm
from ringpull.loadtest.bench.dlrm_requests import BAG
from ringpull.loadtest.bench.harness import QUICK, Report

BATCHES = (128, 512, 2_048, 8_192)
REPEATS = 20 if QUICK else 100
Model = Callable[..., Tensor]

VECTORS = dlrm.CONTEXT_TABLES + dlrm.CANDIDATE_TABLES

VS_COPY = "gpu_dense_vs_copy_8192"
"""Key of the largest batch in float32, by the faster of its paths, beside the copies of its bytes alone."""


@dataclass(frozen=True, slots=True)
class Precision:
    """Precision of the matrix products; inputs and scores stay float32."""

    name: str
    tf32: bool = False
    bfloat16: bool = False


PRECISIONS = (Precision("float32"), Precision("tf32", tf32=True), Precision("bfloat16", bfloat16=True))


class DensePart(torch.nn.Module):
    """The model after its look-ups: (B, 13) dense numbers and (B, 26, 64) pooled vectors to (B, 1) scores."""

    def __init__(self, model: dlrm.Dlrm) -> None:
        super().__init__()
        self.model = model

    def forward(self, dense: Tensor, pooled: Tensor) -> Tensor:
        return self.model.score(dense, list(pooled.unbind(1)))


def flops_per_sample() -> int:
    """Return multiply-adds counted as two, of the layers and the interaction."""
    bottom = (dlrm.DENSE, 512, 256, dlrm.DIM)
    vectors = VECTORS + 1
    top = (dlrm.DIM + vectors * (vectors - 1) // 2, 512, 256, 1)
    layers = sum(a * b for widths in (bottom, top) for a, b in pairwise(widths))
    return 2 * (layers + vectors * vectors * dlrm.DIM)


def main() -> None:
    model = DensePart(dlrm.make_model(rows=8)).eval()
    # the look-ups are not measured here, and their tables would be copied to the device
    model.model.tables = torch.nn.ModuleDict()
    with torch.inference_mode():
        if torch.cuda.is_available():
            _on_cuda(model)
        else:
            print("no CUDA here: measuring the float32 path on the CPU; run this on a machine with a GPU for the table")
            _on_cpu(model)


def _on_cpu(model: DensePart) -> None:
    report = Report("Dense part on the CPU")
    for batch in BATCHES:
        dense, pooled = _inputs(batch)
        took = _median_s(partial(model, dense, pooled))
        report.row(f"batch {batch}", f"{took * 1e3:.2f} ms", f"{batch / took:,.0f} samples/s")
    report.key("gpu", None)
    report.key(VS_COPY, None)
    report.finish()


def _on_cuda(model: DensePart) -> None:
    report = Report(
        f"Dense part on {torch.cuda.get_device_name()}, torch {torch.__version__},"
        f" {flops_per_sample() / 1e6:.2f} MFLOP per sample"
    )
    report.key("gpu", torch.cuda.get_device_name())
    rates = _device_rates(report)
    expected = {batch: model(*_inputs(batch)) for batch in BATCHES}
    model.cuda()
    fastest_s: dict[tuple[str, int], float] = {}
    for precision in PRECISIONS:
        _set_tf32(precision.tf32)
        for batch in BATCHES:
            host = tuple(tensor.pin_memory() for tensor in _inputs(batch))
            paths = {"eager": _eager(model, precision, host), "graph": _graph(model, precision, host)}
            # the same, compiled: what a fused interaction would be worth
            if not QUICK:
                compiled = torch.compile(model, dynamic=False)
                paths["compiled + graph"] = _graph(compiled, precision, host)
            for name, run in paths.items():
                took = _median_s(run)
                fastest_s[precision.name, batch] = min(took, fastest_s.get((precision.name, batch), took))
                difference = (run() - expected[batch]).abs().max().item()
                share = batch * flops_per_sample() / took / rates[precision.name]
                report.row(
                    f"{precision.name}, batch {batch}, {name}",
                    f"{took * 1e6:,.0f} us",
                    f"{batch / took:,.0f} samples/s, scores differ by {difference:.1e}",
                    share,
                    "of its matrix rate",
                )
                report.key(f"us_{precision.name}_{batch}_{name.replace(' + ', '_')}", took * 1e6)
                report.key(f"diff_{precision.name}_{batch}_{name.replace(' + ', '_')}", f"{difference:.1e}")
    copied_s = bytes_moved(BATCHES[-1]) / rates["copy"]
    took = fastest_s["float32", BATCHES[-1]]
    what, alone = (
        f"float32, batch {BATCHES[-1]}, the faster path",
        f"copies of its bytes alone, {copied_s * 1e6:,.0f} us",
    )
    report.row(what, f"{took * 1e6:,.0f} us", alone, took / copied_s, key=VS_COPY)
    report.finish()


def bytes_moved(batch: int) -> int:
    """Return the bytes of a batch that go to the device, numbers and vectors, and of its scores that come back."""
    return 4 * batch * (dlrm.DENSE + VECTORS * dlrm.DIM + 1)


def _device_rates(report: Report) -> dict[str, float]:
    """Measure FLOP/s of large products by precision, and bytes/s of copies; `copy` is from pinned memory."""
    rates = {}
    for precision in PRECISIONS:
        _set_tf32(precision.tf32)
        size = 4_096 if precision.name == "float32" else 8_192
        dtype = torch.bfloat16 if precision.bfloat16 else torch.float32
        a, b = (torch.randn(size, size, device="cuda", dtype=dtype) for _ in range(2))
        took = _median_s(partial(_product, a, b))
        rates[precision.name] = 2 * size**3 / took
        report.row(f"matrix rate {precision.name}", f"{rates[precision.name] / 1e12:.0f} TFLOP/s")
        report.key(f"tflops_{precision.name}", rates[precision.name] / 1e12)
    host = torch.empty(1 << 28, dtype=torch.uint8).pin_memory()
    device = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    took = _median_s(lambda: _synchronised(device[: 1 << 28].copy_(host, non_blocking=True)))
    report.row("pinned host to device", f"{host.numel() / took / 1e9:.0f} GB/s")
    report.key("h2d_gb_per_s", host.numel() / took / 1e9)
    rates["copy"] = host.numel() / took
    took = _median_s(lambda: _synchronised(device.clone()))
    report.row("device to device, read + write", f"{2 * device.numel() / took / 1e9:,.0f} GB/s")
    report.key("d2d_gb_per_s", 2 * device.numel() / took / 1e9)
    return rates


def _eager(model: Model, precision: Precision, host: tuple[Tensor, ...]) -> Callable[[], Tensor]:
    def run() -> Tensor:
        with torch.autocast("cuda", torch.bfloat16, enabled=precision.bfloat16):
            scores = model(*(tensor.to("cuda", non_blocking=True) for tensor in host))
        return scores.float().cpu()

    return run


def _graph(model: Model, precision: Precision, host: tuple[Tensor, ...]) -> Callable[[], Tensor]:
    """Capture copies, model and the copy back as one CUDA graph; replaying it is one launch."""
    inputs = [torch.empty_like(tensor, device="cuda") for tensor in host]
    scores_host = torch.empty(len(host[0]), 1).pin_memory()

    def forward() -> None:
        for device_tensor, tensor in zip(inputs, host, strict=True):
            device_tensor.copy_(tensor, non_blocking=True)
        with torch.autocast("cuda", torch.bfloat16, enabled=precision.bfloat16, cache_enabled=False):
            scores_host.copy_(model(*inputs).float(), non_blocking=True)

    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    with torch.cuda.stream(side):
        for _ in range(3):
            forward()
    side.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        forward()

    def run() -> Tensor:
        graph.replay()
        torch.cuda.synchronize()
        return scores_host

    return run


def _inputs(batch: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(batch)
    return (
        torch.randn(batch, dlrm.DENSE, generator=generator),
        torch.randn(batch, VECTORS, dlrm.DIM, generator=generator) * BAG**0.5,
    )


def _set_tf32(on: bool) -> None:
    torch.backends.cuda.matmul.allow_tf32 = on
    torch.backends.cudnn.allow_tf32 = on


def _product(a: Tensor, b: Tensor) -> Tensor:
    return _synchronised(a @ b)


def _synchronised(tensor: Tensor) -> Tensor:
    torch.cuda.synchronize()
    return tensor


def _median_s(run: Callable[[], object]) -> float:
    for _ in range(3):
        run()
    took = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        run()
        took.append(time.perf_counter() - begin)
    return statistics.median(took)


if __name__ == "__main__":
    main()
