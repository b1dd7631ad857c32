"""Networks: state-dict keys and outputs equal basicsr's or spandrel's; `facts` are correct."""

import importlib
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from superres.model.archs import (
    ARCHS,
    ArchFacts,
    Architecture,
    UnknownArch,
    build,
    dat,
    facts,
    span,
    swinir,
)
from superres.model.archs.derived import without_keys

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
NAF: dict[str, Any] = {
    "width": 8,
    "middle_blk_num": 1,
    "enc_blk_nums": [1, 2],
    "dec_blk_nums": [1, 1],
}
REFERENCE = {
    "compact": ("basicsr.archs.srvgg_arch", "SRVGGNetCompact"),
    "rrdb": ("basicsr.archs.rrdbnet_arch", "RRDBNet"),
    "swinir": ("basicsr.archs.swinir_arch", "SwinIR"),
}


DAT: dict[str, Any] = {
    "embed_dim": 32,
    "depth": [3, 5],  # blocks are shifted at other places in the second group
    "num_heads": [2, 4],
    "split_size": [4, 8],
    "expansion_factor": 2.0,
}
PLKSR = {"dim": 8, "n_blocks": 2, "kernel_size": 5}
# spandrel's networks: their module and class, parameters, and parameters that only they have.
SPANDREL_CASES: list[tuple[str, str, dict[str, Any], dict[str, Any]]] = [
    ("span", "SPAN", {"feature_channels": 6, "upscale": 4}, {"num_in_ch": 3, "num_out_ch": 3}),
    (
        "span",
        "SPAN",
        {"feature_channels": 5, "upscale": 2, "norm": False},
        {"num_in_ch": 3, "num_out_ch": 3},
    ),
    *(
        ("plksr", "PLKSR", {**PLKSR, "ccm_type": mixer, "use_ea": attention}, {})
        for mixer, attention in (("CCM", True), ("ICCM", True), ("DCCM", True), ("DCCM", False))
    ),
    (
        "dat",
        "DAT",
        {**DAT, "upscale": 4, "upsampler": "pixelshuffledirect", "resi_connection": "3conv"},
        {"img_size": 16},
    ),
    (
        "dat",
        "DAT",
        {**DAT, "upscale": 2, "upsampler": "pixelshuffle", "resi_connection": "1conv"},
        {"img_size": 32},
    ),
]


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
    assert set(ours.state_dict()) == set(without_keys(theirs.state_dict(), swinir.is_derived))
    ours.load_state_dict(theirs.state_dict())
    picture = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(ours(picture), theirs(picture), rtol=1e-4, atol=1e-5)


def load_spandrel() -> Any:
    importlib.import_module("training.basicsr_bridge").patch_torchvision()
    return importlib.import_module("spandrel")


@pytest.mark.filterwarnings("ignore")
def test_nafnet_over_the_whole_picture_equals_spandrel() -> None:
    architecture = load_spandrel().architectures.NAFNet.NAFNetArch()
    ours = build("nafnet", {**NAF, "pool": 0}).eval()
    with torch.no_grad():
        for name, parameter in ours.named_parameters():
            if name.endswith(("beta", "gamma")):  # at zero the blocks would not be compared
                parameter.normal_(generator=torch.Generator().manual_seed(4))
    theirs = architecture.load(dict(ours.state_dict())).model.eval()
    assert set(ours.state_dict()) == set(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    picture = torch.rand(1, 3, 32, 24, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        torch.testing.assert_close(ours(picture), theirs(picture), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_swinir_doubling_by_repetition_equals_spandrel() -> None:
    """basicsr only has it at x4; SwinIR's real-world x2 weights use it."""
    swin = importlib.import_module("spandrel.architectures.SwinIR") if load_spandrel() else None
    assert swin is not None
    parameters = {**SWIN, "upscale": 2, "upsampler": "nearest+conv"}
    theirs, ours = swin.SwinIR(**parameters).eval(), build("swinir", parameters).eval()
    assert set(ours.state_dict()) == set(without_keys(theirs.state_dict(), swinir.is_derived))
    ours.load_state_dict(theirs.state_dict())
    picture = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(6))
    with torch.no_grad():
        torch.testing.assert_close(ours(picture), theirs(picture), rtol=1e-4, atol=1e-5)


def randomise(network: torch.nn.Module) -> None:
    """Weights and statistics of a trained network's magnitude, so that every path matters."""
    generator = torch.Generator().manual_seed(10)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(std=0.2, generator=generator)
                module.running_var.uniform_(0.5, 2.0, generator=generator)
            elif isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
                width = module.weight[0].numel()
                module.weight.normal_(std=width**-0.5, generator=generator)
                module.bias.normal_(std=0.1, generator=generator)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("arch", "cls", "parameters", "theirs_alone"), SPANDREL_CASES)
def test_keys_and_outputs_equal_spandrel(
    arch: str, cls: str, parameters: dict[str, Any], theirs_alone: dict[str, Any]
) -> None:
    load_spandrel()
    module = importlib.import_module(f"spandrel.architectures.{cls}")
    theirs = getattr(module, cls)(**parameters, **theirs_alone)
    randomise(theirs.double())
    ours = build(arch, parameters).double()
    derived = {"span": span.is_derived, "dat": dat.is_derived}.get(arch, lambda _: False)
    assert set(ours.state_dict()) == set(without_keys(theirs.state_dict(), derived))
    ours.load_state_dict(theirs.state_dict())
    generator = torch.Generator().manual_seed(11)
    picture = torch.rand(2, 3, 24, 32, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        expected, actual = theirs.eval()(picture), ours.eval()(picture)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-10 * float(expected.abs().max()))


@pytest.mark.parametrize("parameters", [{}, {"norm": False, "upscale": 2}, {"residual": True}])
def test_merged_span_equals_expanded_span(parameters: dict[str, Any]) -> None:
    """Also at the border, where the chain's first bias reaches the padding."""
    expanded = build("span", {"feature_channels": 5, **parameters}).double().eval()
    randomise(expanded)
    picture = torch.rand(1, 3, 9, 7, dtype=torch.float64)
    with torch.no_grad():
        before = expanded(picture)
        merged = ARCHS.get("span").reparameterise(expanded)
        after = merged(picture)
    assert not any(isinstance(layer, span.ExpandedConvolution) for layer in merged.modules())
    torch.testing.assert_close(after, before, rtol=0, atol=1e-10 * float(before.abs().max()))
    built = build("span", {"feature_channels": 5, **parameters, "merged": True})
    assert built.state_dict().keys() == merged.state_dict().keys()


@pytest.mark.parametrize("merged", [True, False])
def test_residual_span_starts_near_the_nearest_neighbour_enlargement(merged: bool) -> None:
    torch.manual_seed(0)
    picture = torch.rand(1, 3, 12, 10)
    nearest = torch.nn.functional.interpolate(picture, scale_factor=4, mode="nearest")
    with torch.no_grad():
        enlarged = build("span", {"merged": merged, "residual": True})(picture)
    assert 0 < (enlarged - nearest).abs().mean() < 0.1


@pytest.mark.parametrize("merged", [True, False])
@pytest.mark.parametrize("channels", [8, 48])
def test_every_block_of_residual_span_has_a_gradient(merged: bool, channels: int) -> None:
    parameters = {"feature_channels": channels, "img_range": 16.0, "residual": True}
    assert min(block_gradients({**parameters, "merged": merged})) > 1e-8


def test_torchs_initialisation_of_merged_span_has_no_gradient_in_the_middle() -> None:
    """The reason for another one: Adam's epsilon is 1e-8."""
    assert min(block_gradients({"merged": True, "img_range": 16.0})[1:5]) < 1e-13


def block_gradients(parameters: dict[str, Any]) -> list[float]:
    """The mean absolute gradient of each block's first convolution."""
    torch.manual_seed(0)
    network = build("span", parameters)
    lr = torch.rand(2, 3, 16, 16)
    hr = torch.nn.functional.interpolate(lr, scale_factor=4, mode="bicubic")
    (network(lr) - hr).abs().mean().backward()
    firsts = [network.get_submodule(f"block_{number}.c1_r") for number in range(1, 7)]
    weights = [first.weight if parameters["merged"] else first.conv[1].weight for first in firsts]
    return [float(weight.grad.abs().mean()) for weight in weights]


def test_nafnet_with_a_local_mean_is_local() -> None:
    """With a local mean, distant changes have no effect; with a global mean they do."""
    picture = torch.rand(1, 3, 16, 160, generator=torch.Generator().manual_seed(7))
    changed = picture.clone()
    changed[..., -8:] = 0.0
    for pool, is_local in ((8, True), (0, False)):
        net = build("nafnet", {**NAF, "enc_blk_nums": [1], "dec_blk_nums": [1], "pool": pool})
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.normal_(std=0.3, generator=torch.Generator().manual_seed(8))
            before, after = net(picture)[..., :80], net(changed)[..., :80]
        assert torch.allclose(before, after, rtol=1e-4, atol=1e-4) == is_local


@pytest.mark.parametrize("num_block", [2, 23])
def test_esrgan_starts_as_interpolation_at_any_depth(num_block: int) -> None:
    torch.manual_seed(0)
    picture = torch.rand(1, 3, 12, 12)
    smooth = torch.nn.functional.interpolate(picture, scale_factor=4, mode="bilinear")
    with torch.no_grad():
        enlarged = build("rrdb", {"num_block": num_block})(picture)
    assert (enlarged - smooth).abs().mean() < 0.1


def test_nafnet_starts_near_its_input() -> None:
    picture = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        assert (build("nafnet", NAF)(picture) - picture).abs().mean() < 0.01


@pytest.mark.parametrize(
    ("arch", "parameters"),
    [
        *CASES,
        ("nafnet", NAF),
        ("srcnn", {"upscale": 2}),
        ("vdsr", {"upscale": 3, "num_feat": 8, "num_conv": 4}),
        *((arch, parameters) for arch, _, parameters, _ in SPANDREL_CASES),
        ("span", {"feature_channels": 8, "merged": True, "residual": True}),
    ],
)
def test_facts_state_scale_and_receptive_field(arch: str, parameters: dict) -> None:
    """A pixel outside the stated receptive field has no effect; the scale is correct."""
    arch_facts = facts(arch, parameters)
    net = build(arch, parameters).eval()
    side = 64
    picture = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        before = net(picture)
        assert before.shape[-1] == side * arch_facts.scale
        if arch_facts.receptive_field is None or arch_facts.receptive_field >= side:
            return
        changed = picture.clone()
        changed[..., 0] = 1 - changed[..., 0]
        beyond = (arch_facts.receptive_field + 1) * arch_facts.scale
        torch.testing.assert_close(net(changed)[..., beyond:], before[..., beyond:])


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_bicubic_upsampling_equals_the_resampler(scale: int) -> None:
    from superres.image.resize import imresize
    from superres.model.archs.upsample import BicubicUpsample

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
    with pytest.raises(UnknownArch, match="one length"):
        build("nafnet", {"enc_blk_nums": [1]})
    with pytest.raises(UnknownArch, match="at least 16"):
        build("nafnet", {"pool": 4})
    with pytest.raises(UnknownArch, match="by 2 or 4"):
        build("swinir", {**SWIN, "upscale": 3, "upsampler": "nearest+conv"})
    with pytest.raises(UnknownArch, match="2 values for 3 input channels"):
        build("span", {"rgb_mean": [0.5, 0.5]})
    with pytest.raises(UnknownArch, match="as many output channels"):
        build("span", {"num_out_ch": 1, "residual": True})
    with pytest.raises(UnknownArch, match="kernel_size must be odd"):
        build("plksr", {"kernel_size": 4})
    with pytest.raises(UnknownArch, match="img_range"):
        build("span", {"img_range": float("inf")})
    with pytest.raises(UnknownArch, match="less than one"):
        build("plksr", {"dim": 4, "split_ratio": 0.1})
    for wrong, reason in (
        ({"split_size": [8]}, "two sides"),
        ({"depth": [2, 2]}, "one length"),
        ({"num_heads": [5]}, "even and divide"),
        ({"embed_dim": 16, "num_heads": [2]}, "at least 32"),
        ({"depth": [0]}, "depths at least 1"),
        ({"expansion_factor": 1.06}, "even number of hidden channels, not 63"),
    ):
        with pytest.raises(UnknownArch, match=reason):
            build("dat", wrong)
        with pytest.raises(UnknownArch, match=reason):
            facts("dat", wrong)
    with pytest.raises(UnknownArch, match="no multiple of num_heads 5"):
        build("swinir", {**SWIN, "num_heads": [2, 5]})
    for many in ("many", -3):
        with pytest.raises(UnknownArch, match="does not take"):
            build("compact", {"num_feat": many})
    with pytest.raises(UnknownArch):
        facts("resnet", {})
    with pytest.raises(UnknownArch, match="3 is not one of 1, 2, 4"):
        facts("rrdb", {"scale": 3})
    with pytest.raises(UnknownArch, match="does not take"):
        facts("compact", {"num_conv": "many"})


def test_stochastic_depth_is_only_active_in_training() -> None:
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


class Any3x3(torch.nn.Module):
    """A network with parameters of many types."""

    def __init__(
        self,
        depths: tuple[int, ...] = (1,),
        hidden: int | None = None,
        acts: Sequence[str] = (),
        ratio: float = 1.0,
        json: str = "",
    ) -> None:
        super().__init__()
        self.given = (depths, hidden, list(acts), ratio, json)


def one_to_one(parameters: Any) -> ArchFacts:
    return ArchFacts(scale=1, receptive_field=1)


def test_parameters_of_yaml_and_json_fit_the_constructor() -> None:
    arch = Architecture(name="acme", network=Any3x3, facts=one_to_one)
    network = arch.build({"depths": [1, 2], "hidden": None, "acts": ["relu"], "ratio": 2})
    assert network.given == ((1, 2), None, ["relu"], 2.0, "")
    with pytest.raises(UnknownArch, match=r"ratios is not a parameter; did you mean ratio\?"):
        arch.build({"ratios": 2})


class TakesAny(torch.nn.Module):
    def __init__(self, **options: int) -> None:
        super().__init__()


class PositionalOnly(torch.nn.Module):
    def __init__(self, width: int = 1, /) -> None:
        super().__init__()


class Private(torch.nn.Module):
    def __init__(self, _width: int = 1) -> None:
        super().__init__()


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"network": TakesAny}, "'options' of the constructor cannot be given by name"),
        ({"network": PositionalOnly}, "'width' of the constructor cannot be given by name"),
        ({"network": Private}, "reserved name '_width'"),
        ({"network": dict}, "`network` must be a subclass of Module"),
        ({"facts": 3}, "`facts` must be a function"),
        ({"scale_parameters": frozenset({"size"})}, "`scale_parameters` must be a frozenset of"),
        ({"weightless_parameters": "json"}, "`weightless_parameters` must be a frozenset of"),
    ],
)
def test_an_unusable_entry_is_refused_when_it_is_made(fields: Any, reason: str) -> None:
    with pytest.raises(TypeError, match=reason):
        Architecture(**{"name": "acme", "network": Any3x3, "facts": one_to_one} | fields)


@pytest.mark.parametrize(
    "facts", [{"scale": 0}, {"receptive_field": -3}, {"size_multiple": None}, {"window": 0}]
)
def test_impossible_facts_are_refused(facts: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="of a network must be an integer of at least"):
        ArchFacts(**{"scale": 2, "receptive_field": 3} | facts)
