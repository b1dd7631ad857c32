"""Errors as RFC 9457 problem details, and the explanations under /problems/LABEL.

A problem's `type` is `/problems/LABEL`, a URL of this server with its explanation.
"""

from pydantic import BaseModel, ConfigDict
from starlette.responses import JSONResponse

from serving.errors import (
    BadKey,
    BadMultipart,
    BadOptions,
    BadSignature,
    BadTensor,
    ClientError,
    ClientGone,
    CrossSite,
    DeadlinePassed,
    Draining,
    EmptyBody,
    EncodedBody,
    ForbiddenAddress,
    IdempotencyKeyReused,
    InconsistentOutput,
    JobFailed,
    JobGone,
    JobNotFinished,
    MethodNotAllowed,
    ModelFailed,
    NotAcceptable,
    NotFound,
    NotReady,
    OutputTooLarge,
    QueueFull,
    QuotaExceeded,
    ServingError,
    SlowBody,
    StorageFull,
    UnknownJob,
    UnknownModel,
    UnknownUpload,
    UploadGone,
    UploadMismatch,
    WrongHost,
)
from superres.image.codecs import (
    BrokenPicture,
    FormatCannotHold,
    NotAPicture,
    PictureError,
    TooManyBytes,
    TooManyPixels,
)

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "/problems/"
PROBLEMS: dict[str, type[ServingError] | type[PictureError]] = {
    error.label: error
    for error in (
        ServingError,
        ClientError,
        EmptyBody,
        BadMultipart,
        BadKey,
        WrongHost,
        CrossSite,
        NotFound,
        UnknownModel,
        MethodNotAllowed,
        NotAcceptable,
        SlowBody,
        EncodedBody,
        ClientGone,
        BadOptions,
        OutputTooLarge,
        UnknownJob,
        UnknownUpload,
        JobNotFinished,
        JobGone,
        UploadGone,
        BadSignature,
        ForbiddenAddress,
        BadTensor,
        IdempotencyKeyReused,
        UploadMismatch,
        StorageFull,
        JobFailed,
        QueueFull,
        QuotaExceeded,
        NotReady,
        Draining,
        DeadlinePassed,
        ModelFailed,
        InconsistentOutput,
        NotAPicture,
        BrokenPicture,
        TooManyPixels,
        TooManyBytes,
        FormatCannotHold,
    )
}
_PICTURE_ADVICE = {
    NotAPicture.label: "A file's name does not matter, its content decides: open it in an image "
    "editor, save it as PNG or JPEG and send that.",
    BrokenPicture.label: "The file is damaged or contradicts its header; save it again and resend.",
    TooManyPixels.label: "Send a picture within the limit that the detail states.",
    TooManyBytes.label: "Send a body within the limit that the detail states.",
    FormatCannotHold.label: "Choose another `format`; png can hold every answer. If only the size "
    "is the problem, on_too_large=shrink makes it fit.",
}


class Problem(BaseModel):
    """RFC 9457 problem details."""

    model_config = ConfigDict(frozen=True)

    type: str
    title: str
    status: int
    detail: str
    instance: str | None = None


class Explanation(BaseModel):
    """The response of `/problems/LABEL`."""

    model_config = ConfigDict(frozen=True)

    type: str
    title: str
    status: int
    advice: str


def explain(label: str) -> Explanation:
    """The explanation of a label. Raises NotFound for an unknown label."""
    if label not in PROBLEMS:
        raise NotFound(f"there is no kind of problem called {label[:64]!r}")
    error = PROBLEMS[label]
    advice = error.advice if issubclass(error, ServingError) else _PICTURE_ADVICE[label]
    return Explanation(
        type=TYPE_PREFIX + label, title=title_of(label), status=error.status, advice=advice
    )


def title_of(label: str) -> str:
    """The title of a label: `too-many-pixels` becomes `Too many pixels`."""
    return label.replace("-", " ").capitalize()


def problem_of(
    error: ServingError | PictureError, instance: str | None = None
) -> dict[str, str | int]:
    """The error as a dict of RFC 9457's members; a PictureError has its own status."""
    problem = Problem(
        type=TYPE_PREFIX + error.label,
        title=title_of(error.label),
        status=error.status,
        detail=str(error),
        instance=instance,
    )
    return problem.model_dump(exclude_none=True)


def problem_response(
    error: ServingError | PictureError, instance: str | None = None, *, as_error: bool = False
) -> JSONResponse:
    """The error as `application/problem+json`; `as_error` copies its detail to the key `error`."""
    headers = error.headers() if isinstance(error, ServingError) else {}
    problem = problem_of(error, instance)
    if as_error:
        problem = {**problem, "error": str(error)}
    return JSONResponse(problem, error.status, headers, MEDIA_TYPE)
