"""Who may enter: places, bytes and answer pixels of the whole process, checked before the work.

Everything here runs on the event loop, so nothing needs a lock.
"""

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

from serving.errors import AnswerTooLarge, Draining, QueueFull
from serving.settings import LimitSettings, QueueSettings
from superres.image import LONGEST_SIDE, FormatCannotHold, Limits, TooManyBytes

LONGEST_RETRY_SECONDS = 60.0
RATE_MEMORY = 0.8  # of the former estimate, per answered picture


class Entry:
    """One admitted request and what it holds; given back as a whole when it leaves."""

    def __init__(self, admission: "Admission", entered_seconds: float) -> None:
        self._admission = admission
        self.entered_seconds = entered_seconds
        self.bytes = 0
        self.answer_pixels = 0

    def hold_bytes(self, count: int) -> None:
        """Account for bytes of this body. Raises TooManyBytes, or QueueFull for the process."""
        self._admission.hold_bytes(self, count)

    def hold_answer(self, width: int, height: int, format: str) -> None:
        """Account for an answer of this size in this format.

        Raises AnswerTooLarge, FormatCannotHold, or QueueFull for the process.
        """
        self._admission.hold_answer(self, width, height, format)


class Admission:
    """Lets requests in while there is room, and says when to come back while there is none."""

    def __init__(
        self,
        limits: LimitSettings,
        queue: QueueSettings,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limits = limits
        self._queue = queue
        self._clock = clock
        self._entries: set[Entry] = set()
        self._draining = False
        self._pixels_per_second: float | None = None
        self._last_left_seconds = clock()

    @property
    def draining(self) -> bool:
        return self._draining

    @property
    def in_flight(self) -> int:
        """Pictures admitted and not yet answered."""
        return len(self._entries)

    @property
    def picture_limits(self) -> Limits:
        """What `superres.image` refuses before it decodes."""
        limits = self._limits
        return Limits(
            max_pixels=limits.max_pixels, max_bytes=limits.max_bytes, max_side=limits.max_side
        )

    def drain(self) -> None:
        """Let nobody in from now on."""
        self._draining = True

    @contextmanager
    def enter(self) -> Generator[Entry]:
        """A place for one request. Raises Draining or QueueFull."""
        if self._draining:
            raise Draining("the server is shutting down", seconds=5)
        if len(self._entries) >= self._queue.max_pictures:
            raise QueueFull(
                f"{len(self._entries)} pictures are being worked on already",
                seconds=self._seconds_until_one_leaves(),
            )
        entry = Entry(self, self._clock())
        self._entries.add(entry)
        try:
            yield entry
        finally:
            self._entries.discard(entry)
            self._learn_rate(entry)

    def hold_bytes(self, entry: Entry, count: int) -> None:
        if entry.bytes + count > self._limits.max_bytes:
            raise TooManyBytes(
                f"the body has more than the {self._limits.max_bytes:,} bytes that are taken"
            )
        held = sum(other.bytes for other in self._entries)
        if held + count > self._queue.max_bytes and held > entry.bytes:
            raise QueueFull(
                "the pictures being worked on fill the memory set aside for uploads",
                seconds=self._seconds_until_one_leaves(),
            )
        entry.bytes += count

    def hold_answer(self, entry: Entry, width: int, height: int, format: str) -> None:
        if width * height > self._limits.max_answer_pixels:
            raise AnswerTooLarge(
                f"the answer would have {width:,}x{height:,} pixels; at most "
                f"{self._limits.max_answer_pixels:,} are given"
            )
        if max(width, height) > LONGEST_SIDE[format]:
            raise FormatCannotHold(
                f"{format} holds sides up to {LONGEST_SIDE[format]:,} pixels, the answer would "
                f"have {width:,}x{height:,}; choose png"
            )
        held = sum(other.answer_pixels for other in self._entries if other is not entry)
        # A picture that fits no budget beside others still runs when it is alone.
        if held and held + width * height > self._queue.max_answer_pixels:
            excess = held + width * height - self._queue.max_answer_pixels
            raise QueueFull(
                "the pictures being worked on fill the memory set aside for answers",
                seconds=self._seconds_for(excess),
            )
        entry.answer_pixels = width * height

    def _learn_rate(self, entry: Entry) -> None:
        """Pixels per second of the whole process, from what left since the last one left."""
        now_seconds = self._clock()
        busy_seconds = now_seconds - max(self._last_left_seconds, entry.entered_seconds)
        self._last_left_seconds = now_seconds
        if not entry.answer_pixels or busy_seconds <= 0:
            return
        rate = entry.answer_pixels / busy_seconds
        known = self._pixels_per_second
        self._pixels_per_second = (
            rate if known is None else RATE_MEMORY * known + (1 - RATE_MEMORY) * rate
        )

    def _seconds_until_one_leaves(self) -> float:
        held = sum(entry.answer_pixels for entry in self._entries)
        return self._seconds_for(held / max(1, len(self._entries)))

    def _seconds_for(self, pixels: float) -> float:
        if not self._pixels_per_second:
            return 1.0
        return min(LONGEST_RETRY_SECONDS, pixels / self._pixels_per_second)
