"""Networks: keys and outputs equal to basicsr's, facts true, and they can learn."""

import importlib

import pytest
import torch

from superres.archs import UnknownArch, build, facts
from superres.archs.swinir import learned

SWIN = {
    "img_size": 32,
    "embed_dim": 12,
    "depths": [2, 2],
    "num_heads": [2, 2],
    "window_size": 8,
    "mlp_ratio": 2,
}
CASES = [
    ("compact", {"num_feat": 8, "num_conv": 2, "upscale": 4}),
    ("compact", {"num_feat": 8, "num_conv": 3, "upscale": 2, "act_type": "leakyrelu"}),
    (
        "rrdb",
        {
            "num_in_ch": 3,
            "num_out_ch": 3,
            "scale": 4,
            "num_feat": 8,
            "num_block": 1,
            "num_grow_ch": 4,
        },
    ),
    (
        "rrdb",
        {
            "num_in_ch": 3,
            "num_out_ch": 3,
            "scale": 2,
            "num_feat": 8,
            "num_block": 1,
            "num_grow_ch": 4,
        },
    ),
    ("swinir", {**SWIN, "upscale": 4, "upsampler": "pixelshuffledirect"}),
    ("swinir", {**SWIN, "upscale": 2, "upsampler": "pixelshuffle"}),
    ("swinir", {**SWIN, "upscale": 3, "upsampler": "pixelshuffle", "resi_connection": "3conv"}),
    ("swinir", {**SWIN, "upscale": 4, "upsampler": "nearest+conv"}),
    ("swinir", {**SWIN, "upscale": 1, "upsampler": ""}),
]
REFERENCE = {
    "compact": ("basicsr.archs.srvgg_arch", "SRVGGNetCompact"),
    "rrdb": ("basicsr.archs.rrdbnet_arch", "RRDBNet"),
    "swinir": ("basicsr.archs.swinir_arch", "SwinIR"),
}


def reference(arch: str, parameters: dict) -> torch.nn.Module:
    bridge = importlib.import_module("training.basicsr_bridge")
    bridge.load_basicsr()
    module_name, class_name = REFERENCE[arch]
    return getattr(importlib.import_module(module_name), class_name)(**parameters)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("arch", "parameters"), CASES)
def test_keys_and_outputs_equal_basicsr(arch: str, parameters: dict) -> None:
    theirs = reference(arch, parameters).eval()
    ours = build(arch, parameters).eval()
    assert set(ours.state_dict()) == set(learned(theirs.state_dict()))
    ours.load_state_dict(theirs.state_dict())
    picture = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(ours(picture), theirs(picture), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("arch", "parameters"),
    [*CASES, ("srcnn", {"upscale": 2}), ("vdsr", {"upscale": 3, "num_feat": 8, "num_conv": 4})],
)
def test_facts_state_scale_and_reach(arch: str, parameters: dict) -> None:
    """A pixel further away than the stated receptive field changes nothing; the scale is true."""
    known = facts(arch, parameters)
    net = build(arch, parameters).eval()
    side = 64
    picture = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        before = net(picture)
        assert before.shape[-1] == side * known.scale
        if known.receptive_field is None or known.receptive_field >= side:
            return
        changed = picture.clone()
        changed[..., 0] = 1 - changed[..., 0]
        beyond = (known.receptive_field + 1) * known.scale
        torch.testing.assert_close(net(changed)[..., beyond:], before[..., beyond:])


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_enlarging_convolution_equals_the_resampler(scale: int) -> None:
    from superres.archs.upsample import BicubicUpsample
    from superres.resize import imresize

    picture = torch.rand(1, 3, 12, 9, generator=torch.Generator().manual_seed(3))
    ours = BicubicUpsample(scale)(picture)[0].permute(1, 2, 0).numpy()
    theirs = imresize(picture[0].permute(1, 2, 0).numpy(), scale=scale)
    inner = slice(3 * scale, -3 * scale)
    assert abs(ours[inner, inner] - theirs[inner, inner]).max() < 1e-5


def test_unknown_names_and_parameters_are_refused() -> None:
    with pytest.raises(UnknownArch, match="compact"):
        build("resnet", {})
    with pytest.raises(UnknownArch, match="num_feet"):
        build("compact", {"num_feet": 3})
    with pytest.raises(UnknownArch, match="scale"):
        build("rrdb", {"scale": 3})
    with pytest.raises(UnknownArch):
        facts("resnet", {})


def test_stochastic_depth_only_acts_while_training() -> None:
    net = build(
        "swinir", {**SWIN, "upscale": 2, "upsampler": "pixelshuffledirect", "drop_path_rate": 0.5}
    )
    picture = torch.rand(4, 3, 16, 16)
    with torch.no_grad():
        net.eval()
        torch.testing.assert_close(net(picture), net(picture))
        net.train()
        torch.manual_seed(0)
        assert not torch.equal(net(picture), net(picture))
