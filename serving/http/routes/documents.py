"""What OpenAPI says of pictures and problems, said once."""

from typing import Any

from serving.problems import MEDIA_TYPE, PROBLEMS, TYPE_PREFIX, Problem, title_of
from serving.requests.negotiation import MEDIA_TYPES
from serving.requests.options import Options

BINARY = {"type": "string", "format": "binary"}
INPUT_TYPES = (
    *MEDIA_TYPES.values(),
    "image/gif",
    "image/bmp",
    "application/octet-stream",
)
ANSWER_HEADERS = {
    "Sharpline-Model": "name of the model that made the answer",
    "Sharpline-Version": "its version in the registry",
    "Sharpline-Bundle": "sha256 that names its bundle",
    "Sharpline-Chain": "every model that made the picture, oldest first, each with its bundle",
    "Sharpline-Reason": "why `auto` took this model",
    "Sharpline-Shrunk": "what the input's sides were multiplied by, where that was asked for",
    "Sharpline-Consistency": "whether the answer, shrunk, is its input again",
    "Server-Timing": "milliseconds of each stage that was over when the answer began",
    "Content-Disposition": "the upload's file name, cleaned, with the answer's suffix",
}


def picture_answers() -> dict[int | str, dict[str, Any]]:
    """The 200 of a route that answers a picture."""
    return {
        200: {
            "description": "The enlarged picture",
            "content": {media_type: {"schema": BINARY} for media_type in MEDIA_TYPES.values()},
            "headers": {
                name: {"description": text, "schema": {"type": "string"}}
                for name, text in ANSWER_HEADERS.items()
            },
        }
    }


def picture_body() -> dict[str, Any]:
    """The request body of a route that takes a picture."""
    options = Options.model_json_schema()["properties"]
    form = {"type": "object", "required": ["file"], "properties": {"file": BINARY, **options}}
    content: dict[str, Any] = {media_type: {"schema": BINARY} for media_type in INPUT_TYPES}
    return {
        "requestBody": {
            "required": True,
            "content": {**content, "multipart/form-data": {"schema": form}},
        }
    }


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The refusals of a route, each with the problem types that its status may carry."""
    return {status: _refusal(status) for status in statuses}


def _refusal(status: int) -> dict[str, Any]:
    labels = [label for label, error in PROBLEMS.items() if error.status == status]
    answer: dict[str, Any] = {
        "description": " or ".join(title_of(label) for label in labels),
        "content": {
            MEDIA_TYPE: {
                "schema": Problem.model_json_schema(),
                "examples": {
                    label: {
                        "value": {
                            "type": TYPE_PREFIX + label,
                            "title": title_of(label),
                            "status": status,
                            "detail": "what was wrong with this request",
                        }
                    }
                    for label in labels
                },
            }
        },
    }
    if status in (429, 503):
        answer["headers"] = {
            "Retry-After": {
                "description": "seconds to wait",
                "schema": {"type": "integer", "minimum": 1},
            }
        }
    return answer
