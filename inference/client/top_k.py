"""Calls for the rows of a table with the largest scores, of either client."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from ringpull.inference.client.connections import Connections
from ringpull.inference.client.retry import Retrying
from ringpull.inference.top_k_answer import TopK
from ringpull.inference.wire.top_k_codec import decode_answer, encode_top_k


class TopKCalls(Connections, ABC):
    """The part of `Client` that ranks."""

    @abstractmethod
    def _call(self, method: list[Any], request: Any, timeout_s: float | None, retrying: Retrying | None = None) -> Any:
        """Return the reply to a request, tried until there is one."""

    def top_k(
        self,
        model: str,
        table: str = "",
        query: Any = None,
        k: int = 10,
        *,
        like: Any = None,
        query_table: str = "",
        keep_self: bool = False,
        features: Mapping[str, Any] | None = None,
        context: Mapping[str, Any] | None = None,
        output: str = "",
        metric: str = "dot",
        exclude: Any = None,
        among: Any = None,
        version: int | None = None,
        label: str | None = None,
        timeout_s: float | None = None,
        request_id: str = "",
    ) -> TopK:
        """Return the rows of a table with the largest scores: `keys, scores = client.top_k("ranker", "item", vector)`.

        Exact: every row is looked at. Give the queries in one way: `query`, `like` or `features`.

        Args:
            table: Table whose rows are ranked; default, by features: the one that an output was exported for.
            query: Vector (dim,), or queries (Q, dim).
            k: Rows wanted for each query.
            like: Key, or keys (Q,), whose rows are the queries.
            query_table: Table of these keys, of the same version; default: `table`.
            keep_self: Leave a key's own row in the answer, where they are keys of `table`.
            features: Columns of a prediction, and `context` as there: an output of the model is the query of each row.
            output: Name of that output; default: the only one that has as many numbers as rows of the table.
            metric: dot, or cosine.
            exclude: Keys that are not wanted, of all queries, or a list of lists: of each query.
            among: The only keys that are wanted, likewise.
            version: Version that answers; None: the live one.
            label: Label of the version that answers, in place of its number.
            request_id: For the server's logs.

        Returns:
            keys: (Q, k) int64 or uint64, best first; of a table keyed by strings those of `among`, or else hashes, as
                tables have no strings: `answer.with_texts(catalogue)` finds them.
            scores: float32 (Q, k). `answer.items()` has both, without what is beyond `answer.counts` (Q,).

        Raises:
            InvalidInput: Queries, keys or output do not fit each other or the table.
            NotFound: No such model, version or table is served there.
            LimitExceeded, DeadlineExceeded, Unavailable: As for `predict`.
        """
        request = encode_top_k(
            model,
            table,
            query,
            k,
            like=like,
            query_table=query_table,
            keep_self=keep_self,
            features=features,
            context=context,
            output=output,
            metric=metric,
            exclude=exclude,
            among=among,
            version=version,
            label=label,
            request_id=request_id,
        )
        return decode_answer(self._call(self._top_k, request, timeout_s), k)


class AsyncTopKCalls(Connections, ABC):
    """The part of `AsyncClient` that ranks."""

    @abstractmethod
    async def _call(
        self, method: list[Any], request: Any, timeout_s: float | None, retrying: Retrying | None = None
    ) -> Any:
        """Return the reply to a request, tried until there is one."""

    async def top_k(
        self,
        model: str,
        table: str = "",
        query: Any = None,
        k: int = 10,
        *,
        like: Any = None,
        query_table: str = "",
        keep_self: bool = False,
        features: Mapping[str, Any] | None = None,
        context: Mapping[str, Any] | None = None,
        output: str = "",
        metric: str = "dot",
        exclude: Any = None,
        among: Any = None,
        version: int | None = None,
        label: str | None = None,
        timeout_s: float | None = None,
        request_id: str = "",
    ) -> TopK:
        """Return the rows with the largest scores. Arguments, answer and errors are those of `Client.top_k`."""
        request = encode_top_k(
            model,
            table,
            query,
            k,
            like=like,
            query_table=query_table,
            keep_self=keep_self,
            features=features,
            context=context,
            output=output,
            metric=metric,
            exclude=exclude,
            among=among,
            version=version,
            label=label,
            request_id=request_id,
        )
        return decode_answer(await self._call(self._top_k, request, timeout_s), k)
