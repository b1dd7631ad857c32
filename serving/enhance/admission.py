"""Who may enter: places, bytes, answer pixels and time of the whole process, before the work.

When a picture will be answered is predicted from what its model is known to cost and from what the
others have left to do, shared fairly among clients as the scheduler does it. Who would have to wait
too long is refused at once and told when it would be taken.

Everything here runs on the event loop, so nothing needs a lock.
"""

import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager

from serving.enhance.costs import CostModel
from serving.errors import AnswerTooLarge, Draining, QueueFull
from serving.setting_groups import LimitSettings, QueueSettings
from superres.image.codecs import LONGEST_SIDE, FormatCannotHold, Limits, TooManyBytes

LONGEST_RETRY_SECONDS = 3600.0
SEARCH_STEPS = 40  # of halving: from an hour to less than a microsecond
RATE_MEMORY = 0.8  # of the former estimate, per answered picture


class AdmittedRequest:
    """One admitted request and what it holds; given back as a whole when it leaves."""

    def __init__(self, admission: "Admission", client: str, entered_seconds: float) -> None:
        self._admission = admission
        self.client = client
        self.entered_seconds = entered_seconds
        self.bytes = 0
        self.answer_pixels = 0
        self._work_seconds = 0.0
        self._share_done = 0.0

    @property
    def remaining_seconds(self) -> float:
        """Of one device, for what is left of this picture."""
        return self._work_seconds * (1.0 - self._share_done)

    def reserve_bytes(self, count: int) -> None:
        """Account for bytes of this body. Raises TooManyBytes, or QueueFull for the process."""
        self._admission.reserve_bytes(self, count)

    def reserve_answer(self, width: int, height: int, format: str) -> None:
        """Account for an answer of this size in this format.

        Raises AnswerTooLarge, FormatCannotHold, or QueueFull for the process.
        """
        self._admission.reserve_answer(self, width, height, format)

    def reserve_work(self, model: str, pixels: int, deadline_seconds: float) -> None:
        """Account for `pixels` LR pixels through a model, wanted by `deadline_seconds`.

        Raises QueueFull where the wait would be too long, with the time until it is not.
        """
        self._work_seconds = self._admission.predicted_seconds(
            self, model, pixels, deadline_seconds
        )

    def work_done(self, share: float) -> None:
        """Hear that a share of the work, 0 to 1, is done."""
        self._share_done = min(1.0, share)


class Admission:
    """Lets requests in while there is room, and says when to come back while there is none."""

    def __init__(
        self,
        limits: LimitSettings,
        queue: QueueSettings,
        costs: CostModel,
        device_count: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limits = limits
        self._queue = queue
        self._costs = costs
        self._device_count = device_count
        self._clock = clock
        self._entries: set[AdmittedRequest] = set()
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
        """What `superres.image.codecs` refuses before it decodes."""
        limits = self._limits
        return Limits(
            max_pixels=limits.max_pixels, max_bytes=limits.max_bytes, max_side=limits.max_side
        )

    def drain(self) -> None:
        """Let nobody in from now on."""
        self._draining = True

    def require_open(self) -> None:
        """Raise Draining where nothing new is taken."""
        if self._draining:
            raise Draining("the server is shutting down", seconds=5)

    @contextmanager
    def admit(self, client: str = "") -> Generator[AdmittedRequest]:
        """A place for one request of a client. Raises Draining or QueueFull."""
        self.require_open()
        if len(self._entries) >= self._queue.max_pictures:
            raise QueueFull(
                f"{len(self._entries)} pictures are being worked on already",
                seconds=self._seconds_until_one_leaves(),
            )
        own = sum(admitted.client == client for admitted in self._entries)
        if own >= self._queue.max_pictures_per_client:
            raise QueueFull(
                f"{own} pictures of this client are being worked on already",
                seconds=self._seconds_until_one_leaves(),
            )
        admitted = AdmittedRequest(self, client, self._clock())
        self._entries.add(admitted)
        try:
            yield admitted
        finally:
            self._entries.discard(admitted)
            self._learn_rate(admitted)

    def reserve_bytes(self, admitted: AdmittedRequest, count: int) -> None:
        if admitted.bytes + count > self._limits.max_bytes:
            raise TooManyBytes(
                f"the body has more than the {self._limits.max_bytes:,} bytes that are taken"
            )
        held = sum(other.bytes for other in self._entries)
        if held + count > self._queue.max_bytes and held > admitted.bytes:
            raise QueueFull(
                "the pictures being worked on fill the memory set aside for uploads",
                seconds=self._seconds_until_one_leaves(),
            )
        admitted.bytes += count

    def reserve_answer(
        self, admitted: AdmittedRequest, width: int, height: int, format: str
    ) -> None:
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
        held = sum(other.answer_pixels for other in self._entries if other is not admitted)
        # A picture that fits no budget beside others still runs when it is alone.
        if held and held + width * height > self._queue.max_answer_pixels:
            excess = held + width * height - self._queue.max_answer_pixels
            raise QueueFull(
                "the pictures being worked on fill the memory set aside for answers",
                seconds=self._seconds_for(excess),
            )
        admitted.answer_pixels = width * height

    def predicted_seconds(
        self, admitted: AdmittedRequest, model: str, pixels: int, deadline_seconds: float
    ) -> float:
        """What `pixels` will take alone on one device; see `AdmittedRequest.reserve_work`."""
        own_seconds = self._costs.seconds(model, pixels) or 0.0
        backlog: dict[str, float] = {}
        for other in self._entries - {admitted}:
            backlog[other.client] = backlog.get(other.client, 0.0) + other.remaining_seconds
        if not any(backlog.values()):
            # An idle server tries whatever comes: a wrong prediction could never be corrected.
            return own_seconds
        allowed_seconds = min(
            deadline_seconds - self._clock(),
            max(
                self._queue.max_wait_seconds + own_seconds / self._device_count,
                self._queue.max_stretch * own_seconds / self._device_count,
            ),
        )
        finish_seconds = self._finish_seconds(backlog, admitted.client, own_seconds, 0.0)
        if finish_seconds > allowed_seconds:
            raise QueueFull(
                f"with those that are being worked on, the answer would take {finish_seconds:.1f} "
                f"seconds; at most {allowed_seconds:.1f} are promised",
                seconds=self._seconds_until(backlog, admitted.client, own_seconds, allowed_seconds),
            )
        return own_seconds

    def _finish_seconds(
        self, backlog: Mapping[str, float], client: str, own_seconds: float, served: float
    ) -> float:
        """When new work of a client would be done, once every client was `served` that long.

        Under fair shares nobody gets more than this client does until it is done.
        """
        left = {name: max(0.0, seconds - served) for name, seconds in backlog.items()}
        mine = left.pop(client, 0.0) + own_seconds
        return (mine + sum(min(seconds, mine) for seconds in left.values())) / self._device_count

    def _seconds_until(
        self, backlog: Mapping[str, float], client: str, own_seconds: float, allowed: float
    ) -> float:
        """How long from now until the same request would be let in, if nobody else came."""
        low, high = 0.0, max(backlog.values())
        for _ in range(SEARCH_STEPS):
            served = (low + high) / 2
            if self._finish_seconds(backlog, client, own_seconds, served) > allowed:
                low = served
            else:
                high = served
        seconds = sum(min(seconds, high) for seconds in backlog.values()) / self._device_count
        return min(LONGEST_RETRY_SECONDS, seconds)

    def _learn_rate(self, admitted: AdmittedRequest) -> None:
        """Pixels per second of the whole process, from what left since the last one left."""
        now_seconds = self._clock()
        busy_seconds = now_seconds - max(self._last_left_seconds, admitted.entered_seconds)
        self._last_left_seconds = now_seconds
        if not admitted.answer_pixels or busy_seconds <= 0:
            return
        rate = admitted.answer_pixels / busy_seconds
        known = self._pixels_per_second
        self._pixels_per_second = (
            rate if known is None else RATE_MEMORY * known + (1 - RATE_MEMORY) * rate
        )

    def _seconds_until_one_leaves(self) -> float:
        held = sum(admitted.answer_pixels for admitted in self._entries)
        return self._seconds_for(held / max(1, len(self._entries)))

    def _seconds_for(self, pixels: float) -> float:
        if not self._pixels_per_second:
            return 1.0
        return min(LONGEST_RETRY_SECONDS, pixels / self._pixels_per_second)
