"""Estimates the device time of a model on this machine from the batches that it ran."""

import threading

DECAY = 0.9  # weight of the previous totals, per batch


class CostModel:
    """Device seconds per LR pixel, by model name; thread-safe.

    Pixels are those given to the network, halos and padding to tiles included. Seconds and pixels
    are summed with the same decay, so a batch counts by its size: a pause of the machine during a
    small batch hardly changes the estimate for a large picture.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._totals: dict[str, tuple[float, float]] = {}  # seconds and pixels

    def learn(self, model: str, pixels: int, seconds: float) -> None:
        """Add a batch of `pixels` that took `seconds`."""
        if pixels <= 0 or seconds <= 0:
            return
        with self._lock:
            total_seconds, total_pixels = self._totals.get(model, (0.0, 0.0))
            self._totals[model] = (DECAY * total_seconds + seconds, DECAY * total_pixels + pixels)

    def seconds(self, model: str, pixels: int) -> float | None:
        """Estimated time of `pixels` on an idle device; None for a model that has never run."""
        totals = self._totals.get(model)
        return None if totals is None else totals[0] / totals[1] * pixels

    def per_pixel(self) -> dict[str, float]:
        """Seconds per LR pixel, by model name."""
        with self._lock:
            return {model: seconds / pixels for model, (seconds, pixels) in self._totals.items()}
