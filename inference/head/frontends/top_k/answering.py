"""Answers to a top-k as callers are to have them: with the strings that a request named, for hashes."""

from __future__ import annotations

from ringpull.inference.head.predictor import OpenCall
from ringpull.inference.head.request.top_k import KEY_BYTES, TopKRequest
from ringpull.inference.top_k_answer import TopK


async def answered(call: OpenCall, request: TopKRequest) -> TopK:
    """Return the answer to a request; where it is limited to strings, keys are those and no hashes.

    Raises:
        RingpullError: As `OpenCall.top_k`.
    """
    answer, among = await call.top_k(request), request.among
    if not answer.hashed or among is None or among.texts is None:
        return answer
    texts, hashes = among.strings(), among.keys
    return await call.aside(KEY_BYTES * len(hashes), lambda: answer.with_texts_of(texts, hashes))
