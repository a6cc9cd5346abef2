"""RecBole 1.2.1 made importable, and a small dataset in its own format, from which it builds its models.

RecBole 1.2.1 was written for numpy 1 and needs parts of larger packages for its logs. What is patched here is its
set-up alone: no model, layer or data structure of it is touched.
"""

from __future__ import annotations

import functools
import importlib
import logging
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.sparse import dok_matrix
from torch import nn

from tests.zoo_libraries.model import DIM, ROWS

LENGTH = 8
"""Longest history."""
CATEGORIES = 40
SMALL_ROWS = 1_500
"""Items for models that hold a weight per pair of items, or score all items for each row."""


def make_importable() -> None:
    """Give RecBole the names that numpy 2 dropped, and empty packages in the place of those that log and plot."""
    for old, new in {"float_": np.float64, "complex_": np.complex128, "unicode_": np.str_}.items():
        if not hasattr(np, old):
            setattr(np, old, new)
    if not hasattr(dok_matrix, "_update"):  # scipy's, until 1.13
        dok_matrix._update = lambda self, entries: self._dict.update(entries)
    np.float, np.bool = float, np.bool_  # type: ignore[attr-defined, assignment]
    board = types.ModuleType("torch.utils.tensorboard")
    board.SummaryWriter = object  # type: ignore[attr-defined]
    sys.modules.setdefault("torch.utils.tensorboard", board)
    torch.load = functools.partial(torch.load, weights_only=False)
    logging.getLogger("recbole").setLevel(logging.ERROR)


make_importable()
import recbole.data.dataset as recbole_datasets  # noqa: E402
from recbole.config import Config  # noqa: E402
from recbole.data import create_dataset  # noqa: E402
from recbole.utils import get_model  # noqa: E402


@functools.cache
def folder(rows: int) -> str:
    """Write the dataset `zoo` with so many users and items, less one for RecBole's own padding; return its folder."""
    path = Path(tempfile.mkdtemp(prefix="zoo-recbole")) / "zoo"
    path.mkdir()
    rng = np.random.default_rng(2)
    users, items = (rng.permutation(np.arange(1, rows)) for _ in range(2))
    # Every user and every item at least once, in the order of their numbers: RecBole then numbers them so, too.
    pairs = [(user, user) for user in range(1, rows)]
    pairs += [(int(users[i]), int(items[(i * 7 + k) % (rows - 1)])) for i in range(rows - 1) for k in range(2)]
    inter = ["user_id:token\titem_id:token\trating:float\tlabel:float\ttimestamp:float"]
    inter += [f"{u}\t{i}\t{1 + (u + i) % 5}\t{(u + i) % 2}\t{at}" for at, (u, i) in enumerate(pairs)]
    (path / "zoo.inter").write_text("\n".join(inter) + "\n")
    user_rows = [f"{u}\t{1 + (u - 1) % CATEGORIES}" for u in range(1, rows)]
    (path / "zoo.user").write_text("\n".join(["user_id:token\tjob:token", *user_rows]) + "\n")
    item_rows = [
        f"{i}\t{1 + (i - 1) % CATEGORIES}\t" + " ".join(str(1 + (i + k) % CATEGORIES) for k in range(1 + i % 3))
        for i in range(1, rows)
    ]
    (path / "zoo.item").write_text("\n".join(["item_id:token\tkind:token\ttags:token_seq", *item_rows]) + "\n")
    kg = [f"{i}\t{i % 7}\t{(i * 31) % (rows - 1) + 1}" for i in range(1, rows)]
    (path / "zoo.kg").write_text("\n".join(["head_id:token\trelation_id:token\ttail_id:token", *kg]) + "\n")
    link = [f"{i}\t{i}" for i in range(1, rows)]
    (path / "zoo.link").write_text("\n".join(["item_id:token\tentity_id:token", *link]) + "\n")
    return str(path.parent)


FIELDS: dict[str, Any] = {
    "general": {"inter": ["user_id", "item_id", "rating", "timestamp"]},
    "sequential": {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "kind"]},
    "context": {
        "inter": ["user_id", "item_id", "label"],
        "user": ["user_id", "job"],
        "item": ["item_id", "kind", "tags"],
    },
    "knowledge": {
        "inter": ["user_id", "item_id", "rating", "timestamp"],
        "kg": ["head_id", "relation_id", "tail_id"],
        "link": ["item_id", "entity_id"],
    },
}


def build(name: str, kind: str, rows: int = ROWS, **more: Any) -> nn.Module:
    """Return a model of RecBole, as its quick start builds it."""
    settings = {
        "data_path": folder(rows),
        "load_col": FIELDS[kind],
        "embedding_size": DIM,
        "use_gpu": False,
        "train_neg_sample_args": None if kind == "sequential" else {"distribution": "uniform", "sample_num": 1},
        "MAX_ITEM_LIST_LENGTH": LENGTH,
        "show_progress": False,
        "checkpoint_dir": tempfile.gettempdir(),
        **more,
    }
    arguments, sys.argv = sys.argv, sys.argv[:1]  # RecBole reads the command line
    try:
        config = Config(model=name, dataset="zoo", config_dict=settings)
        return get_model(name)(config, _dataset(config, kind, rows)).to("cpu")
    finally:
        sys.argv = arguments


_datasets: dict[tuple[str, str, int], Any] = {}


def _dataset(config: Any, kind: str, rows: int) -> Any:
    """Return the dataset, in the format in which models read it; made once for all models of the same kind of it."""
    own = f"{config['model']}Dataset"
    key = (own if hasattr(recbole_datasets, own) else "", kind, rows)
    if key not in _datasets:
        dataset = create_dataset(config)
        if kind == "sequential":
            dataset = dataset.build()[0]
        else:
            dataset._change_feat_format()
        _datasets[key] = dataset
    return _datasets[key]


def interaction(fields: dict[str, torch.Tensor]) -> Any:
    """Return fields as the object that RecBole's models take."""
    return importlib.import_module("recbole.data.interaction").Interaction(fields)
