"""How many training crops a second the blind degradations make, in numpy and on torch's devices.

Each round draws a batch and runs it; the first round of each place is not counted. numpy runs
beside torch on one core, a GPU where there is one. Then how far torch's crops are from numpy's, and
the last line is the result as JSON.

    python bench/degradation.py --batch 16 --side 192 --scale 4
"""

import argparse
import sys
import time
from collections.abc import Callable

import numpy as np
import torch

from superres.common.console import emit, say
from superres.degrade import bsrgan, real_esrgan
from superres.degrade.steps import apply

DRAWS = {"real_esrgan": real_esrgan.draw_batch, "bsrgan": bsrgan.draw_batch}


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(1)
    batch_bchw = _crops(arguments.batch, arguments.side)
    places = ["numpy", "cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    rates: dict[str, dict[str, float]] = {}
    agreements: dict[str, dict[str, dict[str, float]]] = {}
    for kind in DRAWS:
        rates[kind], agreements[kind] = {}, {}
        for place in places:
            rate = crops_per_second(kind, _put(batch_bchw, place), arguments)
            rates[kind][place] = round(rate, 1)
            say(f"{kind} on {place}: {rate:.1f} crops a second")
        for place in places[1:]:
            agreements[kind][place] = agreement(kind, batch_bchw, place, arguments)
            say(f"{kind} on {place} against numpy: {agreements[kind][place]}")
    emit(
        {
            "batch": arguments.batch,
            "side": arguments.side,
            "scale": arguments.scale,
            "rounds": arguments.rounds,
            "crops_per_second": rates,
            "agreement_with_numpy": agreements,
        }
    )


def crops_per_second(kind: str, batch, arguments: argparse.Namespace) -> float:
    """Crops by wall time, drawing included; every place degrades by the same rows."""
    settle = _settle(batch)
    size = (arguments.side, arguments.side)
    began = time.perf_counter()
    for number in range(arguments.rounds + 1):
        if number == 1:
            settle()
            began = time.perf_counter()
        seeds = range(number * len(batch), (number + 1) * len(batch))
        apply(batch, DRAWS[kind](size, arguments.scale, seeds, number))
    settle()
    return arguments.rounds * len(batch) / (time.perf_counter() - began)


def agreement(
    kind: str, batch_bchw: np.ndarray, place: str, arguments: argparse.Namespace
) -> dict[str, float]:
    """How far crops are from numpy's by the same rows; values differ from half a level on."""
    size, there = (arguments.side, arguments.side), _put(batch_bchw, place)
    apart = []
    for number in range(arguments.rounds):
        seeds = range(number * len(batch_bchw), (number + 1) * len(batch_bchw))
        rows = DRAWS[kind](size, arguments.scale, seeds, number)
        other = torch.asarray(apply(there, rows)).cpu().numpy()
        apart.append(np.abs(apply(batch_bchw, rows) - other).reshape(len(batch_bchw), -1) * 255)
    shares = np.concatenate([(levels > 0.5).mean(axis=1) for levels in apart])
    return {
        "crops": len(shares),
        "same_everywhere": round(float((shares == 0).mean()), 4),
        "values_that_differ": round(float(shares.mean()), 5),
        "most_in_one_crop": round(float(shares.max()), 4),
        "max_levels": round(float(max(levels.max() for levels in apart)), 1),
        "max_mean_levels": round(float(max(levels.mean(axis=1).max() for levels in apart)), 3),
    }


def _settle(batch) -> Callable[[], None]:
    """Wait until a device has done what it was given."""
    on_gpu = isinstance(batch, torch.Tensor) and batch.is_cuda
    return torch.cuda.synchronize if on_gpu else lambda: None


def _put(batch_bchw: np.ndarray, place: str) -> np.ndarray | torch.Tensor:
    return batch_bchw if place == "numpy" else torch.asarray(batch_bchw, device=place)


def _crops(count: int, side: int) -> np.ndarray:
    """Crops of smooth colour with texture, in whole 8-bit levels."""
    rows, columns = np.mgrid[:side, :side]
    waves = [np.sin(rows / a) * np.cos(columns / b) for a, b in ((5, 9), (11, 7), (8, 23))]
    texture = np.random.default_rng(0).normal(0, 0.05, (count, 3, side, side))
    levels = np.round(np.clip(0.5 + 0.4 * np.stack(waves) + texture, 0, 1) * 255)
    return (levels / 255).astype(np.float32)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--side", type=int, default=192, help="of a high-resolution crop")
    parser.add_argument("--scale", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=12)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
