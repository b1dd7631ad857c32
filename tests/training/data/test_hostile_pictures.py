"""Unusual and broken picture files: each is used, or left out and reported."""

import io
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from superres.common.errors import SharplineError
from superres.dataset.consent import mark_as_clients
from superres.dataset.manifest import read_manifest
from superres.image.codecs import Picture, encode, read, write
from training.data.pairs.build import Built, build
from training.data.shards.plan import PLANS, PairRecipe, make_plan
from training.data.sources.picture import SourcePicture

RECIPE = PairRecipe(scale=2, degradation="bicubic")
HEIGHT, WIDTH = 40, 56


def noise(seed: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def saved(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def png(seed: int, **options: object) -> bytes:
    return saved(Image.fromarray(noise(seed)), "PNG", **options)


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return png(3, exif=exif)


def alpha(level: int) -> bytes:
    plane = np.full((HEIGHT, WIDTH), 255, np.uint8)
    plane[0, 0] = level
    return encode(Picture(rgb_hwc=noise(level + 20), alpha_hw=plane), "png")


def animated() -> bytes:
    frames = [Image.fromarray(noise(seed)).convert("P") for seed in (7, 8)]
    return saved(frames[0], "GIF", save_all=True, append_images=frames[1:])


def grey() -> bytes:
    return saved(Image.fromarray(noise(1)[..., 0]), "PNG")


def deep() -> bytes:
    return encode(Picture(rgb_hwc=noise(2).astype(np.uint16) * 257), "png")


USABLE = {
    "plain.png": lambda: png(0),
    "grey.png": grey,
    "deep.png": deep,
    "turned.png": turned,
    "opaque.png": lambda: alpha(255),
    "animated.gif": animated,
    "cmyk.jpg": lambda: saved(Image.fromarray(noise(4)).convert("CMYK"), "JPEG"),
    "wrong-extension.jpg": lambda: png(5),
}
LEFT_OUT = {
    "corrupt.png": (lambda: png(6)[:60] + b"\0" * 400 + png(6)[460:], "damaged"),
    "cut.png": (lambda: png(9)[: len(png(9)) // 2], "damaged"),
    "cut.jpg": (lambda: saved(Image.fromarray(noise(9)), "JPEG")[:900], "damaged"),
    "empty.png": (lambda: b"", "not a supported picture"),
    "text.png": (lambda: b"only text, and quite a lot of it", "not a supported picture"),
    "tiny.png": (lambda: encode(Picture(rgb_hwc=noise(10, 20, 200)), "png"), "too small"),
    "glass.png": (lambda: alpha(3), "transparent"),
    "again.png": (lambda: png(0), "the same picture as"),
}


def source(path: Path) -> SourcePicture:
    return SourcePicture(
        name=path.name, path=path, split="train", source="mixed", licence="x", author="y"
    )


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Built]:
    """A dataset of all files above, and of paths that are not regular files."""
    folder = tmp_path_factory.mktemp("mixed")
    for name, make in USABLE.items():
        (folder / name).write_bytes(make())
    for name, (make, _) in LEFT_OUT.items():
        (folder / name).write_bytes(make())
    (folder / "folder.png").mkdir()
    (folder / "dangling.png").symlink_to(folder / "nowhere.png")
    os.mkfifo(folder / "pipe.png")
    mark_as_clients(folder / "uploads")
    write(folder / "uploads" / "a.png", Picture(rgb_hwc=noise(30)))
    (folder / "upload.png").symlink_to(folder / "uploads" / "a.png")
    pictures = [source(path) for path in sorted(folder.iterdir()) if path.name != "uploads"]
    return folder, build(make_plan(pictures, RECIPE, tmp_path_factory.mktemp("root")))


def test_every_picture_is_used_or_reported(mixed: tuple[Path, Built]) -> None:
    _, built = mixed
    used = {row.name for row in read_manifest(built.path)}
    reported = {entry.name for entry in built.left_out}
    # Of two copies the first by name stays.
    assert used == (set(USABLE) - {"plain.png"}) | {"again.png"}
    not_files = {"folder.png", "dangling.png", "pipe.png", "upload.png"}
    assert reported == (set(LEFT_OUT) - {"again.png"}) | {"plain.png"} | not_files


@pytest.mark.parametrize("name", LEFT_OUT)
def test_the_reason_is_reported(name: str, mixed: tuple[Path, Built]) -> None:
    reasons = {entry.name: entry.reason for entry in mixed[1].left_out}
    assert LEFT_OUT[name][1] in reasons["plain.png" if name == "again.png" else name]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("folder.png", "not a file"),
        ("pipe.png", "not a file"),
        ("dangling.png", "No such file"),
        ("upload.png", "clients sent"),
    ],
)
def test_paths_that_are_not_picture_files_are_reported(
    name: str, reason: str, mixed: tuple[Path, Built]
) -> None:
    reasons = {entry.name: entry.reason for entry in mixed[1].left_out}
    assert reason in reasons[name]


def test_used_pictures_have_the_right_pixels(mixed: tuple[Path, Built]) -> None:
    _, built = mixed
    hr = {row.name: read(built.path / row.hr_path).rgb_hwc for row in read_manifest(built.path)}
    np.testing.assert_array_equal(hr["again.png"], noise(0))
    np.testing.assert_array_equal(hr["grey.png"], noise(1)[..., :1].repeat(3, axis=2))
    np.testing.assert_array_equal(hr["deep.png"], noise(2))
    np.testing.assert_array_equal(hr["turned.png"], np.rot90(noise(3), -1))
    np.testing.assert_array_equal(hr["opaque.png"], noise(275))
    np.testing.assert_array_equal(hr["wrong-extension.jpg"], noise(5))
    assert hr["cmyk.jpg"].shape == hr["animated.gif"].shape == (HEIGHT, WIDTH, 3)


def test_a_plain_png_is_copied_byte_for_byte(mixed: tuple[Path, Built]) -> None:
    folder, built = mixed
    rows = {row.name: row for row in read_manifest(built.path)}
    assert (built.path / rows["again.png"].hr_path).read_bytes() == png(0)
    assert (built.path / rows["turned.png"].hr_path).read_bytes() != (
        folder / "turned.png"
    ).read_bytes()


def test_an_unreadable_file_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a.png", Picture(rgb_hwc=noise(1)))
    write(tmp_path / "b.png", Picture(rgb_hwc=noise(2)))
    read_bytes = Path.read_bytes

    def read_guarded(path: Path) -> bytes:
        if path.name == "b.png":
            raise PermissionError(13, "Permission denied")
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", read_guarded)
    pictures = [source(tmp_path / name) for name in ("a.png", "b.png")]
    built = build(make_plan(pictures, RECIPE, tmp_path / "root"))
    assert [(entry.name, entry.reason) for entry in built.left_out] == [
        ("b.png", "cannot read b.png: Permission denied")
    ]


def test_an_unusable_file_is_reported_even_if_the_dataset_is_unchanged(tmp_path: Path) -> None:
    write(tmp_path / "a.png", Picture(rgb_hwc=noise(1)))
    first = build(make_plan([source(tmp_path / "a.png")], RECIPE, tmp_path / "root"))
    (tmp_path / "b.png").write_bytes(b"")
    pictures = [source(tmp_path / name) for name in ("a.png", "b.png")]
    again = build(make_plan(pictures, RECIPE, tmp_path / "root"))
    assert (again.path, again.unchanged) == (first.path, True)
    assert [entry.name for entry in again.left_out] == ["b.png"]


def test_an_unwritable_folder_is_reported(tmp_path: Path) -> None:
    write(tmp_path / "a.png", Picture(rgb_hwc=noise(1)))
    (tmp_path / "root").write_text("a file where a folder should be")
    with pytest.raises(SharplineError, match="choose another folder"):
        make_plan([source(tmp_path / "a.png")], RECIPE, tmp_path / "root")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 512 KiB; skips where mounting is not allowed."""
    mount_point = tmp_path / "disk"
    mount_point.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k", "none", str(mount_point)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"cannot mount a small file system here: {error}")
    yield mount_point
    subprocess.run(["umount", "-l", str(mount_point)], check=True)


def test_a_full_disk_leaves_no_partial_shard(tmp_path: Path, small_disk: Path) -> None:
    pictures = []
    for seed in range(4):
        write(tmp_path / "in" / f"{seed}.png", Picture(rgb_hwc=noise(seed, 160, 200)))
        pictures.append(source(tmp_path / "in" / f"{seed}.png"))
    plan = make_plan(pictures, RECIPE, small_disk, pictures_per_shard=1)
    with pytest.raises(SharplineError, match="No space left"):
        build(plan)
    assert not [path for path in small_disk.rglob("*") if ".partial" in path.name]
    for shard in plan.parent.glob("shards/0*"):
        assert (shard / "rows.json").is_file()
    assert [path.name for path in small_disk.iterdir()] == [PLANS]
    assert build(make_plan(pictures, RECIPE, tmp_path / "large")).info.splits["train"] == 4
