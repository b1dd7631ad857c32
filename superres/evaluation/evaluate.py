"""PSNR and SSIM of a model on pairs of pictures, for training, the gate and `evaluate`."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from numpy.typing import NDArray

from superres.common.errors import SharplineError
from superres.dataset.manifest import (
    INFO_NAME,
    MANIFEST_NAME,
    ManifestRow,
    read_info,
    read_manifest,
)
from superres.image.codecs import Picture, list_pictures, read
from superres.image.resize import imresize
from superres.model.upscaler import Upscaler
from superres.quality import Protocol, psnr, ssim

Array = NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A low-resolution input and its ground truth, `scale` times larger."""

    name: str
    lr: Picture
    hr: Picture


@dataclass(frozen=True, slots=True, kw_only=True)
class PairSet:
    """Pairs, read one at a time, and how they were made."""

    dataset: str
    scale: int
    resampler: str
    names: tuple[str, ...]
    pairs: Iterable[Pair]

    def protocol(self, channel: str) -> Protocol:
        """The protocol for scores on these pairs; the border crop equals the scale."""
        if channel not in ("y", "rgb"):
            raise SharplineError(f"no channel {channel!r}; choose y or rgb")
        return Protocol(
            dataset=self.dataset,
            scale=self.scale,
            channel="y" if channel == "y" else "rgb",
            border=self.scale,
            resampler=self.resampler,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureScore:
    """One picture's PSNR and SSIM, and those of bicubic enlargement of the same input."""

    name: str
    psnr: float
    ssim: float
    bicubic_psnr: float
    bicubic_ssim: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluatedPair:
    """A model's output for one pair, bicubic's, and the scores of both."""

    pair: Pair
    rgb_hwc: Array
    bicubic_hwc: Array
    score: PictureScore


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Scores of every picture under one protocol, and their means."""

    protocol: Protocol
    pictures: tuple[PictureScore, ...]

    @property
    def psnr(self) -> float:
        return fmean(picture.psnr for picture in self.pictures)

    @property
    def ssim(self) -> float:
        return fmean(picture.ssim for picture in self.pictures)

    @property
    def bicubic_psnr(self) -> float:
        return fmean(picture.bicubic_psnr for picture in self.pictures)

    @property
    def bicubic_ssim(self) -> float:
        return fmean(picture.bicubic_ssim for picture in self.pictures)


def evaluate(
    upscaler: Upscaler, pairs: Iterable[Pair], protocol: Protocol, *, whole: bool = False
) -> Evaluation:
    """Score a model; `whole` runs canonical whole-picture inference instead of tiles.

    Raises SharplineError if there is no picture or a pair's sizes do not match the scale.
    """
    scores = tuple(
        evaluated.score for evaluated in evaluate_pairs(upscaler, pairs, protocol, whole=whole)
    )
    if not scores:
        raise SharplineError("there is no picture to score a model on")
    return Evaluation(protocol=protocol, pictures=scores)


def evaluate_pairs(
    upscaler: Upscaler, pairs: Iterable[Pair], protocol: Protocol, *, whole: bool = False
) -> Iterator[EvaluatedPair]:
    """Yield the evaluated pairs of `evaluate`, with pixels, one at a time.

    Raises SharplineError if a pair's sizes do not match the scale.
    """
    for pair in pairs:
        require_sizes(pair, protocol.scale)
        enlarged = upscaler.whole(pair.lr) if whole else upscaler.upscale(pair.lr)
        yield score_pair(pair, enlarged, protocol)


def score_pair(pair: Pair, enlarged: Picture, protocol: Protocol) -> EvaluatedPair:
    """Score a model's output for a pair against the ground truth, and bicubic's."""
    truth = pair.hr.rgb_hwc
    bicubic_hwc = imresize(pair.lr.rgb_hwc, scale=protocol.scale)
    score = PictureScore(
        name=pair.name,
        psnr=psnr(enlarged.rgb_hwc, truth, protocol),
        ssim=ssim(enlarged.rgb_hwc, truth, protocol),
        bicubic_psnr=psnr(bicubic_hwc, truth, protocol),
        bicubic_ssim=ssim(bicubic_hwc, truth, protocol),
    )
    return EvaluatedPair(pair=pair, rgb_hwc=enlarged.rgb_hwc, bicubic_hwc=bicubic_hwc, score=score)


def require_sizes(pair: Pair, scale: int) -> None:
    """Raise SharplineError unless the ground truth is exactly `scale` times the input."""
    if (pair.hr.height, pair.hr.width) != (pair.lr.height * scale, pair.lr.width * scale):
        raise SharplineError(
            f"{pair.name}: the ground truth of {pair.hr.width}x{pair.hr.height} is not {scale} "
            f"times the low-resolution picture of {pair.lr.width}x{pair.lr.height}"
        )


def load_pairs(path: Path, scale: int, split: str = "validation") -> PairSet:
    """Load pairs from a split of a dataset folder, or from a folder of high-resolution pictures.

    The inputs of a plain folder are made by MATLAB's bicubic. Raises SharplineError for an empty
    folder, or a dataset of another scale.
    """
    if (path / INFO_NAME).is_file():
        return pairs_from_dataset(path, scale, split)
    return pairs_from_folder(path, scale)


def pairs_from_folder(folder: Path, scale: int, name: str | None = None) -> PairSet:
    """Every picture in `folder`, cropped to the scale and shrunk by MATLAB's bicubic.

    The set is named `name`, by default after the folder.
    """
    paths = list_pictures(folder)
    if not paths:
        raise SharplineError(f"{folder} contains no pictures")

    def pairs() -> Iterator[Pair]:
        for path in paths:
            hr = cropped_to(read(path), scale)
            lr = Picture(rgb_hwc=imresize(hr.rgb_hwc, scale=1 / scale), grey=hr.grey)
            yield Pair(name=path.stem, lr=lr, hr=hr)

    return PairSet(
        dataset=name or folder.resolve().name,
        scale=scale,
        resampler="matlab-bicubic",
        names=tuple(path.stem for path in paths),
        pairs=pairs(),
    )


def pairs_from_dataset(folder: Path, scale: int, split: str) -> PairSet:
    """The pairs of one split of a dataset that `sharpline data build` made."""
    info = read_info(folder)
    if info.scale != scale:
        raise SharplineError(
            f"{folder} is a dataset for scale {info.scale}, not {scale}; build "
            f"one with --scale {scale}"
        )
    rows = [row for row in read_manifest(folder / MANIFEST_NAME) if row.split == split]
    if not rows:
        raise SharplineError(f"{folder} has no pictures in its {split} split")

    def pairs() -> Iterator[Pair]:
        for row in rows:
            yield Pair(
                name=_name(row), lr=read(folder / row.lr_path), hr=read(folder / row.hr_path)
            )

    return PairSet(
        dataset=info.id,
        scale=scale,
        resampler=info.degradation,
        names=tuple(_name(row) for row in rows),
        pairs=pairs(),
    )


def _name(row: ManifestRow) -> str:
    """The picture's name, with the draw number from the second draw on."""
    return row.name if row.draw == 1 else f"{row.name} #{row.draw}"


def cropped_to(hr: Picture, scale: int) -> Picture:
    """Crop the picture on the right and at the bottom to multiples of `scale`."""
    height, width = hr.height // scale * scale, hr.width // scale * scale
    if min(height, width) < 1:
        raise SharplineError(f"{hr.name}: {hr.width}x{hr.height} is too small for scale {scale}")
    return Picture(rgb_hwc=hr.rgb_hwc[:height, :width], grey=hr.grey, name=hr.name)
