"""Lines of progress between the steps of a training."""

from collections.abc import Callable, Mapping

from superres.common.console import say
from training.bundles.held_out_crops import HeldOutCrops
from training.loop.ema import ExponentialMovingAverage

# Seconds between two lines: the first after 5, in a long training one a minute.
SHORTEST_INTERVAL, LONGEST_INTERVAL = 5.0, 60.0
# Of the time since the start: the interval, and how much of it scoring may have taken already.
SHARE = 0.05


class ProgressLines:
    """Says share, step and metrics at intervals, and the EMA's PSNR on crops if there are some."""

    def __init__(
        self,
        name: str,
        steps: int,
        ema: ExponentialMovingAverage,
        crops: HeldOutCrops | None,
        clock: Callable[[], float],
    ) -> None:
        self._name, self._steps, self._ema, self._crops = name, steps, ema, crops
        self._clock = clock
        self._started = self._said = clock()
        self._score_seconds = 0.0

    def say(self, share: float, step: int, values: Mapping[str, float]) -> None:
        """Say a line if one is due; `share` is that of the stage, `values` are metrics by name."""
        now = self._clock()
        interval = min(max(SHORTEST_INTERVAL, SHARE * (now - self._started)), LONGEST_INTERVAL)
        if now - self._said < interval:
            return
        self._said = now
        metrics = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        score = self._score(now)
        say(f"{self._name}: {share:4.0%}  step {step} of {self._steps}  {score}{metrics}")

    def _score(self, now: float) -> str:
        """The score on the crops; empty without crops, or where it would take too long."""
        if self._crops is None or self._score_seconds > SHARE * (now - self._started):
            return ""
        psnr = self._crops.psnr(self._ema.output)
        self._score_seconds += self._clock() - now
        return f"{psnr:.2f} dB on held-out crops, bicubic {self._crops.bicubic_psnr:.2f} dB  "
