"""Validation scores during training, through the Upscaler, in float32."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from superres.dataset.manifest import read_info
from superres.evaluation.evaluate import (
    EvaluatedPair,
    Evaluation,
    Pair,
    PairSet,
    evaluate_pairs,
    load_pairs,
)
from superres.image.codecs import Picture, write
from superres.image.crop import center_crop
from superres.model.backends.torch_backend import TorchBackend
from superres.model.bundle import Bundle
from superres.model.upscaler import Upscaler
from training.recipe import Profile

CHANNEL = "y"
SAMPLE_PICTURES = 4
SAMPLE_SIDE = 320  # HR pixels of each picture in a side-by-side sample
SMOKE_PICTURES = 2
SMOKE_SIDE = 128  # HR pixels, rounded down to a multiple of the scale


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationResult:
    """Scores of every held-out picture, and the paths of the sample pictures."""

    evaluation: Evaluation
    samples: tuple[Path, ...]


def held_out(dataset: Path, profile: Profile) -> PairSet | None:
    """The dataset's validation split, None if it has none.

    A smoke uses centre crops of a few pictures only, and the set's name says so: such scores are
    not comparable with others.
    """
    info = read_info(dataset)
    if not info.splits.get("validation"):
        return None
    pairs = load_pairs(dataset, info.scale, "validation")
    if profile != "smoke":
        return pairs
    return replace(
        pairs,
        dataset=f"{pairs.dataset} (middles of {min(SMOKE_PICTURES, len(pairs.names))})",
        names=pairs.names[:SMOKE_PICTURES],
        pairs=(_center_pair(pair, info.scale) for pair in islice(pairs.pairs, SMOKE_PICTURES)),
    )


def validate(
    bundle: Bundle, pairs: PairSet | None, samples_folder: Path, *, device: str = "auto"
) -> ValidationResult | None:
    """Score a bundle on held-out pairs; None if there are none.

    The network is not compiled, since these weights run on a few pictures only. Writes up to
    SAMPLE_PICTURES samples: input, bicubic, model output and ground truth side by side.
    """
    if pairs is None:
        return None
    protocol = pairs.protocol(CHANNEL)
    backend = TorchBackend(bundle, device=device, precision="fp32", fast=False)
    scores, samples = [], []
    for evaluated in evaluate_pairs(Upscaler(bundle, backend), pairs.pairs, protocol):
        scores.append(evaluated.score)
        if len(samples) < SAMPLE_PICTURES:
            path = samples_folder / f"{evaluated.pair.name}.png"
            write(path, Picture(rgb_hwc=side_by_side(evaluated, pairs.scale)))
            samples.append(path)
    backend.close()
    return ValidationResult(
        evaluation=Evaluation(protocol=protocol, pictures=tuple(scores)), samples=tuple(samples)
    )


def side_by_side(evaluated: EvaluatedPair, scale: int) -> npt.NDArray[np.uint8]:
    """Centre crops of input (nearest neighbour), bicubic, model output and ground truth."""
    repeated = evaluated.pair.lr.rgb_hwc.repeat(scale, axis=0).repeat(scale, axis=1)
    shown = (repeated, evaluated.bicubic_hwc, evaluated.rgb_hwc, evaluated.pair.hr.rgb_hwc)
    return np.concatenate([center_crop(picture, SAMPLE_SIDE) for picture in shown], axis=1)


def metrics(evaluation: Evaluation) -> Mapping[str, float]:
    """Mean and per-picture scores by metric name for the tracking server."""
    values = {
        "validation/psnr": evaluation.psnr,
        "validation/ssim": evaluation.ssim,
        "validation/bicubic_psnr": evaluation.bicubic_psnr,
        "validation/bicubic_ssim": evaluation.bicubic_ssim,
    }
    for picture in evaluation.pictures:
        values[f"picture/{picture.name}/psnr"] = picture.psnr
        values[f"picture/{picture.name}/ssim"] = picture.ssim
        values[f"picture/{picture.name}/gain_over_bicubic"] = picture.psnr - picture.bicubic_psnr
    return values


def _center_pair(pair: Pair, scale: int) -> Pair:
    side = SMOKE_SIDE // scale
    lr_hwc = center_crop(pair.lr.rgb_hwc, side)
    hr_hwc = center_crop(pair.hr.rgb_hwc, side * scale, multiple=scale)
    return replace(pair, lr=replace(pair.lr, rgb_hwc=lr_hwc), hr=replace(pair.hr, rgb_hwc=hr_hwc))
