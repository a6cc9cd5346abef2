"""The bench's DLRM in Triton's python backend: an instance holds every table, one thread, eager, as a user has it.

Triton runs this file, beside a copy of `ringpull/loadtest/dlrm.py`, in its own environment: it imports nothing of ours.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import dlrm  # type: ignore[import-not-found]
import torch
import triton_python_backend_utils as backend  # type: ignore[import-not-found]


class TritonPythonModel:
    """One instance; the name, and those of its methods, are the backend's."""

    def initialize(self, args: dict[str, str]) -> None:
        torch.set_num_threads(1)
        rows = json.loads(args["model_config"])["parameters"]["rows"]["string_value"]
        self._model = dlrm.make_model(int(rows))

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        with torch.inference_mode():
            return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        given = [
            torch.from_numpy(backend.get_input_tensor_by_name(request, name).as_numpy())
            for name in ("dense", "context", "candidates")
        ]
        scores = self._model.score_user(*given).numpy().reshape(-1)
        return backend.InferenceResponse([backend.Tensor("scores", scores)])
