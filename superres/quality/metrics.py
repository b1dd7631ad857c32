"""Metrics by name, with the reasons for those that are unavailable."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from superres.common.errors import UsageError
from superres.quality.metric import Metric, MetricUnavailable
from superres.quality.ms_ssim import VARIANT as MS_SSIM_VARIANT
from superres.quality.ms_ssim import ms_ssim
from superres.quality.niqe import load_niqe
from superres.quality.protocol import SSIM_VARIANT
from superres.quality.psnr_ssim import psnr, ssim

WEIGHTS_VARIABLE = "SHARPLINE_METRIC_WEIGHTS"

PSNR = Metric(
    name="psnr", title="PSNR", better="higher", variant="8-bit peak", compute=psnr, unit="dB"
)
SSIM = Metric(name="ssim", title="SSIM", better="higher", variant=SSIM_VARIANT, compute=ssim)
MS_SSIM = Metric(
    name="ms_ssim", title="MS-SSIM", better="higher", variant=MS_SSIM_VARIANT, compute=ms_ssim
)


def weights_folder(folder: Path | None = None) -> Path | None:
    """The folder with the weights of LPIPS and DISTS: `folder`, else WEIGHTS_VARIABLE's."""
    variable = os.environ.get(WEIGHTS_VARIABLE)
    return folder or (Path(variable).expanduser() if variable else None)


def _needs_folder(name: str, load: Callable[[Path], Metric]) -> Callable[[Path | None], Metric]:
    """A loader for metrics whose weights do not ship with the project."""

    def loader(weights: Path | None) -> Metric:
        if weights is None:
            raise MetricUnavailable(
                f"{name} needs its authors' weights: set their folder with --weights or "
                f"{WEIGHTS_VARIABLE}; docs/evaluation.md lists the files and their addresses"
            )
        return load(weights)

    return loader


def _lpips(weights: Path) -> Metric:
    from superres.quality.lpips import load_lpips

    return load_lpips(weights, "alex")


def _lpips_vgg(weights: Path) -> Metric:
    from superres.quality.lpips import load_lpips

    return load_lpips(weights, "vgg")


def _dists(weights: Path) -> Metric:
    from superres.quality.dists import load_dists

    return load_dists(weights)


_LOADERS: dict[str, Callable[[Path | None], Metric]] = {
    "psnr": lambda weights: PSNR,
    "ssim": lambda weights: SSIM,
    "ms_ssim": lambda weights: MS_SSIM,
    "lpips": _needs_folder("LPIPS", _lpips),
    "lpips_vgg": _needs_folder("LPIPS", _lpips_vgg),
    "dists": _needs_folder("DISTS", _dists),
    "niqe": load_niqe,
}
METRIC_NAMES = tuple(_LOADERS)
DEFAULT_METRICS = ("psnr", "ssim", "ms_ssim", "lpips", "dists", "niqe")


def load_metric(name: str, weights: Path | None = None) -> Metric:
    """A metric by name, with the weights in a folder (see `weights_folder`).

    Raises MetricUnavailable saying what is missing, UsageError for an unknown name.
    """
    if name not in _LOADERS:
        raise UsageError(f"no metric {name!r}; there are: {', '.join(METRIC_NAMES)}")
    return _LOADERS[name](weights)


def load_metrics(
    names: Iterable[str], weights: Path | None = None
) -> tuple[tuple[Metric, ...], dict[str, str]]:
    """The available metrics, and by name the reasons why the others are unavailable."""
    ready: list[Metric] = []
    refused: dict[str, str] = {}
    for name in names:
        try:
            ready.append(load_metric(name, weights))
        except MetricUnavailable as error:
            refused[name] = str(error)
    return tuple(ready), refused
