import json

import pytest

from serving.errors import BadKey, QuotaExceeded
from serving.requests.keys import BrokenKeys, KeyRing, add_key, read_keys, revoke_key
from sharpline.cli import run
from superres.common.errors import UsageError


@pytest.fixture
def path(tmp_path):
    return tmp_path / "keys.json"


def test_file_contains_no_key(path):
    key, secret = add_key(path, "shop")
    assert secret not in path.read_text()
    assert secret.split("_", 2)[2] not in path.read_text()
    assert read_keys(path) == (key,)


def test_valid_key_is_accepted_and_similar_ones_are_not(path, clock):
    key, secret = add_key(path, "shop")
    ring = KeyRing(path, clock)
    assert ring.required
    assert ring.caller(secret).key == key
    for wrong in (
        None,
        "",
        secret[:-1],
        secret[:-1] + "~",
        "sl_" + "0" * 12 + secret[15:],
        "x" * 999,
    ):
        with pytest.raises(BadKey):
            ring.caller(wrong)


def test_without_a_file_every_caller_is_accepted(clock):
    ring = KeyRing(None, clock)
    assert not ring.required
    assert ring.caller(None).key is None
    ring.caller("anything").charge_pixels(10**12)


def test_keys_are_reloaded_without_a_restart(path, clock):
    _, first = add_key(path, "first")
    ring = KeyRing(path, clock)
    key, second = add_key(path, "second")
    clock.seconds += 2
    assert ring.caller(second).key == key
    revoke_key(path, key.id)
    clock.seconds += 2
    with pytest.raises(BadKey, match="revoked"):
        ring.caller(second)
    assert ring.caller(first).key is not None


def test_broken_or_missing_file_keeps_the_last_keys(path, clock, caplog):
    _, secret = add_key(path, "shop")
    ring = KeyRing(path, clock)
    for damage in (lambda: path.write_text("{"), path.unlink):
        damage()
        clock.seconds += 2
        assert ring.caller(secret).key is not None
    assert "not reloaded" in caplog.text


def test_start_without_the_configured_file_gives_advice(path):
    with pytest.raises(BrokenKeys, match="sharpline keys add"):
        KeyRing(path)
    path.write_text('{"keys": [{"id": "no"}]}')
    with pytest.raises(BrokenKeys, match="cannot be read"):
        KeyRing(path)


def test_requests_per_minute_are_refilled_evenly(path, clock):
    _, secret = add_key(path, "shop", requests_per_minute=6)
    caller = KeyRing(path, clock).caller(secret)
    for _ in range(6):
        caller.charge_request()
    with pytest.raises(QuotaExceeded) as refused:
        caller.charge_request()
    assert refused.value.seconds == pytest.approx(10)
    clock.seconds += 9.9
    with pytest.raises(QuotaExceeded):
        caller.charge_request()
    clock.seconds += 0.2
    caller.charge_request()


def test_picture_over_the_whole_quota_leaves_a_debt(path, clock):
    _, secret = add_key(path, "shop", pixels_per_minute=1000)
    caller = KeyRing(path, clock).caller(secret)
    caller.charge_pixels(3000)
    with pytest.raises(QuotaExceeded) as refused:
        caller.charge_pixels(1)
    assert refused.value.seconds == pytest.approx(120)
    clock.seconds += refused.value.seconds
    caller.charge_pixels(1)


def test_reloading_the_file_does_not_reset_quotas(path, clock):
    _, secret = add_key(path, "shop", requests_per_minute=1)
    ring = KeyRing(path, clock)
    ring.caller(secret).charge_request()
    add_key(path, "other")
    clock.seconds += 2
    with pytest.raises(QuotaExceeded):
        ring.caller(secret).charge_request()


def test_command_adds_lists_and_revokes_keys(path, capsys, monkeypatch):
    monkeypatch.setenv("SHARPLINE_SECURITY__KEYS_FILE", str(path))
    assert run(["keys", "add", "the shop", "--requests-per-minute", "60", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert KeyRing(path).caller(made["key"]).key.name == "the shop"
    assert run(["keys", "list"]) == 0
    shown = capsys.readouterr().out
    assert "the shop" in shown
    assert made["key"] not in shown
    assert run(["keys", "list", "--json"]) == 0
    assert "sha256" not in capsys.readouterr().out
    assert run(["keys", "revoke", made["id"]]) == 0
    assert run(["keys", "revoke", made["id"]]) == 2
    assert run(["keys", "list"]) == 0
    assert "no keys" in capsys.readouterr().err
    assert run(["keys", "add", "again"]) == 0
    assert capsys.readouterr().out.startswith("sl_")


def test_command_without_a_file_is_a_usage_error(monkeypatch):
    monkeypatch.delenv("SHARPLINE_SECURITY__KEYS_FILE", raising=False)
    assert run(["keys", "list"]) == 2
    with pytest.raises(SystemExit):
        run(["keys", "add", "x", "--requests-per-minute", "0"])


def test_revoking_an_unknown_key_is_refused(path):
    with pytest.raises(UsageError, match="keys list"):
        revoke_key(path, "0" * 12)


def test_server_enforces_keys_and_their_quotas(
    picture_server, models_folder, numpy_backends, noise_png, path
):
    _, secret = add_key(path, "shop", pixels_per_minute=100)
    server = picture_server(
        models_folder, load_backend=numpy_backends, security={"keys_file": path}
    )
    headers = {"Authorization": f"Bearer {secret}"}
    for given in ({}, {"Authorization": "Bearer nonsense"}, {"Authorization": f"Basic {secret}"}):
        for answer in (
            server.client.get("/v1/models", headers=given),
            server.client.post("/v1/enhance", content=noise_png(8, 8), headers=given),
        ):
            assert answer.status_code == 401
            assert answer.json()["type"] == "/problems/bad-key"
            assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert server.client.get("/v1/models", headers=headers).status_code == 200
    first = server.client.post("/v1/enhance", content=noise_png(8, 8), headers=headers)
    assert first.status_code == 200
    second = server.client.post("/v1/enhance", content=noise_png(8, 8), headers=headers)
    assert second.status_code == 429
    assert second.json()["type"] == "/problems/quota-exceeded"
    assert 1 <= int(second.headers["Retry-After"]) <= 94
    for address in ("/", "/livez", "/metrics", "/docs"):
        assert server.client.get(address).status_code == 200, "needs no key"
