"""Content negotiation: the output format, and the download's file name."""

from pathlib import PurePosixPath
from urllib.parse import quote

from serving.errors import NotAcceptable
from superres.image.codecs import FORMAT_SUFFIXES, OUTPUT_FORMATS, clean_name

MEDIA_TYPES = {format: f"image/{format}" for format in OUTPUT_FORMATS}


def choose_format(requested: str | None, accept: str, input_format: str) -> str:
    """The option `format`, else by Accept, else the input's format (PNG if it is not supported).

    Raises NotAcceptable if Accept allows no supported format (RFC 9110, 12.5.1).
    """
    if requested is not None:
        return requested
    default = input_format if input_format in OUTPUT_FORMATS else "png"
    if not accept.strip():
        return default
    weights = {format: _quality_of(format, accept) for format in OUTPUT_FORMATS}
    best = max(OUTPUT_FORMATS, key=lambda format: (weights[format], format == default))
    if weights[best] <= 0:
        raise NotAcceptable(
            f"Accept: {accept[:100]!r} allows none of " + ", ".join(MEDIA_TYPES.values())
        )
    return best


def _quality_of(format: str, accept: str) -> float:
    """The weight of a format in an Accept header; its most specific media range counts."""
    best = (-1, 0.0)
    for part in accept.lower().split(","):
        media_range, *parameters = [each.strip() for each in part.split(";")]
        for specificity, matching in enumerate(("*/*", "image/*", MEDIA_TYPES[format])):
            if media_range == matching:
                best = max(best, (specificity, _weight(parameters)))
    return best[1]


def _weight(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return min(1.0, max(0.0, float(value)))
            except ValueError:
                return 0.0
    return 1.0


def content_disposition(name: str, format: str) -> str:
    """The download name: the upload's, sanitized, with the output's suffix (RFC 6266, 8187)."""
    stem = PurePosixPath(clean_name(name)).stem if name else "picture"
    full = stem + FORMAT_SUFFIXES[format]
    plain = full.encode("ascii", "replace").decode().replace("?", "_")
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(full, safe='')}"
