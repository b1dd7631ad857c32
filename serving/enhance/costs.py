"""How long a model takes on this machine, learned from every batch that it runs."""

import threading

MEMORY = 0.9  # of what was seen before, per batch


class CostModel:
    """Seconds of one device per LR pixel, by model name; safe to use from any thread.

    Pixels are those given to the network, halos and rounding up to tiles included. Both are summed
    and forgotten alike, so that a batch counts by its size: a moment in which the machine did
    something else while one small tile ran says little about a large picture.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: dict[str, tuple[float, float]] = {}  # seconds and pixels

    def learn(self, model: str, pixels: int, seconds: float) -> None:
        """Take in that `pixels` took `seconds`."""
        if pixels <= 0 or seconds <= 0:
            return
        with self._lock:
            seen_seconds, seen_pixels = self._seen.get(model, (0.0, 0.0))
            self._seen[model] = (MEMORY * seen_seconds + seconds, MEMORY * seen_pixels + pixels)

    def seconds(self, model: str, pixels: int) -> float | None:
        """How long `pixels` will take alone; None for a model that has never run."""
        seen = self._seen.get(model)
        return None if seen is None else seen[0] / seen[1] * pixels

    def per_pixel(self) -> dict[str, float]:
        """What is known, by model."""
        with self._lock:
            return {model: seconds / pixels for model, (seconds, pixels) in self._seen.items()}
