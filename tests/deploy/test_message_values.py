"""Messages as plain values, which `--json` prints."""

from __future__ import annotations

from ringpull.deploy.view.message_values import plain_values
from ringpull.inference.proto import ringpull_pb2 as pb


def test_numbers_stay_numbers_and_maps_are_objects() -> None:
    model = pb.Model(
        name="ranker", version=2**53 + 1, versions=[1, 2], labels={"stable": 1, "canary": 2**53 + 1}, server_version="1"
    )
    model.features.add(name="user", dtype=pb.INT64)
    plain = plain_values(model)
    assert (plain["version"], plain["versions"]) == (2**53 + 1, [1, 2])
    assert list(plain["labels"].items()) == [("canary", 2**53 + 1), ("stable", 1)]
    assert plain["features"][0]["dtype"] == "INT64"


def test_maps_of_messages_are_objects_of_objects() -> None:
    request = pb.PredictRequest(model="ranker")
    request.features["user"].int64s.values.extend([1, 2])
    assert plain_values(request)["features"]["user"]["int64s"] == {"values": [1, 2]}
