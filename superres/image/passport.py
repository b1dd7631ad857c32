"""A picture's passport: the models that made it, embedded in the output file.

In PNG it is the text chunk `Sharpline-Passport`, in JPEG, WebP, TIFF and AVIF a property of the XMP
packet (ISO 16684-1); both hold the same JSON. A picture that is sent again keeps its chain, which
grows by one step each time. A passport is a claim, not a proof: it is unsigned and can be removed
or changed.
"""

import html
import re
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from superres.common.errors import SharplineError
from superres.image.picture import DEFAULT_LIMITS, Limits
from superres.image.png_chunks import SIGNATURE, chunks

KEYWORD = "Sharpline-Passport"
NAMESPACE = "urn:sharpline:passport"
MAX_STEPS = 32  # older steps are dropped, so that a file enhanced repeatedly stops growing
MAX_BYTES = 32_768  # as a packet; a JPEG segment holds 65,533
_IN_XMP = re.compile(rb"<sharpline:Passport>([^<]*)</sharpline:Passport>")

ShortText = Annotated[str, Field(pattern=r"^[\x20-\x7e]{1,64}$")]
LongText = Annotated[str, Field(pattern=r"^[\x20-\x7e]{1,200}$")]


class DamagedPassport(SharplineError):
    """A file has a passport that cannot be read."""


class Step(BaseModel):
    """One model applied to a picture; `did` lists the processing steps in order.

    `version` is the registry's number, or `local`; `bundle` the bundle's id; `request` the request
    id, None for work on files; `time` is ISO 8601, None if not stated.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    model: ShortText
    version: ShortText
    bundle: str = Field(pattern=r"^[0-9a-f]{64}$")
    request: ShortText | None = None
    did: tuple[LongText, ...] = Field(default=(), max_length=8)
    time: ShortText | None = None


class Passport(BaseModel):
    """The models applied to a picture, oldest first; the last step made this file."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    service: Literal["sharpline"] = "sharpline"
    chain: tuple[Step, ...] = Field(min_length=1, max_length=MAX_STEPS)

    @property
    def last(self) -> Step:
        """The step that made this file."""
        return self.chain[-1]

    def text(self) -> str:
        """The embedded JSON, ASCII: the fields of the last step, then the whole chain."""
        last = self.last
        head = {"request": last.request, "model": last.model, "version": last.version}
        return _PassportFile(**head, bundle=last.bundle, chain=self.chain).model_dump_json(
            exclude_none=True
        )

    def header(self) -> str:
        """The chain in one line: `compact_x4@0a1b2c3d4e5f, ...`, oldest first."""
        return ", ".join(f"{step.model}@{step.bundle[:12]}" for step in self.chain)


class _PassportFile(BaseModel):
    """The JSON in a file, in key order."""

    service: str = "sharpline"
    request: str | None
    model: str
    version: str
    bundle: str
    chain: tuple[Step, ...]


def extended(earlier: Passport | None, step: Step) -> Passport:
    """A passport with `step` appended to the chain of `earlier`; the oldest steps that do not fit
    are dropped."""
    passport = Passport(chain=(*(earlier.chain if earlier else ()), step)[-MAX_STEPS:])
    while len(xmp_packet(passport.text())) > MAX_BYTES:
        passport = Passport(chain=passport.chain[1:])
    return passport


def parse(text: str) -> Passport:
    """Parse a passport's JSON. Raises DamagedPassport."""
    if len(text) > MAX_BYTES:
        raise DamagedPassport(f"the passport is damaged: it has more than {MAX_BYTES:,} bytes")
    try:
        return Passport.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "its JSON"
        raise DamagedPassport(f"the passport is damaged: {where}: {first['msg']}") from error


def read_passport(data: bytes, limits: Limits = DEFAULT_LIMITS) -> Passport | None:
    """Read the passport of a picture's file, None if it has none.

    Raises DamagedPassport if it cannot be read, and PictureError if `data` is not a picture.
    """
    text = _text_in_png(data) if data.startswith(SIGNATURE) else _text_in_xmp(data, limits)
    return None if text is None else parse(text)


def earlier_passport(data: bytes, limits: Limits = DEFAULT_LIMITS) -> Passport | None:
    """As `read_passport` for a picture to enhance, but None for a damaged passport."""
    try:
        return read_passport(data, limits)
    except DamagedPassport:
        return None


def xmp_packet(text: str) -> bytes:
    """An XMP packet with a passport's JSON."""
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description rdf:about="" xmlns:sharpline="{NAMESPACE}">'
        f"<sharpline:Passport>{html.escape(text, quote=False)}</sharpline:Passport>"
        "</rdf:Description></rdf:RDF></x:xmpmeta>"
        '<?xpacket end="r"?>'
    ).encode()


def _text_in_png(data: bytes) -> str | None:
    """The text of an uncompressed iTXt chunk, as written here, or of a tEXt chunk."""
    keyword = KEYWORD.encode() + b"\0"
    for kind, start, end in chunks(data):
        if kind not in (b"iTXt", b"tEXt") or not data.startswith(keyword, start, end):
            continue
        body = data[start + len(keyword) : end]
        if kind == b"iTXt":
            compressed, body = body[:1] != b"\0", _itxt_text(body[2:])
            if compressed:
                raise DamagedPassport("the passport is damaged: its text chunk is compressed")
        return body.decode("utf-8", "replace")
    return None


def _itxt_text(rest: bytes) -> bytes:
    """The text after the language and the translated keyword of an iTXt chunk."""
    return rest.partition(b"\0")[2].partition(b"\0")[2]


def _text_in_xmp(data: bytes, limits: Limits) -> str | None:
    """Search the packet with a regular expression: untrusted XML is never parsed."""
    from superres.image.decode import xmp_of

    match = _IN_XMP.search(xmp_of(data, limits))
    return None if match is None else html.unescape(match[1].decode("utf-8", "replace"))
