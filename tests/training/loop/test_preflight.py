"""Invalid trainings are refused before the first step, with the key and the remedy."""

import http.server
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from superres.common.errors import SharplineError, UsageError
from superres.common.registry import PluginFailed
from superres.dataset.manifest import DatasetInfo, read_info
from superres.model.archs import ARCHS, ArchFacts, Architecture
from training.loop.distributed import DistributedContext
from training.loop.preflight import check_mlflow_access, check_training_plan, try_network
from training.recipe import load_recipe

GAN = {"name": "gan", "weight": 0.1, "kind": "vanilla"}
PIXEL = {"name": "l1", "weight": 1.0}


@pytest.fixture(scope="module")
def info(dataset: Path) -> DatasetInfo:
    return read_info(dataset)


@pytest.fixture
def check_plan(
    info: DatasetInfo, dataset: Path, recipe_file: Callable[..., Path]
) -> Callable[..., None]:
    def check_plan(
        distributed: DistributedContext | None = None, held_out: bool = True, **changes: object
    ) -> None:
        recipe = load_recipe(str(recipe_file(**changes)))
        dataset_info = info if held_out else info.model_copy(update={"splits": {"train": 6}})
        check_training_plan(
            recipe, recipe.full, dataset_info, dataset, None, distributed or DistributedContext()
        )

    return check_plan


def test_a_consistent_plan_is_accepted(check_plan: Callable[..., None]) -> None:
    check_plan()


def with_discriminator(name: str, **parameters: int) -> dict[str, object]:
    parameters = {"num_feat": 4, **parameters}
    return {
        "losses": [PIXEL, GAN],
        "discriminator": {"name": name, "parameters": parameters, "learning_rate": 1e-4},
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scale": 4}, r"dataset for scale 2, recipe tiny_x2 needs 4; build one with --scale 4"),
        (
            {"arch__parameters": {"num_feat": 8, "num_conv": 2, "upscale": 4}},
            "scale is 2, but its network enlarges by 4",
        ),
        ({"arch__name": "resnet"}, "recipe tiny_x2: arch: no network 'resnet'; available"),
        ({"arch__parameters": {"num_conv": "many"}}, "arch: network 'compact' does not take"),
        (with_discriminator("vgg"), "vgg needs sides of 128 pixels, .* side 12 at x2 gives 24"),
        (
            with_discriminator("unet") | {"full__patches": [{"since": 0.0, "side": 11}]},
            "unet needs sides that are multiples of 8 pixels",
        ),
        (
            {
                "losses": [
                    {"name": "perceptual", "weight": 1.0, "layers": {"conv5_4": 1.0}, "vgg": "gone"}
                ]
            },
            "no VGG19 weights at gone: download",
        ),
        (
            {"distributed": DistributedContext(world_size=3)},
            "batch 2 is not divisible by 3 processes",
        ),
        (
            {"held_out": False, "full__early_stop": {"patience": 2, "min_gain": 0.1}},
            "early_stop needs held-out pictures, .* --split-every",
        ),
    ],
)
def test_an_inconsistent_plan_is_refused(
    changes: dict[str, object], message: str, check_plan: Callable[..., None]
) -> None:
    with pytest.raises(UsageError, match=message):
        check_plan(**changes)


class StatusHandler(http.server.BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    with http.server.HTTPServer(("127.0.0.1", 0), StatusHandler) as listener:
        thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{listener.server_address[1]}"
        listener.shutdown()
        thread.join()


@pytest.mark.parametrize("uri", ["localhost:5000", "mlflow", "http://", "ftp://here"])
def test_an_invalid_url_is_refused(uri: str) -> None:
    with pytest.raises(UsageError, match=r"SHARPLINE_MLFLOW_URI is .*http://127.0.0.1:5000"):
        check_mlflow_access(uri)


@pytest.mark.parametrize("status", [401, 403])
def test_an_mlflow_server_that_denies_access_is_refused(
    status: int, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StatusHandler, "status", status)
    with pytest.raises(SharplineError, match=rf"denies access \({status}.*--allowed-hosts"):
        check_mlflow_access(server)


def test_an_unavailable_mlflow_server_is_accepted(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_mlflow_access("http://127.0.0.1:9")
    check_mlflow_access(server)
    monkeypatch.setattr(StatusHandler, "status", 503)
    check_mlflow_access(server)


class Enlarged(nn.Module):
    """Nearest enlargement by `upscale`, and `factor` times as bright."""

    def __init__(self, upscale: int = 2, factor: float = 1.0) -> None:
        super().__init__()
        self.upscale, self.factor = upscale, nn.Parameter(torch.tensor(factor))

    def forward(self, lr_bchw: Tensor) -> Tensor:
        return functional.interpolate(lr_bchw, scale_factor=self.upscale) * self.factor


def brighter(network: nn.Module) -> nn.Module:
    return Enlarged(2, 1.5)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"facts": lambda parameters: ArchFacts(scale=3, receptive_field=1)}, r"\(1, 3, 48, 48\)"),
        ({"reparameterise": brighter}, "merged form differs"),
        ({"reparameterise": lambda network: None}, "TypeError: .NoneType. object"),
    ],
)
def test_a_plugins_network_is_tried_before_the_training(
    changes: dict[str, Any],
    reason: str | None,
    plug_in: Callable[..., None],
    recipe_file: Callable[..., Path],
) -> None:
    fields = {"facts": lambda parameters: ArchFacts(scale=2, receptive_field=1), **changes}
    plug_in(ARCHS, Architecture(name="acme_enlarged", network=Enlarged, **fields))
    recipe = load_recipe(str(recipe_file(arch={"name": "acme_enlarged", "parameters": {}})))
    if reason is None:
        try_network(Enlarged(), recipe)
        return
    with pytest.raises(
        PluginFailed, match=rf"network 'acme_enlarged' of acme 1.0 failed.*{reason}"
    ):
        try_network(Enlarged(), recipe)
