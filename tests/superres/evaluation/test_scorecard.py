"""A scorecard has every metric with its protocol and interval, and the HTML report shows it."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sharpline.cli import run
from superres.cli.evaluate import metric_names
from superres.common.errors import SharplineError, UsageError
from superres.common.registry import PluginFailed
from superres.evaluation.evaluate import Pair
from superres.evaluation.held_out import find_held_out
from superres.evaluation.report import ExampleGallery
from superres.evaluation.report.chart import histogram
from superres.evaluation.report.pictures import coloured, small_map
from superres.evaluation.scorecard import PictureReport, Scorecard, format_value, make_scorecard
from superres.evaluation.scorecard_json import json_of
from superres.evaluation.tables import network, size, trained
from superres.image.codecs import Picture, write
from superres.model.backends import load_backend
from superres.model.backends.torch_backend import TorchBackend
from superres.model.starters import STARTERS, find_bundles
from superres.model.upscaler import Upscaler
from superres.quality import Protocol, ProtocolMismatch
from superres.quality.intervals import gain_interval, mean_interval, psnr_interval
from superres.quality.metric import Metric, NotMeasurable, QualityMetric
from superres.quality.metrics import QUALITY_METRICS, load_metric
from superres.quality.psnr import PSNR
from superres.quality.ssim import SSIM

TORCH = ("--backend", "torch", "--channel", "rgb")  # OpenVINO takes seconds to start
PROTOCOL = Protocol(dataset="made", scale=2, channel="rgb", border=2)


def pair(seed: int, low: int = 60, high: int = 180, height: int = 36) -> Pair:
    """Each input pixel is a square of ground truth, which the model outputs up to an offset."""
    lr = np.random.default_rng(seed).integers(low, high, (height, 40, 3), dtype=np.uint8)
    hr = lr.repeat(2, axis=0).repeat(2, axis=1)
    return Pair(name=f"p<{seed}>", lr=Picture(rgb_hwc=lr), hr=Picture(rgb_hwc=hr))


def upscaler_of(bundle) -> Upscaler:
    return Upscaler(bundle, load_backend(bundle, backend="torch", precision="fp32"))


@pytest.fixture(scope="module")
def scored(tiny_bundle) -> tuple[Scorecard, list[PictureReport]]:
    """Four pictures by a model that is off by five levels, in tiles and whole."""
    reports: list[PictureReport] = []
    darkness = Metric(
        name="darkness",
        title="Darkness",
        better="lower",
        variant="mean",
        compute=lambda test, truth, protocol: float(test.mean()),
        colour=True,
    )
    card = make_scorecard(
        upscaler_of(tiny_bundle(error_levels=5)),
        [pair(seed, high=100 + 30 * seed) for seed in range(4)],
        replace(PROTOCOL, channel="y"),
        (PSNR, SSIM, darkness),
        refused={"lpips": "no weights"},
        compare_tiling=True,
        report=reports.append,
    )
    return card, reports


def test_means_intervals_and_gains_are_over_the_pictures(scored) -> None:
    card, _ = scored
    psnr = card.summary("psnr")
    assert psnr is not None
    ours = [picture.metrics["psnr"].ours for picture in card.pictures]
    gains = [picture.psnr_gain for picture in card.pictures]
    assert psnr.mean == pytest.approx(np.mean(ours))
    assert psnr.gain == pytest.approx(np.mean(gains)) == pytest.approx(psnr.mean - psnr.bicubic)
    assert psnr.gain_interval is not None
    assert min(gains) <= psnr.gain_interval.lower < psnr.gain < psnr.gain_interval.upper
    assert psnr.gain_interval.upper <= max(gains)
    first = card.pictures[0]
    assert first.psnr_gain_interval is not None
    assert first.psnr_gain_interval.lower <= first.psnr_gain <= first.psnr_gain_interval.upper


def test_lower_is_better_inverts_the_gain_and_colour_metrics_use_rgb(scored) -> None:
    card, _ = scored
    darkness = card.summary("darkness")
    assert darkness is not None
    # Five levels brighter than bicubic, where darker is better.
    assert darkness.gain == pytest.approx(darkness.bicubic - darkness.mean)
    assert darkness.gain < 0
    assert (darkness.protocol.channel, card.protocol.channel) == ("rgb", "y")


def test_tiled_and_whole_inference_are_compared_and_differ_invisibly(scored) -> None:
    card, reports = scored
    assert card.seam_levels is not None
    assert card.seam_levels < 0.01
    assert all(abs(picture.seam_psnr_change or 0) < 0.01 for picture in card.pictures)
    assert reports[0].comparison is not None
    assert reports[0].comparison.levels_hw.shape == (72, 80)
    np.testing.assert_array_equal(reports[0].comparison.tiled.rgb_hwc, reports[0].evaluated.rgb_hwc)


def test_the_seams_of_a_model_that_sees_more_than_its_halo_are_measured(tiny_bundle) -> None:
    class DarkensByTile(TorchBackend):
        """Subtracts a tenth of the tile's height, in levels, from each pixel."""

        def forward(self, tiles_bhwc: np.ndarray) -> np.ndarray:
            levels = tiles_bhwc.shape[1] // 10
            unit = 1 if tiles_bhwc.dtype == np.uint8 else 1 / 255
            return super().forward(tiles_bhwc) - tiles_bhwc.dtype.type(levels * unit)

    bundle = tiny_bundle()
    upscaler = Upscaler(bundle, DarkensByTile(bundle, device="cpu"))
    large = pair(1, height=100)
    card = make_scorecard(upscaler, [large], PROTOCOL, (PSNR, SSIM), compare_tiling=True)
    tiled, whole = (
        make(large.lr).rgb_hwc.astype(int) for make in (upscaler.upscale, upscaler.whole)
    )
    difference = np.abs(tiled - whole).max()
    assert difference > 2
    assert card.seam_levels == pytest.approx(difference)
    error_tiled, error_whole = (
        np.mean((each - large.hr.rgb_hwc)[2:-2, 2:-2] ** 2.0) for each in (tiled, whole)
    )
    change = 10 * np.log10(error_whole / error_tiled)
    assert card.pictures[0].seam_psnr_change == pytest.approx(change, abs=1e-6)


def test_summaries_of_different_protocols_or_variants_are_not_compared(scored) -> None:
    psnr = scored[0].summary("psnr")
    better = replace(psnr, mean=psnr.mean + 1)
    assert better.better_by(psnr) == pytest.approx(1)
    with pytest.raises(ProtocolMismatch, match="channel"):
        better.better_by(replace(psnr, protocol=PROTOCOL))
    other = replace(psnr, metric=replace(psnr.metric, variant="another"))
    with pytest.raises(ProtocolMismatch, match="another"):
        better.better_by(other)


def test_a_metric_that_one_picture_lacks_has_no_mean(tiny_bundle) -> None:
    def only_first(test, truth, protocol) -> float:
        if test.mean() > 110:
            raise NotMeasurable("too bright")
        return 1.0

    picky = Metric(name="picky", title="Picky", better="higher", variant="1", compute=only_first)
    pairs = [pair(0, high=100), pair(1, low=150, high=200)]
    card = make_scorecard(upscaler_of(tiny_bundle()), pairs, PROTOCOL, (PSNR, SSIM, picky))
    assert card.summary("picky") is None
    assert "1 of 2 pictures do not have it (p<1>: too bright)" in card.refused["picky"]
    assert card.seam_levels is None
    with pytest.raises(SharplineError, match="no picture"):
        make_scorecard(upscaler_of(tiny_bundle()), [], PROTOCOL, (PSNR,))


def test_equal_pictures_are_null_in_json_and_equal_in_text(tiny_bundle) -> None:
    card = make_scorecard(upscaler_of(tiny_bundle()), [pair(1)], PROTOCOL, (PSNR, SSIM))
    stored = json.loads(json.dumps(json_of(card), allow_nan=False))
    assert stored["psnr"] is None
    assert stored["metrics"]["psnr"]["interval"] is None
    assert stored["metrics"]["psnr"]["protocol"]["border"] == 2
    assert format_value(card.pictures[0].metrics["psnr"].ours, 2) == "equal"


def test_intervals_cover_the_mean_at_their_confidence() -> None:
    covered = 0
    for seed in range(200):
        values = np.random.default_rng(seed).normal(30, 2, 40)
        interval = mean_interval(list(values))
        assert interval is not None
        covered += interval.lower <= 30 <= interval.upper
    assert 180 <= covered <= 198  # 95%, less what percentile intervals lack at 40 pictures


def test_an_interval_needs_two_samples() -> None:
    one = np.array([4.0])
    assert mean_interval([30.0]) is None
    assert mean_interval([30.0, float("inf")]) is None
    assert psnr_interval(one, one) is None
    assert gain_interval(one, one, one) is None
    many = psnr_interval(np.full(6, 400.0), np.full(6, 100.0))
    assert many is not None
    assert many.lower == many.upper == pytest.approx(10 * np.log10(255**2 / 4))


class _Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.urls: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.urls += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img", "line", "rect"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("line", "rect"):
            assert self.open.pop() == tag


def test_the_report_is_self_contained(scored, tmp_path: Path) -> None:
    card, reports = scored
    gallery = ExampleGallery(card.protocol)
    for report in reports:
        gallery.add(report)
    text = gallery.write(tmp_path / "report", card).read_text()
    page = _Page(text)
    assert page.open == []
    # Two worst and two best of four, five panels each, and the map of seams.
    assert len(page.urls) == 4 * 5 + 1
    assert all(url.startswith("data:image/png;base64,") for url in page.urls)
    assert not re.search(r"https?://|@import|url\(", text)
    assert "prefers-color-scheme: dark" in text
    assert "p&lt;0&gt;" in text
    assert "p<0>" not in text
    assert "no weights" in text
    worst = min(card.pictures, key=lambda picture: picture.psnr_gain).name
    assert text.index("Worst pictures") < text.index(
        worst.replace("<", "&lt;").replace(">", "&gt;")
    )


def test_a_shrunk_map_keeps_its_maximum() -> None:
    levels = np.zeros((1500, 900), np.float32)
    levels[1499, 7] = 0.5
    small = small_map(levels)
    assert max(small.shape) <= 720
    assert small.max() == 0.5
    assert coloured(np.zeros((2, 2)), 0.0).max() <= 4


def test_a_histogram_counts_every_picture() -> None:
    values = [*np.random.default_rng(0).normal(1.0, 0.6, 90), float("inf")]
    svg = histogram(values, 1.0, "dB")
    counts = [int(count) for count in re.findall(r"<title>(\d+) between", svg)]
    assert sum(counts) == 90
    assert 'class="loss"' in svg
    assert 'class="zero"' in svg
    assert "equals its ground truth" in histogram([float("inf")], 0.0, "dB")
    assert "<svg" in histogram([1.0, 1.0], 1.0, "dB")


@pytest.fixture
def set5(tmp_path: Path) -> Path:
    """A folder in the usual layout of benchmark sets."""
    for seed in range(2):
        write(tmp_path / f"set5/HR/p{seed}.png", pair(seed).hr)
    return tmp_path / "set5"


@pytest.mark.parametrize("inner", ["", "HR"])
def test_a_set_is_named_after_its_folder(set5: Path, inner: str) -> None:
    pairs = find_held_out(str(set5 / inner)).pairs(2, "validation")
    assert (pairs.dataset, pairs.names) == ("set5", ("p0", "p1"))


@pytest.mark.parametrize(
    "record",
    [
        {"kind": "added", "folder": "FOLDER"},
        {
            "kind": "fetched",
            "parts": [
                {"part": "hr", "split": "train", "folder": "train"},
                {"part": "hr", "split": "validation", "folder": "held"},
            ],
        },
    ],
)
def test_a_source_is_found_by_name(
    set5: Path, record: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHARPLINE_STATE", str(tmp_path / "state"))
    source = tmp_path / "state/sources/mine"
    source.mkdir(parents=True)
    (set5 / "HR").rename(source / "held")
    record = {key: str(source / "held") if value == "FOLDER" else value
              for key, value in record.items()}  # fmt: skip
    (source / "source.json").write_text(json.dumps(record))
    assert find_held_out("mine").pairs(2, "validation").dataset == "mine"
    with pytest.raises(UsageError, match=r"there are: mine \(`sharpline data fetch`"):
        find_held_out("theirs")


def test_a_source_without_hr_pictures_is_refused_with_the_command_to_fetch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHARPLINE_STATE", str(tmp_path))
    (tmp_path / "sources/mine").mkdir(parents=True)
    (tmp_path / "sources/mine/source.json").write_text('{"parts": []}')
    with pytest.raises(SharplineError, match="data fetch mine"):
        find_held_out("mine")


def test_metrics_are_selected_by_name() -> None:
    assert metric_names("lpips, niqe", table=False) == ("psnr", "ssim", "lpips", "niqe")
    assert metric_names("niqe", table=True) == ("psnr", "ssim")
    with pytest.raises(UsageError, match="'taste'"):
        metric_names("taste", table=False)


def test_evaluate_writes_the_report_and_prints_the_metrics(
    set5: Path, tiny_bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = str(tiny_bundle(error_levels=5).root)
    arguments = ["evaluate", bundle, "--on", str(set5), "--metrics", "lpips", *TORCH]
    assert run([*arguments, "--report", str(tmp_path / "page"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["psnr"] == result["metrics"]["psnr"]["mean"]
    assert result["psnr"] == pytest.approx(np.mean([each["psnr"] for each in result["pictures"]]))
    assert result["protocol"]["dataset"] == "set5"
    assert set(result["refused"]) == {"lpips"}
    assert result["seam_levels"] < 0.01
    assert (tmp_path / "page" / "index.html").is_file()
    assert run([*arguments, "--whole"]) == 0
    assert "tiles differ by at most" in capsys.readouterr().out


def test_evaluate_prints_the_markdown_table(
    set5: Path, tiny_bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundles = [str(tiny_bundle(name=f"m{levels}", error_levels=levels).root) for levels in (5, 2)]
    arguments = ["evaluate", *bundles, "--on", str(set5), *TORCH]
    assert run([*arguments, "--table"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| model | network | set5 PSNR dB / SSIM | bicubic | trained | size |"
    assert [line.split("|")[1].strip() for line in lines[2:4]] == ["`m5`", "`m2`"]
    assert "inputs by matlab-bicubic" in lines[-1]
    assert run([*arguments, "--json"]) == 0
    results = json.loads(capsys.readouterr().out.splitlines()[-1])["results"]
    for line, result in zip(lines[2:4], results, strict=True):
        bicubic = result["bicubic"]
        pair = f"| {result['psnr']:.2f} / {result['ssim']:.4f} |"
        assert f"{pair} {bicubic['psnr']:.2f} / {bicubic['ssim']:.4f} |" in line
    assert run([*arguments, "--report", str(tmp_path / "page")]) == 2


def test_the_readme_has_the_printed_row_of_every_starter() -> None:
    """Without the scores, which take a minute to compute."""
    readme = (STARTERS.parent / "README.md").read_text()
    for bundle in find_bundles(STARTERS):
        begins = f"| `{bundle.info.name}` | {network(bundle)} | "
        ends = f" | {trained(bundle)} | {size(bundle)} |"
        rows = [line for line in readme.splitlines() if line.startswith(begins)]
        assert [row.endswith(ends) for row in rows] == [True], begins + "..." + ends


def acme_metric(compute: Callable[..., Any], name: str = "acme") -> Metric:
    return Metric(name=name, title="Acme", better="lower", variant="1", compute=compute)


@pytest.mark.parametrize(
    ("load", "reason"),
    [
        (lambda weights: None, "`load` returned NoneType, not Metric"),
        (lambda weights: acme_metric(len, name="psnr"), "`load` returned the metric 'psnr'"),
        (lambda weights: acme_metric(lambda *pictures: "much"), "ValueError"),
    ],
)
def test_a_wrong_metric_of_a_plugin_is_named(
    load: Callable[..., Any], reason: str, plug_in: Callable[..., None]
) -> None:
    plug_in(QUALITY_METRICS, QualityMetric(name="acme", load=load))
    picture = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(PluginFailed, match=rf"metric 'acme' of acme 1.0 failed: .*{reason}"):
        load_metric("acme").compute(picture, picture, PROTOCOL)


def test_a_plugins_metric_without_a_value_is_listed_with_the_reason(
    plug_in: Callable[..., None],
) -> None:
    metric = acme_metric(lambda *pictures: float("nan"))
    plug_in(QUALITY_METRICS, QualityMetric(name="acme", load=lambda weights: metric))
    picture = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(NotMeasurable, match="Acme is not a number for this picture"):
        load_metric("acme").compute(picture, picture, PROTOCOL)


def test_the_direction_of_a_metric_is_checked() -> None:
    with pytest.raises(ValueError, match="`better` must be higher or lower"):
        Metric(name="x", title="X", better="bigger", variant="1", compute=len)
