"""Whether `auto` beats every single model on a mix of clean, compressed and noisy pictures.

Held-out pictures are downscaled with every degradation; every model enlarges all inputs, and `auto`
uses the model that superres.analysis.model_selection selects from each input. The gain over the
best single model has a paired bootstrap interval over the pictures, because inputs of one picture
are not independent. Exits with 1 if that interval includes zero. The last line is the result as
JSON.

    python bench/auto_choice.py --models models --on sample
    python bench/auto_choice.py --models models --on unseen

`unseen` are pictures that ship with matplotlib, scikit-learn and scikit-image: no model was trained
on them, and the limits in superres.analysis.model_selection were set without them.
"""

import argparse
import importlib.util
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from superres.analysis.degradation_features import examine
from superres.analysis.model_selection import Candidate, SelectionRequest, select_model
from superres.common.console import emit, say, show, track
from superres.common.errors import SharplineError
from superres.degrade import degrade
from superres.evaluation.evaluate import cropped_to
from superres.evaluation.held_out import find_held_out
from superres.image.codecs import Picture, list_pictures, read
from superres.image.crop import center_crop
from superres.model.backends import load_backend
from superres.model.starters import find_bundles
from superres.model.upscaler import Upscaler
from superres.quality import Protocol, psnr
from superres.quality.intervals import Interval, mean_interval

AUTO = "auto"
DAMAGES = ("bicubic", "bicubic_jpeg", "gaussian_noise")
UNSEEN = {
    "matplotlib": ("mpl-data/sample_data/grace_hopper.jpg",),
    "sklearn": ("datasets/images/china.jpg", "datasets/images/flower.jpg"),
    "skimage": (
        *("data/brick.png", "data/camera.png", "data/coins.png", "data/grass.png"),
        "data/gravel.png",
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One degraded input: PSNR in dB by model, and the selected model with the reason."""

    picture: str
    damage: str
    psnr: dict[str, float]
    selected: str
    reason: str

    def psnr_of(self, model: str) -> float:
        """PSNR of a model, or of the selected model for `auto`."""
        return self.psnr[self.selected if model == AUTO else model]


def main(argv: Sequence[str]) -> int:
    arguments = _arguments(argv)
    bundles = [
        each for each in find_bundles(arguments.models) if each.info.scale == arguments.scale
    ]
    if not bundles:
        raise SharplineError(f"{arguments.models} holds no model of scale {arguments.scale}")
    upscalers = {
        bundle.info.name: Upscaler(
            bundle, load_backend(bundle, backend=arguments.backend, precision="fp32")
        )
        for bundle in bundles
    }
    trials = list(_trials(_pictures(arguments.on), upscalers, arguments))
    singles = {name: fmean(trial.psnr_of(name) for trial in trials) for name in upscalers}
    best = max(singles, key=singles.__getitem__)
    gains = gains_by_picture(trials, best)
    interval = mean_interval(gains)
    _show(trials, [*upscalers, AUTO], arguments.damages)
    say(
        f"auto against {best}, the best single model: {fmean(gains):+.3f} dB over {len(gains)} "
        f"pictures, 95% {interval}"
    )
    emit(_result(trials, singles, best, gains, interval, arguments))
    return 0 if interval is not None and interval.lower > 0 else 1


def gains_by_picture(trials: Sequence[Trial], best: str) -> list[float]:
    """Gain of `auto` over a model in dB: for each picture the mean over its inputs."""
    pictures = dict.fromkeys(trial.picture for trial in trials)
    return [
        fmean(
            trial.psnr_of(AUTO) - trial.psnr_of(best)
            for trial in trials
            if trial.picture == picture
        )
        for picture in pictures
    ]


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, default=Path("models"), help="folder of bundles")
    parser.add_argument("--on", default="sample", help="a folder of HR pictures, sample or unseen")
    parser.add_argument("--scale", type=int, default=4)
    parser.add_argument("--side", type=int, default=384, help="HR pixels of the centre crop")
    parser.add_argument("--draws", type=int, default=1, help="draws per degradation and picture")
    parser.add_argument("--backend", choices=("auto", "torch", "openvino"), default="auto")
    parser.add_argument(
        "--damages", nargs="+", default=list(DAMAGES), help="kinds of superres.degrade"
    )
    return parser.parse_args(argv)


def _pictures(on: str) -> list[Path]:
    """Held-out pictures; for `sample` its validation split."""
    if on == "unseen":
        return [path for package, names in UNSEEN.items() for path in _inside(package, names)]
    if on != "sample":
        return list_pictures(find_held_out(on).folder)
    from training.data.sources.resolve import find_pictures

    return [each.path for each in find_pictures(["sample"]) if each.split == "validation"]


def _inside(package: str, names: Sequence[str]) -> Iterator[Path]:
    """Files of an installed package, which is not imported."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise SharplineError(f"the unseen pictures need the package {package}: pip install it")
    yield from (Path(spec.origin).parent / name for name in names)


def _trials(
    paths: Sequence[Path], upscalers: dict[str, Upscaler], arguments: argparse.Namespace
) -> Iterator[Trial]:
    candidates = [Candidate.of(each.bundle.info) for each in upscalers.values()]
    request = SelectionRequest(scale=arguments.scale)
    protocol = Protocol(
        dataset=arguments.on,
        scale=arguments.scale,
        channel="y",
        border=arguments.scale,
        resampler="mixed",
    )
    inputs = [(path, kind, draw) for path in paths for kind in arguments.damages
              for draw in range(1 if kind == "bicubic" else arguments.draws)]  # fmt: skip
    for number, (path, kind, draw) in enumerate(track(inputs, "enlarging")):
        hr = cropped_to(read(path), arguments.scale)
        side = arguments.side // arguments.scale * arguments.scale
        hr = Picture(rgb_hwc=center_crop(hr.rgb_hwc, side), grey=hr.grey)
        seed = 1000 * number + draw
        lr_hwc = degrade(hr.rgb_hwc, kind=kind, scale=arguments.scale, seed=seed).lr_hwc_u8
        lr = Picture(rgb_hwc=lr_hwc, grey=hr.grey)
        choice = select_model(examine(lr_hwc), request, candidates)
        yield Trial(
            picture=path.stem,
            damage=kind,
            psnr={
                name: psnr(upscaler.upscale(lr).rgb_hwc, hr.rgb_hwc, protocol)
                for name, upscaler in upscalers.items()
            },
            selected=choice.model,
            reason=choice.reason,
        )


def _show(trials: Sequence[Trial], names: Sequence[str], damages: Sequence[str]) -> None:
    """Print mean PSNR by model and degradation as a Markdown table."""
    show(f"| PSNR dB, Y | {' | '.join(damages)} | all |\n|{'---|' * (len(damages) + 2)}")
    for name in names:
        parts = [[trial for trial in trials if trial.damage == kind] for kind in damages]
        means = [fmean(trial.psnr_of(name) for trial in part) for part in [*parts, trials]]
        cells = " | ".join(f"{mean:.2f}" for mean in means)
        show(f"| {f'**{name}**' if name == AUTO else f'`{name}`'} | {cells} |")


def _result(
    trials: Sequence[Trial],
    singles: dict[str, float],
    best: str,
    gains: Sequence[float],
    interval: Interval | None,
    arguments: argparse.Namespace,
) -> dict[str, object]:
    selected = Counter(f"{trial.damage}: {trial.selected}" for trial in trials)
    return {
        "on": arguments.on,
        "pictures": len(gains),
        "inputs": len(trials),
        "psnr": {**singles, AUTO: fmean(trial.psnr_of(AUTO) for trial in trials)},
        "best_single": best,
        "gain_db": fmean(gains),
        "gain_interval_db": None if interval is None else [interval.lower, interval.upper],
        "taken": dict(selected),
        "regret_db": fmean(max(trial.psnr.values()) - trial.psnr_of(AUTO) for trial in trials),
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
