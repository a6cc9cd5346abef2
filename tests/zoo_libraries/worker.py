"""A process that puts models of one library to the test, one after the other, and tells each outcome as a line of JSON.

The first line lists all models, and those that will be tried: one at which the process dies is that after the last one
told.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import sys
import warnings

import torch

from tests.zoo_libraries.model import by_name
from tests.zoo_libraries.trial import run_trial


def main() -> None:
    """Run `LIBRARY [NAME...]`: all its models, or those that are named."""
    library, *names = sys.argv[1:]
    told = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # libraries print as they like
    warnings.simplefilter("ignore")
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    logging.getLogger("zoo").setLevel(logging.INFO if os.environ.get("ZOO_TRACES") else logging.WARNING)
    torch.set_num_threads(1)
    models = by_name(importlib.import_module(f"tests.zoo_libraries.libraries.{library}").MODELS)
    chosen = [name for name in models if not names or name in names]
    print(json.dumps({"models": list(models), "tried": chosen}), file=told, flush=True)
    for name in chosen:
        print(json.dumps(run_trial(library, models[name]).as_json()), file=told, flush=True)


if __name__ == "__main__":
    main()
