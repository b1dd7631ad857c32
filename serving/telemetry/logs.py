"""The server's log: one line per event, with the request id and no content of pictures.

A line has route, status, model, client and duration. It never has a file name, an option's value
or a byte of a body, so reading logs needs no permission to see pictures.
"""

import json
import logging
from contextvars import ContextVar
from datetime import UTC, datetime

from serving.setting_groups import LogSettings

request_id_now: ContextVar[str | None] = ContextVar("request_id_now", default=None)
OWN_LOGGERS = ("serving", "superres")
FIELDS = "fields"  # the attribute of a log record with its key-value pairs


class TextFormatter(logging.Formatter):
    """`2026-01-02 03:04:05,678 INFO message key=value ...`."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        pairs = [f"{name}={value}" for name, value in _fields(record).items()]
        return " ".join([super().formatMessage(record), *pairs])


class JsonFormatter(logging.Formatter):
    """One JSON object per line; an exception's traceback is in `exception`."""

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
    """Log to standard error in the format and from the level of `settings`."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if settings.format == "json" else TextFormatter())
    logging.basicConfig(level=settings.level.upper(), handlers=[handler], force=True)
    for name in OWN_LOGGERS:
        # OpenVINO raises the root logger's level while it converts a model.
        logging.getLogger(name).setLevel(settings.level.upper())
    logging.captureWarnings(True)  # codecs warn through `warnings`
