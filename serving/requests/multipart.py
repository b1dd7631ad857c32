"""Parses multipart forms (RFC 7578) chunk by chunk, within limits."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from serving.errors import BadMultipart

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

FILE_FIELD = "file"
MAX_PARTS = 32  # without the further files of a job
MAX_FIELD_BYTES = 4096
MAX_HEADERS = 8  # of one part
MAX_HEADER_BYTES = 4096 + 128  # of one part


class FileReceiver(Protocol):
    """Receives the files of a form while it is parsed."""

    def file_begins(self, name: str) -> None: ...

    def file_data(self, data: bytes) -> None: ...

    def file_ends(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class FormLimits:
    """The limit of parts, and the refusals of a form; `{name}` is the name of the long field."""

    max_parts: int
    too_many_parts: str
    field_too_long: str


class FormParser:
    """Parses one form: fields are collected in `fields`, files are passed on.

    Raises BadMultipart in every step.
    """

    def __init__(self, boundary: bytes, files: FileReceiver, limits: FormLimits) -> None:
        self.fields: dict[str, str] = {}
        self._files = files
        self._limits = limits
        self._parts = 0
        self._header_name = b""
        self._header_value = b""
        self._disposition: dict[bytes, bytes] = {}
        self._field_name = ""
        self._content = bytearray()
        self._ended = False
        with _syntax_errors():
            self._parser = MultipartParser(
                boundary,
                self._callbacks(),
                max_header_count=MAX_HEADERS,
                max_header_size=MAX_HEADER_BYTES,
            )

    def write(self, chunk: bytes) -> None:
        """Parse the next bytes of the body."""
        with _syntax_errors():
            self._parser.write(chunk)

    def finish(self) -> None:
        """Require that the body is complete."""
        with _syntax_errors():
            self._parser.finalize()
        if not self._ended:
            raise BadMultipart("the multipart body ends before its last boundary")

    def _callbacks(self) -> "MultipartCallbacks":
        return {
            "on_part_begin": self._begin_part,
            "on_header_field": self._on_header_name,
            "on_header_value": self._on_header_value,
            "on_header_end": self._on_header_end,
            "on_headers_finished": self._on_headers,
            "on_part_data": self._on_data,
            "on_part_end": self._end_part,
            "on_end": self._end,
        }

    def _begin_part(self) -> None:
        self._parts += 1
        if self._parts > self._limits.max_parts:
            raise BadMultipart(self._limits.too_many_parts)
        self._disposition = {}
        self._content = bytearray()

    def _on_header_name(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _on_header_end(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            self._disposition = parse_options_header(self._header_value)[1]
        self._header_name = self._header_value = b""

    def _on_headers(self) -> None:
        self._field_name = self._parameter(b"name")
        if self._field_name == FILE_FIELD:
            self._files.file_begins(self._parameter(b"filename"))

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        if self._field_name == FILE_FIELD:
            self._files.file_data(data[start:end])
            return
        self._content += data[start:end]
        if len(self._content) > MAX_FIELD_BYTES:
            raise BadMultipart(self._limits.field_too_long.format(name=self._field_name[:40]))

    def _end_part(self) -> None:
        if self._field_name == FILE_FIELD:
            self._files.file_ends()
        else:
            self.fields[self._field_name] = self._content.decode("utf-8", "replace")

    def _end(self) -> None:
        self._ended = True

    def _parameter(self, name: bytes) -> str:
        return self._disposition.get(name, b"").decode("utf-8", "replace")


def boundary_of(content_type: str) -> bytes | None:
    """The boundary of a form, maybe empty; None for any other media type."""
    media_type, parameters = parse_options_header(content_type)
    return parameters.get(b"boundary", b"") if media_type == b"multipart/form-data" else None


@contextmanager
def _syntax_errors() -> Generator[None]:
    try:
        yield
    except FormParserError as error:
        raise BadMultipart(f"the multipart body cannot be read: {error}") from error
