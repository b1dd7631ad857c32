import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from serving.errors import BadOptions, NotReady, UnknownModel
from serving.models.reload import Models
from serving.setting_groups import ModelSettings
from superres.common.files import write_bytes, write_json
from superres.image.codecs import decode
from superres.model.backends import load_backend


class RecordingObserver:
    def __init__(self):
        self.swapped = []
        self.refused = []

    def model_desired(self, model):
        pass

    def model_verified(self, model, *, pixels, seconds):
        assert pixels > 0
        assert seconds > 0

    def model_swapped(self, model):
        self.swapped.append(model)

    def model_refused(self, model):
        self.refused.append(model)


class Loader:
    """Loads real backends and records which are loaded and closed."""

    def __init__(self):
        self.closed = []
        self.loaded = []

    def __call__(self, bundle, device):
        backend = load_backend(bundle, backend="torch", device="cpu", precision="fp32")
        self.loaded.append(bundle.id)
        backend.close = lambda: self.closed.append(bundle.id)
        return backend


@pytest.fixture
def loader():
    return Loader()


@pytest.fixture
def models_of(loader):
    """Makes `Models` of a folder without a thread; tests call `refresh`."""

    def make(root):
        return Models(
            ModelSettings(folder=root),
            lambda device_index, task: task(),
            RecordingObserver(),
            loader,
            ["cpu"],
        )

    return make


def served(models):
    return {
        name: (model_version.version, model_version.model.bundle.id)
        for name, model_version in models.champions.items()
    }


def test_folder_without_an_index_serves_every_bundle_in_it(models_folder, models_of, tiny_bundle):
    shutil.copytree(tiny_bundle(name="compact_x4", scale=4).root, models_folder / "anything")
    (models_folder / "notes").mkdir()
    models = models_of(models_folder)
    models.refresh()
    assert sorted(models.champions) == ["compact_x2", "compact_x4"]
    assert {model_version.version for model_version in models.champions.values()} == {"local"}
    assert not models.problems


def test_second_bundle_of_one_name_is_refused(models_folder, models_of):
    shutil.copytree(models_folder / "compact_x2", models_folder / "second")
    models = models_of(models_folder)
    models.refresh()
    assert list(models.champions) == ["compact_x2"]
    assert "called 'compact_x2', not 'second'" in models.problems["second"]


def test_index_names_champions_and_their_versions(followed_folder, models_of, tiny_bundle):
    bundle = tiny_bundle()
    followed_folder.serve("compact_x2", followed_folder.add(bundle), 7)
    followed_folder.add(tiny_bundle(error_levels=1))
    models = models_of(followed_folder.root)
    models.refresh()
    assert served(models) == {"compact_x2": ("7", bundle.id)}


def test_new_champion_replaces_the_previous_one_which_stays_loaded(
    followed_folder, models_of, loader, tiny_bundle
):
    ids = [followed_folder.add(tiny_bundle(error_levels=levels)) for levels in range(3)]
    models = models_of(followed_folder.root)
    for version, bundle_id in enumerate(ids):
        followed_folder.serve("compact_x2", bundle_id, version)
        models.refresh()
        assert served(models) == {"compact_x2": (str(version), bundle_id)}
    assert loader.loaded == ids
    assert loader.closed == ids[:1]
    followed_folder.serve("compact_x2", ids[1], 1)
    models.refresh()
    assert served(models) == {"compact_x2": ("1", ids[1])}
    assert loader.loaded == ids, "a rollback loads nothing"
    assert loader.closed == ids[:1]
    models.close()
    assert sorted(loader.closed) == sorted(ids)


def test_unchanged_folder_is_not_read_again(models_folder, models_of, loader):
    models = models_of(models_folder)
    models.refresh()
    models.refresh()
    assert len(loader.loaded) == 1


def test_bundle_replaced_under_the_same_name_is_reloaded(models_folder, models_of, tiny_bundle):
    models = models_of(models_folder)
    models.refresh()
    newer = tiny_bundle(error_levels=3)
    shutil.rmtree(models_folder / "compact_x2")
    shutil.copytree(newer.root, models_folder / "compact_x2")
    models.refresh()
    assert models.champions["compact_x2"].model.bundle.id == newer.id


def test_new_version_number_of_the_same_bundle_loads_nothing(
    followed_folder, models_of, loader, tiny_bundle
):
    bundle_id = followed_folder.add(tiny_bundle())
    models = models_of(followed_folder.root)
    for version in (1, 2):
        followed_folder.serve("compact_x2", bundle_id, version)
        models.refresh()
    assert served(models) == {"compact_x2": ("2", bundle_id)}
    assert len(loader.loaded) == 1


def flip_weights(bundle_root):
    path = bundle_root / "weights.safetensors"
    data = path.read_bytes()
    write_bytes(path, data[:-1] + bytes([data[-1] ^ 1]))


def truncate_index_of(bundle_root):
    write_bytes(bundle_root / "bundle.json", b"{")


def remove(bundle_root):
    shutil.rmtree(bundle_root)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (flip_weights, "sha256 differs"),
        (truncate_index_of, "not a description"),
        (remove, "not a model bundle"),
    ],
)
def test_broken_new_model_is_refused_and_the_old_one_stays_in_service(
    followed_folder, models_of, tiny_bundle, damage, reason
):
    old = followed_folder.add(tiny_bundle())
    followed_folder.serve("compact_x2", old, 1)
    models = models_of(followed_folder.root)
    models.refresh()
    new = followed_folder.add(tiny_bundle(error_levels=1))
    damage(followed_folder.root / "by-sha" / new)
    followed_folder.serve("compact_x2", new, 2)
    models.refresh()
    assert served(models) == {"compact_x2": ("1", old)}
    assert reason in models.problems["compact_x2"]
    assert models._observer.refused == ["compact_x2"]


def test_refused_model_that_is_repaired_is_served(followed_folder, models_of, tiny_bundle):
    bundle = tiny_bundle()
    bundle_id = followed_folder.add(bundle)
    flip_weights(followed_folder.root / "by-sha" / bundle_id)
    followed_folder.serve("compact_x2", bundle_id, 1)
    models = models_of(followed_folder.root)
    models.refresh()
    assert not models.champions
    followed_folder.add(bundle)
    models.refresh()
    assert served(models) == {"compact_x2": ("1", bundle_id)}
    assert not models.problems


def test_model_that_misses_its_golden_output_is_refused_and_closed(
    models_folder, models_of, loader, tiny_bundle
):
    """The golden pair of one model with the weights of another, as after silent corruption."""
    right, wrong = tiny_bundle(), tiny_bundle(error_levels=5)
    golden = right.root / "golden" / "output.png"
    shutil.rmtree(models_folder / "compact_x2")
    forged = shutil.copytree(wrong.root, models_folder / "compact_x2")
    shutil.copy(golden, forged / "golden" / "output.png")
    digest = right.info.files["golden/output.png"]
    text = (forged / "bundle.json").read_text()
    (forged / "bundle.json").write_text(text.replace(wrong.info.files["golden/output.png"], digest))
    models = models_of(models_folder)
    models.refresh()
    assert not models.champions
    assert "differs from the golden output by 5.00 levels" in models.problems["compact_x2"]
    assert loader.loaded == loader.closed


@pytest.mark.parametrize("content", ["", "[]", '{"compact_x2": {"champion": 5}}', "{"])
def test_broken_index_changes_nothing(followed_folder, models_of, tiny_bundle, content):
    followed_folder.serve("compact_x2", followed_folder.add(tiny_bundle()), 1)
    models = models_of(followed_folder.root)
    models.refresh()
    before = served(models)
    (followed_folder.root / "index.json").write_text(content)
    models.refresh()
    assert served(models) == before
    assert "index.json cannot be read" in models.problems[str(followed_folder.root)]


def roles(models, name="compact_x2"):
    """The bundle id of each role."""
    return {
        model_version.role: model_version.model.bundle.id
        for model_version in models.routes[name].versions()
    }


def test_canary_serves_its_percentage_of_the_clients_always_the_same_ones(
    followed_folder, models_of, tiny_bundle
):
    old, new = (followed_folder.add(tiny_bundle(error_levels=levels)) for levels in range(2))
    followed_folder.serve("compact_x2", old, 1)
    models = models_of(followed_folder.root)
    clients = [f"203.0.113.{n}" for n in range(250)]

    def share(percent):
        entry = followed_folder.index["compact_x2"]
        entry.update(canary=new, canary_percent=percent)
        entry["versions"][new] = "2"
        write_json(followed_folder.root / "index.json", followed_folder.index)
        models.refresh()
        canary_clients = set()
        for client in clients:
            with models.use("compact_x2", client=client) as model_version:
                assert model_version.model.bundle.id == (
                    new if model_version.role == "canary" else old
                )
                assert model_version.version == ("2" if model_version.role == "canary" else "1")
                if model_version.role == "canary":
                    canary_clients.add(client)
        return canary_clients

    assert share(0) == set()
    few, many = share(10), share(40)
    assert 10 <= len(few) <= 40
    assert 70 <= len(many) <= 130
    assert few < many, "clients stay with the canary as its percentage grows"
    assert share(40) == many
    assert share(100) == set(clients)
    assert models.champions["compact_x2"].model.bundle.id == old


def test_canary_becomes_champion_without_being_loaded_again(
    followed_folder, models_of, loader, tiny_bundle
):
    old, new = (followed_folder.add(tiny_bundle(error_levels=levels)) for levels in range(2))
    followed_folder.serve("compact_x2", old, 1)
    followed_folder.index["compact_x2"].update(canary=new, canary_percent=50)
    write_json(followed_folder.root / "index.json", followed_folder.index)
    models = models_of(followed_folder.root)
    models.refresh()
    assert roles(models) == {"champion": old, "canary": new}
    followed_folder.serve("compact_x2", new, 2)
    models.refresh()
    assert roles(models) == {"champion": new}
    assert loader.loaded == [old, new]
    assert loader.closed == []


@pytest.mark.parametrize("role", ["canary", "shadow", "previous"])
def test_broken_canary_shadow_or_previous_is_refused_and_the_champion_serves(
    followed_folder, models_of, tiny_bundle, role
):
    old, new = (followed_folder.add(tiny_bundle(error_levels=levels)) for levels in range(2))
    flip_weights(followed_folder.root / "by-sha" / new)
    followed_folder.serve("compact_x2", old, 1)
    followed_folder.index["compact_x2"].update({role: new, "canary_percent": 100})
    write_json(followed_folder.root / "index.json", followed_folder.index)
    models = models_of(followed_folder.root)
    models.refresh()
    assert roles(models) == {"champion": old}
    assert "sha256 differs" in models.problems[f"compact_x2 {role}"]
    with models.use("compact_x2", client="anybody") as model_version:
        assert model_version.role == "champion"


def test_canary_of_another_scale_is_refused(followed_folder, models_of, tiny_bundle):
    old, new = (followed_folder.add(tiny_bundle(scale=scale)) for scale in (2, 4))
    followed_folder.serve("compact_x2", old, 1)
    followed_folder.index["compact_x2"].update(canary=new, canary_percent=100)
    write_json(followed_folder.root / "index.json", followed_folder.index)
    models = models_of(followed_folder.root)
    models.refresh()
    assert roles(models) == {"champion": old}
    assert "scale" in models.problems["compact_x2 canary"]


def test_previous_model_is_loaded_at_start_so_that_a_rollback_loads_nothing(
    followed_folder, models_of, loader, tiny_bundle
):
    old, new = (followed_folder.add(tiny_bundle(error_levels=levels)) for levels in range(2))
    followed_folder.serve("compact_x2", old, 1)
    followed_folder.serve("compact_x2", new, 2)
    models = models_of(followed_folder.root)
    models.refresh()
    assert served(models) == {"compact_x2": ("2", new)}
    assert loader.loaded == [new, old], "the champion first"
    followed_folder.serve("compact_x2", old, 1)
    models.refresh()
    assert served(models) == {"compact_x2": ("1", old)}
    assert loader.loaded == [new, old]
    assert loader.closed == []


def test_restart_serves_the_folder_of_the_last_successful_follow(
    followed_folder, models_of, tiny_bundle
):
    """No registry is contacted, and a partially fetched bundle in the store is ignored."""
    good = followed_folder.add(tiny_bundle())
    followed_folder.serve("compact_x2", good, 4)
    half = followed_folder.root / "by-sha" / ".fetching"
    half.mkdir()
    (half / "bundle.json").write_text("{")
    models = models_of(followed_folder.root)
    models.refresh()
    assert served(models) == {"compact_x2": ("4", good)}
    assert not models.problems


def test_name_removed_from_the_index_is_no_longer_served(
    followed_folder, models_of, loader, tiny_bundle
):
    bundle_id = followed_folder.add(tiny_bundle())
    followed_folder.serve("compact_x2", bundle_id, 1)
    models = models_of(followed_folder.root)
    models.refresh()
    followed_folder.index["compact_x2"]["champion"] = None
    write_json(followed_folder.root / "index.json", followed_folder.index)
    models.refresh()
    assert not models.champions
    assert loader.closed == [bundle_id]
    with pytest.raises(NotReady), models.use():
        pass


def test_model_in_use_stays_open_until_its_last_user_has_gone(
    followed_folder, models_of, loader, tiny_bundle
):
    ids = [followed_folder.add(tiny_bundle(error_levels=levels)) for levels in range(3)]
    models = models_of(followed_folder.root)
    followed_folder.serve("compact_x2", ids[0], 0)
    models.refresh()
    with models.use("compact_x2") as model_version:
        for version in (1, 2):
            followed_folder.serve("compact_x2", ids[version], version)
            models.refresh()
        assert loader.closed == []
        lr, large = model_version.model.bundle.golden()
        assert np.array_equal(model_version.model.upscaler.upscale(lr).rgb_hwc, large.rgb_hwc)
    assert loader.closed == ids[:1]


def test_choice_prefers_the_default_and_errors_list_what_is_available(
    models_folder, tiny_bundle, loader
):
    shutil.copytree(tiny_bundle(name="b_x2").root, models_folder / "b_x2")
    shutil.copytree(tiny_bundle(name="c_x4", scale=4).root, models_folder / "c_x4")
    settings = ModelSettings(folder=models_folder, default="compact_x2")
    models = Models(
        settings, lambda device_index, task: task(), RecordingObserver(), loader, ["cpu"]
    )
    assert models.default_name is None
    models.refresh()
    assert models.default_name == "compact_x2"
    for name, scale, expected in (
        (None, None, "compact_x2"),
        (None, 2, "compact_x2"),
        (None, 4, "c_x4"),
        ("b_x2", None, "b_x2"),
    ):
        with models.use(name, scale) as model_version:
            assert model_version.name == expected
    with pytest.raises(UnknownModel, match="b_x2, c_x4, compact_x2"), models.use("d"):
        pass
    with pytest.raises(BadOptions, match="available: 2, 4"), models.use(None, 3):
        pass


def test_replaced_index_is_noticed_even_within_one_tick_of_the_clock(
    followed_folder, models_of, tiny_bundle
):
    ids = [followed_folder.add(tiny_bundle(error_levels=levels)) for levels in range(2)]
    models = models_of(followed_folder.root)
    index = followed_folder.root / "index.json"
    for version, bundle_id in enumerate(ids):
        followed_folder.serve("compact_x2", bundle_id, version)
        os.utime(index, ns=(10**18, 10**18))
        models.refresh()
    assert served(models) == {"compact_x2": ("1", ids[1])}


def test_no_request_fails_while_models_are_swapped(
    picture_server, followed_folder, tiny_bundle, noise_png, repeated, soak
):
    """Each answer must be the output of the version that its headers name."""
    swaps, requests = (20, 2000) if soak else (3, 100)
    levels_of = {}
    for levels in range(swaps + 1):
        levels_of[followed_folder.add(tiny_bundle(error_levels=levels))] = levels
    ids = list(levels_of)
    followed_folder.serve("compact_x2", ids[0], 0)
    server = picture_server(followed_folder.root, models={"poll_seconds": 0.01})
    data = noise_png(40, 40)
    rgb_hwc = decode(data).rgb_hwc
    requests_sent, stop = [], threading.Event()

    def send_requests():
        seen = []
        while len(requests_sent) < requests or not stop.is_set():
            requests_sent.append(1)
            answer = server.client.post("/v1/enhance", content=data)
            assert answer.status_code == 200, answer.text
            bundle_id = answer.headers["Sharpline-Bundle"]
            levels = levels_of[bundle_id]
            assert answer.headers["Sharpline-Version"] == str(levels)
            expected = repeated(rgb_hwc, levels=levels)
            assert np.array_equal(decode(answer.content).rgb_hwc, expected)
            seen.append(levels)
        return seen

    with ThreadPoolExecutor(4) as clients:
        running = [clients.submit(send_requests) for _ in range(4)]
        try:
            for version, bundle_id in enumerate(ids[1:], start=1):
                # Every version serves some of the requests before the next swap.
                server.wait_for(
                    lambda version=version: (
                        any(task.done() for task in running)
                        or len(requests_sent) >= (requests * version // (swaps + 1))
                    )
                )
                followed_folder.serve("compact_x2", bundle_id, version)
                server.wait_for(
                    lambda expected=bundle_id: (
                        server.services.pictures.models.champions["compact_x2"].model.bundle.id
                        == expected
                    )
                )
        finally:
            stop.set()
        seen = [levels for task in running for levels in task.result()]
    assert len(seen) >= requests
    assert set(seen) == set(range(swaps + 1))
