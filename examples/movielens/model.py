"""The model: a small DLRM in ordinary torch, and the schema of what it takes. Nothing in it knows about serving.

Every feature becomes a vector of `DIM` numbers: ids through an `nn.Embedding`, lists of ids through an
`nn.EmbeddingBag`, the numbers together through a small network. The dot products of all pairs of these vectors, and the
numbers' own vector, go through the top network to a probability. (Naumov et al., "Deep Learning Recommendation Model
for Personalization and Recommendation Systems", 2019.)
"""

from __future__ import annotations

import inspect
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from examples.movielens.data import Ratings
from examples.movielens.features import AVERAGE_RATING, HISTORY
from ringpull import Bucketize, Clip, Dense, Log, Normalize, Schema, Sparse, Vocabulary

DIM: Final = 16
AGE_BOUNDARIES: Final = (18, 25, 35, 45, 50, 56)
NUMBERS: Final = ("user_mean", "user_ratings", "item_mean", "item_ratings", "item_age")

OUTPUT: Final = "probability"

KEYED_BY_RAW_ID: Final = {
    "user_embedding": "user_id",
    "item_embedding": "item_id",
    "recent_embedding": "recent_items",
    "zip_embedding": "zip_code",
}
"""Tables that may grow giant, and the feature whose raw ids become their keys: the head holds no vocabulary of them."""


def make_schema(ratings: Ratings) -> Schema:
    """Return what the model takes, column by column, and how it is prepared: in training and in serving alike."""
    users, items = ratings.users, ratings.items
    item_ids = _known(items.item_id)
    return Schema(
        features=[
            Sparse("user_id", transforms=(_known(users.user_id),)),
            Sparse("age", transforms=(Bucketize(AGE_BOUNDARIES),)),
            Sparse("gender", dtype="string", transforms=(_known(users.gender),)),
            Sparse("occupation", dtype="string", transforms=(_known(users.occupation),)),
            Sparse("zip_code", dtype="string", transforms=(_known(users.zip_code),)),
            Sparse("recent_items", many=True, max_length=HISTORY, transforms=(item_ids,)),
            Sparse("item_id", transforms=(item_ids,)),
            Sparse("genres", dtype="string", many=True, transforms=(_known(items.genres.values),)),
            Dense("user_mean", transforms=(Normalize(AVERAGE_RATING, 0.5),), missing=AVERAGE_RATING),
            Dense("user_ratings", transforms=(Log(), Normalize(3.0, 2.0)), missing=0.0),
            Dense("item_mean", transforms=(Normalize(AVERAGE_RATING, 0.5),), missing=AVERAGE_RATING),
            Dense("item_ratings", transforms=(Log(), Normalize(3.0, 2.0)), missing=0.0),
            Dense("item_age", transforms=(Clip(0.0, 80.0), Log(), Normalize(1.2, 2.0)), missing=5.0),
        ],
        stacks={"numbers": NUMBERS},
    )


class Recommender(nn.Module):
    """Probability that a user rates an item 4 or 5."""

    pairs: Tensor
    """int64 (2, P): the pairs of vectors whose products are taken."""

    def __init__(self, schema: Schema) -> None:
        super().__init__()
        self.user_embedding = _embedding(schema, "user_id")
        self.age_embedding = nn.Embedding(len(AGE_BOUNDARIES) + 1, DIM, sparse=True)
        self.gender_embedding = _embedding(schema, "gender")
        self.occupation_embedding = _embedding(schema, "occupation")
        self.zip_embedding = _embedding(schema, "zip_code")
        self.recent_embedding = _bag(schema, "recent_items", mode="sum")
        self.item_embedding = _embedding(schema, "item_id")
        self.genre_embedding = _bag(schema, "genres", mode="mean")
        for table in self.tables():
            nn.init.normal_(table, 0, 0.05)
        nn.init.normal_(self.recent_embedding.weight, 0, 0.05 / HISTORY**0.5)  # up to HISTORY of them are summed
        with torch.no_grad():
            for name in KEYED_BY_RAW_ID:
                self.get_parameter(f"{name}.weight")[0] = 0  # an id that training never saw says nothing

        vectors = 1 + len(self.tables())
        pairs = vectors * (vectors - 1) // 2
        self.bottom = nn.Sequential(nn.Linear(len(NUMBERS), 32), nn.ReLU(), nn.Linear(32, DIM))
        self.top = nn.Sequential(nn.Linear(pairs + DIM, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 1))
        self.register_buffer("pairs", torch.tril_indices(vectors, vectors, -1), persistent=False)

    def tables(self) -> list[Tensor]:
        """Return the weights of all embeddings."""
        return [module.weight for module in self.children() if isinstance(module, nn.Embedding | nn.EmbeddingBag)]

    def forward(
        self,
        user_id: Tensor,
        age: Tensor,
        gender: Tensor,
        occupation: Tensor,
        zip_code: Tensor,
        recent_items: Tensor,
        recent_items_offsets: Tensor,
        item_id: Tensor,
        genres: Tensor,
        genres_offsets: Tensor,
        numbers: Tensor,
    ) -> dict[str, Tensor]:
        """Return float32 (B,), named. Ids are int64 (B,), or (N,) with offsets (B+1,); `numbers` is float32 (B, 5)."""
        dense = self.bottom(numbers)
        vectors = torch.stack(
            [
                dense,
                self.user_embedding(user_id),
                self.age_embedding(age),
                self.gender_embedding(gender),
                self.occupation_embedding(occupation),
                self.zip_embedding(zip_code),
                self.recent_embedding(recent_items, recent_items_offsets),
                self.item_embedding(item_id),
                self.genre_embedding(genres, genres_offsets),
            ],
            dim=1,
        )
        products = torch.bmm(vectors, vectors.transpose(1, 2))
        interactions = products[:, self.pairs[0], self.pairs[1]]
        logit = self.top(torch.cat([interactions, dense], dim=1)).squeeze(1)
        return {OUTPUT: torch.sigmoid(logit)}


ARGUMENTS: Final = tuple(inspect.signature(Recommender.forward).parameters)[1:]
"""Names of what `forward` takes: the schema assembles just these."""


def raw_keys(schema: Schema) -> dict[str, Vocabulary]:
    """Return, per table that is keyed by raw ids, which id each of its rows is: the `keys` of `export_model`."""
    return {table: vocabulary(schema, feature) for table, feature in KEYED_BY_RAW_ID.items()}


def vocabulary(schema: Schema, feature: str) -> Vocabulary:
    """Return the vocabulary of a feature: its ids have rows 1, 2, ..., and row 0 stands for any other."""
    declared = schema[feature]
    assert isinstance(declared, Sparse)
    return next(transform for transform in declared.transforms if isinstance(transform, Vocabulary))


def _known(ids: NDArray[np.int64] | NDArray[np.str_]) -> Vocabulary:
    return Vocabulary(tuple(np.unique(ids).tolist()))


def _embedding(schema: Schema, feature: str) -> nn.Embedding:
    return nn.Embedding(vocabulary(schema, feature).size, DIM, sparse=True)


def _bag(schema: Schema, feature: str, mode: str) -> nn.EmbeddingBag:
    rows = vocabulary(schema, feature).size
    return nn.EmbeddingBag(rows, DIM, mode=mode, sparse=True, include_last_offset=True)
