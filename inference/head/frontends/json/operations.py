"""Operations of the OpenAPI document: what may be asked at a path, what is answered, and an example of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from ringpull.inference.head.catalog import ServedVersion
from ringpull.inference.head.frontends.json.model_schemas import (
    NUMBER,
    JsonSchema,
    context_schema,
    example_context,
    example_features,
    example_rows,
    features_schema,
    outputs_schema,
    row_schema,
    sent_features,
)
from ringpull.inference.model.version import LoadedVersion
from ringpull.ps.spec import KeyType, TableSpec

Operation = dict[str, Any]

_PLAIN: Final = "plain JSON"
_TFS: Final = "TensorFlow Serving"
_LOOKUPS: Final = "rows by key"
_HEAD: Final = "head"

_OTHER_FIELDS: Final[dict[str, JsonSchema]] = {
    "version": {
        "type": "integer",
        "minimum": 0,
        "description": "Version that is to answer; 0 or absent: the live one.",
    },
    "label": {"type": "string", "description": "Label of the version that is to answer, instead of its number."},
    "outputs": {"type": "array", "items": {"type": "string"}, "description": "Outputs to return; absent: all."},
    "with_timings": {"type": "boolean", "description": "Whether the answer is to tell how long each stage took."},
    "with_unknown": {"type": "boolean", "description": "Whether the answer is to tell in which rows ids were unknown."},
    "request_id": {"type": "string", "description": "Name of the request in logs; absent: one is made."},
}


def fixed_paths() -> dict[str, Any]:
    """Return the paths that are there whatever is served."""
    return {
        "/healthz": {
            "get": _looked_at("health", "Whether the head serves: 200, or 503.", free=True),
        },
        "/status": {"get": _looked_at("status", "The cluster as this head sees it.")},
        "/v1/models": {"get": _looked_at("models", "Live models: what each takes and gives.")},
    }


def any_prediction(scoring: Sequence[ServedVersion]) -> Operation:
    """Return the operation that scores by whatever model the body names.

    Args:
        scoring: Live versions that have outputs.
    """
    names = [each.loaded.manifest.model for each in scoring]
    model: JsonSchema = {"type": "string"} | ({"enum": names} if names else {})
    schema = _request_schema({"type": "object"}, {"type": "object"})
    schema["properties"] = {"model": model} | schema["properties"]
    schema["required"] = ["model", "features"]
    examples = {}
    for each in scoring:
        features = sent_features(each.loaded)
        name = each.loaded.manifest.model
        examples[name] = {"value": {"model": name, "features": example_features(features)}}
    return _operation(
        "predict",
        "Score rows by the model that the body names. Each model also has a path of its own.",
        _PLAIN,
        schema,
        examples,
        {"$ref": "#/components/schemas/Answer"},
    )


def json_prediction(loaded: LoadedVersion) -> tuple[Operation, dict[str, JsonSchema]]:
    """Return the operation that scores by one model, and the schemas that it refers to."""
    model, features = loaded.manifest.model, sent_features(loaded)
    schemas = {
        f"{model}.features": features_schema(features),
        f"{model}.context": context_schema(features),
        f"{model}.answer": _answer_schema(outputs_schema(loaded.manifest.outputs)),
    }
    rows, once = example_features(features), example_context(features)
    examples: dict[str, Any] = {"rows": {"summary": "Two rows.", "value": {"features": rows}}}
    if len(features) > 1:
        first = features[-1].name
        del once[first]
        told = {"features": {first: rows[first]}, "context": once, "with_timings": True}
        examples["context"] = {"summary": "Two rows that have all but one feature in common.", "value": told}
    operation = _operation(
        f"predict_{model}",
        f"Score rows by {model}.",
        _PLAIN,
        _request_schema(_reference(f"{model}.features"), _reference(f"{model}.context")),
        examples,
        _reference(f"{model}.answer"),
    )
    return operation, schemas


def tfs_prediction(loaded: LoadedVersion) -> Operation:
    """Return the operation that scores by one model as TensorFlow Serving does it."""
    model, features = loaded.manifest.model, sent_features(loaded)
    schema = {
        "type": "object",
        "properties": {
            "signature_name": {"type": "string"},
            "instances": {"type": "array", "minItems": 1, "items": row_schema(features)},
        },
        "required": ["instances"],
    }
    answer = {"type": "object", "properties": {"predictions": {"type": "array"}}, "required": ["predictions"]}
    examples = {"rows": {"summary": "Two rows.", "value": {"instances": example_rows(features)}}}
    text = f"Score rows by {model}, as TensorFlow Serving does it."
    return _operation(f"tfs_predict_{model}", text, _TFS, schema, examples, answer, error="ErrorText")


def rows_by_key(loaded: LoadedVersion, table: TableSpec) -> Operation:
    """Return the operation that looks rows of a table up by their keys."""
    model, strings = loaded.manifest.model, table.key_type is KeyType.STRING
    key: JsonSchema = {"type": "string"} if strings else {"type": "integer", "format": "int64"}
    row: JsonSchema = {"type": "array", "items": NUMBER} if table.dim else {"description": "In the form of `as`."}
    properties: dict[str, JsonSchema] = {"keys": {"type": "array", "items": key}, "request_id": {"type": "string"}}
    if table.dim:
        properties |= {
            "pooling": {"enum": ["none", "sum", "mean", "max"]},
            "offsets": {"type": "array", "items": {"type": "integer", "minimum": 0}, "description": "Starts of bags."},
            "weights": {"type": "array", "items": {"type": "number"}, "description": "A weight per key, for sums."},
        }
    else:
        properties["as"] = {"enum": ["b64", "text", "json"], "description": "Form of a row of bytes."}
    schema = {"type": "object", "properties": properties, "required": ["keys"], "additionalProperties": False}
    answer = {
        "type": "object",
        "properties": {
            "model": {"type": "string"},
            "version": {"type": "integer"},
            "rows": {"type": "array", "items": row},
            "found": {"type": "array", "items": {"type": "boolean"}},
            "missing": {"type": "integer"},
            "lost": {"type": "integer"},
        },
        "required": ["model", "version", "rows", "missing"],
    }
    examples = {"keys": {"value": {"keys": ["a", "b"] if strings else [1, 2]}}}
    return _operation(
        f"lookup_{model}_{table.name}",
        f"Look rows of table {table.name} of {model} up by their keys.",
        _LOOKUPS,
        schema,
        examples,
        answer,
        error="ErrorText",
    )


def largest_scores(loaded: LoadedVersion, table: TableSpec) -> Operation:
    """Return the operation that ranks the rows of a table."""
    model, strings = loaded.manifest.model, table.key_type is KeyType.STRING
    key: JsonSchema = {"type": "string"} if strings else {"type": "integer", "format": "int64"}
    keys: JsonSchema = {"type": "array", "items": key}
    vector: JsonSchema = {"type": "array", "items": {"type": "number"}, "minItems": table.dim, "maxItems": table.dim}
    lists: JsonSchema = {"anyOf": [keys, {"type": "array", "items": keys}]}
    text: JsonSchema = {"type": "string"}
    properties: dict[str, JsonSchema] = {
        "vectors": {"type": "array", "items": vector, "minItems": 1, "description": "Queries, by their numbers."},
        "vector": vector | {"description": "One of these."},
        "like": {"type": "array", "minItems": 1, "description": "Queries by key: rows of query_table."},
        "query_table": text | {"description": "Table of these keys; absent: the one that is ranked."},
        "keep_self": {"type": "boolean", "description": "Whether a key's own row may be in the answer."},
        "features": {"type": "object", "description": "Features of a prediction, an output of which is the query."},
        "context": {"type": "object"},
        "output": text | {"description": "That output; absent: the only one that can be."},
        "k": {"type": "integer", "minimum": 1, "default": 10, "description": "Rows wanted for each query."},
        "metric": {"enum": ["dot", "cosine"], "default": "dot"},
        "exclude": lists | {"description": "Keys that are not wanted, of all queries, or a list of them for each."},
        "among": lists | {"description": "The only keys that are wanted, likewise."},
        "request_id": text,
    }
    of_queries: JsonSchema = {"type": "array", "items": {"type": "array", "items": {"type": ["integer", "string"]}}}
    answer = {
        "type": "object",
        "properties": {
            "model": text,
            "version": {"type": "integer"},
            "table": text,
            "keys": of_queries,
            "scores": {"type": "array", "items": {"type": "array", "items": NUMBER}},
            "hashed": {"type": "boolean", "description": "Whether keys are hashes of strings."},
            "found": {"type": "array", "items": {"type": "boolean"}},
            "missing": {"type": "integer"},
            "lost": {"type": "integer"},
            "request_id": text,
        },
        "required": ["model", "version", "table", "keys", "scores"],
    }
    return _operation(
        f"top_k_{model}_{table.name}",
        f"Find the rows of table {table.name} of {model} with the largest scores.",
        _LOOKUPS,
        {"type": "object", "properties": properties, "additionalProperties": False},
        {"vector": {"value": {"vector": [0.5] * table.dim, "k": 3}}},
        answer,
        error="ErrorText",
    )


def components() -> dict[str, Any]:
    """Return what operations of all models refer to."""
    text: JsonSchema = {"type": "string"}
    return {
        "schemas": {
            "Answer": _answer_schema({"type": "object", "additionalProperties": {"type": "array"}}),
            "Filled": _object({"feature": text, "reason": text, "values": {"type": "integer"}}),
            "Unknown": {
                "type": "object",
                "description": "A feature with ids that have no row.",
                "properties": {
                    "feature": text,
                    "ids": {"type": "integer", "description": "How many of its ids in the request are unknown."},
                    "rows": {
                        "type": "array",
                        "items": {"type": "integer"},
                        "description": "Rows that have them; only where with_unknown asks for that.",
                    },
                },
                "required": ["feature", "ids"],
            },
            "Timings": {"type": "object", "additionalProperties": {"type": "integer"}},
            "Error": _object({"code": text, "message": text}),
            "ErrorText": _object({"error": text}),
        },
        "parameters": {
            "RequestTimeout": {
                "name": "Request-Timeout",
                "in": "header",
                "description": "Seconds that the request has; absent: the head's default.",
                "schema": {"type": "number", "minimum": 0},
            }
        },
        "responses": {name: _failure(name) for name in ("Error", "ErrorText")},
    }


# -- inside ------------------------------------------------------------------------------------------------------------


def _operation(
    name: str,
    summary: str,
    tag: str,
    schema: JsonSchema,
    examples: dict[str, Any],
    answer: JsonSchema,
    *,
    error: str = "Error",
) -> Operation:
    content: dict[str, Any] = {"schema": schema} | ({"examples": examples} if examples else {})
    return {
        "operationId": name,
        "summary": summary,
        "tags": [tag],
        "parameters": [{"$ref": "#/components/parameters/RequestTimeout"}],
        "requestBody": {"required": True, "content": {"application/json": content}},
        "responses": {
            "200": {"description": "The answer.", "content": {"application/json": {"schema": answer}}},
            "default": {"$ref": f"#/components/responses/{error}"},
        },
    }


def _looked_at(name: str, summary: str, *, free: bool = False) -> Operation:
    operation: Operation = {
        "operationId": name,
        "summary": summary,
        "tags": [_HEAD],
        "responses": {
            "200": {"description": "The answer.", "content": {"application/json": {"schema": {"type": "object"}}}},
            "default": {"$ref": "#/components/responses/Error"},
        },
    }
    if free:
        operation["security"] = []
        operation["responses"]["503"] = {"description": "It does not serve."}
    return operation


def _request_schema(features: JsonSchema, context: JsonSchema) -> JsonSchema:
    return {
        "type": "object",
        "properties": {"features": features, "context": context, **_OTHER_FIELDS},
        "required": ["features"],
        "additionalProperties": False,
    }


def _answer_schema(outputs: JsonSchema) -> JsonSchema:
    properties: dict[str, JsonSchema] = {
        "model": {"type": "string"},
        "version": {"type": "integer"},
        "outputs": outputs,
        "filled": {"type": "array", "items": _reference("Filled")},
        "unknown": {"type": "array", "items": _reference("Unknown")},
        "degraded": {"type": "array", "items": {"type": "string"}, "description": "What load left out."},
        "request_id": {"type": "string"},
    }
    return _object(properties) | {"properties": {**properties, "timings": _reference("Timings")}}


def _object(properties: dict[str, JsonSchema]) -> JsonSchema:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _failure(schema: str) -> dict[str, Any]:
    return {
        "description": "It failed. A status of 429 has Retry-After, one of 401 WWW-Authenticate.",
        "content": {"application/json": {"schema": _reference(schema)}},
    }


def _reference(schema: str) -> JsonSchema:
    return {"$ref": f"#/components/schemas/{schema}"}
