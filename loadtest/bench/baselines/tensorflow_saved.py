"""TensorFlow as a rival: makes a SavedModel, then scores requests, in an interpreter that has it.

    PYTHON tensorflow_saved.py FOLDER REQUESTS.npz SCORES.npy

writes a NeuralCF to FOLDER/saved and the scores of all requests; then each line of standard input, a number of turns,
is answered with requests a second. This file is run there as a script, and imports nothing of ours.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_USE_LEGACY_KERAS": "1", "CUDA_VISIBLE_DEVICES": "-1"}

import numpy as np
import tensorflow as tf
import tf_keras

ROWS = 20_000
DIM = 32


def neural_cf() -> Any:
    """Return a model of two embeddings and a net."""
    inputs = {name: tf_keras.Input((), dtype="int32", name=name) for name in ("user", "item")}
    vectors = [tf_keras.layers.Embedding(ROWS, DIM, name=f"{name}s")(each) for name, each in inputs.items()]
    hidden = tf_keras.layers.Concatenate()(vectors)
    for width in (64, 32):
        hidden = tf_keras.layers.Dense(width, "relu")(hidden)
    return tf_keras.Model(inputs, tf_keras.layers.Dense(1, "sigmoid", name="score")(hidden))


def main() -> None:
    folder, requests_file, scores_file = map(Path, sys.argv[1:])
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf_keras.utils.set_random_seed(1)
    tf.saved_model.save(neural_cf(), str(folder / "saved"))
    loaded = tf.saved_model.load(str(folder / "saved"))  # which has the signature's function as long as it is held
    served = loaded.signatures["serving_default"]
    with np.load(requests_file, allow_pickle=False) as arrays:
        users, items = arrays["user"], arrays["item"]
    requests = [{"user": tf.constant(user), "item": tf.constant(item)} for user, item in zip(users, items, strict=True)]

    def scores(turn: int) -> Any:
        return next(iter(served(**requests[turn % len(requests)]).values())).numpy()

    np.save(scores_file, np.stack([scores(turn).reshape(-1) for turn in range(len(requests))]))
    print("ready", flush=True)
    for line in sys.stdin:
        begin = time.perf_counter()
        for turn in range(int(line)):
            scores(turn)
        print(int(line) / (time.perf_counter() - begin), flush=True)


if __name__ == "__main__":
    main()
