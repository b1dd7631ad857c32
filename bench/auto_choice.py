"""Whether `auto` beats every single model on a mix of clean, compressed and noisy pictures.

Held-out pictures are shrunk and damaged here, each in every way; every model enlarges all of them,
and `auto` takes for each the one that superres.analysis.model_selection names from the input alone.
What it gains over the best single model comes with a paired bootstrap interval over the pictures,
since inputs made of one picture are not independent of each other. Ends 1 where that interval
reaches zero. The last line is the result as JSON.

    python bench/auto_choice.py --models models --on sample
    python bench/auto_choice.py --models models --on unseen

`unseen` are pictures that come along with matplotlib, scikit-learn and scikit-image: no model was
trained on them, and the limits in superres.analysis.model_selection were set without them.
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
    """One damaged input: PSNR in dB by model, and which of them `auto` takes, and why."""

    picture: str
    damage: str
    psnr: dict[str, float]
    taken: str
    reason: str

    def of(self, who: str) -> float:
        """PSNR of a model, or of what `auto` takes."""
        return self.psnr[self.taken if who == AUTO else who]


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
    singles = {name: fmean(trial.of(name) for trial in trials) for name in upscalers}
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
    """What `auto` gains on a model in dB: the mean over the inputs made of each picture."""
    pictures = dict.fromkeys(trial.picture for trial in trials)
    return [
        fmean(trial.of(AUTO) - trial.of(best) for trial in trials if trial.picture == picture)
        for picture in pictures
    ]


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, default=Path("models"), help="folder of bundles")
    parser.add_argument("--on", default="sample", help="a folder of HR pictures, sample or unseen")
    parser.add_argument("--scale", type=int, default=4)
    parser.add_argument("--side", type=int, default=384, help="HR pixels, of the middle")
    parser.add_argument("--draws", type=int, default=1, help="of each damage for each picture")
    parser.add_argument("--backend", choices=("auto", "torch", "openvino"), default="auto")
    parser.add_argument("--damages", nargs="+", default=list(DAMAGES), help="of superres.degrade")
    return parser.parse_args(argv)


def _pictures(on: str) -> list[Path]:
    """Held-out pictures: of the embedded sample those of its validation split."""
    if on == "unseen":
        return [path for package, names in UNSEEN.items() for path in _inside(package, names)]
    if on != "sample":
        return list_pictures(find_held_out(on).folder)
    from training.data.sources.resolve import find_pictures

    return [each.path for each in find_pictures(["sample"]) if each.split == "validation"]


def _inside(package: str, names: Sequence[str]) -> Iterator[Path]:
    """Files of an installed package; it is found, not imported."""
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
        hr = _middle(cropped_to(read(path), arguments.scale), arguments.side, arguments.scale)
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
            taken=choice.model,
            reason=choice.reason,
        )


def _middle(hr: Picture, side: int, scale: int) -> Picture:
    side = side // scale * scale
    top, left = max(0, (hr.height - side) // 2), max(0, (hr.width - side) // 2)
    return Picture(rgb_hwc=hr.rgb_hwc[top : top + side, left : left + side], grey=hr.grey)


def _show(trials: Sequence[Trial], names: Sequence[str], damages: Sequence[str]) -> None:
    """Mean PSNR by model and damage, as a Markdown table ready for a page."""
    show(f"| PSNR dB, Y | {' | '.join(damages)} | all |\n|{'---|' * (len(damages) + 2)}")
    for name in names:
        parts = [[trial for trial in trials if trial.damage == kind] for kind in damages]
        means = [fmean(trial.of(name) for trial in part) for part in [*parts, trials]]
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
    taken = Counter(f"{trial.damage}: {trial.taken}" for trial in trials)
    return {
        "on": arguments.on,
        "pictures": len(gains),
        "inputs": len(trials),
        "psnr": {**singles, AUTO: fmean(trial.of(AUTO) for trial in trials)},
        "best_single": best,
        "gain_db": fmean(gains),
        "gain_interval_db": None if interval is None else [interval.lower, interval.upper],
        "taken": dict(taken),
        "regret_db": fmean(max(trial.psnr.values()) - trial.of(AUTO) for trial in trials),
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
