"""The server's log: one line an event, with the request's id, and nothing of any picture.

A line says which route, status, model and client, and how long it took. It never has a file's name,
an option's value or a byte of a body: whoever reads logs need not be allowed to see pictures.
"""

import json
import logging
from contextvars import ContextVar
from datetime import UTC, datetime

from serving.setting_groups import LogSettings

request_id_now: ContextVar[str | None] = ContextVar("request_id_now", default=None)
OWN_LOGGERS = ("serving", "superres")
FIELDS = "fields"  # the attribute of a log record that holds what a line says beside its message


class TextFormatter(logging.Formatter):
    """`2026-01-02 03:04:05,678 INFO message key=value ...`."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        pairs = [f"{name}={value}" for name, value in _fields(record).items()]
        return " ".join([super().formatMessage(record), *pairs])


class JsonFormatter(logging.Formatter):
    """One JSON object a line; an exception's trace is in `exception`."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def _fields(record: logging.LogRecord) -> dict[str, object]:
    fields = dict(getattr(record, FIELDS, {}))
    request_id = request_id_now.get()
    if request_id is not None:
        fields.setdefault("request_id", request_id)
    return fields


def configure_logs(settings: LogSettings) -> None:
    """Send everything that is logged to standard error, in the format that is set."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if settings.format == "json" else TextFormatter())
    logging.basicConfig(level=settings.level.upper(), handlers=[handler], force=True)
    for room in OWN_LOGGERS:
        # OpenVINO lowers the root logger's voice while it converts a model, and requests go on.
        logging.getLogger(room).setLevel(settings.level.upper())
    logging.captureWarnings(True)  # a codec's warnings are lines like any other
