"""The Open Inference Protocol over gRPC: answers like our own gRPC's, refusals as Triton's clients know them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import pytest

from ringpull.inference.client.client import AsyncClient
from ringpull.inference.head.frontends.oip.descriptions import Signature, Tensor, config
from ringpull.inference.head.frontends.oip.messages import message
from ringpull.inference.head.metrics.model_counts import ModelCounts
from ringpull.ps.errors import Unavailable
from tests.inference.oip.oip_served import OipServed
from tests.inference.oip.requests import ROWS, TENSORS, infer_request, outputs_of, typed_request
from tests.inference.small_model import columns_of

pytestmark = pytest.mark.net


async def refusal(oip: OipServed, request: Any, method: str = "ModelInfer") -> tuple[str, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await oip.call(method, request)
    return caught.value.code().name, caught.value.details() or ""


@pytest.mark.medium
@pytest.mark.parametrize("form", [infer_request, typed_request], ids=["raw", "typed"])
async def test_an_inference_is_what_our_own_grpc_answers(oip: OipServed, form: Callable[..., Any]) -> None:
    async with AsyncClient(oip.target, timeout_s=60, retries=0) as client:
        expected = await client.predict("ranker", columns_of(ROWS))
    reply = await oip.call("ModelInfer", form(id="seven"))
    assert (reply.model_name, reply.model_version, reply.id) == ("ranker", "3", "seven")
    got = outputs_of(reply)
    assert list(got) == [f"input{place}" for place in range(16)]  # in the order of the model's own description
    for name, values in expected.outputs.items():
        np.testing.assert_array_equal(got[name], values, err_msg=name)


async def test_outputs_come_as_they_are_asked_for(oip: OipServed) -> None:
    reply = await oip.call("ModelInfer", infer_request(outputs=["input11", "input0"], model_version="3"))
    assert [each.name for each in reply.outputs] == ["input11", "input0"]


async def test_parameters_that_advise_change_nothing(oip: OipServed) -> None:
    advice = {
        "priority": {"uint64_param": 7},
        "timeout": {"int64_param": 60_000_000},
        "sequence_id": {"int64_param": 0},
        "sequence_start": {"bool_param": False},
        "my_own": {"string_param": "x"},
        "empty": {},
    }
    reply = await oip.call("ModelInfer", infer_request(parameters=advice))
    assert len(reply.outputs) == 16


async def test_a_timeout_among_the_parameters_is_kept(oip: OipServed) -> None:
    oip.router.gate.clear()
    code, _ = await refusal(oip, infer_request(parameters={"timeout": {"int64_param": 20_000}}))
    assert code == "DEADLINE_EXCEEDED"
    oip.router.gate.set()


def changed(**changes: Any) -> Any:
    """The request with some inputs changed: to other values, or to None for one that is left out."""
    tensors = {**TENSORS, **changes}
    return infer_request({name: values for name, values in tensors.items() if values is not None})


def edited(edit: Callable[[Any], object], form: Callable[..., Any] = infer_request) -> Any:
    request = form()
    edit(request)
    return request


def text(value: str) -> Any:
    return message("InferParameter")(string_param=value)


WRONG = {
    "an input of a name the model has not": (changed(city=np.array([1])), "input city"),
    "offsets without values": (changed(genres=None), "genres_offsets"),
    "an input left out": (changed(user=None), "user"),
    "numbers for ids": (changed(item=np.array([1.5, 2.5, 3.5], np.float32)), "feature item"),
    "strings for ids": (changed(item=np.array(["1", "2", "3"], object)), "feature item"),
    "rows that differ": (changed(item=np.array([1, 2, 3, 4])), "4 rows"),
    "three dimensions": (changed(item=np.ones((1, 1, 3), np.int64)), "input item"),
    "no rows": (changed(item=np.array([], np.int64)), "rows"),
    "offsets that fall": (changed(genres_offsets=np.array([0, 2, 1, 3])), "genres"),
    "a width that is not the feature's": (changed(age=np.ones((1, 3), np.float32)), "age"),
    "a datatype that is none": (edited(lambda r: setattr(r.inputs[1], "datatype", "INT65")), "INT65"),
    "a shape with less than its bytes": (edited(lambda r: r.inputs[1].shape.__setitem__(0, 2)), "input item: 24 bytes"),
    "a shape with more than its bytes": (edited(lambda r: r.inputs[1].shape.__setitem__(0, 2**62)), "input item"),
    "a negative shape": (edited(lambda r: r.inputs[1].shape.__setitem__(0, -3)), "input item"),
    "a shape of no values and many rows": (
        edited(
            lambda r: (r.inputs[7].shape.__setitem__(slice(None), [2**40, 0]), r.raw_input_contents.__setitem__(7, b""))
        ),
        "input history",
    ),
    "no shape": (edited(lambda r: r.inputs[1].ClearField("shape")), "input item"),
    "an input twice": (edited(lambda r: setattr(r.inputs[1], "name", "user")), "input user: is twice"),
    "fewer contents than inputs": (edited(lambda r: r.raw_input_contents.pop()), "raw_input_contents: 9"),
    "both kinds of contents": (
        edited(lambda r: r.inputs[1].contents.int64_contents.append(1)),
        "input item: has contents",
    ),
    "contents of another type": (
        edited(lambda r: r.inputs[1].contents.fp32_contents.append(1), typed_request),
        "input item: has fp32_contents",
    ),
    "contents of another number": (
        edited(lambda r: r.inputs[1].contents.int64_contents.append(1), typed_request),
        "input item: 4 values",
    ),
    "half floats that are typed": (edited(lambda r: setattr(r.inputs[8], "datatype", "FP16"), typed_request), "FP16"),
    "shared memory": (
        edited(lambda r: r.inputs[1].parameters["shared_memory_region"].MergeFrom(text("x"))),
        "input item: shared memory",
    ),
    "a sequence": (infer_request(parameters={"sequence_id": {"int64_param": 5}}), "sequence_id"),
    "a sequence by name": (infer_request(parameters={"sequence_id": {"string_param": "five"}}), "sequence_id"),
    "a timeout that is none": (infer_request(parameters={"timeout": {"int64_param": -1}}), "timeout"),
    "a priority that is none": (infer_request(parameters={"priority": {"string_param": "high"}}), "priority"),
    "an output that the model has not": (infer_request(outputs=["nothing"]), "nothing"),
    "an output twice": (infer_request(outputs=["input1", "input1"]), "output input1: is twice"),
    "classes": (
        edited(
            lambda r: r.outputs.add(name="input1", parameters={"classification": {"int64_param": 2}}), infer_request
        ),
        "output input1: classification",
    ),
    "a version that is no number": (infer_request(model_version="latest"), "version is 'latest'"),
    "version 0": (infer_request(model_version="0"), "version is '0'"),
    "a version beyond all": (infer_request(model_version="9" * 19), "version is"),
}


@pytest.mark.parametrize("case", WRONG)
async def test_a_wrong_request_is_invalid_and_the_message_names_what(oip: OipServed, case: str) -> None:
    request, named = WRONG[case]
    code, details = await refusal(oip, request)
    assert code == "INVALID_ARGUMENT"
    assert named in details


@pytest.mark.parametrize("fields", [{"model_name": "nobody"}, {"model_version": "4"}], ids=["model", "version"])
async def test_what_is_not_served_is_not_found(oip: OipServed, fields: dict[str, str]) -> None:
    assert (await refusal(oip, infer_request(**fields)))[0] == "NOT_FOUND"


async def test_errors_beyond_the_request_keep_their_codes(oip: OipServed) -> None:
    many = infer_request({"user": np.array([7]), "item": np.arange(51)})
    assert (await refusal(oip, many))[0] == "RESOURCE_EXHAUSTED"
    oip.router.error = Unavailable("no shard")
    assert (await refusal(oip, infer_request()))[0] == "UNAVAILABLE"
    oip.router.error = None
    assert len((await oip.call("ModelInfer", infer_request())).outputs) == 16


async def test_a_server_tells_of_itself(oip: OipServed) -> None:
    assert (await oip.call("ServerLive")).live
    assert (await oip.call("ServerReady")).ready
    told = await oip.call("ServerMetadata")
    assert told.name == "ringpull"
    assert list(told.extensions) == ["binary_tensor_data", "model_configuration", "model_repository", "statistics"]


async def test_a_model_is_ready_while_it_is_served(oip: OipServed) -> None:
    for name, version, ready in (("ranker", "", 1), ("ranker", "3", 1), ("ranker", "2", 0), ("nobody", "", 0)):
        assert (await oip.call("ModelReady", name=name, version=version)).ready == ready, (name, version)


async def test_metadata_and_config_tell_the_same_tensors(oip: OipServed) -> None:
    told = await oip.call("ModelMetadata", name="ranker")
    config = (await oip.call("ModelConfig", name="ranker", version="3")).config
    assert (told.name, list(told.versions), told.platform) == ("ranker", ["3"], "ringpull")
    shapes = {each.name: (each.datatype, list(each.shape)) for each in told.inputs}
    assert shapes["item"] == ("INT64", [-1])
    assert shapes["age"] == ("FP32", [-1, 2])
    assert {"tags", "tags_offsets", "tags_weights", "history_offsets"} < shapes.keys()
    assert "user_item" not in shapes  # a cross
    assert [(each.name, list(each.shape)) for each in told.outputs][:2] == [("input0", [-1, 3]), ("input1", [-1, 3])]
    assert (config.name, config.max_batch_size, list(config.version_policy.specific.versions)) == ("ranker", 0, [3])
    types = message("ModelConfig").DESCRIPTOR.fields_by_name["input"].message_type.fields_by_name["data_type"].enum_type
    assert {
        each.name: (types.values_by_number[each.data_type].name[5:], list(each.dims)) for each in config.input
    } == shapes
    assert {each.name for each in config.input if not each.optional} == {"user", "item"}
    assert [each.name for each in config.output] == [each.name for each in told.outputs]


def test_a_configuration_names_the_classes_of_outputs() -> None:
    outputs = [Tensor("shares", "FP32", [-1, 2], classes=("nö", "yes, it is")), Tensor("score", "FP32", [-1])]
    told = message("ModelConfig")(**config(Signature("ranker", [3], [], outputs)))
    assert {name: each.string_value for name, each in told.parameters.items()} == {
        "shares_classes": '["nö", "yes, it is"]'
    }


@pytest.mark.parametrize("method", ["ModelMetadata", "ModelConfig", "ModelStatistics"])
async def test_a_model_that_is_not_served_has_no_description(oip: OipServed, method: str) -> None:
    request = message(f"{method}Request")
    assert (await refusal(oip, request(name="nobody"), method))[0] == "NOT_FOUND"
    assert (await refusal(oip, request(name="ranker", version="4"), method))[0] == "NOT_FOUND"
    assert (await refusal(oip, request(name="ranker", version="x"), method))[0] == "INVALID_ARGUMENT"


async def test_statistics_are_the_counts_of_all_heads(oip: OipServed) -> None:
    oip.model_counts = {
        ("ranker", 3): ModelCounts(
            calls=7, failed=2, rows=21, batches=5, total_ns=70, failed_ns=8, queue_ns=9, input_ns=10, infer_ns=11,
            output_ns=12, last_ms=13,
        )
    }  # fmt: skip
    assert [each.name for each in (await oip.call("ModelStatistics")).model_stats] == ["cities", "ranker"]
    for asked in ({"name": "ranker"}, {"name": "ranker", "version": "3"}):
        (told,) = (await oip.call("ModelStatistics", **asked)).model_stats
        stats = told.inference_stats
        assert (told.name, told.version, told.last_inference) == ("ranker", "3", 13)
        assert (told.inference_count, told.execution_count) == (7, 5)
        assert [(each.count, each.ns) for each in (stats.success, stats.fail, stats.queue)] == [(7, 70), (2, 8), (7, 9)]
        assert [(each.count, each.ns) for each in (stats.compute_input, stats.compute_infer, stats.compute_output)] == [
            (7, 10), (7, 11), (7, 12),
        ]  # fmt: skip


@pytest.mark.medium
async def test_statistics_grow_with_every_request_at_once(oip: OipServed) -> None:
    for calls in (1, 2, 3):
        await oip.call("ModelInfer", infer_request())
        (told,) = (await oip.call("ModelStatistics", name="ranker")).model_stats
        stats = told.inference_stats
        assert told.inference_count == calls
        assert {stats.success.count, stats.queue.count, stats.compute_infer.count} == {calls}
        assert stats.success.ns > 0


async def test_the_index_lists_what_is_served(oip: OipServed) -> None:
    told = (await oip.call("RepositoryIndex", ready=True)).models
    assert [(each.name, each.version, each.state) for each in told] == [
        ("cities", "1", "READY"),
        ("ranker", "3", "READY"),
    ]


async def test_strings_are_values(oip: OipServed) -> None:
    cities = np.array([b"rome", b"", b"paris", "são paulo".encode()], object)
    for form in (infer_request, typed_request):
        reply = await oip.call("ModelInfer", form({"city": cities}, model_name="cities"))
        assert outputs_of(reply)["input0"].tolist() == [0, 0, 1, 2]
    no_text = infer_request({"city": np.array([b"\xff"], object)}, model_name="cities")
    assert (await refusal(oip, no_text))[0] == "INVALID_ARGUMENT"


async def test_there_is_no_shared_memory(oip: OipServed) -> None:
    for kind in ("System", "Cuda"):
        await oip.call(f"{kind}SharedMemoryStatus")
        await oip.call(f"{kind}SharedMemoryUnregister", name="x")
        asked = message("SharedMemoryStatusRequest")(name="x")
        assert (await refusal(oip, asked, f"{kind}SharedMemoryStatus"))[0] == "NOT_FOUND"
        asked = message("SharedMemoryRegisterRequest")(name="x")
        code, details = await refusal(oip, asked, f"{kind}SharedMemoryRegister")
        assert (code, "shared memory" in details) == ("UNIMPLEMENTED", True)


@pytest.mark.parametrize("method", ["TraceSetting", "LogSettings"])
async def test_settings_are_not_for_clients(oip: OipServed, method: str) -> None:
    assert (await refusal(oip, message("SettingsRequest")(), method))[0] == "UNIMPLEMENTED"


async def test_what_is_no_message_is_invalid(oip: OipServed) -> None:
    for method in ("ModelInfer", "ModelMetadata", "ModelReady"):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await oip.raw(f"/inference.GRPCInferenceService/{method}", b"\xff\xff\xff")
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_requests_are_not_taken_as_a_stream(oip: OipServed) -> None:
    async with grpc.aio.insecure_channel(oip.target) as channel:
        call = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")()
        await call.write(infer_request().SerializeToString())
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert "ModelInfer" in (caught.value.details() or "")
