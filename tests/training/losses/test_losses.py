"""Each loss equals basicsr's, or its paper's formula if basicsr has none."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from superres.common.errors import UsageError
from superres.common.registry import PluginFailed
from training.basicsr_bridge import discriminator, load_basicsr
from training.losses import LOSSES
from training.losses.fft import fft
from training.losses.gan import GanSettings, discriminator_terms
from training.losses.ldl import ldl
from training.losses.loss import Loss, LossInputs, LossSettings
from training.losses.loss_sum import LossSum
from training.losses.perceptual import (
    PerceptualSettings,
    VggFeatures,
    load_features,
    perceptual,
    weight_file,
)

LAYERS = {"conv1_2": 0.1, "conv2_2": 0.1, "conv3_4": 1.0}


def crops(seed: int, side: int = 24) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(2, 3, side, side, generator=generator)


@pytest.fixture(scope="module")
def vgg_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seeded weights with torchvision's state-dict keys, up to the last layer of the tests."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("vgg") / "vgg19.pth"
    torch.save(VggFeatures(LAYERS).state_dict(), path)
    return path


@pytest.mark.parametrize(
    ("name", "theirs", "options"),
    [
        ("l1", "L1Loss", {}),
        ("mse", "MSELoss", {}),
        ("charbonnier", "CharbonnierLoss", {"eps": 1e-6}),
    ],
)
def test_a_pixel_loss_equals_basicsr(name: str, theirs: str, options: dict[str, float]) -> None:
    load_basicsr()
    from basicsr.losses import basic_loss

    output, truth = crops(1), crops(2)
    total, terms = LossSum([LossSettings(name=name, weight=0.5)])(output, truth)
    expected = getattr(basic_loss, theirs)(loss_weight=0.5, **options)(output, truth)
    torch.testing.assert_close(total, expected)
    torch.testing.assert_close(terms[name], 2 * expected)


def test_the_perceptual_loss_equals_basicsr(
    vgg_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_basicsr()
    from basicsr.archs import vgg_arch
    from basicsr.losses.basic_loss import PerceptualLoss as Theirs
    from torchvision.models.vgg import cfgs, make_layers

    def seeded_vgg19(pretrained: bool) -> SimpleNamespace:
        features = make_layers(cfgs["E"][:11])
        weights = torch.load(vgg_file, weights_only=True)
        features.load_state_dict({key.partition(".")[2]: each for key, each in weights.items()})
        return SimpleNamespace(features=features)

    monkeypatch.setattr(vgg_arch.vgg, "vgg19", seeded_vgg19)
    loss = PerceptualSettings(name="perceptual", weight=1.0, layers=LAYERS, vgg=str(vgg_file))
    output, truth = crops(1).requires_grad_(), crops(2)
    ours = perceptual(load_features(loss), output, truth, LAYERS)
    theirs, _ = Theirs(LAYERS)(output, truth)
    torch.testing.assert_close(ours, theirs)
    (gradient,) = torch.autograd.grad(ours, output)
    (expected,) = torch.autograd.grad(theirs, output)
    torch.testing.assert_close(gradient, expected)


def test_the_term_of_a_recipe_is_the_perceptual_loss(vgg_file: Path) -> None:
    settings = PerceptualSettings(name="perceptual", weight=0.5, layers=LAYERS, vgg=str(vgg_file))
    output, truth = crops(1), crops(2)
    total, terms = LossSum([settings], LossInputs(device=torch.device("cpu")))(output, truth)
    expected = perceptual(load_features(settings), output, truth, LAYERS)
    torch.testing.assert_close(terms["perceptual"], expected)
    torch.testing.assert_close(total, 0.5 * expected)


def test_missing_vgg_weights_are_refused_with_the_url(
    tmp_path: Path, vgg_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loss(vgg: str | None, layer: str = "conv1_1") -> PerceptualSettings:
        return PerceptualSettings(name="perceptual", weight=1.0, layers={layer: 1.0}, vgg=vgg)

    monkeypatch.delenv("SHARPLINE_VGG19", raising=False)
    with pytest.raises(
        UsageError, match=r"needs VGG19's weights: download https://.*SHARPLINE_VGG19"
    ):
        weight_file(loss(None))
    with pytest.raises(UsageError, match=r"no VGG19 weights at .*nowhere"):
        weight_file(loss(str(tmp_path / "nowhere")))
    monkeypatch.setenv("SHARPLINE_VGG19", str(vgg_file))
    assert weight_file(loss(None)) == vgg_file
    with pytest.raises(UsageError, match="is not torchvision's VGG19"):
        load_features(loss(None, "conv5_4"))
    listed = tmp_path / "list.pth"
    torch.save([1, 2], listed)
    with pytest.raises(UsageError, match=r"holds no weights .*; download https://"):
        load_features(loss(str(listed)))
    with pytest.raises(UsageError, match="no layer 'conv6_1'"):
        load_features(loss(None, "conv6_1"))


def test_fft_is_the_l1_distance_of_spectra() -> None:
    output, truth = crops(1), crops(2)
    spectra = [np.fft.fft2(each.numpy().astype(np.float64)) for each in (output, truth)]
    difference = spectra[0] - spectra[1]
    expected = np.mean([np.abs(difference.real), np.abs(difference.imag)])
    assert fft(output, truth).item() == pytest.approx(expected, rel=1e-5)


def test_ldl_equals_its_paper() -> None:
    output, truth, ema = (crops(seed).double().numpy() for seed in (1, 2, 3))
    total = 0.0
    for out, hr, mean in zip(output, truth, ema, strict=True):
        error, ema_error = (np.abs(hr - each).sum(0) for each in (out, mean))
        padded = np.pad(error, 3, mode="reflect")
        for row, column in np.ndindex(error.shape):
            local = np.var(padded[row : row + 7, column : column + 7], ddof=1)
            if error[row, column] >= ema_error[row, column]:
                weight = np.var(error, ddof=1) ** 0.2 * local
                total += weight * np.abs(out - hr)[:, row, column].sum()
    ours = ldl(*(torch.from_numpy(each) for each in (output, truth, ema)))
    assert ours.item() == pytest.approx(total / output.size, rel=1e-6)


def test_ldl_uses_the_ema_networks_output() -> None:
    inputs = []

    def ema(lr_bchw: Tensor) -> Tensor:
        inputs.append(lr_bchw)
        return crops(3)

    terms = LossSum([LossSettings(name="ldl", weight=1.0)], LossInputs(ema=ema))
    total, _ = terms(crops(1), crops(2), lr_bchw := crops(4, side=12))
    torch.testing.assert_close(total, ldl(crops(1), crops(2), crops(3)))
    assert inputs == [lr_bchw]


class TinyDiscriminator(nn.Module):
    """A small discriminator with seeded weights."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.net = nn.Conv2d(3, 1, 3)

    def forward(self, bchw: Tensor) -> Tensor:
        return self.net(bchw)


def test_the_vanilla_gan_equals_basicsr() -> None:
    load_basicsr()
    from basicsr.losses.gan_loss import GANLoss

    discriminator, output, truth = TinyDiscriminator(), crops(1), crops(2)
    theirs = GANLoss("vanilla", loss_weight=0.1)
    total, _ = LossSum(
        [GanSettings(name="gan", weight=0.1, kind="vanilla")],
        LossInputs(discriminator=discriminator),
    )(output, truth)
    torch.testing.assert_close(total, theirs(discriminator(output), True, is_disc=False))
    terms = discriminator_terms(discriminator, output, truth, "vanilla")
    torch.testing.assert_close(
        terms["discriminator_real"], theirs(discriminator(truth), True, is_disc=True)
    )
    torch.testing.assert_close(
        terms["discriminator_fake"], theirs(discriminator(output), False, is_disc=True)
    )


def test_the_relativistic_gan_equals_basicsr_esrgan_step() -> None:
    """As in basicsr's ESRGANModel.optimize_parameters; gradients depend on the detached means."""
    load_basicsr()
    from basicsr.losses.gan_loss import GANLoss

    discriminator, truth, theirs = (
        TinyDiscriminator(),
        crops(2),
        GANLoss("vanilla", loss_weight=0.1),
    )
    output = crops(1).requires_grad_()
    total, _ = LossSum(
        [GanSettings(name="gan", weight=0.1, kind="relativistic")],
        LossInputs(discriminator=discriminator),
    )(output, truth)
    real, fake = discriminator(truth).detach(), discriminator(output)
    generator = (theirs(real - torch.mean(fake), False) + theirs(fake - torch.mean(real), True)) / 2
    torch.testing.assert_close(total, generator)
    (gradient,) = torch.autograd.grad(total, output)
    torch.testing.assert_close(gradient, torch.autograd.grad(generator, output)[0])

    detached = output.detach()
    terms = discriminator_terms(discriminator, detached, truth, "relativistic")
    ours = torch.autograd.grad(sum(terms.values()), list(discriminator.parameters()))
    real_part = (
        theirs(discriminator(truth) - discriminator(detached).detach().mean(), True, is_disc=True)
        * 0.5
    )
    fake_part = (
        theirs(discriminator(detached) - discriminator(truth).detach().mean(), False, is_disc=True)
        * 0.5
    )
    expected = torch.autograd.grad(real_part + fake_part, list(discriminator.parameters()))
    for one, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    ("name", "side", "shape"), [("unet", 32, (2, 1, 32, 32)), ("vgg", 128, (2, 1))]
)
def test_discriminators_are_those_of_basicsr(name: str, side: int, shape: tuple[int, ...]) -> None:
    network = discriminator(name, {"num_feat": 4})
    assert type(network).__module__ == "basicsr.archs.discriminator_arch"
    assert network(crops(1, side)).shape == shape


def test_a_nonfinite_batch_does_not_change_a_discriminator() -> None:
    network = discriminator("vgg", {"num_feat": 4})
    network(crops(1, 128) * float("nan"))
    assert all(value.isfinite().all() for value in network.state_dict().values())


def test_invalid_discriminator_parameters_are_refused() -> None:
    with pytest.raises(UsageError, match="'vgg' does not take"):
        discriminator("vgg", {"num_feat": 4, "input_size": 100})


@pytest.mark.parametrize("make", [lambda: crops(1), lambda: crops(1) * 0 + 0.5])
def test_gradients_are_finite_for_a_perfect_output(make: Callable[[], Tensor]) -> None:
    output = make().requires_grad_()
    truth = make()
    names = ("l1", "charbonnier", "mse", "fft")
    pixel, _ = LossSum([LossSettings(name=name, weight=1.0) for name in names])(output, truth)
    (pixel + ldl(output, truth, truth)).backward()
    assert output.grad is not None
    assert output.grad.isfinite().all()


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (lambda settings, inputs: None, "`build` returned NoneType, not a function"),
        (lambda settings, inputs: {}["missing"], "KeyError: 'missing'"),
        (lambda settings, inputs: lambda output, hr, lr: (output - hr).abs(), "not one"),
    ],
)
def test_a_wrong_loss_of_a_plugin_is_named(
    build: Callable[..., object], reason: str, plug_in: Callable[..., None]
) -> None:
    plug_in(LOSSES, Loss(name="acme", build=build))
    with pytest.raises(PluginFailed, match=rf"loss 'acme'.*{reason}"):
        LossSum([LossSettings(name="acme", weight=1.0)])(crops(1), crops(2))
