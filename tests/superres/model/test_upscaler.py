"""Tiled inference equals whole-picture inference; backends agree; alpha and grey are kept."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from superres.image.codecs import Picture
from superres.image.picture import as_grey
from superres.image.resize import imresize
from superres.model.archs import build, facts
from superres.model.backends import BackendUnavailable, load_backend
from superres.model.bundle import BrokenBundle, Bundle, BundleInfo, write_bundle
from superres.model.upscaler import Upscaler

SWINIR = {
    "img_size": 32,
    "embed_dim": 12,
    "depths": [2],
    "num_heads": [2],
    "window_size": 8,
    "mlp_ratio": 2,
    "upscale": 2,
    "upsampler": "pixelshuffledirect",
}
RRDB = {
    "num_in_ch": 3,
    "num_out_ch": 3,
    "scale": 2,
    "num_feat": 4,
    "num_block": 1,
    "num_grow_ch": 2,
}
COMPACT = {"num_feat": 8, "num_conv": 2, "upscale": 2}


def random_bundle(folder: Path, arch: str, parameters: dict, **changes: object) -> Bundle:
    """A bundle with random weights whose halo covers the receptive field."""
    torch.manual_seed(0)
    network = build(arch, parameters)
    arch_facts = facts(arch, parameters)
    grid = max(arch_facts.size_multiple, arch_facts.window or 1)
    halo = -(-(arch_facts.receptive_field or 16) // grid) * grid
    side = -(-(2 * halo + 16) // 8) * 8
    picture = Picture(rgb_hwc=np.zeros((4, 4, 3), np.uint8))
    info = {
        "name": arch,
        "task": "super-resolution",
        "scale": arch_facts.scale,
        "arch": {"name": arch, "parameters": parameters},
        "halo": halo,
        "size_multiple": arch_facts.size_multiple,
        "window": arch_facts.window,
        "tile_buckets": [[side, side]],
        "bounds": {"seam_levels": 0.0, "precision_levels": {"bf16": 2.0}},
        "training": {
            "datasets": [],
            "degradation": "bicubic",
            "reference": {},
            "steps": 0,
            "seconds": 0,
            "device": "cpu",
        },
        "scores": [],
        "git_commit": None,
        "mlflow_run": None,
        "created": "2026-01-01",
        "licence": {"weights": "CC0-1.0", "lineage": [], "commercial_use": "yes"},
    }
    weights = {key: value.numpy() for key, value in network.state_dict().items()}
    return write_bundle(
        folder,
        BundleInfo.model_validate({**info, **changes}),
        weights,
        picture,
        picture,
        "# Random weights\n",
    )


def photograph(height: int, width: int, dtype: type = np.uint8) -> Picture:
    generator = np.random.default_rng(7)
    coarse = generator.integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), dtype=np.uint8)
    smooth = imresize(coarse, size=(height, width))
    return Picture(rgb_hwc=smooth.astype(dtype) * (257 if dtype == np.uint16 else 1))


@pytest.mark.parametrize(("arch", "parameters"), [("compact", COMPACT), ("rrdb", RRDB)])
def test_a_halo_of_the_receptive_field_gives_the_whole_picture_bit_for_bit(
    tmp_path: Path, arch: str, parameters: dict
) -> None:
    bundle = random_bundle(tmp_path / "bundle", arch, parameters)
    upscaler = Upscaler(bundle, load_backend(bundle, backend="torch", precision="fp32"))
    picture = photograph(45, 61)
    tile_plan, _ = upscaler.split(picture)
    assert len(tile_plan.boxes) > 4
    whole = upscaler.whole(picture)
    assert (whole.height, whole.width) == (45 * 2, 61 * 2)
    np.testing.assert_array_equal(upscaler.upscale(picture, batch=1).rgb_hwc, whole.rgb_hwc)


def test_window_attention_tiles_share_one_grid(tmp_path: Path) -> None:
    """On the grid tiles are close to the whole picture; three pixels off it they are not."""
    bundle = random_bundle(tmp_path / "bundle", "swinir", SWINIR, tile_buckets=[[64, 64]])
    upscaler = Upscaler(bundle, load_backend(bundle, backend="torch", precision="fp32"))
    picture = photograph(50, 70)
    whole = upscaler.whole(picture).rgb_hwc.astype(int)
    tiled = upscaler.upscale(picture).rgb_hwc.astype(int)
    on_grid = np.abs(tiled - whole).mean()
    shifted = Picture(rgb_hwc=picture.rgb_hwc[3:, 3:])
    off_grid = np.abs(upscaler.upscale(shifted).rgb_hwc.astype(int) - whole[6:, 6:]).mean()
    assert on_grid < off_grid / 3


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(
    ("arch", "parameters"), [("compact", COMPACT), ("rrdb", RRDB), ("swinir", SWINIR)]
)
def test_openvino_agrees_with_torch(
    tmp_path: Path, arch: str, parameters: dict, dtype: type
) -> None:
    bundle = random_bundle(tmp_path / "bundle", arch, parameters)
    picture = photograph(20, 24, dtype)
    outputs = {}
    for name, precision in (("torch", "fp32"), ("openvino", "fp32"), ("openvino", "bf16")):
        backend = load_backend(bundle, backend=name, precision=precision)
        backend.warm_up(bundle.info.tile_buckets)
        outputs[name, precision] = Upscaler(bundle, backend).upscale(picture).rgb_hwc.astype(int)
        backend.close()
    level = np.iinfo(dtype).max / 255
    exact = outputs["torch", "fp32"]
    assert np.abs(outputs["openvino", "fp32"] - exact).max() <= max(1, 0.01 * level)
    assert np.percentile(np.abs(outputs["openvino", "bf16"] - exact), 99) <= 2 * level


def test_the_output_does_not_depend_on_the_batch(tmp_path: Path) -> None:
    bundle = random_bundle(tmp_path / "bundle", "compact", COMPACT)
    upscaler = Upscaler(bundle, load_backend(bundle))
    picture = photograph(40, 40)
    alone = upscaler.upscale(picture, batch=1)
    np.testing.assert_array_equal(upscaler.upscale(picture, batch=16).rgb_hwc, alone.rgb_hwc)


def test_grey_stays_grey_and_alpha_is_enlarged(tmp_path: Path) -> None:
    bundle = random_bundle(tmp_path / "bundle", "compact", COMPACT)
    upscaler = Upscaler(bundle, load_backend(bundle, backend="torch"))
    colour = photograph(12, 10)
    grey = replace(
        colour,
        rgb_hwc=as_grey(colour.rgb_hwc),
        grey=True,
        dpi=(72.0, 72.0),
        alpha_hw=np.full((12, 10), 200, np.uint8),
    )
    output = upscaler.upscale(grey)
    assert output.grey
    assert (output.rgb_hwc == output.rgb_hwc[..., :1]).all()
    assert output.alpha_hw is not None
    assert (output.alpha_hw == 200).all()
    assert output.alpha_hw.shape == (24, 20)
    assert output.dpi == (144.0, 144.0), "the print keeps its size"


@pytest.mark.parametrize("size", [(1, 1), (1, 30), (3, 2)])
def test_pictures_smaller_than_the_halo(tmp_path: Path, size: tuple[int, int]) -> None:
    bundle = random_bundle(tmp_path / "bundle", "compact", COMPACT)
    upscaler = Upscaler(bundle, load_backend(bundle, backend="torch", precision="fp32"))
    picture = Picture(rgb_hwc=photograph(32, 32).rgb_hwc[: size[0], : size[1]])
    np.testing.assert_array_equal(
        upscaler.upscale(picture).rgb_hwc, upscaler.whole(picture).rgb_hwc
    )


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    bundle = random_bundle(tmp_path / "bundle", "compact", COMPACT)
    arch = bundle.info.arch.model_copy(update={"parameters": {**COMPACT, "num_feat": 16}})
    other = replace(bundle, info=bundle.info.model_copy(update={"arch": arch}))
    with pytest.raises(BrokenBundle, match="do not fit"):
        load_backend(other, backend="torch")


def test_unavailable_backends_are_refused(tmp_path: Path) -> None:
    bundle = random_bundle(tmp_path / "bundle", "compact", COMPACT)
    with pytest.raises(BackendUnavailable, match="torch or openvino"):
        load_backend(bundle, backend="tensorflow")
    with pytest.raises(BackendUnavailable, match="fp32 or bf16"):
        load_backend(bundle, precision="fp8")
    if not torch.cuda.is_available():
        with pytest.raises(BackendUnavailable, match="CUDA"):
            load_backend(bundle, device="cuda")


def test_bf16_is_chosen_only_within_its_stated_bound(tmp_path: Path) -> None:
    good = random_bundle(tmp_path / "good", "compact", COMPACT)
    assert load_backend(good).precision == "bf16"
    poor = random_bundle(
        tmp_path / "poor",
        "compact",
        COMPACT,
        bounds={"seam_levels": 0.0, "precision_levels": {"bf16": 9.0}},
    )
    assert load_backend(poor).precision == "fp32"
