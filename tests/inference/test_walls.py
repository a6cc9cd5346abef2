"""The walls within `inference`: the predictor knows no protocol, and what clients use knows no head."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_architecture import ROOT, imports

MESSAGES = ("grpc", "google.protobuf", "starlette", "uvicorn", "ringpull.inference.proto")
PROTOCOLS = (*MESSAGES, "ringpull.inference.head.frontends")


@pytest.mark.medium
def test_the_predictor_and_all_it_imports_know_no_protocol() -> None:
    program = "import sys, ringpull.inference.head.predictor; print(*sys.modules, sep='\\n')"
    loaded = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    modules = loaded.stdout.split()
    assert "ringpull.inference.head.pipeline" in modules
    assert [each for each in modules if each.startswith(PROTOCOLS) or each.endswith("_pb2")] == []


@pytest.mark.medium
def test_only_front_ends_know_protocols() -> None:
    """`head.py`, which starts them, knows them, too, but no messages."""
    head = Path("inference/head")
    wrong = [
        f"{path}:{line}: {module}"
        for path, line, module in imports()
        if path.is_relative_to(head) and not path.is_relative_to(head / "frontends")
        if module.startswith(PROTOCOLS if path != head / "head.py" else MESSAGES)
    ]
    assert wrong == []


@pytest.mark.medium
def test_what_clients_use_imports_nothing_of_the_head() -> None:
    shared = tuple(Path("inference") / each for each in ("client", "schema", "wire", "prediction.py", "errors.py"))
    wrong = [
        f"{path}:{line}: {module}"
        for path, line, module in imports()
        if any(path.is_relative_to(each) for each in shared) and module.startswith("ringpull.inference.head")
    ]
    assert wrong == []
