"""Options of POST /v1/enhance: query parameters, or fields of a multipart form."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, Protocol, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from serving.errors import BadOptions
from superres.common.names import did_you_mean

AUTO = "auto"
REQUEST_PARTS = frozenset({"query", "path", "header", "body"})  # of FastAPI's error locations
MAX_NAME = 64  # characters of an unknown option in the error message


class Options(BaseModel):
    """All options; a query parameter overrides a form field of the same name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str | None = Field(
        None,
        max_length=64,
        description="a name from GET /v1/models; `auto` selects a model by the picture's content",
        examples=["compact_x4", AUTO],
    )
    task: str | None = Field(
        None, max_length=64, description="only models of this task", examples=["super-resolution"]
    )
    scale: int | None = Field(
        None, ge=1, le=8, description="only models of this scale", examples=[4]
    )
    region: str | None = Field(
        None,
        max_length=4000,
        description="`x,y,width,height` or corners `x1,y1 x2,y2 x3,y3 ...` in pixels of the "
        "upright input: the model enhances this part, bicubic interpolation enlarges the rest",
        examples=["16,16,64,48", "0,0 40,0 20,30"],
    )
    on_too_large: Literal["refuse", "shrink"] = Field(
        "refuse",
        description="if the output would be too large for the server or its format: refuse, or "
        "shrink the input first and report the factor in the header `Sharpline-Shrunk`",
    )
    format: Literal["png", "jpeg", "webp", "tiff", "avif"] | None = Field(
        None, description="output format; default: by Accept, else the input's format"
    )
    quality: int = Field(95, ge=1, le=100, description="of JPEG, WebP and AVIF")
    icc: Literal["keep", "srgb"] = Field(
        "keep", description="keep the colour profile, or convert the colours to sRGB"
    )
    keep_metadata: bool = Field(
        False,
        description="keep EXIF (author, date, place, camera); for PNG, JPEG, WebP and AVIF",
    )
    deadline: float | None = Field(
        None,
        ge=0.1,
        le=86_400,
        allow_inf_nan=False,
        description="seconds after which the result is no longer useful; the server's own limit "
        "also applies",
        examples=[30],
    )

    def with_form_fields(self, fields: Mapping[str, object], query: Collection[str]) -> Self:
        """These options, with form fields for those that are not in the query."""
        from_query = self.model_dump(include=set(query))
        try:
            return type(self).model_validate({**fields, **from_query})
        except ValidationError as error:
            raise BadOptions(describe(error)) from error


class ValidationFault(Protocol):
    """A validation error of Pydantic or FastAPI."""

    def errors(self) -> Sequence[Any]: ...


def describe(error: ValidationFault) -> str:
    """The invalid options and the reasons, without their values."""
    return "; ".join(map(_described, error.errors()))


def _described(fault: Mapping[str, Any]) -> str:
    location = [str(part)[:MAX_NAME] for part in fault["loc"]]
    if len(location) > 1 and location[0] in REQUEST_PARTS:
        del location[0]
    name = ".".join(location)
    if fault["type"] != "extra_forbidden":
        return f"{name}: {fault['msg']}"
    return f"{name}: there is no such option{did_you_mean(name, Options.model_fields)}"
