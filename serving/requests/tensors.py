"""Pictures as tensors: messages of the Open Inference Protocol, version 2, over HTTP.

The protocol and its binary tensor extension are KServe's and Triton's. One input `image` and one
output `image`, (1, height, width, 3): UINT8 levels, or FP32 in [0, 1], processed with 16 bits. In
the binary extension the tensor's bytes follow the JSON header, little-endian.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, StrictInt, ValidationError

from serving.errors import BadTensor
from serving.requests.chunks import BodyChunks
from serving.requests.options import describe
from superres.image.codecs import Limits, Picture, TooManyBytes, TooManyPixels

Array = NDArray[Any]

TENSOR = "image"
DTYPES = {"UINT8": np.dtype("u1"), "FP32": np.dtype("<f4")}
HEADER_LENGTH = "Inference-Header-Content-Length"
MAX_JSON_BYTES = 16 * 2**20  # parsed JSON numbers take ten times as much memory
UINT16_MAX = 65_535


class Tensor(BaseModel):
    """An input; without the binary extension `data` holds its values, nested or in one list."""

    name: str
    shape: list[StrictInt]
    datatype: str
    data: list[Any] | None = None
    parameters: dict[str, Any] = {}


class Output(BaseModel):
    """A requested output."""

    name: str
    parameters: dict[str, Any] = {}


class Inference(BaseModel):
    """The JSON of a request; unknown fields are ignored."""

    id: str | None = Field(default=None, max_length=256)
    inputs: list[Tensor]
    outputs: list[Output] | None = None
    parameters: dict[str, Any] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedInference:
    """A parsed request; `binary` asks for a response in the binary extension."""

    id: str | None
    picture: Picture
    datatype: str
    binary: bool
    deadline: object


def parse(body: bytes, header_length: str | None, limits: Limits) -> ParsedInference:
    """Parse a request's body. Raises BadTensor, TooManyBytes or TooManyPixels."""
    header, rest = _split(body, header_length)
    if len(header) > MAX_JSON_BYTES:
        raise TooManyBytes(
            f"JSON of {len(header):,} bytes; at most {MAX_JSON_BYTES:,} are allowed: send larger "
            "tensors with the binary extension"
        )
    try:
        inference = Inference.model_validate_json(header)
    except ValidationError as error:
        raise BadTensor(describe(error)) from error
    if len(inference.inputs) != 1 or inference.inputs[0].name != TENSOR:
        raise BadTensor(f"exactly one input, {TENSOR!r}, is allowed")
    if any(output.name != TENSOR for output in inference.outputs or ()):
        raise BadTensor(f"the only output is {TENSOR!r}")
    tensor = inference.inputs[0]
    return ParsedInference(
        id=inference.id,
        picture=Picture(rgb_hwc=_pixels(tensor, rest, limits)),
        datatype=tensor.datatype,
        binary=_wants_binary(inference),
        deadline=inference.parameters.get("deadline"),
    )


def _split(body: bytes, header_length: str | None) -> tuple[bytes, bytes]:
    if header_length is None:
        return body, b""
    if not header_length.isascii() or not header_length.isdigit():
        raise BadTensor(f"{HEADER_LENGTH} must be a number of bytes")
    length = int(header_length)
    if length > len(body):
        raise BadTensor(f"{HEADER_LENGTH} says {length} bytes, the body has {len(body)}")
    return body[:length], body[length:]


def _pixels(tensor: Tensor, rest: bytes, limits: Limits) -> Array:
    """(height, width, 3): uint8, or uint16 for FP32."""
    dtype = DTYPES.get(tensor.datatype)
    if dtype is None:
        raise BadTensor(f"the datatype must be one of {', '.join(DTYPES)}")
    height, width = _sides(tensor.shape, limits)
    count = height * width * 3
    size = tensor.parameters.get("binary_data_size")
    if size is None:
        values = _from_json(tensor, dtype, count, rest)
    else:
        if tensor.data is not None or size != len(rest) or size != count * dtype.itemsize:
            raise BadTensor(
                f"a {tensor.datatype} tensor of this shape has {count * dtype.itemsize} bytes; "
                f"{size!r} are declared and {len(rest)} follow the JSON"
            )
        values = np.frombuffer(rest, dtype)
    if dtype.kind == "f":
        # Comparisons with NaN are false.
        if not ((values >= 0) & (values <= 1)).all():
            raise BadTensor("FP32 values must be from 0 to 1")
        values = np.rint(values * np.float32(UINT16_MAX)).astype(np.uint16)
    return values.reshape(height, width, 3)


def _sides(shape: list[int], limits: Limits) -> tuple[int, int]:
    if len(shape) != 4 or shape[0] != 1 or shape[3] != 3 or min(shape) < 1:
        raise BadTensor("the shape must be [1, height, width, 3]: one picture per request")
    height, width = shape[1:3]
    if max(height, width) > limits.max_side or height * width > limits.max_pixels:
        raise TooManyPixels(
            f"{width:,}x{height:,} pixels are too many; at most {limits.max_pixels:,} pixels and "
            f"{limits.max_side:,} per side are allowed"
        )
    return height, width


def _from_json(tensor: Tensor, dtype: "np.dtype[Any]", count: int, rest: bytes) -> Array:
    if tensor.data is None or rest:
        raise BadTensor("the tensor has neither `data` nor `binary_data_size`, or too many bytes")
    try:
        values = np.asarray(tensor.data).reshape(-1)
    except (ValueError, OverflowError) as error:
        raise BadTensor("`data` must be a flat list or lists of the tensor's shape") from error
    if values.size != count:
        raise BadTensor(f"a tensor of this shape has {count} values, not {values.size}")
    if dtype.kind == "u":
        if values.dtype.kind not in "iu" or values.min() < 0 or values.max() > 255:
            raise BadTensor("UINT8 values must be integers from 0 to 255")
    elif values.dtype.kind not in "iuf":
        raise BadTensor("FP32 values must be numbers")
    return values.astype(dtype)


def _wants_binary(inference: Inference) -> bool:
    for output in inference.outputs or ():
        if "binary_data" in output.parameters:
            return output.parameters["binary_data"] is True
    return inference.parameters.get("binary_data_output") is True


class TensorChunks(BodyChunks):
    """The response message: its head, the values of the output's rows, its tail."""

    def __init__(
        self, chunks: BodyChunks, head: bytes, write: Callable[[bytes], bytes], tail: bytes
    ) -> None:
        self._chunks = chunks
        self._pending = head
        self._write = write
        self._tail = tail
        self._ended = False

    async def __anext__(self) -> bytes:
        if self._pending:
            pending, self._pending = self._pending, b""
            return pending
        if self._ended:
            raise StopAsyncIteration
        try:
            rows = await anext(self._chunks)
        except StopAsyncIteration:
            self._ended = True
            if self._tail:
                return self._tail
            raise
        return self._write(rows)

    async def aclose(self) -> None:
        await self._chunks.aclose()


def message(
    inference: ParsedInference,
    *,
    model: str,
    version: str,
    height: int,
    width: int,
    chunks: BodyChunks,
) -> tuple[TensorChunks, dict[str, str]]:
    """The protocol's response for an output of raw rows, and its HTTP headers."""
    dtype = DTYPES[inference.datatype]
    shape = [1, height, width, 3]
    output: dict[str, Any] = {"name": TENSOR, "datatype": inference.datatype, "shape": shape}
    if inference.binary:
        output["parameters"] = {"binary_data_size": math.prod(shape) * dtype.itemsize}
    answer: dict[str, Any] = {"model_name": model, "model_version": version}
    if inference.id is not None:
        answer["id"] = inference.id
    text = json.dumps({**answer, "outputs": [output]})
    if inference.binary:
        head = text.encode()
        headers = {HEADER_LENGTH: str(len(head)), "Content-Type": "application/octet-stream"}
        return TensorChunks(
            chunks, head, lambda rows: _values(rows, inference).tobytes(), b""
        ), headers
    head = text.removesuffix("}]}").encode() + b', "data": ['
    headers = {"Content-Type": "application/json"}
    return TensorChunks(chunks, head, _Numbers(inference), b"]}]}"), headers


class _Numbers:
    """Writes rows as comma-separated JSON numbers, across chunks."""

    def __init__(self, inference: ParsedInference) -> None:
        self._inference = inference
        self._started = False

    def __call__(self, rows: bytes) -> bytes:
        values = _values(rows, self._inference)
        if not values.size:
            return b""
        comma, self._started = b"," if self._started else b"", True
        return comma + ",".join(map(repr, values.tolist())).encode()


def _values(rows: bytes, inference: ParsedInference) -> Array:
    """Raw output samples as values of the requested datatype."""
    if inference.datatype == "UINT8":
        return np.frombuffer(rows, np.uint8)
    return (np.frombuffer(rows, np.uint16) / np.float32(UINT16_MAX)).astype("<f4")
