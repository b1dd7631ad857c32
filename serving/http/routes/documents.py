"""Shared parts of the OpenAPI document: picture bodies, responses and problems."""

from typing import Any

from pydantic import BaseModel

from serving.problems import MEDIA_TYPE, PROBLEMS, TYPE_PREFIX, Problem, title_of
from serving.requests.multipart import FILE_FIELD
from serving.requests.negotiation import MEDIA_TYPES
from serving.requests.options import Options

BINARY = {"type": "string", "format": "binary"}
INPUT_TYPES = (
    *MEDIA_TYPES.values(),
    "image/gif",
    "image/bmp",
    "application/octet-stream",
)
RESPONSE_HEADERS = {
    "Sharpline-Model": "name of the model that enhanced the picture",
    "Sharpline-Version": "its version in the registry",
    "Sharpline-Bundle": "id of its bundle (SHA-256)",
    "Sharpline-Chain": "every model that enhanced the picture, oldest first, with its bundle",
    "Sharpline-Reason": "why `auto` selected this model",
    "Sharpline-Shrunk": "factor of the input's sides if it was shrunk (`on_too_large=shrink`)",
    "Sharpline-Consistency": "whether the downscaled output matches its input",
    "Server-Timing": "milliseconds of each stage that had finished when the response began",
    "Content-Disposition": "the upload's file name, sanitized, with the output's suffix",
}


def picture_responses() -> dict[int | str, dict[str, Any]]:
    """The 200 response of a route that returns a picture."""
    return {
        200: {
            "description": "The enlarged picture",
            "content": {media_type: {"schema": BINARY} for media_type in MEDIA_TYPES.values()},
            "headers": {
                name: {"description": text, "schema": {"type": "string"}}
                for name, text in RESPONSE_HEADERS.items()
            },
        }
    }


def picture_body(other_content: dict[str, Any] | None = None) -> dict[str, Any]:
    """The request body of a route that accepts a picture's bytes, or `other_content`."""
    content: dict[str, Any] = {media_type: {"schema": BINARY} for media_type in INPUT_TYPES}
    return {"requestBody": {"required": True, "content": {**content, **(other_content or {})}}}


def json_body(model: type[BaseModel]) -> dict[str, Any]:
    """The JSON request body of a route that reads it itself."""
    content = {"application/json": {"schema": inline_schema(model)}}
    return {"requestBody": {"required": True, "content": content}}


def inline_schema(model: type[BaseModel]) -> dict[str, Any]:
    """The JSON schema of a model without references, which would point into its own definitions."""
    schema = model.model_json_schema()
    definitions = schema.pop("$defs", {})

    def resolve(node: Any) -> Any:
        if isinstance(node, list):
            return [resolve(each) for each in node]
        if not isinstance(node, dict):
            return node
        own = {key: resolve(each) for key, each in node.items() if key != "$ref"}
        if "$ref" not in node:
            return own
        return resolve(definitions[node["$ref"].rpartition("/")[2]]) | own

    return resolve(schema)


def form_content(file: dict[str, Any], options: type[Options]) -> dict[str, Any]:
    """The content of a multipart form with a field for the file and one for each option."""
    properties = {FILE_FIELD: file, **options.model_json_schema()["properties"]}
    form = {"type": "object", "required": [FILE_FIELD], "properties": properties}
    return {"multipart/form-data": {"schema": form}}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The error responses of a route, each with the problem types of its status."""
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
                            "detail": "what is wrong with this request",
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
