import ast
from pathlib import Path

import pytest

from serving.cli.serve import refuse_without_keys
from serving.http.security import SECURITY_HEADERS, hosts_of
from serving.setting_groups import SecuritySettings
from serving.settings import Settings
from superres.common.errors import UsageError

ORIGIN = "https://shop.example"


@pytest.mark.parametrize(
    "address",
    ["/", "/docs", "/v1/models", "/metrics", "/nothing", "/web/app.js", "/problems/queue-full"],
)
def test_every_response_has_the_security_headers(server, address):
    headers = server.client.get(address).headers
    for name, value in SECURITY_HEADERS.items():
        assert headers[name] == value


def test_cors_is_disabled_by_default(server, noise_png):
    answer = server.client.get("/v1/models", headers={"Origin": ORIGIN})
    assert "access-control-allow-origin" not in answer.headers
    preflight = server.client.options(
        "/v1/enhance", headers={"Origin": ORIGIN, "Access-Control-Request-Method": "POST"}
    )
    assert preflight.status_code == 405
    assert "access-control-allow-origin" not in preflight.headers


def test_cross_site_post_is_refused(server, noise_png):
    headers = {"Origin": ORIGIN, "Sec-Fetch-Site": "cross-site"}
    answer = server.client.post("/v1/enhance", content=noise_png(8, 8), headers=headers)
    assert answer.status_code == 403
    assert answer.json()["type"] == "/problems/cross-site"
    own = {"Origin": server.url, "Sec-Fetch-Site": "same-origin"}
    answer = server.client.post("/v1/enhance", content=noise_png(8, 8), headers=own)
    assert answer.status_code == 200


def test_allowed_origins_are_accepted(picture_server, models_folder, numpy_backends, noise_png):
    server = picture_server(
        models_folder, load_backend=numpy_backends, security={"allow_origins": (ORIGIN,)}
    )
    headers = {"Origin": ORIGIN, "Sec-Fetch-Site": "cross-site"}
    answer = server.client.post("/v1/enhance", content=noise_png(8, 8), headers=headers)
    assert answer.status_code == 200
    assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN
    other = {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}
    answer = server.client.post("/v1/enhance", content=noise_png(8, 8), headers=other)
    assert answer.status_code == 403


def test_valid_request_id_is_kept_and_others_are_replaced(server):
    def returned(request_id):
        headers = {"X-Request-ID": request_id}
        return server.client.get("/livez", headers=headers).headers["X-Request-ID"]

    assert returned("abc-123") == "abc-123"
    for request_id in ("", "x" * 65, "a b", "<script>"):
        new_id = returned(request_id)
        assert new_id != request_id
        assert len(new_id) == 32


def test_internal_error_is_a_problem_without_details(
    picture_server, models_folder, numpy_backends, noise_png, monkeypatch
):
    server = picture_server(models_folder, load_backend=numpy_backends)

    def explode(*_args, **_options):
        raise RuntimeError("a secret")

    monkeypatch.setattr("serving.enhance.pictures.decode", explode)
    answer = server.client.post("/v1/enhance", content=noise_png(8, 8))
    assert answer.status_code == 500
    assert answer.json()["type"] == "/problems/internal-error"
    assert "secret" not in answer.text
    monkeypatch.undo()
    assert server.client.post("/v1/enhance", content=noise_png(8, 8)).status_code == 200
    labels = {"route": "/v1/enhance", "status": "500", "model": "compact_x2"}
    assert (
        server.services.metrics.registry.get_sample_value("sharpline_requests_total", labels) == 1
    )


@pytest.mark.parametrize(
    "name", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example"]
)
def test_local_server_accepts_only_local_host_names(server, name):
    answer = server.client.get("/v1/models", headers={"Host": f"{name}:{server.port}"})
    assert answer.status_code == 421
    assert answer.json()["type"] == "/problems/wrong-host"
    for local in ("localhost", "127.0.0.1", "[::1]", f"LOCALHOST:{server.port}"):
        assert server.client.get("/v1/models", headers={"Host": local}).status_code == 200


def test_host_names_can_be_set_and_default_to_any_off_loopback():
    assert hosts_of(Settings(host="0.0.0.0")) is None
    named = Settings(security=SecuritySettings(allow_hosts=("Pictures.example:443",)))
    assert hosts_of(named) == {"pictures.example"}


def test_server_off_loopback_requires_keys_or_the_open_setting():
    refuse_without_keys(Settings())
    refuse_without_keys(Settings(host="::1"))
    refuse_without_keys(Settings(host="0.0.0.0", security=SecuritySettings(open=True)))
    refuse_without_keys(Settings(host="0.0.0.0", security=SecuritySettings(keys_file="k.json")))
    with pytest.raises(UsageError, match="SHARPLINE_SECURITY__KEYS_FILE"):
        refuse_without_keys(Settings(host="0.0.0.0"))


ROOT = Path(__file__).parents[3]
PICKLERS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
LOADERS = {"torch.load", "torch.jit.load", "torch.export.load", "np.load", "eval", "exec"}


def imported_by(tree):
    """Every module that the code imports, anywhere in the file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_no_module_that_the_server_imports_loads_pickles():
    waiting = {"serving.cli.serve", "serving.cli.keys"}
    seen = set()
    while waiting:
        name = waiting.pop()
        seen.add(name)
        path = ROOT / name.replace(".", "/")
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if not path.is_file():
            continue  # a name inside a module, or another project's module
        tree = ast.parse(path.read_text())
        imports = set(imported_by(tree))
        calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        assert not PICKLERS & {each.split(".")[0] for each in imports}, path
        assert not LOADERS & calls, path
        waiting |= imports - seen
    assert {"serving.app", "superres.model.bundle", "superres.model.backends.torch_backend"} <= seen
