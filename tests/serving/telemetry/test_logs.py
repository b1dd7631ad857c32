import json
import logging

import pytest

from serving.setting_groups import LogSettings
from serving.telemetry.logs import (
    FIELDS,
    OWN_LOGGERS,
    JsonFormatter,
    TextFormatter,
    configure_logs,
    request_id_now,
)


@pytest.fixture
def restore_logging():
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers, root.level = handlers, level
    for name in OWN_LOGGERS:
        logging.getLogger(name).setLevel(logging.NOTSET)
    logging.captureWarnings(False)


def record(message="hello", **fields):
    log_record = logging.makeLogRecord({"name": "serving", "levelname": "INFO", "msg": message})
    setattr(log_record, FIELDS, fields)
    return log_record


def test_json_line_carries_fields_request_and_exception():
    token = request_id_now.set("abc")
    try:
        try:
            raise ValueError("broken")
        except ValueError as error:
            failing = record(route="/v1/enhance", status=500)
            failing.exc_info = (type(error), error, error.__traceback__)
        line = json.loads(JsonFormatter().format(failing))
    finally:
        request_id_now.reset(token)
    assert line["message"] == "hello"
    assert line["level"] == "info"
    assert (line["route"], line["status"], line["request_id"]) == ("/v1/enhance", 500, "abc")
    assert "ValueError: broken" in line["exception"]
    assert line["time"].endswith("+00:00")


def test_text_line_carries_fields_too():
    assert TextFormatter().format(record(route="/x", status=200)).endswith("route=/x status=200")


def test_format_and_level_follow_the_settings(restore_logging, capsys):
    configure_logs(LogSettings(format="json", level="warning"))
    logging.getLogger("serving").info("unseen")
    logging.getLogger("serving").warning("seen")
    lines = capsys.readouterr().err.splitlines()
    assert [json.loads(line)["message"] for line in lines] == ["seen"]
    configure_logs(LogSettings())
    logging.getLogger("serving").info("for people")
    assert "INFO for people" in capsys.readouterr().err


def test_raised_level_of_the_root_logger_hides_no_request(restore_logging, capsys):
    configure_logs(LogSettings())
    logging.getLogger().setLevel(logging.ERROR)  # as OpenVINO does while it converts a model
    logging.getLogger("serving.http.security").info("request")
    assert "INFO request" in capsys.readouterr().err


def test_request_is_one_line_without_file_names_or_options(server, noise_png, caplog):
    caplog.set_level(logging.INFO)
    answer = server.client.post(
        "/v1/enhance",
        params={"model": "compact_x2", "region": "1,1,4,4"},
        files={"file": ("grandmother.png", noise_png(8, 8))},
        headers={"X-Request-ID": "trace-me"},
    )
    assert answer.status_code == 200
    server.wait_for(
        lambda: any(
            getattr(each, FIELDS, {}).get("request_id") == "trace-me" for each in caplog.records
        )
    )
    (line,) = [
        each for each in caplog.records if getattr(each, FIELDS, {}).get("request_id") == "trace-me"
    ]
    fields = getattr(line, FIELDS)
    assert fields["route"] == "/v1/enhance"
    assert fields["status"] == 200
    assert fields["client"] == "ip:127.0.0.1"
    assert fields["model"] == "compact_x2"
    assert "grandmother" not in TextFormatter().format(line)
    assert "1,1,4,4" not in TextFormatter().format(line)


def test_request_id_defaults_to_the_trace_id(server):
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"

    def request_id_of(**headers):
        return server.client.get("/livez", headers=headers).headers["X-Request-ID"]

    assert request_id_of(traceparent=f"00-{trace}-00f067aa0ba902b7-01") == trace
    assert (
        request_id_of(**{"traceparent": f"00-{trace}-00f067aa0ba902b7-01", "X-Request-ID": "a"})
        == "a"
    )
    for wrong in (f"00-{'0' * 32}-00f067aa0ba902b7-01", "nonsense", f"00-{trace}-01"):
        assert request_id_of(traceparent=wrong) not in (trace, wrong, "0" * 32)
