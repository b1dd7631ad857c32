"""How long a model takes on this machine, learned from every batch that it runs."""

import threading

MEMORY = 0.9  # of the former estimate, per batch


class Costs:
    """Seconds of one device per LR pixel, by model name; safe to use from any thread.

    Pixels are those given to the network, halos and rounding up to tiles included.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seconds_per_pixel: dict[str, float] = {}

    def learn(self, model: str, pixels: int, seconds: float) -> None:
        """Take in that `pixels` took `seconds`."""
        if pixels <= 0 or seconds <= 0:
            return
        cost = seconds / pixels
        with self._lock:
            known = self._seconds_per_pixel.get(model, cost)
            self._seconds_per_pixel[model] = MEMORY * known + (1 - MEMORY) * cost

    def seconds(self, model: str, pixels: int) -> float | None:
        """How long `pixels` will take alone; None for a model that has never run."""
        cost = self._seconds_per_pixel.get(model)
        return None if cost is None else cost * pixels

    def per_pixel(self) -> dict[str, float]:
        """What is known, by model."""
        with self._lock:
            return dict(self._seconds_per_pixel)
