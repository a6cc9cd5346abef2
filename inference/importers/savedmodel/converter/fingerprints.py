"""Fingerprints in the place of texts: what TensorFlow hashes into buckets or crosses is arithmetic on those.

An input of texts, or of integers whose digits are hashed, becomes one of FarmHash64 fingerprints, int64 bit for bit,
where hashing is all that makes something of any text there may be. A bucket is the fingerprint's remainder; what a
table of look-ups says of known texts is told by their fingerprints. Two texts of one fingerprint are one text here: of
a million there are such with a chance of 3e-8.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow.python.eager import context

_OF_NOTHING: Final = 0x9AE16A3B2F90404F
"""What FarmHash says of no bytes, which TensorFlow's own op does not take."""
_MAX_CHAIN: Final = 64
"""Known values up to which they are told one by one: what is looked up by that can be cut out."""


def fingerprint(value: Any) -> int:
    """Return the fingerprint of a text, as bytes, or of an integer's digits, int64 bit for bit."""
    return int(fingerprints([value])[0])


def fingerprints(values: Sequence[Any]) -> NDArray[np.int64]:
    """Return the fingerprints of values."""
    texts = [each if isinstance(each, bytes) else str(int(each)).encode() for each in values]
    found = np.full(len(texts), _OF_NOTHING, np.uint64)
    sizes = np.array([len(each) for each in texts], np.int64)
    for size in set(sizes.tolist()) - {0}:
        places = np.flatnonzero(sizes == size)
        rows = np.frombuffer(b"".join(texts[place] for place in places), np.uint8).reshape(len(places), size)
        with context.eager_mode():  # at once, also where a graph is being written or run
            found[places] = tf.fingerprint(rows).numpy().view(np.uint64)[:, 0]
    return found.view(np.int64)


def buckets(given: Any, count: int) -> Any:
    """Return the tensor of the remainders of uint64s by `count`, of a tensor of the same bits as int64."""
    rest = tf.math.floormod(given, count)
    shifted = rest + tf.where(given < 0, tf.constant(2**64 % count, tf.int64), tf.constant(0, tf.int64))
    return tf.math.floormod(shifted, count)


def told(given: Any, known: NDArray[np.int64], answers: NDArray[Any], unknown: Any) -> Any:
    """Return the tensor of an answer for each fingerprint: that of a known one, or `unknown`."""
    if 0 < len(known) <= _MAX_CHAIN:
        last = tf.constant(unknown, answers.dtype)
        for each, answer in zip(known.tolist(), answers, strict=True):
            last = tf.where(tf.equal(given, tf.constant(each, tf.int64)), tf.constant(answer, answers.dtype), last)
        return last
    same = tf.cast(tf.equal(given[..., None], tf.constant(known)), answers.dtype)
    return tf.reduce_sum(same * tf.constant(answers - unknown), -1) + tf.constant(unknown, answers.dtype)
