"""Throughput of the blind degradations in crops a second, in numpy and on torch's devices.

Each round draws and degrades a batch; the first round is a warm-up. Runs numpy and torch on one
core, and torch on a GPU if there is one. Then prints the differences between torch's and numpy's
crops; the last line is the result as JSON.

    python bench/degradation.py --batch 16 --side 192 --scale 4
"""

import argparse
import sys
import time
from collections.abc import Callable

import numpy as np
import torch

from superres.common.console import emit, say
from superres.degrade import DEGRADATIONS
from superres.degrade.steps import apply

DRAWS = {name: DEGRADATIONS.get(name).draw_rows for name in ("real_esrgan", "bsrgan")}


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(1)
    batch_bchw = _crops(arguments.batch, arguments.side)
    devices = ["numpy", "cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    rates: dict[str, dict[str, float]] = {}
    agreements: dict[str, dict[str, dict[str, float]]] = {}
    for kind in DRAWS:
        rates[kind], agreements[kind] = {}, {}
        for device in devices:
            rate = crops_per_second(kind, _to_device(batch_bchw, device), arguments)
            rates[kind][device] = round(rate, 1)
            say(f"{kind} on {device}: {rate:.1f} crops a second")
        for device in devices[1:]:
            agreements[kind][device] = agreement(kind, batch_bchw, device, arguments)
            say(f"{kind} on {device} against numpy: {agreements[kind][device]}")
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
    """Crops a second by wall time, drawing included; all devices use the same parameters."""
    synchronise = _synchronise(batch)
    size = (arguments.side, arguments.side)
    began = time.perf_counter()
    for number in range(arguments.rounds + 1):
        if number == 1:
            synchronise()
            began = time.perf_counter()
        seeds = range(number * len(batch), (number + 1) * len(batch))
        apply(batch, DRAWS[kind](size, arguments.scale, seeds, number))
    synchronise()
    return arguments.rounds * len(batch) / (time.perf_counter() - began)


def agreement(
    kind: str, batch_bchw: np.ndarray, device: str, arguments: argparse.Namespace
) -> dict[str, float]:
    """Differences from numpy's crops with the same parameters; half a level or less is equal."""
    size, on_device = (arguments.side, arguments.side), _to_device(batch_bchw, device)
    differences = []
    for number in range(arguments.rounds):
        seeds = range(number * len(batch_bchw), (number + 1) * len(batch_bchw))
        rows = DRAWS[kind](size, arguments.scale, seeds, number)
        result = torch.asarray(apply(on_device, rows)).cpu().numpy()
        differences.append(
            np.abs(apply(batch_bchw, rows) - result).reshape(len(batch_bchw), -1) * 255
        )
    shares = np.concatenate([(levels > 0.5).mean(axis=1) for levels in differences])
    return {
        "crops": len(shares),
        "same_everywhere": round(float((shares == 0).mean()), 4),
        "values_that_differ": round(float(shares.mean()), 5),
        "most_in_one_crop": round(float(shares.max()), 4),
        "max_levels": round(float(max(levels.max() for levels in differences)), 1),
        "max_mean_levels": round(
            float(max(levels.mean(axis=1).max() for levels in differences)), 3
        ),
    }


def _synchronise(batch) -> Callable[[], None]:
    """A function that waits until the device has finished."""
    on_gpu = isinstance(batch, torch.Tensor) and batch.is_cuda
    return torch.cuda.synchronize if on_gpu else lambda: None


def _to_device(batch_bchw: np.ndarray, device: str) -> np.ndarray | torch.Tensor:
    return batch_bchw if device == "numpy" else torch.asarray(batch_bchw, device=device)


def _crops(count: int, side: int) -> np.ndarray:
    """Crops of smooth colours with texture, at integer 8-bit levels."""
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
