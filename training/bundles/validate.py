"""Scores of weights under training, through the Upscaler, in float32."""

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
    answers,
    load_pairs,
)
from superres.image.codecs import Picture, write
from superres.model.backends.torch_backend import TorchBackend
from superres.model.bundle import Bundle
from superres.model.upscaler import Upscaler
from training.recipe import Profile

CHANNEL = "y"
SAMPLE_PICTURES = 4
SAMPLE_SIDE = 320  # HR pixels of each of the pictures that stand side by side
SMOKE_PICTURES = 2
SMOKE_SIDE = 128  # HR pixels, down to a multiple of the scale


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationResult:
    """Scores of every held-out picture, and where pictures to look at were written."""

    evaluation: Evaluation
    samples: tuple[Path, ...]


def held_out(dataset: Path, profile: Profile) -> PairSet | None:
    """The dataset's validation split, None where it has none.

    A smoke takes only the middles of a few of its pictures, and the set's name says so, since such
    scores compare with no others.
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
        pairs=(_middle_pair(pair, info.scale) for pair in islice(pairs.pairs, SMOKE_PICTURES)),
    )


def validate(
    bundle: Bundle, pairs: PairSet | None, samples_folder: Path, *, device: str = "auto"
) -> ValidationResult | None:
    """Score a bundle on pairs that were held out, None where there are none.

    Nothing is compiled for it: these weights answer a few pictures and are never asked again.
    Writes up to SAMPLE_PICTURES pictures of input, bicubic, model and truth side by side.
    """
    if pairs is None:
        return None
    protocol = pairs.protocol(CHANNEL)
    backend = TorchBackend(bundle, device=device, precision="fp32", fast=False)
    scores, samples = [], []
    for answer in answers(Upscaler(bundle, backend), pairs.pairs, protocol):
        scores.append(answer.score)
        if len(samples) < SAMPLE_PICTURES:
            path = samples_folder / f"{answer.pair.name}.png"
            write(path, Picture(rgb_hwc=side_by_side(answer, pairs.scale)))
            samples.append(path)
    backend.close()
    return ValidationResult(
        evaluation=Evaluation(protocol=protocol, pictures=tuple(scores)), samples=tuple(samples)
    )


def side_by_side(answer: EvaluatedPair, scale: int) -> npt.NDArray[np.uint8]:
    """Input (enlarged by repetition), bicubic, model and truth of the picture's middle."""
    repeated = answer.pair.lr.rgb_hwc.repeat(scale, axis=0).repeat(scale, axis=1)
    shown = (repeated, answer.bicubic_hwc, answer.rgb_hwc, answer.pair.hr.rgb_hwc)
    return np.concatenate([_middle(picture) for picture in shown], axis=1)


def metrics(evaluation: Evaluation) -> Mapping[str, float]:
    """Means and every picture's figures, named for a tracking server."""
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


def _middle_pair(pair: Pair, scale: int) -> Pair:
    side = SMOKE_SIDE // scale
    top, left = max(0, (pair.lr.height - side) // 2), max(0, (pair.lr.width - side) // 2)
    lr_hwc = pair.lr.rgb_hwc[top : top + side, left : left + side]
    lines = slice(top * scale, (top + side) * scale)
    columns = slice(left * scale, (left + side) * scale)
    hr_hwc = pair.hr.rgb_hwc[lines, columns]
    return replace(pair, lr=replace(pair.lr, rgb_hwc=lr_hwc), hr=replace(pair.hr, rgb_hwc=hr_hwc))


def _middle(hwc_u8: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    height, width = hwc_u8.shape[:2]
    top, left = max(0, (height - SAMPLE_SIDE) // 2), max(0, (width - SAMPLE_SIDE) // 2)
    return hwc_u8[top : top + SAMPLE_SIDE, left : left + SAMPLE_SIDE]
