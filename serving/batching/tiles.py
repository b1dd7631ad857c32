"""The types of batching: batch keys and limits, requests with pending tiles, batches."""

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

Tile = NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchKey:
    """What tiles must have in common to share a batch; `height` and `width` in LR pixels."""

    model: Hashable
    height: int
    width: int
    dtype: str

    @property
    def tile_pixels(self) -> int:
        return self.height * self.width


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLimits:
    """A batch is due at `max_tiles` tiles, at `max_pixels` LR pixels or after `max_wait_seconds`.

    An earlier deadline may exceed its fair share of the device by `fair_pixels` LR pixels.
    """

    max_tiles: int = 8
    max_pixels: int = 512 * 512
    max_wait_seconds: float = 0.005
    fair_pixels: int = 512 * 512

    def tiles_in(self, batch_key: BatchKey) -> int:
        """The number of tiles in a full batch of this key; at least 1."""
        return max(1, min(self.max_tiles, self.max_pixels // batch_key.tile_pixels))


class TileReceiver(Protocol):
    """Receives the results of one request on an engine's thread; must not block."""

    def done(self, index: int, tile: Tile) -> None: ...

    def failed(self, error: Exception) -> None: ...


class TileRequest:
    """The pending tiles of one picture; made by `Scheduler.open`."""

    __slots__ = (
        "background",
        "batch_key",
        "charged",
        "client",
        "closed",
        "deadline_seconds",
        "pending",
        "receiver",
        "serial",
    )

    def __init__(
        self,
        batch_key: BatchKey,
        deadline_seconds: float,
        receiver: TileReceiver,
        client: str,
        background: bool,
        serial: int,
    ):
        self.batch_key = batch_key
        self.deadline_seconds = deadline_seconds
        self.receiver = receiver
        self.client = client
        self.background = background
        self.serial = serial
        self.pending: deque[tuple[int, Tile, float]] = deque()  # index, tile, when it was put
        self.charged = 0.0  # virtual time in LR pixels, among the requests of one client
        self.closed = False


@dataclass(frozen=True, slots=True)
class BatchItem:
    """One tile of a batch and its request."""

    request: TileRequest
    index: int
    tile: Tile


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Tiles with one batch key; `capacity` is the number of tiles in a full batch."""

    batch_key: BatchKey
    items: tuple[BatchItem, ...]
    capacity: int

    @property
    def tiles(self) -> list[Tile]:
        return [item.tile for item in self.items]
