"""What can be asked of POST /v1/enhance: query parameters, or fields of a multipart form."""

from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, Literal, Protocol, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from serving.errors import BadOptions

AUTO = "auto"
REQUEST_PARTS = frozenset({"query", "path", "header", "body"})  # where FastAPI found a fault
MAX_NAME = 64  # characters of an unknown option that are repeated


class Options(BaseModel):
    """Every option; the query wins over a form's field of the same name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str | None = Field(
        None,
        max_length=64,
        description="a name from GET /v1/models; `auto` looks at the picture and chooses",
        examples=["compact_x4", AUTO],
    )
    task: str | None = Field(
        None, max_length=64, description="only models of this task", examples=["super-resolution"]
    )
    scale: int | None = Field(
        None, ge=1, le=8, description="only models that enlarge so many times", examples=[4]
    )
    region: str | None = Field(
        None,
        max_length=4000,
        description="`x,y,width,height` or corners `x1,y1 x2,y2 x3,y3 ...` in pixels of the "
        "upright input: the model works on this part, bicubic interpolation on the rest",
        examples=["16,16,64,48", "0,0 40,0 20,30"],
    )
    on_too_large: Literal["refuse", "shrink"] = Field(
        "refuse",
        description="what happens where the answer would be too large for the server or its "
        "format: a refusal, or a smaller input, which the header `Sharpline-Shrunk` then tells",
    )
    format: Literal["png", "jpeg", "webp", "tiff", "avif"] | None = Field(
        None, description="of the answer; without it Accept decides, then the input's format"
    )
    quality: int = Field(95, ge=1, le=100, description="of JPEG, WebP and AVIF")
    icc: Literal["keep", "srgb"] = Field(
        "keep", description="keep the colour profile, or convert the colours to sRGB"
    )
    keep_metadata: bool = Field(
        False,
        description="keep EXIF (who, when, where, which camera); PNG, JPEG, WebP and AVIF hold it",
    )
    deadline: float | None = Field(
        None,
        ge=0.1,
        le=86_400,
        allow_inf_nan=False,
        description="seconds after which the answer is of no more use; the server's own limit "
        "holds as well",
        examples=[30],
    )

    def or_from(self, fields: Mapping[str, object], query: Collection[str]) -> Self:
        """These options, with a form's fields for those that the query did not name."""
        given = self.model_dump(include=set(query))
        try:
            return type(self).model_validate({**fields, **given})
        except ValidationError as error:
            raise BadOptions(describe(error)) from error


class ValidationFault(Protocol):
    """Pydantic's errors and FastAPI's."""

    def errors(self) -> Sequence[Any]: ...


def describe(error: ValidationFault) -> str:
    """Which options are wrong and how, without repeating their values."""
    return "; ".join(map(_described, error.errors()))


def _described(fault: Mapping[str, Any]) -> str:
    place = [str(part)[:MAX_NAME] for part in fault["loc"]]
    if len(place) > 1 and place[0] in REQUEST_PARTS:
        del place[0]
    name = ".".join(place)
    if fault["type"] != "extra_forbidden":
        return f"{name}: {fault['msg']}"
    near = get_close_matches(name, Options.model_fields, n=1)
    return f"{name}: there is no such option" + "".join(f"; did you mean {one}?" for one in near)
