"""TensorFlow Serving's prediction verbs over real gRPC: compared with our own client's answers from the same head."""

from __future__ import annotations

import numpy as np
import pytest

from tests.inference.served import ROWS
from tests.inference.small_model import columns_of
from tests.inference.tfs.tensors import tensors

pytestmark = pytest.mark.net

COLUMNS = columns_of(ROWS)


def arrays(reply):
    return {
        name: np.array(each.float_val, np.float32).reshape([dim.size for dim in each.tensor_shape.dim])
        for name, each in reply.outputs.items()
    }


async def test_predict_answers_as_our_own_client_is_answered(tfs, client):
    reply = await tfs.call("Predict", model_spec={"name": "ranker"}, inputs=tensors(COLUMNS))
    own = await client.predict("ranker", COLUMNS)
    assert arrays(reply).keys() == own.outputs.keys()
    for name, values in arrays(reply).items():
        np.testing.assert_array_equal(values, own.outputs[name])
    assert reply.model_spec.name == "ranker"
    assert reply.model_spec.version.value == 3
    assert reply.model_spec.signature_name == "serving_default"
