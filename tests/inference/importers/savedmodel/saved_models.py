"""SavedModels for tests, made by the interpreter that has TensorFlow: `PYTHON saved_models.py FOLDER`.

This file is run there as a script, and imports nothing of ours.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_USE_LEGACY_KERAS": "1", "CUDA_VISIBLE_DEVICES": "-1"}

import keras
import numpy as np
import tensorflow as tf
import tf_keras
from tensorflow.core.protobuf import saved_model_pb2

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


def weighted(folder: str) -> None:
    """Write a feature column that weights its ids by another input."""
    made = tf.feature_column
    tags = made.categorical_column_with_vocabulary_list("tags", GENRES)
    column = made.embedding_column(made.weighted_categorical_column(tags, "shares"), 4, combiner="sum")
    taken = {"tags": "string", "shares": "float32"}
    inputs = {name: tf_keras.layers.Input((3,), name=name, dtype=dtype) for name, dtype in taken.items()}
    score = tf_keras.layers.Dense(1, name="score")(tf_keras.layers.DenseFeatures([column])(inputs))
    tf_keras.Model(inputs, score).save(folder, save_format="tf")


def hashes(folder: str) -> None:
    """Write what hashes texts and integers into buckets, and crosses them: columns, and layers of Keras."""
    made = tf.feature_column
    genre = made.categorical_column_with_vocabulary_list("genre", GENRES)
    rank = made.categorical_column_with_identity("rank", 20, default_value=3)
    columns = [
        made.embedding_column(made.categorical_column_with_hash_bucket("word", 50), 4),
        made.embedding_column(made.categorical_column_with_hash_bucket("number", 60, tf.int64), 4),
        made.embedding_column(made.categorical_column_with_vocabulary_list("city", ["Bonn"], num_oov_buckets=3), 4),
        made.indicator_column(made.crossed_column([genre, "word"], 30)),
        made.embedding_column(made.bucketized_column(made.numeric_column("price"), [0.0, 1.0]), 3),
        *(each(rank) for each in (made.indicator_column, lambda column: made.embedding_column(column, 4))),
    ]
    taken = {"word": "string", "number": "int64", "city": "string", "genre": "string", "price": "float32"}
    taken |= {"rank": "int64", "left": "int64", "right": "string"}
    inputs = {name: tf_keras.layers.Input((1,), name=name, dtype=dtype) for name, dtype in taken.items()}
    layers = tf_keras.layers
    of_columns = {name: each for name, each in inputs.items() if name not in ("left", "right")}
    crossed = layers.HashedCrossing(100)((inputs["left"], inputs["right"]))
    parts = [layers.DenseFeatures(columns)(of_columns), layers.Flatten()(layers.Embedding(100, 4)(crossed))]
    score = layers.Dense(1, name="score")(layers.Concatenate()(parts))
    tf_keras.Model(inputs, score).save(folder, save_format="tf")


def estimator(folder: str) -> None:
    """Write what an estimator exports for examples: categories have any number of values, tables are TensorFlow 1's."""
    made = tf.feature_column
    genres = made.categorical_column_with_vocabulary_list("genres", GENRES)
    movie = made.categorical_column_with_identity("movie", 50)
    columns = [made.embedding_column(genres, 4), made.embedding_column(movie, 4), made.numeric_column("price")]
    with tf.Graph().as_default(), v1.Session() as session:
        examples = v1.placeholder(tf.string, [None])
        parsed = tf.io.parse_example(examples, made.make_parse_example_spec(columns))
        values = v1.feature_column.input_layer(parsed, columns)
        logits = tf.matmul(values, v1.get_variable("weights", [values.shape[1], 1]))
        session.run([v1.global_variables_initializer(), v1.tables_initializer()])
        info = v1.saved_model.build_tensor_info
        signature = v1.saved_model.build_signature_def(
            {"inputs": info(examples)}, {"outputs": info(logits)}, "tensorflow/serving/regress"
        )
        builder = v1.saved_model.Builder(folder)
        builder.add_meta_graph_and_variables(
            session, ["serve"], {"serving_default": signature}, main_op=v1.tables_initializer()
        )
        builder.save()


def looped(folder: str) -> None:
    """Write a GRU with a mask, which runs in a loop, over ids."""
    given = keras.Input((6,), name="items", dtype="int64")
    rows = keras.layers.Embedding(100, 8, mask_zero=True)(given)
    score = keras.layers.Dense(1)(keras.layers.GRU(5)(rows))
    keras.Model([given], score).export(folder)


class Odd(tf.Module):
    """Remainders of numbers below 0, a choice of infinity, a table of bfloat16, and an input of three dimensions."""

    def __init__(self) -> None:
        super().__init__()
        table = np.random.default_rng(5).standard_normal((37, 8)).astype(np.float32)
        self.table = tf.Variable(tf.cast(table, tf.bfloat16), name="items")

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.int64, name="item"),
            tf.TensorSpec([None, 2, 3], tf.float32, name="square"),
        ]
    )
    def serve(self, item: Any, square: Any) -> dict[str, Any]:
        rows = tf.cast(tf.gather(self.table, tf.math.floormod(item, 37)), tf.float32)
        whole = tf.cast(tf.math.floordiv(item, 10), tf.float32)
        high = tf.where(square[:, 0] > 1.0, square[:, 0], -np.inf)  # what is not chosen times 0 is NaN
        best = tf.maximum(tf.reduce_max(high, 1), 0.0)
        return {"score": tf.reduce_sum(rows, 1) + whole + tf.reduce_sum(square[:, 1], 1) + best}


class Counting(tf.Module):
    """What changes a variable whenever it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = tf.Variable(0.0)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def serve(self, x: Any) -> dict[str, Any]:
        return {"y": x + self.asked.assign_add(1.0)}


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


class Files(tf.Module):
    """Texts that a file numbers, which becomes an asset."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        file.write_text("Action\nHorror\n")
        index = tf.lookup.TextFileIndex
        lines = tf.lookup.TextFileInitializer(str(file), tf.string, index.WHOLE_LINE, tf.int64, index.LINE_NUMBER)
        self.numbers = tf.lookup.StaticHashTable(lines, -1)
        self.table = tf.Variable(np.random.default_rng(6).standard_normal((3, 4)).astype(np.float32))

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="genre")])
    def serve(self, genre: Any) -> dict[str, Any]:
        return {"score": tf.reduce_sum(tf.gather(self.table, self.numbers.lookup(genre) + 1), axis=1)}


def hostile(out: Path) -> None:
    """Write models that read other files, ask for 2^40 numbers, or announce 2^50."""
    for name, whole, change in (
        ("reading", "files", _reading),
        ("announcing", "odd", _announcing),
        ("wide", "odd", _wide),
    ):
        shutil.copytree(out / whole, out / name)
        file = out / name / "saved_model.pb"
        model = saved_model_pb2.SavedModel.FromString(file.read_bytes())
        change(model.meta_graphs[0])
        file.write_bytes(model.SerializeToString())
    making = Making()
    tf.saved_model.save(making, str(out / "making"), signatures={"serving_default": making.serve})


class Making(tf.Module):
    """A function that asks for 2^40 numbers."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def serve(self, x: Any) -> dict[str, Any]:
        return {"y": x + tf.reduce_max(tf.fill(tf.constant([2**40], tf.int64), 1.0))}


def _reading(graph: Any) -> None:
    graph.ClearField("asset_file_def")
    for each in graph.graph_def.library.function:
        for node in [each for each in each.node_def if each.op == "InitializeTableFromTextFileV2"]:
            path = each.node_def.add(name="path", op="Const")
            path.attr["dtype"].type = tf.string.as_datatype_enum
            path.attr["value"].tensor.CopyFrom(tf.make_tensor_proto("/etc/hostname"))
            node.input[1] = "path:output:0"


def _announcing(graph: Any) -> None:
    for each in graph.graph_def.library.function:
        for node in [each for each in each.node_def if each.op == "Const"]:
            node.attr["value"].tensor.tensor_shape.dim.add(size=2**50)


def _wide(graph: Any) -> None:
    for node in graph.object_graph_def.nodes:
        if node.WhichOneof("kind") == "variable":
            node.variable.shape.dim[0].size = 2**50


def main(out: Path) -> None:
    half_plus_two(str(out / "half_plus_two"))
    towers(tf_keras, str(out / "towers2"))
    towers(keras, str(out / "towers3"))
    columns(str(out / "columns"))
    weighted(str(out / "weighted"))
    hashes(str(out / "hashes"))
    estimator(str(out / "estimator"))
    looped(str(out / "looped"))
    modules: dict[str, Any] = {"files": Files(out / "vocab.txt")}
    modules |= {"big": Big(), "hashed": Hashed(), "calling": Calling(), "odd": Odd(), "counting": Counting()}
    for name, module in modules.items():
        tf.saved_model.save(module, str(out / name), signatures={"serving_default": module.serve})
    tf.saved_model.save(tf.Module(), str(out / "unsigned"))
    hostile(out)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
