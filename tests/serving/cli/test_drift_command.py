"""`sharpline drift` with the server's own metrics."""

import http.server
import json
import threading

import pytest

from serving.cli.drift import read_drift
from serving.telemetry.metrics import Metrics
from sharpline.cli import run
from superres.common.errors import SharplineError

DRIFT = {("noise", "compact_x4"): 0.5, ("blur", "compact_x4"): 2.25}
PICTURES = {("compact_x4",): 240, ("auto_x2",): 3}


@pytest.fixture
def metrics_with_drift():
    """A server's metrics with the drift of two models, one of which has seen few pictures."""
    metrics = Metrics()
    metrics.add_callback_gauge("sharpline_input_drift", lambda: DRIFT)
    metrics.add_callback_gauge("sharpline_drift_pictures", lambda: PICTURES)
    metrics.add_callback_gauge("sharpline_consistency_db", lambda: {("compact_x4",): 41.5})
    return metrics


@pytest.fixture
def server():
    """A web server whose response is `server.response`: (status, text)."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            status, text = self.server.response if self.path == "/metrics" else (404, "")
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as listening:
        listening.url = f"http://127.0.0.1:{listening.server_port}"
        thread = threading.Thread(target=listening.serve_forever, args=(0.01,))
        thread.start()
        yield listening
        listening.shutdown()
        thread.join()


def text_of(metrics):
    text = metrics.text()
    return text.decode() if isinstance(text, bytes) else text


def test_the_largest_drift_comes_first(metrics_with_drift, server, capsys):
    server.response = (200, text_of(metrics_with_drift))
    assert run(["drift", "--url", f"{server.url}/"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "model       pictures  feature                                            drift",
        "auto_x2            3  (too few pictures, or no reference in the bundle)",
        "compact_x4       240  blur                                                2.25",
        "compact_x4       240  noise                                               0.50",
    ]


def test_json_output_is_one_line(metrics_with_drift, server, capsys):
    server.response = (200, text_of(metrics_with_drift))
    assert run(["drift", "--url", server.url, "--json"]) == 0
    few = {"model": "auto_x2", "pictures": 3, "consistency_db": None, "drift": {}}
    many = {
        "model": "compact_x4",
        "pictures": 240,
        "consistency_db": 41.5,
        "drift": {"blur": 2.25, "noise": 0.5},
    }
    assert json.loads(capsys.readouterr().out) == {"url": server.url, "models": [few, many]}


def test_a_server_without_pictures_says_so(server, capsys):
    metrics = Metrics()
    for name in ("input_drift", "drift_pictures", "consistency_db"):
        metrics.add_callback_gauge(f"sharpline_{name}", dict)
    server.response = (200, text_of(metrics))
    assert run(["drift", "--url", server.url]) == 0
    assert capsys.readouterr().out == "no recent pictures\n"


@pytest.mark.parametrize("text", ["<html>sign in</html>", "", "up 1\n", "up{ 1\n"])
def test_a_page_without_the_metrics_is_refused(text):
    with pytest.raises(SharplineError, match="not the metrics of a picture server"):
        read_drift(text)


def test_an_unavailable_server_is_named(server, capsys):
    server.response = (503, "")
    assert run(["drift", "--url", server.url]) == 1
    assert run(["drift", "--url", "http://127.0.0.1:9"]) == 1
    assert capsys.readouterr().err.count("check that `sharpline serve` runs there") == 2
    assert run(["drift", "--url", "localhost"]) == 2
