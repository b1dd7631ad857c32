"""Admission control: limits on the slots, bytes, answer pixels and waiting time of the process.

The latency of a picture is predicted from the cost of its model and from the remaining work of the
other requests, shared fairly among clients as in the scheduler. A request that would wait too long
is refused at once with a Retry-After.

Used on the event loop only, so it needs no lock.
"""

import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager

from serving.enhance.costs import CostModel
from serving.errors import Draining, OutputTooLarge, QueueFull
from serving.setting_groups import LimitSettings, QueueSettings
from superres.image.codecs import LONGEST_SIDE, FormatCannotHold, Limits, TooManyBytes

LONGEST_RETRY_SECONDS = 3600.0
BISECTION_STEPS = 40  # from an hour to less than a microsecond
RATE_DECAY = 0.8  # weight of the previous estimate, per answered picture


class AdmittedRequest:
    """One admitted request and its reservations, which end with `Admission.admit`."""

    def __init__(self, admission: "Admission", client: str, admitted_seconds: float) -> None:
        self._admission = admission
        self.client = client
        self.admitted_seconds = admitted_seconds
        self.bytes = 0
        self.output_pixels = 0
        self._work_seconds = 0.0
        self._share_done = 0.0

    @property
    def remaining_seconds(self) -> float:
        """Device time that the rest of this picture takes on one device."""
        return self._work_seconds * (1.0 - self._share_done)

    def reserve_bytes(self, count: int) -> None:
        """Reserve memory for bytes of the body. Raises TooManyBytes or QueueFull."""
        self._admission.reserve_bytes(self, count)

    def reserve_output(self, width: int, height: int, format: str) -> None:
        """Reserve memory for an answer of this size and format.

        Raises OutputTooLarge, FormatCannotHold or QueueFull.
        """
        self._admission.reserve_output(self, width, height, format)

    def reserve_work(self, model: str, pixels: int, deadline_seconds: float) -> None:
        """Reserve device time for `pixels` LR pixels of a model, to finish by `deadline_seconds`.

        Raises QueueFull, with the time until a retry can succeed, if the wait would be too long.
        """
        self._work_seconds = self._admission.predicted_seconds(
            self, model, pixels, deadline_seconds
        )

    def work_done(self, share: float) -> None:
        """Set the share of the work that is done, 0 to 1."""
        self._share_done = min(1.0, share)


class Admission:
    """Admits requests while there is capacity, else refuses them with a Retry-After."""

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
        self._admitted: set[AdmittedRequest] = set()
        self._draining = False
        self._pixels_per_second: float | None = None
        self._last_release_seconds = clock()

    @property
    def draining(self) -> bool:
        return self._draining

    @property
    def in_flight(self) -> int:
        """Pictures admitted and not yet answered."""
        return len(self._admitted)

    @property
    def picture_limits(self) -> Limits:
        """The limits that `superres.image.codecs` checks before it decodes."""
        limits = self._limits
        return Limits(
            max_pixels=limits.max_pixels, max_bytes=limits.max_bytes, max_side=limits.max_side
        )

    def drain(self) -> None:
        """Refuse every request from now on."""
        self._draining = True

    def require_open(self) -> None:
        """Raise Draining if the server is draining."""
        if self._draining:
            raise Draining("the server is shutting down", seconds=5)

    @contextmanager
    def admit(self, client: str = "") -> Generator[AdmittedRequest]:
        """Reserve a slot for one request of a client. Raises Draining or QueueFull."""
        self.require_open()
        if len(self._admitted) >= self._queue.max_pictures:
            raise QueueFull(
                f"{len(self._admitted)} pictures are in flight already",
                seconds=self._seconds_until_free_slot(),
            )
        own_count = sum(admitted.client == client for admitted in self._admitted)
        if own_count >= self._queue.max_pictures_per_client:
            raise QueueFull(
                f"{own_count} pictures of this client are in flight already",
                seconds=self._seconds_until_free_slot(),
            )
        admitted = AdmittedRequest(self, client, self._clock())
        self._admitted.add(admitted)
        try:
            yield admitted
        finally:
            self._admitted.discard(admitted)
            self._update_rate(admitted)

    def reserve_bytes(self, admitted: AdmittedRequest, count: int) -> None:
        if admitted.bytes + count > self._limits.max_bytes:
            raise TooManyBytes(
                f"the body has more than the {self._limits.max_bytes:,} bytes that are allowed"
            )
        used_bytes = sum(other.bytes for other in self._admitted)
        if used_bytes + count > self._queue.max_bytes and used_bytes > admitted.bytes:
            raise QueueFull(
                "the pictures in flight use up the memory for uploads",
                seconds=self._seconds_until_free_slot(),
            )
        admitted.bytes += count

    def reserve_output(
        self, admitted: AdmittedRequest, width: int, height: int, format: str
    ) -> None:
        if width * height > self._limits.max_output_pixels:
            raise OutputTooLarge(
                f"the answer would have {width:,}x{height:,} pixels; at most "
                f"{self._limits.max_output_pixels:,} are allowed"
            )
        if max(width, height) > LONGEST_SIDE[format]:
            raise FormatCannotHold(
                f"{format} supports sides up to {LONGEST_SIDE[format]:,} pixels, the answer would "
                f"have {width:,}x{height:,}; choose png"
            )
        used_pixels = sum(other.output_pixels for other in self._admitted if other is not admitted)
        # A picture above the limit still runs when it is the only one.
        if used_pixels and used_pixels + width * height > self._queue.max_output_pixels:
            excess = used_pixels + width * height - self._queue.max_output_pixels
            raise QueueFull(
                "the pictures in flight use up the memory for answers",
                seconds=self._seconds_for(excess),
            )
        admitted.output_pixels = width * height

    def predicted_seconds(
        self, admitted: AdmittedRequest, model: str, pixels: int, deadline_seconds: float
    ) -> float:
        """Time of `pixels` on one idle device; see `AdmittedRequest.reserve_work`."""
        own_seconds = self._costs.seconds(model, pixels) or 0.0
        backlog: dict[str, float] = {}
        for other in self._admitted - {admitted}:
            backlog[other.client] = backlog.get(other.client, 0.0) + other.remaining_seconds
        if not any(backlog.values()):
            # An idle server admits everything, or a wrong prediction could never be corrected.
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
                f"behind the pictures in flight the answer would take {finish_seconds:.1f} "
                f"seconds; at most {allowed_seconds:.1f} are allowed",
                seconds=self._seconds_until(backlog, admitted.client, own_seconds, allowed_seconds),
            )
        return own_seconds

    def _finish_seconds(
        self, backlog: Mapping[str, float], client: str, own_seconds: float, served: float
    ) -> float:
        """Time to finish new work of a client, after every client was `served` that long.

        Under fair sharing no other client gets more service than this one until it is finished.
        """
        left = {name: max(0.0, seconds - served) for name, seconds in backlog.items()}
        own_total = left.pop(client, 0.0) + own_seconds
        return (
            own_total + sum(min(seconds, own_total) for seconds in left.values())
        ) / self._device_count

    def _seconds_until(
        self, backlog: Mapping[str, float], client: str, own_seconds: float, allowed: float
    ) -> float:
        """Time until the same request would be admitted if no other request arrived."""
        low, high = 0.0, max(backlog.values())
        for _ in range(BISECTION_STEPS):
            served = (low + high) / 2
            if self._finish_seconds(backlog, client, own_seconds, served) > allowed:
                low = served
            else:
                high = served
        seconds = sum(min(seconds, high) for seconds in backlog.values()) / self._device_count
        return min(LONGEST_RETRY_SECONDS, seconds)

    def _update_rate(self, admitted: AdmittedRequest) -> None:
        """Update the process's answer pixels per second with a request that has ended."""
        now_seconds = self._clock()
        busy_seconds = now_seconds - max(self._last_release_seconds, admitted.admitted_seconds)
        self._last_release_seconds = now_seconds
        if not admitted.output_pixels or busy_seconds <= 0:
            return
        rate = admitted.output_pixels / busy_seconds
        previous = self._pixels_per_second
        self._pixels_per_second = (
            rate if previous is None else RATE_DECAY * previous + (1 - RATE_DECAY) * rate
        )

    def _seconds_until_free_slot(self) -> float:
        pixels = sum(admitted.output_pixels for admitted in self._admitted)
        # Some are admitted, or none would be refused.
        return self._seconds_for(pixels / len(self._admitted))

    def _seconds_for(self, pixels: float) -> float:
        if not self._pixels_per_second:
            return 1.0
        return min(LONGEST_RETRY_SECONDS, pixels / self._pixels_per_second)
