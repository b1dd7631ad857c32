"""Every route of the app needs the key before it reads anything, except those listed here."""

import http.client
import json

import pytest
from starlette.routing import Route

from serving.requests.keys import add_key

PUBLIC = {
    "GET /",
    "GET /docs",
    "GET /openapi.json",
    "GET /livez",
    "GET /readyz",
    "GET /startupz",
    "GET /metrics",
    "GET /problems/{label}",
    "GET /v2/health/live",
    "GET /v2/health/ready",
    "PUT /v1/uploads/{upload_id}",  # needs a signature
}
RECEIPT = {"job": "0", "state": "done", "deleted": "never", "blobs": 0, "signature": "none"}
TENSOR = {"name": "image", "shape": [1, 2, 2, 3], "datatype": "UINT8", "data": list(range(12))}
REQUESTS = {
    "POST /v1/enhance": "picture",
    "POST /v1/jobs": "picture",
    "GET /v1/jobs/{job_id}": None,
    "GET /v1/jobs/{job_id}/events": None,
    "GET /v1/jobs/{job_id}/result": None,
    "POST /v1/receipts/verify": RECEIPT,
    "POST /v1/uploads": {"bytes": 5},
    "GET /v1/models": None,
    "GET /v2": None,
    "GET /v2/models/{model}": None,
    "GET /v2/models/{model}/versions/{version}": None,
    "GET /v2/models/{model}/ready": None,
    "GET /v2/models/{model}/versions/{version}/ready": None,
    "POST /v2/models/{model}/infer": {"inputs": [TENSOR]},
    "POST /v2/models/{model}/versions/{version}/infer": {"inputs": [TENSOR]},
    "DELETE /v1/jobs/{job_id}": None,
}
WRONG_KEYS = (None, "", "Bearer sl_made_up", "Basic {key}")


def request_of(route, png, job_id):
    """A valid request of a route: method, path and body."""
    method, _, path = route.partition(" ")
    path = path.format(job_id=job_id, model="compact_x2", version="local")
    body = REQUESTS[route]
    return method, path, png if body == "picture" else body and json.dumps(body).encode()


def status_before_body(server, method, path):
    """The status of a request without a key that declares a body and does not send it."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    try:
        connection.putrequest(method, path)
        connection.putheader("Content-Length", "1000000")
        connection.endheaders()
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.fixture
def jobs_folder(models_folder):
    return models_folder.with_name(f"{models_folder.name}-jobs")


@pytest.fixture
def key_server(picture_server, models_folder, numpy_backends, tmp_path):
    """A server that requires a key, and the key."""
    _, key = add_key(tmp_path / "keys.json", "shop")
    security = {"keys_file": tmp_path / "keys.json"}
    return picture_server(models_folder, load_backend=numpy_backends, security=security), key


def test_every_route_needs_the_key_and_reads_and_stores_nothing_without_it(
    key_server, jobs_folder, numpy_backends, noise_png
):
    server, key = key_server
    routes = {
        f"{method} {route.path}"
        for route in server.app.routes
        if isinstance(route, Route)
        for method in route.methods - {"HEAD"}
    }
    assert routes == PUBLIC | REQUESTS.keys()

    def check_refusals(job_id):
        for route in REQUESTS:
            method, path, body = request_of(route, noise_png(8, 8), job_id)
            for wrong in WRONG_KEYS:
                headers = {} if wrong is None else {"Authorization": wrong.format(key=key)}
                answer = server.client.request(method, path, content=body, headers=headers)
                assert answer.status_code == 401, (route, wrong)
                assert answer.json()["type"] == "/problems/bad-key"
                assert answer.headers["WWW-Authenticate"] == "Bearer"
            if body is not None:
                assert status_before_body(server, method, path) == 401, route

    [backend] = numpy_backends.made
    before = backend.batches[:]
    check_refusals("0" * 32)
    assert not jobs_folder.exists()
    assert backend.batches == before

    authorized = {"Authorization": f"Bearer {key}"}
    submitted = server.client.post("/v1/jobs", content=noise_png(8, 8), headers=authorized).json()
    address = f"/v1/jobs/{submitted['id']}?wait=60"
    assert server.client.get(address, headers=authorized).json()["state"] == "done"
    check_refusals(submitted["id"])
    for route in REQUESTS:
        method, path, body = request_of(route, noise_png(8, 8), submitted["id"])
        answer = server.client.request(method, path, content=body, headers=authorized)
        assert answer.is_success, (route, answer.text)
