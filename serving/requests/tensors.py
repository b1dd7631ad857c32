"""Pictures as tensors: the messages of the Open Inference Protocol, version 2, over HTTP.

The protocol and its extension for binary tensors are KServe's and Triton's. One input `image` and
one output `image`, (1, height, width, 3): UINT8 levels, or FP32 from 0 to 1, which are worked on as
16 bits. In the binary extension the tensor's bytes follow the JSON header, little-endian.
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
MAX_JSON_BYTES = 16 * 2**20  # numbers in JSON take ten times their bytes in memory
LARGEST_16 = 65_535


class Tensor(BaseModel):
    """An input; `data` holds its numbers where the body does not, nested or in one list."""

    name: str
    shape: list[StrictInt]
    datatype: str
    data: list[Any] | None = None
    parameters: dict[str, Any] = {}


class Output(BaseModel):
    """An output that is asked for."""

    name: str
    parameters: dict[str, Any] = {}


class Inference(BaseModel):
    """The JSON of a request; what others add to the protocol is passed over."""

    id: str | None = Field(default=None, max_length=256)
    inputs: list[Tensor]
    outputs: list[Output] | None = None
    parameters: dict[str, Any] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedInference:
    """One request, understood; `binary` says how its answer is to leave."""

    id: str | None
    picture: Picture
    datatype: str
    binary: bool
    deadline: object


def parse(body: bytes, header_length: str | None, limits: Limits) -> ParsedInference:
    """What a body asks for. Raises BadTensor, TooManyBytes or TooManyPixels."""
    header, rest = _split(body, header_length)
    if len(header) > MAX_JSON_BYTES:
        raise TooManyBytes(
            f"JSON of {len(header):,} bytes; at most {MAX_JSON_BYTES:,} are taken: send larger "
            "tensors with the binary extension"
        )
    try:
        asked = Inference.model_validate_json(header)
    except ValidationError as error:
        raise BadTensor(describe(error)) from error
    if len(asked.inputs) != 1 or asked.inputs[0].name != TENSOR:
        raise BadTensor(f"there is one input, {TENSOR!r}")
    if any(output.name != TENSOR for output in asked.outputs or ()):
        raise BadTensor(f"there is one output, {TENSOR!r}")
    tensor = asked.inputs[0]
    return ParsedInference(
        id=asked.id,
        picture=Picture(rgb_hwc=_pixels(tensor, rest, limits)),
        datatype=tensor.datatype,
        binary=_wants_binary(asked),
        deadline=asked.parameters.get("deadline"),
    )


def _split(body: bytes, header_length: str | None) -> tuple[bytes, bytes]:
    if header_length is None:
        return body, b""
    if not header_length.isascii() or not header_length.isdigit():
        raise BadTensor(f"{HEADER_LENGTH} is a number of bytes")
    length = int(header_length)
    if length > len(body):
        raise BadTensor(f"{HEADER_LENGTH} says {length} bytes, the body has {len(body)}")
    return body[:length], body[length:]


def _pixels(tensor: Tensor, rest: bytes, limits: Limits) -> Array:
    """(height, width, 3), uint8 or for FP32 uint16."""
    dtype = DTYPES.get(tensor.datatype)
    if dtype is None:
        raise BadTensor(f"the datatype is one of {', '.join(DTYPES)}")
    height, width = _sides(tensor.shape, limits)
    count = height * width * 3
    size = tensor.parameters.get("binary_data_size")
    if size is None:
        values = _from_json(tensor, dtype, count, rest)
    else:
        if tensor.data is not None or size != len(rest) or size != count * dtype.itemsize:
            raise BadTensor(
                f"a {tensor.datatype} tensor of this shape has {count * dtype.itemsize} bytes; "
                f"{size!r} are announced and {len(rest)} follow the JSON"
            )
        values = np.frombuffer(rest, dtype)
    if dtype.kind == "f":
        # A NaN is not within anything.
        if not ((values >= 0) & (values <= 1)).all():
            raise BadTensor("FP32 values are from 0 to 1")
        values = np.rint(values * np.float32(LARGEST_16)).astype(np.uint16)
    return values.reshape(height, width, 3)


def _sides(shape: list[int], limits: Limits) -> tuple[int, int]:
    if len(shape) != 4 or shape[0] != 1 or shape[3] != 3 or min(shape) < 1:
        raise BadTensor("the shape is [1, height, width, 3]: one picture at a time")
    height, width = shape[1:3]
    if max(height, width) > limits.max_side or height * width > limits.max_pixels:
        raise TooManyPixels(
            f"{width:,}x{height:,} pixels are too many; at most {limits.max_pixels:,} in all and "
            f"{limits.max_side:,} a side are taken"
        )
    return height, width


def _from_json(tensor: Tensor, dtype: "np.dtype[Any]", count: int, rest: bytes) -> Array:
    if tensor.data is None or rest:
        raise BadTensor("the tensor has neither `data` nor `binary_data_size`, or too many bytes")
    try:
        values = np.asarray(tensor.data).reshape(-1)
    except (ValueError, OverflowError) as error:
        raise BadTensor("`data` is one list of numbers, or lists of the tensor's shape") from error
    if values.size != count:
        raise BadTensor(f"a tensor of this shape has {count} values, not {values.size}")
    if dtype.kind == "u":
        if values.dtype.kind not in "iu" or values.min() < 0 or values.max() > 255:
            raise BadTensor("UINT8 values are whole numbers from 0 to 255")
    elif values.dtype.kind not in "iuf":
        raise BadTensor("FP32 values are numbers")
    return values.astype(dtype)


def _wants_binary(asked: Inference) -> bool:
    for output in asked.outputs or ():
        if "binary_data" in output.parameters:
            return output.parameters["binary_data"] is True
    return asked.parameters.get("binary_data_output") is True


class TensorChunks(BodyChunks):
    """An answer's rows on their way out as a message: its head, the rows' values, its tail."""

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
    asked: ParsedInference, *, model: str, version: str, height: int, width: int, chunks: BodyChunks
) -> tuple[TensorChunks, dict[str, str]]:
    """An answer of raw rows as the protocol's response, and the headers that belong to it."""
    dtype = DTYPES[asked.datatype]
    shape = [1, height, width, 3]
    output: dict[str, Any] = {"name": TENSOR, "datatype": asked.datatype, "shape": shape}
    if asked.binary:
        output["parameters"] = {"binary_data_size": math.prod(shape) * dtype.itemsize}
    answer: dict[str, Any] = {"model_name": model, "model_version": version}
    if asked.id is not None:
        answer["id"] = asked.id
    text = json.dumps({**answer, "outputs": [output]})
    if asked.binary:
        head = text.encode()
        headers = {HEADER_LENGTH: str(len(head)), "Content-Type": "application/octet-stream"}
        return TensorChunks(chunks, head, lambda rows: _values(rows, asked).tobytes(), b""), headers
    head = text.removesuffix("}]}").encode() + b', "data": ['
    headers = {"Content-Type": "application/json"}
    return TensorChunks(chunks, head, _Numbers(asked), b"]}]}"), headers


class _Numbers:
    """Writes rows as numbers with commas between them, those between two pieces included."""

    def __init__(self, asked: ParsedInference) -> None:
        self._asked = asked
        self._begun = False

    def __call__(self, rows: bytes) -> bytes:
        values = _values(rows, self._asked)
        if not values.size:
            return b""
        comma, self._begun = b"," if self._begun else b"", True
        return comma + ",".join(map(repr, values.tolist())).encode()


def _values(rows: bytes, asked: ParsedInference) -> Array:
    """Raw samples of the answer as the values that were asked for."""
    if asked.datatype == "UINT8":
        return np.frombuffer(rows, np.uint8)
    return (np.frombuffer(rows, np.uint16) / np.float32(LARGEST_16)).astype("<f4")
