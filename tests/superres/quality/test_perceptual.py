"""MS-SSIM, NIQE, LPIPS and DISTS equal their references, and are refused if unavailable.

The weights of LPIPS and DISTS do not ship with the project, so seeded ones are used and compared
with the papers' formulas, written with torch's functions.
"""

import hashlib
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from superres.common.errors import SharplineError, UsageError
from superres.image.resize import imresize
from superres.quality import Protocol
from superres.quality import features as trunks
from superres.quality.dists import BlurredPooling, Dists, load_dists
from superres.quality.features import CHANNELS, Features, unit_bchw
from superres.quality.lpips import Lpips, load_lpips
from superres.quality.metric import Metric, MetricUnavailable, NotMeasurable, QualityMetric
from superres.quality.metrics import (
    QUALITY_METRICS,
    WEIGHTS_VARIABLE,
    load_metric,
    load_metrics,
    weights_folder,
)
from superres.quality.ms_ssim import MIN_SIDE, WEIGHTS, _halved, ms_ssim
from superres.quality.niqe import load_niqe

RGB = Protocol(dataset="made", scale=4, channel="rgb", border=4)
Y = Protocol(dataset="made", scale=4, channel="y", border=4)
CONVOLUTIONS = {
    "alex": {0: (4, 2), 3: (1, 2), 6: (1, 1), 8: (1, 1), 10: (1, 1)},
    "vgg": dict.fromkeys((0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28), (1, 1)),
}
ALEX_POOLS = (0, 3)  # a pooling follows these convolutions
VGG_STAGES = (2, 7, 14, 21, 28)


def photograph(side: int = 264) -> np.ndarray:
    from skimage import data

    return imresize(data.astronaut(), size=(side, side))


def degraded(truth: np.ndarray) -> np.ndarray:
    return imresize(imresize(truth, scale=0.25), scale=4)


def batches(side: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    truth = torch.rand(2, 3, side, side + 3, generator=generator)
    noise = torch.randn(truth.shape, generator=generator)
    return (truth + 0.2 * noise).clamp(0, 1), truth


def seeded_trunk(trunk: str, pool=None) -> Features:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Features(trunk, pool).eval()


def test_ms_ssim_is_the_product_over_scales() -> None:
    from skimage.metrics import structural_similarity

    truth = photograph()[:200, :184]
    test = degraded(truth)
    pair = [picture[4:-4, 4:-4].astype(np.float64) for picture in (test, truth)]
    product = np.ones(3)
    for number, weight in enumerate(WEIGHTS):
        _, maps = structural_similarity(
            *pair, data_range=255, channel_axis=2, gaussian_weights=True, sigma=1.5,
            use_sample_covariance=False, full=True,
        )  # fmt: skip
        means = [
            np.stack([reference_window(side[..., c]) for c in range(3)], axis=-1) for side in pair
        ]
        luminance = (2 * means[0] * means[1] + 6.5025) / (means[0] ** 2 + means[1] ** 2 + 6.5025)
        inner = maps[5:-5, 5:-5]
        value = inner if number == len(WEIGHTS) - 1 else inner / luminance
        product *= value.mean(axis=(0, 1)) ** weight
        pair = [side[: side.shape[0] // 2 * 2, : side.shape[1] // 2 * 2] for side in pair]
        pair = [
            side.reshape(side.shape[0] // 2, 2, side.shape[1] // 2, 2, 3).mean(axis=(1, 3))
            for side in pair
        ]
    assert ms_ssim(test, truth, RGB) == pytest.approx(product.mean(), abs=1e-9)


def reference_window(values_hw: np.ndarray) -> np.ndarray:
    """The 11x11 Gaussian mean as a double sum of shifted pictures."""
    taps = [math.exp(-((offset - 5) ** 2) / 4.5) for offset in range(11)]
    height, width = values_hw.shape[0] - 10, values_hw.shape[1] - 10
    total = np.zeros((height, width))
    for row, down in enumerate(taps):
        for column, across in enumerate(taps):
            total += down * across * values_hw[row : row + height, column : column + width]
    return total / sum(taps) ** 2


def test_ms_ssim_equals_pytorch_msssim() -> None:
    # pytorch-msssim 1.0.0 of this pair: its halving equals Wang's where 16 divides the sides.
    rows, columns = np.mgrid[:192, :208]
    truth = np.stack(
        [127 + 100 * np.sin(rows / (5 + c)) * np.cos(columns / (7 + c)) for c in range(3)], axis=-1
    )
    test = truth + 20 * np.sin(rows * columns / 50.0)[..., None]
    whole = Protocol(dataset="made", scale=1, channel="rgb", border=0)
    assert ms_ssim(test, truth, whole) == pytest.approx(0.9777994953568974, abs=1e-6)
    assert ms_ssim(truth, truth, whole) == pytest.approx(1.0)
    assert ms_ssim(255 - truth, truth, whole) == 0.0


def test_an_odd_row_or_column_is_mirrored_before_halving() -> None:
    values = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]])
    np.testing.assert_allclose(_halved(values), [[3.0, 4.5], [7.5, 9.0]])


def test_ms_ssim_refuses_pictures_smaller_than_its_coarsest_window() -> None:
    picture = photograph(MIN_SIDE + 2 * Y.border)
    assert ms_ssim(picture, picture, Y) == pytest.approx(1.0)
    with pytest.raises(NotMeasurable, match=r"161 pixels.*leaves 161x160"):
        ms_ssim(picture[:-1], picture[:-1], Y)


@pytest.mark.filterwarnings("ignore")
def test_niqe_equals_basicsr() -> None:
    from training.basicsr_bridge import load_basicsr

    load_basicsr()
    from basicsr.metrics import calculate_niqe

    niqe = load_niqe(None)
    truth = photograph()
    for picture in (truth, degraded(truth)):
        theirs = calculate_niqe(picture[..., ::-1], crop_border=4)
        # basicsr halves in single precision, and shapes come from a table in steps of 0.001.
        assert niqe.compute(picture, truth, Y) == pytest.approx(theirs, rel=2e-4)
    assert niqe.compute(degraded(truth), truth, Y) > niqe.compute(truth, truth, Y) + 1


def test_niqe_equals_recorded_values_of_basicsr() -> None:
    # calculate_niqe of basicsr 1.4.2 with crop_border=4, whose import takes seconds.
    niqe, truth = load_niqe(None), photograph()
    assert niqe.compute(truth, truth, Y) == pytest.approx(3.55276, rel=2e-4)
    assert niqe.compute(degraded(truth), truth, Y) == pytest.approx(7.46233, rel=2e-4)
    large = photograph(300)
    assert niqe.compute(large[:205], large, Y) == pytest.approx(3.548, rel=2e-3)
    # Two blocks, the least, because the border is not measured.
    assert niqe.compute(large[:200, :198], large, Y) == pytest.approx(6.39575, rel=2e-4)
    assert niqe.compute(large[:198, :200], large, Y) == pytest.approx(4.60855, rel=2e-4)


def test_niqe_refuses_small_and_flat_pictures(tmp_path: Path) -> None:
    niqe = load_niqe(None)
    small = photograph(150)[:120]
    with pytest.raises(NotMeasurable, match=r"96x96.*leaves 142x112"):
        niqe.compute(small, small, Y)
    flat = np.full((210, 210, 3), 90, np.uint8)
    with pytest.raises(NotMeasurable, match="flat"):
        niqe.compute(flat, flat, Y)
    (tmp_path / "niqe_pris_params.npz").write_bytes(b"no model")
    with pytest.raises(MetricUnavailable, match="basicsr"):
        load_niqe(tmp_path)


def test_niqe_reads_its_model_from_a_folder_or_says_where_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    spec = importlib.util.find_spec("basicsr")
    assert spec is not None
    (location,) = spec.submodule_search_locations or [""]
    shutil.copy(Path(location) / "metrics" / "niqe_pris_params.npz", tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    digest = hashlib.sha256((tmp_path / "niqe_pris_params.npz").read_bytes()).hexdigest()
    variant = f"Mittal 2013, blocks of 96, model {digest[:8]}"
    assert load_niqe(tmp_path).variant == variant
    with pytest.raises(MetricUnavailable, match=r"sharpline\[train\]"):
        load_niqe(tmp_path / "elsewhere")


def reference_stages(trunk: str, weights: dict, bchw: torch.Tensor, pool) -> list[torch.Tensor]:
    """The activations of a trunk, layer by layer with torch's functions."""
    activations = []
    for index, (stride, padding) in CONVOLUTIONS[trunk].items():
        kernel, bias = weights[f"features.{index}.weight"], weights[f"features.{index}.bias"]
        bchw = functional.relu(functional.conv2d(bchw, kernel, bias, stride, padding))
        if trunk == "alex":
            activations.append(bchw)
            bchw = functional.max_pool2d(bchw, 3, 2) if index in ALEX_POOLS else bchw
        elif index in VGG_STAGES:
            activations.append(bchw)
            bchw = pool(bchw) if index != VGG_STAGES[-1] else bchw
    return activations


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("trunk", ["alex", "vgg"])
def test_trunks_have_torchvisions_layers_up_to_the_last_stage(trunk: str) -> None:
    from training.basicsr_bridge import patch_torchvision

    patch_torchvision()
    from torchvision.models.alexnet import alexnet
    from torchvision.models.vgg import vgg16

    with torch.device("meta"):
        theirs = (alexnet() if trunk == "alex" else vgg16()).features
        ours = Features(trunk).features
    layers = [repr(layer).replace("inplace=True", "") for layer in theirs]
    assert [repr(layer) for layer in ours] == layers[: len(ours)]
    assert len(ours) == len(layers) - 1


def test_networks_get_the_picture_inside_the_border_from_0_to_1() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (40, 49, 3), dtype=np.uint8)
    bchw = unit_bchw(picture, RGB)
    inner = picture[4:-4, 4:-4].transpose(2, 0, 1)[None] / 255
    np.testing.assert_allclose(bchw.cpu().numpy(), inner, atol=1e-6)
    with pytest.raises(NotMeasurable, match=r"32 pixels.*leaves 41x31"):
        unit_bchw(picture[1:], RGB)


@pytest.mark.parametrize("trunk", ["alex", "vgg"])
def test_lpips_equals_the_papers_formula(trunk: str) -> None:
    network = seeded_trunk(trunk)
    linear = [torch.rand(count, generator=torch.Generator().manual_seed(count))
              for count in CHANNELS[trunk]]  # fmt: skip
    test, truth = batches(72 if trunk == "alex" else 40)  # AlexNet's pools differ from 72 on
    expected = torch.zeros(2)
    shift = torch.tensor([-0.030, -0.088, -0.188])[None, :, None, None]
    scale = torch.tensor([0.458, 0.448, 0.450])[None, :, None, None]
    pairs = zip(
        *(
            reference_stages(
                trunk,
                network.state_dict(),
                ((bchw * 2 - 1) - shift) / scale,
                lambda values: functional.max_pool2d(values, 2),
            )
            for bchw in (test, truth)
        ),
        strict=True,
    )
    for weights, (ours, theirs) in zip(linear, pairs, strict=True):
        distance = functional.normalize(ours, dim=1) - functional.normalize(theirs, dim=1)
        expected += (distance**2 * weights[None, :, None, None]).sum(dim=1).mean(dim=(1, 2))
    metric = Lpips(network, linear)
    assert metric(test, truth) == pytest.approx(expected.numpy(), rel=1e-4)
    assert metric(truth, truth) == pytest.approx(np.zeros(2), abs=1e-7)


def test_dists_equals_the_papers_formula() -> None:
    network = seeded_trunk("vgg", BlurredPooling)
    generator = torch.Generator().manual_seed(2)
    alpha, beta = torch.rand(1475, generator=generator), torch.rand(1475, generator=generator)
    test, truth = batches()
    mean = torch.tensor([0.485, 0.456, 0.406])[None, :, None, None]
    deviation = torch.tensor([0.229, 0.224, 0.225])[None, :, None, None]

    def l2_pool(values: torch.Tensor) -> torch.Tensor:
        # Averages of 2x2 averages of squares: the 3x3 Hann window, every second kept.
        squares = functional.avg_pool2d(functional.pad(values**2, (1, 1, 1, 1)), 2, 1)
        return functional.avg_pool2d(squares, 2, 1)[..., ::2, ::2].clamp(min=0).add(1e-12).sqrt()

    expected = torch.ones(2)
    stages = [
        [bchw, *reference_stages("vgg", network.state_dict(), (bchw - mean) / deviation, l2_pool)]
        for bchw in (test, truth)
    ]
    whole, first = alpha.sum() + beta.sum(), 0
    for ours, theirs in zip(*stages, strict=True):
        last = first + ours.shape[1]
        for batch in range(2):
            for index in range(ours.shape[1]):
                x, y = ours[batch, index].double(), theirs[batch, index].double()
                texture = (2 * x.mean() * y.mean() + 1e-6) / (x.mean() ** 2 + y.mean() ** 2 + 1e-6)
                covariance = (x * y).mean() - x.mean() * y.mean()
                variances = x.var(correction=0) + y.var(correction=0)
                structure = (2 * covariance + 1e-6) / (variances + 1e-6)
                both = alpha[first + index] * texture + beta[first + index] * structure
                expected[batch] -= both / whole
        first = last
    metric = Dists(network, alpha, beta)
    assert metric(test, truth) == pytest.approx(expected.numpy(), abs=1e-4)
    assert metric(truth, truth) == pytest.approx(np.zeros(2), abs=1e-5)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with seeded weights in the authors' layout, under our own file names."""
    folder = tmp_path_factory.mktemp("weights")
    generator = torch.Generator().manual_seed(3)
    for trunk in ("alex", "vgg"):
        torch.save(seeded_trunk(trunk).state_dict(), folder / f"{trunk}.pth")
        linear = {
            f"lin{stage}.model.1.weight": torch.rand(1, count, 1, 1, generator=generator)
            for stage, count in enumerate(CHANNELS[trunk])
        }
        torch.save(linear, folder / f"lpips_{trunk}.pth")
    shares = {name: torch.rand(1, 1475, 1, 1, generator=generator) for name in ("alpha", "beta")}
    torch.save(shares, folder / "dists.pt")
    return folder


@pytest.fixture
def seeded_file_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trunks, "TRUNK_FILES", {"alex": "alex.pth", "vgg": "vgg.pth"})


@pytest.mark.parametrize("name", ["lpips", "lpips_vgg", "dists"])
def test_learned_metrics_load_and_rise_with_damage(
    name: str, weights: Path, seeded_file_names: None
) -> None:
    metric = load_metric(name, weights)
    truth = photograph(64)
    values = [
        metric.compute(picture, truth, RGB)
        for picture in (
            truth,
            np.clip(truth.astype(int) + 9, 0, 255).astype(np.uint8),
            degraded(truth),
        )
    ]
    assert values[0] == pytest.approx(0, abs=1e-5)
    assert values[0] < values[1] < values[2]
    assert metric.gain(values[1], values[2]) > 0
    assert "weights" in metric.variant
    with pytest.raises(NotMeasurable, match="32 pixels"):
        metric.compute(truth[:39], truth[:39], RGB)


def test_loaded_metrics_are_those_of_their_weights(weights: Path, seeded_file_names: None) -> None:
    truth = photograph(64)
    pair = [unit_bchw(picture, RGB) for picture in (degraded(truth), truth)]
    shares = torch.load(weights / "dists.pt")
    alpha, beta = (shares[name].flatten() for name in ("alpha", "beta"))
    expected = {"dists": Dists(seeded_trunk("vgg", BlurredPooling), alpha, beta)}
    for name, trunk in (("lpips", "alex"), ("lpips_vgg", "vgg")):
        linear = torch.load(weights / f"lpips_{trunk}.pth").values()
        expected[name] = Lpips(seeded_trunk(trunk), [share.flatten() for share in linear])
    for name, network in expected.items():
        value = load_metric(name, weights).compute(degraded(truth), truth, RGB)
        assert value == pytest.approx(float(network.to(pair[0].device)(*pair)), abs=1e-6)


def test_metrics_state_how_they_are_shown_and_compared(
    weights: Path, seeded_file_names: None
) -> None:
    metrics, refused = load_metrics(QUALITY_METRICS.built_in, weights)
    assert not refused
    shown = {
        metric.name: (metric.title, metric.better, metric.unit, metric.decimals, metric.colour)
        for metric in metrics
    }
    assert shown == {
        "psnr": ("PSNR", "higher", "dB", 2, False),
        "ssim": ("SSIM", "higher", "", 4, False),
        "ms_ssim": ("MS-SSIM", "higher", "", 4, False),
        "lpips": ("LPIPS", "lower", "", 4, True),
        "lpips_vgg": ("LPIPS (VGG)", "lower", "", 4, True),
        "dists": ("DISTS", "lower", "", 4, True),
        "niqe": ("NIQE", "lower", "", 2, False),
    }


def test_a_plugins_metric_gets_weights_pictures_and_protocol(plug_in, tmp_path: Path) -> None:
    def load(weights: Path | None) -> Metric:
        assert weights == tmp_path
        metric = load_metric("psnr")
        return replace(metric, name="acme")

    plug_in(QUALITY_METRICS, QualityMetric(name="acme", load=load))
    truth = photograph(40)
    test = degraded(truth)
    ours, psnr = load_metric("acme", tmp_path), load_metric("psnr")
    assert ours.compute(test, truth, Y) == psnr.compute(test, truth, Y)
    plug_in(QUALITY_METRICS, QualityMetric(name="acme", load=lambda weights: "psnr"))
    with pytest.raises(SharplineError, match="`load` returned str, not Metric"):
        load_metric("acme")


def test_missing_damaged_and_wrong_weights_are_refused(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(MetricUnavailable, match=r"alexnet-owt-7be5be79\.pth does not exist"):
        load_lpips(tmp_path, "alex")
    shutil.copy(weights / "alex.pth", tmp_path / "alexnet-owt-7be5be79.pth")
    with pytest.raises(MetricUnavailable, match="damaged: its sha256"):
        load_lpips(tmp_path, "alex")
    names = {"alex": "vgg.pth", "vgg": "vgg.pth"}
    monkeypatch.setattr(trunks, "TRUNK_FILES", names)
    with pytest.raises(MetricUnavailable, match="does not hold torchvision's network"):
        load_lpips(weights, "alex")
    shutil.copy(weights / "vgg.pth", tmp_path / "vgg.pth")
    missing = r"lpips_vgg\.pth does not exist: download https://.*/v0\.1/vgg\.pth"
    with pytest.raises(MetricUnavailable, match=missing):
        load_lpips(tmp_path, "vgg")
    shutil.copy(weights / "lpips_alex.pth", tmp_path / "lpips_vgg.pth")
    with pytest.raises(MetricUnavailable, match="LPIPS's weights for vgg"):
        load_lpips(tmp_path, "vgg")
    (tmp_path / "dists.pt").write_bytes(b"no weights")
    with pytest.raises(MetricUnavailable, match=r"holds no weights .*download https://.*/DISTS/"):
        load_dists(tmp_path)
    shutil.copy(weights / "vgg.pth", tmp_path / "dists.pt")
    with pytest.raises(MetricUnavailable, match="DISTS's weights"):
        load_dists(tmp_path)


def test_metrics_without_weights_are_unavailable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(WEIGHTS_VARIABLE, raising=False)
    ready, refused = load_metrics(QUALITY_METRICS.built_in, weights_folder())
    assert [metric.name for metric in ready] == ["psnr", "ssim", "ms_ssim", "niqe"]
    assert set(refused) == {"lpips", "lpips_vgg", "dists"}
    assert all(WEIGHTS_VARIABLE in why for why in refused.values())
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(tmp_path))
    assert weights_folder() == tmp_path
    assert weights_folder(tmp_path / "given") == tmp_path / "given"
    with pytest.raises(UsageError, match="vmaf"):
        load_metric("vmaf")
