"""Training and judging: a torch loop over the same `schema.prepare` that serves, and the area under the ROC curve."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from examples.movielens import generated
from examples.movielens.features import Examples, make_examples
from examples.movielens.model import ARGUMENTS, OUTPUT, Recommender, make_schema, raw_keys
from ringpull import Schema

EPOCHS: Final = 2
"""A third one learns the training ratings by heart: AUC falls."""
BATCH_ROWS: Final = 256
EMBEDDING_RATE: Final = 0.005
DENSE_RATE: Final = 0.001


def arguments(schema: Schema, examples: Examples) -> dict[str, Tensor]:
    """Return the model's arguments for these examples, by name."""
    prepared = schema.prepare(examples.columns, len(examples))
    return {name: torch.from_numpy(array) for name, array in schema.arguments(prepared, ARGUMENTS).items()}


def batches_of(examples: int) -> int:
    """Return how many batches training takes, over all epochs."""
    return EPOCHS * -(-examples // BATCH_ROWS)


def train(
    schema: Schema, examples: Examples, *, seed: int = 0, on_batch: Callable[[float], None] = lambda loss: None
) -> Recommender:
    """Return a model trained on the examples; `on_batch` gets the loss of every batch."""
    torch.manual_seed(seed)
    model = Recommender(schema)
    with one_thread():
        _descend(model, schema, examples, np.random.default_rng(seed), on_batch)
    return model.eval()


def _descend(
    model: Recommender,
    schema: Schema,
    examples: Examples,
    rng: np.random.Generator,
    on_batch: Callable[[float], None],
) -> None:
    dense = [*model.bottom.parameters(), *model.top.parameters()]
    # Rows that a batch does not look up cost nothing: a million users train as fast as a thousand.
    optimizers = [torch.optim.SparseAdam(model.tables(), lr=EMBEDDING_RATE), torch.optim.Adam(dense, lr=DENSE_RATE)]
    for _ in range(EPOCHS):
        order = rng.permutation(len(examples))
        for begin in range(0, len(order), BATCH_ROWS):
            batch = examples.take(order[begin : begin + BATCH_ROWS])
            scores = model(**arguments(schema, batch))[OUTPUT]
            loss = nn.functional.binary_cross_entropy(scores, torch.from_numpy(batch.labels))
            for optimizer in optimizers:
                optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            for optimizer in optimizers:
                optimizer.step()
            on_batch(loss.item())


@contextmanager
def one_thread() -> Iterator[None]:
    """Have torch use one thread meanwhile: these layers are small, and a second thread spins more than it helps."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def trained() -> dict[str, Any]:
    """Return what there is to export, freshly trained: `ringpull export examples.movielens.train:trained OUT_DIR`."""
    ratings = generated.read_or_generate()
    schema = make_schema(ratings)
    training, _ = make_examples(ratings)
    return {"module": train(schema, training), "schema": schema, "keys": raw_keys(schema)}


def score(model: Recommender, schema: Schema, examples: Examples) -> NDArray[np.float32]:
    """Return the model's own scores, float32 (B,): what serving must reproduce."""
    with torch.inference_mode():
        scores: NDArray[np.float32] = model(**arguments(schema, examples))[OUTPUT].numpy()
    return scores


def auc(labels: NDArray[np.float32], scores: NDArray[np.float32]) -> float:
    """Return the chance that a random 1 scores above a random 0; ties count half. NaN where one of them is absent."""
    _, rank, count = np.unique(scores, return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(count) - (count - 1) / 2
    ones = labels > 0.5
    n_ones, n_zeros = int(ones.sum()), int((~ones).sum())
    if n_ones == 0 or n_zeros == 0:
        return float("nan")
    return float((mean_rank[rank][ones].sum() - n_ones * (n_ones + 1) / 2) / (n_ones * n_zeros))
