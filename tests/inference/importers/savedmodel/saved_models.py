"""SavedModels for tests, made by the interpreter that has TensorFlow: `PYTHON saved_models.py FOLDER`.

This file is run there as a script, and imports nothing of ours.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_USE_LEGACY_KERAS": "1", "CUDA_VISIBLE_DEVICES": "-1"}

import keras
import numpy as np
import tensorflow as tf
import tf_keras

GENRES = ["Film-Noir", "Action", "Adventure", "Horror", "Romance"]
v1 = tf.compat.v1


def half_plus_two(folder: str) -> None:
    """Write TensorFlow Serving's first example, as its script does: of TensorFlow 1, variables and all."""
    with tf.Graph().as_default(), v1.Session() as session:
        a, b, c = (
            v1.get_variable(name, initializer=value, use_resource=False)
            for name, value in (("a", 0.5), ("b", 2.0), ("c", 3.0))
        )
        serialized = v1.placeholder(tf.string, name="tf_example")
        features = {
            "x": tf.io.FixedLenFeature([1], tf.float32),
            "x2": tf.io.FixedLenFeature([1], tf.float32, default_value=[0.0]),
        }
        parsed = tf.io.parse_example(serialized, features)
        x, x2 = tf.identity(parsed["x"], name="x"), tf.identity(parsed["x2"], name="x2")
        y, y2, y3 = tf.add(a * x, b, name="y"), tf.add(a * x, c, name="y2"), tf.add(a * x2, c, name="y3")
        session.run(v1.global_variables_initializer())
        told = {
            "serving_default": ({"x": x}, {"y": y}, "predict"),
            "regress_x_to_y": ({"inputs": serialized}, {"outputs": y}, "regress"),
            "regress_x_to_y2": ({"inputs": serialized}, {"outputs": y2}, "regress"),
            "regress_x2_to_y3": ({"inputs": x2}, {"outputs": y3}, "regress"),
            "classify_x_to_y": ({"inputs": serialized}, {"scores": y}, "classify"),
        }
        info = v1.saved_model.build_tensor_info
        signatures = {
            name: v1.saved_model.build_signature_def(
                {key: info(each) for key, each in inputs.items()},
                {key: info(each) for key, each in outputs.items()},
                f"tensorflow/serving/{method}",
            )
            for name, (inputs, outputs, method) in told.items()
        }
        builder = v1.saved_model.Builder(folder)
        builder.add_meta_graph_and_variables(session, ["serve"], signature_def_map=signatures)
        builder.save()


def towers(library: Any, folder: str) -> None:
    """Write two towers with texts, in Keras 2 or 3."""
    layers = library.layers
    user = library.Input((1,), name="userId", dtype="int64")
    movie = library.Input((1,), name="movieId", dtype="int64")
    genres = library.Input((3,), name="genres", dtype="string")
    city = library.Input((1,), name="city", dtype="string")
    stats = library.Input((2,), name="stats", dtype="float32")
    numbered = layers.StringLookup(vocabulary=GENRES, mask_token="")(genres)
    of_genres = layers.Lambda(lambda rows: tf.reduce_sum(rows, axis=1), output_shape=(8,))(
        layers.Embedding(7, 8)(numbered)
    )
    of_city = layers.Flatten()(layers.Embedding(4, 8)(layers.StringLookup(vocabulary=["Bonn", "Köln", "Ulm"])(city)))
    of_user = layers.Flatten()(
        layers.Embedding(6, 8)(layers.IntegerLookup(vocabulary=[10, 200, 3_000, 40_000, 7])(user))
    )
    of_movie = layers.Flatten()(layers.Embedding(1_001, 8)(movie))
    left = layers.Dense(8, activation="relu")(layers.Concatenate()([of_user, of_city, stats]))
    right = layers.Dense(8)(layers.Concatenate()([of_movie, of_genres]))
    score = layers.Dense(1, activation="sigmoid", name="score")(layers.Concatenate()([left, right]))
    model = library.Model([user, movie, genres, city, stats], score)
    if library is keras:
        model.export(folder)
    else:
        model.save(folder, save_format="tf")


def columns(folder: str) -> None:
    """Write feature columns of every kind that is looked up, as estimators and Keras 2 have them."""
    made = tf.feature_column
    listed = {name: made.categorical_column_with_vocabulary_list(name, GENRES) for name in ("genre", "other", "tags")}
    features = [
        made.embedding_column(listed["genre"], 10),
        made.indicator_column(listed["other"]),
        made.embedding_column(listed["tags"], 4, combiner="sqrtn"),
        made.embedding_column(made.categorical_column_with_identity("movieId", 1_001), 10),
        made.embedding_column(made.categorical_column_with_identity("userId", 3_001), 10),
        made.numeric_column("price"),
    ]
    taken = {"genre": "string", "other": "string", "movieId": "int32", "userId": "int32", "price": "float32"}
    inputs = {name: tf_keras.layers.Input((), name=name, dtype=dtype) for name, dtype in taken.items()}
    inputs["tags"] = tf_keras.layers.Input((3,), name="tags", dtype="string")
    hidden = tf_keras.layers.Dense(8, activation="relu")(tf_keras.layers.DenseFeatures(features)(inputs))
    score = tf_keras.layers.Dense(1, activation="sigmoid", name="score")(hidden)
    tf_keras.Model(inputs, score).save(folder, save_format="tf")


class Big(tf.Module):
    """One table that is big enough to stay outside the graph, and an input of any length."""

    def __init__(self) -> None:
        super().__init__()
        self.table = tf.Variable(
            np.random.default_rng(3).standard_normal((70_000, 64)).astype(np.float32), name="items"
        )

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.int64, name="items")])
    def serve(self, items: Any) -> dict[str, Any]:
        return {"total": tf.reduce_sum(tf.gather(self.table, items), axis=[1, 2])}


class Hashed(tf.Module):
    """Texts that are hashed, not numbered."""

    def __init__(self) -> None:
        super().__init__()
        self.table = tf.Variable(np.random.default_rng(4).standard_normal((50, 4)).astype(np.float32))

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="title")])
    def serve(self, title: Any) -> dict[str, Any]:
        bucket = tf.strings.to_hash_bucket_fast(tf.strings.lower(title), 50)
        return {"score": tf.reduce_sum(tf.gather(self.table, bucket), axis=1)}


class Calling(tf.Module):
    """A function of Python in the graph."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def serve(self, x: Any) -> dict[str, Any]:
        return {"y": tf.reshape(tf.numpy_function(lambda values: values + 1, [x], tf.float32), [-1])}


def main(out: Path) -> None:
    half_plus_two(str(out / "half_plus_two"))
    towers(tf_keras, str(out / "towers2"))
    towers(keras, str(out / "towers3"))
    columns(str(out / "columns"))
    for name, module in (("big", Big()), ("hashed", Hashed()), ("calling", Calling())):
        tf.saved_model.save(module, str(out / name), signatures={"serving_default": module.serve})
    tf.saved_model.save(tf.Module(), str(out / "unsigned"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
