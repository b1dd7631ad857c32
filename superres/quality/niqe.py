"""NIQE (Mittal, Soundararajan and Bovik 2013): distance from pristine photographs, 0 is best.

A no-reference metric. Local mean and contrast are normalised, natural-scene statistics are fitted
block by block at two scales, and NIQE is the distance of their Gaussian from that of pristine
photographs.

That Gaussian is the authors' (fitted to 125 photographs), since values by another one could not be
compared with published ones. It is read from basicsr's wheel, which has it in numpy's format, or
from a copy of the file.
"""

import importlib.util
import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from superres.common.files import sha256_file
from superres.image.resize import imresize
from superres.quality.channels import luma, to_255
from superres.quality.metric import Metric, MetricUnavailable, NotMeasurable, QualityMetric
from superres.quality.protocol import Protocol
from superres.quality.window import local_means

Array = NDArray[Any]
Floats = NDArray[np.float64]

MODEL_FILE = "niqe_pris_params.npz"
BLOCK = 96  # pixels a side at the first scale, as the authors advise
MIN_BLOCKS = 2  # a covariance needs two samples
WINDOW, SIGMA = 7, 7 / 6
# Offsets of the neighbours in the products: along rows, columns and both diagonals.
NEIGHBOURS = ((0, 1), (1, 0), (1, 1), (1, -1))
SHAPES = np.arange(0.2, 10.001, 0.001)


@dataclass(frozen=True, slots=True)
class PristineModel:
    """Mean (36,) and covariance (36, 36) of pristine photographs' features, and the sha256."""

    mean: Floats
    covariance: Floats
    sha256: str


def load_niqe(weights: Path | None) -> Metric:
    """NIQE with the model in `weights`, else in basicsr. Raises MetricUnavailable."""
    model = read_model(_model_file(weights))

    def compute(test_hwc: Array, truth_hwc: Array, protocol: Protocol) -> float:
        return niqe(test_hwc, protocol, model)

    variant = f"Mittal 2013, blocks of {BLOCK}, model {model.sha256[:8]}"
    return Metric(
        name="niqe", title="NIQE", better="lower", variant=variant, compute=compute, decimals=2
    )


def read_model(path: Path) -> PristineModel:
    """Read the model from basicsr's file. Raises MetricUnavailable for another file."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            mean = stored["mu_pris_param"].astype(np.float64).reshape(36)
            covariance = stored["cov_pris_param"].astype(np.float64).reshape(36, 36)
    except (OSError, ValueError, KeyError) as error:
        raise MetricUnavailable(
            f"{path} is not NIQE's model as basicsr ships it ({error}); copy it from there again"
        ) from error
    return PristineModel(mean, covariance, sha256_file(path))


def niqe(rgb_hwc: Array, protocol: Protocol, model: PristineModel) -> float:
    """NIQE of an RGB picture's luma inside the protocol's border crop.

    Raises NotMeasurable for a picture of fewer than MIN_BLOCKS blocks.
    """
    border = protocol.border
    luma_hw = luma(to_255(rgb_hwc, protocol))[..., 0]
    luma_hw = luma_hw[border : luma_hw.shape[0] - border, border : luma_hw.shape[1] - border]
    rows, columns = luma_hw.shape[0] // BLOCK, luma_hw.shape[1] // BLOCK
    if rows * columns < MIN_BLOCKS:
        raise NotMeasurable(
            f"NIQE needs {MIN_BLOCKS} blocks of {BLOCK}x{BLOCK} pixels inside the border crop of "
            f"{border}; this picture leaves {luma_hw.shape[1]}x{luma_hw.shape[0]}"
        )
    features = block_features(luma_hw[: rows * BLOCK, : columns * BLOCK])
    finite = features[np.isfinite(features).all(axis=1)]
    if len(finite) < MIN_BLOCKS:
        raise NotMeasurable("NIQE is undefined: the picture is flat")
    difference = model.mean - np.nanmean(features, axis=0)
    pooled = (model.covariance + np.cov(finite, rowvar=False)) / 2
    # Equation 10; with few blocks the covariance is singular, hence the pseudo-inverse.
    return float(np.sqrt(difference @ np.linalg.pinv(pooled) @ difference))


def block_features(luma_hw: Floats) -> Floats:
    """The 36 features of every block, 18 at each of two scales; sides are multiples of BLOCK.

    The features of a block without contrast are non-finite.
    """
    coarse_hw = imresize(luma_hw / 255.0, scale=0.5) * 255.0
    scales = ((luma_hw, BLOCK), (coarse_hw, BLOCK // 2))
    return np.concatenate(
        [_features(_blocks(_normalised(values_hw), side)) for values_hw, side in scales], axis=1
    )


def _normalised(values_hw: Floats) -> Floats:
    """Equation 1: normalise local mean and deviation (MSCN coefficients)."""
    mean = local_means(values_hw, WINDOW, SIGMA, edges=True)
    squares = local_means(values_hw**2, WINDOW, SIGMA, edges=True)
    return (values_hw - mean) / (np.sqrt(np.abs(squares - mean**2)) + 1)


def _blocks(values_hw: Floats, side: int) -> Floats:
    rows, columns = values_hw.shape[0] // side, values_hw.shape[1] // side
    grid = values_hw.reshape(rows, side, columns, side)
    return grid.transpose(0, 2, 1, 3).reshape(-1, side, side)


def _features(blocks: Floats) -> Floats:
    """Equations 4 to 8: the fits of the values and of the products of neighbours: (blocks, 18)."""
    shape, left, right = _asymmetric_fit(blocks)
    columns = [shape, (left + right) / 2]
    for shift in NEIGHBOURS:
        shape, left, right = _asymmetric_fit(blocks * np.roll(blocks, shift, axis=(1, 2)))
        mean = (right - left) * (_gamma(2 / shape) / _gamma(1 / shape))
        columns += [shape, mean, left, right]
    return np.stack(columns, axis=1)


def _asymmetric_fit(blocks: Floats) -> tuple[Floats, Floats, Floats]:
    """Fit an asymmetric generalised Gaussian by moments: shape, left scale, right scale.

    After Lasmar, Stitou and Berthoumieu 2009; each of the three is (blocks,).
    """
    with np.errstate(invalid="ignore"):
        left, right = _one_sided(blocks, blocks < 0), _one_sided(blocks, blocks > 0)
        ratio = left / right
        peakedness = np.abs(blocks).mean(axis=(1, 2)) ** 2 / (blocks**2).mean(axis=(1, 2))
        target_ratio: Floats = peakedness * (ratio**3 + 1) * (ratio + 1) / (ratio**2 + 1) ** 2
    # The moment ratio rises with the shape, so the nearest entry is one of two neighbours.
    ratios = _moment_ratios()
    above = np.clip(np.searchsorted(ratios, target_ratio), 1, len(SHAPES) - 1)
    nearer_below = target_ratio - ratios[above - 1] <= ratios[above] - target_ratio
    shape = SHAPES[np.where(nearer_below, above - 1, above)]
    spread = np.sqrt(_gamma(1 / shape) / _gamma(3 / shape))
    return np.where(np.isfinite(target_ratio), shape, np.nan), left * spread, right * spread


def _one_sided(blocks: Floats, side: NDArray[np.bool_]) -> Floats:
    """Root mean square of each block's values on one side of zero."""
    return np.sqrt((blocks**2).sum(axis=(1, 2), where=side) / side.sum(axis=(1, 2)))


@cache
def _moment_ratios() -> Floats:
    """Squared mean of the absolute value over mean of the square, for every shape in SHAPES."""
    return _gamma(2 / SHAPES) ** 2 / (_gamma(1 / SHAPES) * _gamma(3 / SHAPES))


def _gamma(values: Floats) -> Floats:
    return np.array([math.gamma(value) for value in values])


def _model_file(weights: Path | None) -> Path:
    if weights is not None and (weights / MODEL_FILE).is_file():
        return weights / MODEL_FILE
    # Located without importing: basicsr's import is slow and restricted to one module.
    spec = importlib.util.find_spec("basicsr")
    for location in (spec.submodule_search_locations or []) if spec else []:
        path = Path(location) / "metrics" / MODEL_FILE
        if path.is_file():
            return path
    raise MetricUnavailable(
        f"NIQE needs the authors' model of pristine photographs, {MODEL_FILE} of basicsr: "
        "pip install 'sharpline[train]', or put the file into the folder of --weights"
    )


METRIC = QualityMetric(name="niqe", load=load_niqe)
