"""Head count of `--heads auto`: as many heads as pay off, and why.

A head keeps two cores busy when it is: one with its loop, in Python, and as many as the dense program has threads. With
one head on two cores one of them waits for the other, so there two heads pay off (deploy/README.md has the figures, and
when they do not).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final

from ringpull.deploy.config import ServeConfig
from ringpull.inference.head.tokens.entries import TokenEntry, parse_tokens
from ringpull.inference.head.tokens.quotas import QuotaLimits
from ringpull.inference.model.manifest import FILE_NAME, MAX_BYTES, Manifest, parse_manifest
from ringpull.ps import allowance
from ringpull.ps.errors import RingpullError
from ringpull.ps.text.byte_size import size
from ringpull.ps.transfer.remote import RemoteFolder

MAX_CHOSEN: Final = 8
"""Most heads that are chosen: a client's connections, few, are to reach all; and more than two were never measured."""

MEMORY_SHARE: Final = 0.25
"""Share of the memory available that heads may take; the rest is for shards, and for the files of tables."""

HEAD_BYTES: Final = 450 << 20
"""Memory of a head of its own: 386 to 437 MiB were measured, with torch 2.13 and a program of 3 MB, idle and in use."""

COPIES: Final = 2
"""Bytes of memory per byte of a dense program's files: 1.4 were measured with 193 MiB, and there are more while it is
read."""


CPU_ONNXRUNTIME: Final = "onnxruntime"
GPU_ONNXRUNTIME: Final = "onnxruntime-gpu"
"""Packages of onnxruntime: the first has no CUDA."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """Circumstances that decide how many heads pay off."""

    cores: float
    """Cores that may be used."""
    threads: int
    """Threads of each head's dense program."""
    memory_bytes: int
    """Memory available."""
    head_bytes: int
    """Memory that each head takes."""
    gpu: bool = False
    """Whether a dense program may run on a GPU."""
    joined: bool = False
    """Whether Ray is somebody else's."""
    fixed_ports: bool = False
    """Whether gRPC and HTTP have ports of their own."""
    quotas: bool | None = False
    """Whether tokens have quotas; None: that is known on other nodes only."""


@dataclass(frozen=True, slots=True)
class HeadCount:
    """Number of heads that was chosen."""

    heads: int
    because: str
    """Reason, which goes on from the number: `for 2 cores`."""


def head_count(found: Circumstances) -> HeadCount:
    """Return how many heads pay off."""
    if found.joined and not found.fixed_ports:
        return HeadCount(1, "as more on a joined Ray need a --grpc-port and a --http-port that are not 0")
    if found.quotas is None:
        return HeadCount(1, "as quotas are of each head, and it is not known here whether --tokens has any")
    if found.quotas:
        return HeadCount(1, "as tokens have quotas, which are of each head")
    if found.gpu:
        return HeadCount(1, "as there is a GPU, which heads would share, and batches for it want to be large")
    for_cores, why = _by_cores(found.cores, found.threads)
    for_memory = max(1, int(found.memory_bytes * MEMORY_SHARE / found.head_bytes))
    if for_memory < for_cores:
        share = f"{MEMORY_SHARE:.0%} of {size(found.memory_bytes)} available memory"
        return HeadCount(for_memory, f"for {share}, at {size(found.head_bytes)} a head")
    return HeadCount(for_cores, why)


def _by_cores(cores: float, threads: int) -> tuple[int, str]:
    """Return how many heads cores keep busy, and why."""
    each = f" and {threads} threads of the dense program in each" if threads > 1 else ""
    why = f"for {cores:g} core{'s' * (cores != 1)}{each}"
    if cores < 2 * threads:
        return 1, why
    heads = max(2, int(cores // (1 + threads)))
    return (heads, why) if heads <= MAX_CHOSEN else (MAX_CHOSEN, f"the most that are chosen, {why}")


def circumstances(config: ServeConfig, *, gpu: bool) -> Circumstances:
    """Return what there is of a deployment and of this machine, where heads without a GPU are started.

    Args:
        gpu: Whether there is a GPU for heads that ask for one.
    """
    head = config.head
    manifests = _manifests(config)
    return Circumstances(
        cores=allowance.cores(),
        threads=head.dense_threads or 1,
        memory_bytes=allowance.memory_bytes(),
        head_bytes=HEAD_BYTES + COPIES * (1 + config.keep) * _program_bytes(manifests),
        gpu=gpu and head.device != "cpu" and any(map(_may_use_gpu, manifests)),
        joined=not config.private,
        fixed_ports=bool(head.grpc_port and head.http_port),
        quotas=_quotas(config),
    )


def gpu_here(environment: Mapping[str, str], root: Path = allowance.ROOT) -> bool:
    """Return whether this machine has a GPU that processes of this one see. Torch would know, and takes a second.

    Args:
        root: Folder that `dev` is in.
    """
    if environment.get("CUDA_VISIBLE_DEVICES", "all") in ("", "-1"):
        return False
    return (root / "dev/kfd").exists() or any((root / "dev").glob("nvidia[0-9]*"))


def _manifests(config: ServeConfig) -> list[Manifest]:
    """Return the manifests of the versions to serve."""
    found = []
    for version in config.versions:
        content = RemoteFolder(version.folder).read(FILE_NAME, max_bytes=MAX_BYTES)
        found.append(parse_manifest(content, Path(version.folder) / FILE_NAME))
    return found


def _program_bytes(manifests: Iterable[Manifest]) -> int:
    """Return the bytes of the dense programs of all models."""
    found = 0
    for manifest in manifests:
        found += sum(each.bytes for each in manifest.program_data)
        found += manifest.program.bytes if manifest.program is not None else 0
    return found


def _may_use_gpu(manifest: Manifest) -> bool:
    """Return whether a version has a dense program, and its runtime, as it is installed here, may use a GPU.

    What that is built for is read from its packages' metadata, as loading it would take a second.
    """
    return manifest.program is not None and not (
        _is_installed(CPU_ONNXRUNTIME) and not _is_installed(GPU_ONNXRUNTIME)
        if manifest.runtime == "onnxruntime"
        else _version("torch").endswith("+cpu")
    )


def _is_installed(package: str) -> bool:
    return bool(_version(package))


def _version(package: str) -> str:
    """Return the version of a package that is installed; empty: it is not."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _quotas(config: ServeConfig) -> bool | None:
    """Return whether tokens have quotas; None: their file is for other nodes, and cannot be read here."""
    tokens = config.head.tokens
    if tokens.file is None:
        return _limited(tokens.entries)
    try:
        return _limited(parse_tokens(Path(tokens.file).read_bytes(), tokens.file))
    except (OSError, RingpullError):
        return None


def _limited(entries: tuple[TokenEntry, ...]) -> bool:
    return any(each.limits != QuotaLimits() for each in entries)
