"""The Open Inference Protocol of a running server, with Triton's client."""

import json

import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

LEVELS = np.random.default_rng(0).integers(0, 256, (1, 40, 50, 3), np.uint8)


@pytest.fixture(scope="module")
def client(server):
    with triton.InferenceServerClient(f"127.0.0.1:{server.port}") as triton_client:
        yield triton_client


def infer_inputs(values, *, binary=True, name="image"):
    tensor = triton.InferInput(
        name, list(values.shape), "UINT8" if values.dtype == np.uint8 else "FP32"
    )
    tensor.set_data_from_numpy(values, binary_data=binary)
    return [tensor]


def send(server, body, *, model="compact_x2", headers=None):
    content = body if isinstance(body, bytes) else json.dumps(body)
    return server.client.post(f"/v2/models/{model}/infer", content=content, headers=headers)


def plain(**changes):
    """A request in JSON for a picture of 1x2 pixels."""
    tensor = {"name": "image", "shape": [1, 1, 2, 3], "datatype": "UINT8", "data": [9] * 6}
    return {"inputs": [{**tensor, **changes}]}


def test_the_server_and_its_models_are_described(client, server):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("compact_x2")
    assert client.is_model_ready("compact_x2", "local")
    assert not client.is_model_ready("compact_x2", "7")
    assert not client.is_model_ready("nothing")
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    described = client.get_model_metadata("compact_x4")
    assert described["versions"] == ["local"]
    assert described["inputs"][0] == {"name": "image", "datatype": "UINT8", "shape": [1, -1, -1, 3]}


@pytest.mark.parametrize("sent", [True, False])
@pytest.mark.parametrize("answered", [True, False])
def test_uint8_tensors_are_enlarged_in_binary_and_in_json(client, repeated, sent, answered):
    outputs = [triton.InferRequestedOutput("image", binary_data=answered)]
    result = client.infer(
        "compact_x2", infer_inputs(LEVELS, binary=sent), outputs=outputs, request_id="mine"
    )
    assert np.array_equal(result.as_numpy("image")[0], repeated(LEVELS[0]))
    response = result.get_response()
    assert (response["id"], response["model_name"], response["model_version"]) == (
        "mine",
        "compact_x2",
        "local",
    )


def test_fp32_tensors_are_enlarged(client):
    values = np.random.default_rng(1).random((1, 70, 33, 3), np.float32)
    for binary in (True, False):
        outputs = [triton.InferRequestedOutput("image", binary_data=binary)]
        result = client.infer("compact_x2", infer_inputs(values, binary=binary), outputs=outputs)
        got = result.as_numpy("image")
        assert got.dtype == np.float32
        expected = values.repeat(2, axis=1).repeat(2, axis=2)
        assert np.abs(got - expected).max() <= 0.6 / 65_535 + 1e-6


def test_an_output_of_many_strips_is_complete(client, repeated):
    levels = np.random.default_rng(2).integers(0, 256, (1, 200, 31, 3), np.uint8)
    for binary in (True, False):
        outputs = [triton.InferRequestedOutput("image", binary_data=binary)]
        result = client.infer("compact_x2", infer_inputs(levels), outputs=outputs)
        assert np.array_equal(result.as_numpy("image")[0], repeated(levels[0]))


def test_the_versioned_route_serves_only_that_version(client):
    result = client.infer("compact_x2", infer_inputs(LEVELS), model_version="local")
    assert result.as_numpy("image").shape == (1, 80, 100, 3)
    with pytest.raises(InferenceServerException, match="version local only"):
        client.infer("compact_x2", infer_inputs(LEVELS), model_version="9")


def test_clients_get_the_detail_of_a_problem(client):
    with pytest.raises(InferenceServerException, match="one input, 'image'") as refusal:
        client.infer("compact_x2", infer_inputs(LEVELS, name="other"))
    assert refusal.value.status() == "400"
    with pytest.raises(InferenceServerException, match="nothing"):
        client.infer("nothing", infer_inputs(LEVELS))


@pytest.mark.parametrize(
    "body",
    [
        b"no json",
        b"[" * 100_000,
        {},
        {"inputs": []},
        plain(datatype="INT8"),
        plain(shape=[1, 1, 2, 4]),
        plain(shape=[2, 1, 1, 3]),
        plain(shape=[1, 0, 2, 3]),
        plain(shape=[1, 1, 3, 3]),
        plain(data=[256] * 6),
        plain(data=[-1] * 6),
        plain(data=[0.5] * 6),
        plain(data=[True] * 6),
        plain(data=["9"] * 6),
        plain(data=[[9] * 3, [9] * 2]),
        plain(data=[10**30] * 6),
        plain(data=None),
        plain(datatype="FP32", data=[1.5] * 6),
        plain(datatype="FP32", data=["x"] * 6),
        plain(parameters={"binary_data_size": 6}),
        plain(data=None, parameters={"binary_data_size": 6}),
        {**plain(), "outputs": [{"name": "other"}]},
    ],
)
def test_an_invalid_message_is_refused(server, body):
    answer = send(server, body)
    assert answer.status_code == 400
    problem = answer.json()
    assert problem["type"] == "/problems/bad-tensor"
    assert problem["error"] == problem["detail"]


@pytest.mark.parametrize("length", ["x", "-1", "99999", "\u00b2"])
def test_a_wrong_header_length_is_refused(server, length):
    headers = {b"Inference-Header-Content-Length": length.encode()}
    answer = send(server, plain(), headers=headers)
    assert answer.status_code == 400
    assert "Inference-Header-Content-Length" in answer.json()["error"]


def test_non_finite_values_are_refused(client):
    values = np.full((1, 4, 4, 3), np.nan, np.float32)
    with pytest.raises(InferenceServerException, match="from 0 to 1"):
        client.infer("compact_x2", infer_inputs(values))


def test_limits_and_deadlines_are_those_of_pictures(server):
    too_many = plain(shape=[1, 60_000, 60_000, 3])
    assert send(server, too_many).json()["type"] == "/problems/too-many-pixels"
    bad = send(server, {**plain(), "parameters": {"deadline": -1}})
    assert (bad.status_code, bad.json()["type"]) == (422, "/problems/bad-options")
    fine = send(server, {**plain(), "parameters": {"deadline": 60}})
    assert fine.json()["outputs"][0]["data"] == [9] * 24


def test_other_routes_have_no_error_field(server):
    assert "error" not in server.client.post("/v1/enhance", content=b"x").json()
