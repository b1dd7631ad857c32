"""Which format an answer has, and under which name it is kept."""

from pathlib import PurePosixPath
from urllib.parse import quote

from serving.errors import NotAcceptable
from superres.image.codecs import FORMAT_SUFFIXES, OUTPUT_FORMATS, clean_name

MEDIA_TYPES = {format: f"image/{format}" for format in OUTPUT_FORMATS}


def choose_format(asked: str | None, accept: str, input_format: str) -> str:
    """`format` beats Accept, which beats the input's own format; PNG where that is not written.

    Raises NotAcceptable where Accept names nothing that is written here (RFC 9110, 12.5.1).
    """
    if asked is not None:
        return asked
    natural = input_format if input_format in OUTPUT_FORMATS else "png"
    if not accept.strip():
        return natural
    options = {format: _quality_of(format, accept) for format in OUTPUT_FORMATS}
    best = max(OUTPUT_FORMATS, key=lambda format: (options[format], format == natural))
    if options[best] <= 0:
        raise NotAcceptable(
            f"Accept: {accept[:100]!r} allows none of " + ", ".join(MEDIA_TYPES.values())
        )
    return best


def _quality_of(format: str, accept: str) -> float:
    """The weight that an Accept header gives to a format: its most specific range counts."""
    best = (-1, 0.0)
    for part in accept.lower().split(","):
        media_range, *parameters = [chunk.strip() for chunk in part.split(";")]
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
    """The download name: the upload's, cleaned, with the answer's suffix (RFC 6266 and 8187)."""
    stem = PurePosixPath(clean_name(name)).stem if name else "picture"
    full = stem + FORMAT_SUFFIXES[format]
    plain = full.encode("ascii", "replace").decode().replace("?", "_")
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(full, safe='')}"
