"""PSNR on crops of held-out pictures: cheap enough to be shown between two training steps."""

from collections.abc import Callable, Iterable
from itertools import islice
from statistics import fmean
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from superres.evaluation.evaluate import Pair, PairSet, require_sizes
from superres.image.crop import center_crop
from superres.image.resize import imresize
from superres.quality import Protocol, psnr
from training.bundles.validate import CHANNEL

CROPS = 4
SIDE = 32  # LR pixels of a crop, rounded up to the network's grid

Array = npt.NDArray[np.uint8]


class HeldOutCrops:
    """Centre crops of the first held-out pictures that are large enough.

    Their PSNR shows whether a training gains; it is not comparable with that of whole pictures.
    Raises SharplineError if a pair's sizes do not match the scale.
    """

    def __init__(
        self, pairs: Iterable[Pair], protocol: Protocol, side: int, device: torch.device
    ) -> None:
        crops = [_crop(pair, protocol.scale, side) for pair in pairs]
        lr_bhwc = np.stack([lr for lr, _ in crops])
        self._lr_bchw = torch.from_numpy(lr_bhwc).permute(0, 3, 1, 2).to(device).float() / 255
        self._truths_hwc = [hr for _, hr in crops]
        self._protocol = protocol
        self.bicubic_psnr = self._mean_psnr([imresize(lr, scale=protocol.scale) for lr, _ in crops])

    @classmethod
    def of(cls, held_out: PairSet | None, grid: int, device: torch.device) -> Self | None:
        """Crops for a network on `grid`, None if no 8-bit picture is large enough."""
        if held_out is None:
            return None
        side = -(-SIDE // grid) * grid
        large = islice((pair for pair in held_out.pairs if _fits(pair, side)), CROPS)
        first = next(large, None)
        if first is None:
            return None
        return cls((first, *large), held_out.protocol(CHANNEL), side, device)

    def psnr(self, network: Callable[[Tensor], Tensor]) -> float:
        """Mean PSNR in dB of a network's output; `network` maps LR (B, 3, H, W) in [0, 1]."""
        with torch.no_grad():
            sr_bchw = network(self._lr_bchw).float().clamp(0, 1).mul(255).round()
        return self._mean_psnr(list(sr_bchw.byte().permute(0, 2, 3, 1).cpu().numpy()))

    def _mean_psnr(self, outputs_hwc: list[Array]) -> float:
        return fmean(
            psnr(output_hwc, truth_hwc, self._protocol)
            for output_hwc, truth_hwc in zip(outputs_hwc, self._truths_hwc, strict=True)
        )


def _fits(pair: Pair, side: int) -> bool:
    bits = {pair.lr.bit_depth, pair.hr.bit_depth}
    return min(pair.lr.height, pair.lr.width) >= side and bits == {8}


def _crop(pair: Pair, scale: int, side: int) -> tuple[Array, Array]:
    require_sizes(pair, scale)
    lr_hwc = center_crop(pair.lr.rgb_hwc, side)
    return lr_hwc, center_crop(pair.hr.rgb_hwc, side * scale, multiple=scale)
