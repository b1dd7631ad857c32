"""What cannot work is refused before the first step, with the key and the remedy."""

import http.server
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from superres.common.errors import SharplineError, UsageError
from superres.dataset.manifest import DatasetInfo, read_info
from training.loop.distributed import DistributedContext
from training.loop.preflight import refuse_closed_mlflow, refuse_impossible
from training.recipe import load_recipe

GAN = {"name": "gan", "weight": 0.1, "kind": "vanilla"}
PIXEL = {"name": "l1", "weight": 1.0}


@pytest.fixture(scope="module")
def info(dataset: Path) -> DatasetInfo:
    return read_info(dataset)


@pytest.fixture
def refuse(
    info: DatasetInfo, dataset: Path, recipe_file: Callable[..., Path]
) -> Callable[..., None]:
    def refuse(
        distributed: DistributedContext | None = None, held_out: bool = True, **changes: object
    ) -> None:
        recipe = load_recipe(str(recipe_file(**changes)))
        its = info if held_out else info.model_copy(update={"splits": {"train": 6}})
        refuse_impossible(
            recipe, recipe.full, its, dataset, None, distributed or DistributedContext()
        )

    return refuse


def test_what_fits_is_let_through(refuse: Callable[..., None]) -> None:
    refuse()


def discriminated(name: str, **parameters: int) -> dict[str, object]:
    given = {"num_feat": 4, **parameters}
    return {
        "losses": [PIXEL, GAN],
        "discriminator": {"name": name, "parameters": given, "learning_rate": 1e-4},
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scale": 4}, r"dataset for scale 2, recipe tiny_x2 needs 4; build one with --scale 4"),
        (
            {"arch__parameters": {"num_feat": 8, "num_conv": 2, "upscale": 4}},
            "scale is 2, but its network enlarges by 4",
        ),
        ({"arch__name": "resnet"}, "recipe tiny_x2: arch: no network 'resnet'; there are"),
        ({"arch__parameters": {"num_conv": "many"}}, "arch: network 'compact' does not take"),
        (discriminated("vgg"), "vgg needs sides of 128 pixels, .* side 12 at x2 gives 24"),
        (
            discriminated("unet") | {"full__patches": [{"since": 0.0, "side": 11}]},
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
        ({"distributed": DistributedContext(count=3)}, "batch 2 cannot be shared by 3 processes"),
        (
            {"held_out": False, "full__early_stop": {"patience": 2, "min_gain": 0.1}},
            "early_stop goes by pictures held out, .* --split-every",
        ),
    ],
)
def test_what_does_not_is_refused(
    changes: dict[str, object], message: str, refuse: Callable[..., None]
) -> None:
    with pytest.raises(UsageError, match=message):
        refuse(**changes)


class Answers(http.server.BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    with http.server.HTTPServer(("127.0.0.1", 0), Answers) as listener:
        thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{listener.server_address[1]}"
        listener.shutdown()
        thread.join()


@pytest.mark.parametrize("uri", ["localhost:5000", "mlflow", "http://", "ftp://here"])
def test_an_address_that_is_none_is_refused(uri: str) -> None:
    with pytest.raises(UsageError, match=r"SHARPLINE_MLFLOW_URI is .*http://127.0.0.1:5000"):
        refuse_closed_mlflow(uri)


@pytest.mark.parametrize("status", [401, 403])
def test_an_mlflow_that_refuses_us_is_named(
    status: int, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Answers, "status", status)
    with pytest.raises(SharplineError, match=rf"refuses us \({status}.*--allowed-hosts"):
        refuse_closed_mlflow(server)


def test_an_mlflow_that_is_away_or_ill_is_no_reason(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_closed_mlflow("http://127.0.0.1:9")
    refuse_closed_mlflow(server)
    monkeypatch.setattr(Answers, "status", 503)
    refuse_closed_mlflow(server)
