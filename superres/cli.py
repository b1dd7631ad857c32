"""`sharpline evaluate` and `sharpline enhance`."""

import argparse
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from superres.bundle import INFO_FILE, Bundle, load_bundle
from superres.console import emit, say, show, track
from superres.errors import SharplineError, UsageError
from superres.image import (
    FORMAT_SUFFIXES,
    OUTPUT_FORMATS,
    PICTURE_SUFFIXES,
    SUFFIX_FORMATS,
    check_format_holds,
    list_pictures,
    read,
    write,
)

STARTERS = Path(__file__).resolve().parent.parent / "models"


def evaluate(argv: Sequence[str]) -> int:
    """Score a bundle on a dataset or a folder of high-resolution pictures."""
    parser = argparse.ArgumentParser(prog="sharpline evaluate", description=evaluate.__doc__)
    parser.add_argument("bundle", help="a bundle folder, or the name of a starter model")
    parser.add_argument(
        "--on",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="a dataset folder, or a folder of high-resolution pictures",
    )
    parser.add_argument("--channel", choices=("y", "rgb"), default="y")
    parser.add_argument("--split", default="validation", help="of a dataset")
    parser.add_argument("--whole", action="store_true", help="whole pictures instead of tiles")
    _add_backend_options(parser, precision="fp32")
    parser.add_argument("--json", action="store_true")
    words = parser.parse_args(argv)
    result = _evaluate(words)
    if words.json:
        emit(result)
    else:
        _show_evaluation(result)
    return 0


def _evaluate(words: argparse.Namespace) -> dict[str, object]:
    from superres import evaluate as evaluation

    bundle = find_bundle(words.bundle)
    pair_set = evaluation.load_pairs(words.on, bundle.info.scale, words.split)
    protocol = pair_set.protocol(words.channel)
    tracked = track(pair_set.pairs, f"scoring {bundle.info.name}", len(pair_set.names))
    done = evaluation.evaluate(_upscaler(bundle, words), tracked, protocol, whole=words.whole)
    return {
        "model": bundle.info.name,
        "bundle": bundle.id,
        "psnr": finite(done.psnr),
        "ssim": done.ssim,
        "bicubic": {"psnr": finite(done.bicubic_psnr), "ssim": done.bicubic_ssim},
        "protocol": protocol.as_dict(),
        "pictures": [
            {
                "name": picture.name,
                "psnr": finite(picture.psnr),
                "ssim": picture.ssim,
                "bicubic": {
                    "psnr": finite(picture.bicubic_psnr),
                    "ssim": picture.bicubic_ssim,
                },
            }
            for picture in done.pictures
        ],
    }


def finite(value: float) -> float | None:
    """JSON has no infinity, which is the PSNR of equal pictures: null stands for it."""
    return value if math.isfinite(value) else None


def _show_evaluation(result: Mapping[str, object]) -> None:
    from rich.console import Console
    from rich.table import Table

    from superres.quality import Protocol

    protocol = Protocol.from_dict(result["protocol"])  # pyright: ignore[reportArgumentType] - a dict made above
    table = Table(
        "picture",
        "PSNR dB",
        "SSIM",
        "bicubic PSNR dB",
        "bicubic SSIM",
        title=f"{result['model']} on {protocol}",
    )
    mean = {**result, "name": "mean"}
    for row in [*result["pictures"], mean]:  # pyright: ignore[reportGeneralTypeIssues] - likewise
        figures = (row["psnr"], row["ssim"], row["bicubic"]["psnr"], row["bicubic"]["ssim"])
        psnr, ssim, bicubic_psnr, bicubic_ssim = figures
        table.add_row(
            row["name"],
            _decibels(psnr),
            f"{ssim:.4f}",
            _decibels(bicubic_psnr),
            f"{bicubic_ssim:.4f}",
        )
    Console().print(table)


def _decibels(value: float | None) -> str:
    return "equal" if value is None else f"{value:.2f}"


def enhance(argv: Sequence[str]) -> int:
    """Enlarge pictures, or every picture of folders, keeping their names."""
    parser = argparse.ArgumentParser(prog="sharpline enhance", description=enhance.__doc__)
    parser.add_argument("inputs", nargs="+", type=Path, metavar="IN", help="files or folders")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="OUT_FOLDER")
    parser.add_argument(
        "--model", default="compact_x4", help="a bundle folder, or the name of a starter model"
    )
    parser.add_argument("--format", choices=OUTPUT_FORMATS, help="default: that of the input")
    parser.add_argument("--quality", type=int, default=95, help="of JPEG and WebP, 1 to 100")
    parser.add_argument("--overwrite", action="store_true", help="replace files in OUT_FOLDER")
    _add_backend_options(parser, precision="auto")
    parser.add_argument("--json", action="store_true")
    words = parser.parse_args(argv)
    if not 1 <= words.quality <= 100:
        raise UsageError(f"--quality is a number from 1 to 100, not {words.quality}")
    jobs = list(_jobs(words))
    bundle = find_bundle(words.model)
    done, failed = _enhance_all(jobs, bundle, words)
    for source, reason in failed.items():
        say(f"left out {source}: {reason}")
    if words.json:
        emit(
            {
                "model": bundle.info.name,
                "written": done,
                "failed": [{"picture": name, "reason": why} for name, why in failed.items()],
            }
        )
    else:
        show(
            f"{len(done)} of {len(jobs)} pictures enlarged {bundle.info.scale} times by "
            f"{bundle.info.name} into {words.out}"
        )
    return 1 if failed else 0


def _jobs(words: argparse.Namespace) -> Iterator[tuple[Path, Path]]:
    """Each input picture with the file its answer goes to. Raises before any work is done."""
    targets: dict[Path, Path] = {}
    for given in words.inputs:
        if not given.exists():
            raise SharplineError(f"{given} does not exist")
        for source in list_pictures(given) if given.is_dir() else [given]:
            target = words.out / (source.stem + _suffix(source, words.format))
            if target in targets:
                raise SharplineError(
                    f"{targets[target]} and {source} would both become {target}; "
                    "enlarge them into different folders"
                )
            if target.resolve() == source.resolve():
                raise SharplineError(
                    f"{source} would be overwritten by its own answer; choose another OUT_FOLDER"
                )
            if target.exists() and not words.overwrite:
                raise SharplineError(f"{target} is there already; give --overwrite to replace it")
            targets[target] = source
            yield source, target
    if not targets:
        raise SharplineError(f"no pictures found (looked for {', '.join(PICTURE_SUFFIXES)})")


def _suffix(source: Path, format: str | None) -> str:
    if format is None:
        return source.suffix if source.suffix.lower() in SUFFIX_FORMATS else ".png"
    if SUFFIX_FORMATS.get(source.suffix.lower()) == format:
        return source.suffix
    return FORMAT_SUFFIXES[format]


def _enhance_all(
    jobs: list[tuple[Path, Path]], bundle: Bundle, words: argparse.Namespace
) -> tuple[list[str], dict[str, str]]:
    """Files written, and why others were not; one bad picture does not stop the rest."""
    upscaler = _upscaler(bundle, words)
    done: list[str] = []
    failed: dict[str, str] = {}
    for source, target in track(jobs, f"enlarging with {bundle.info.name}"):
        try:
            picture = read(source)
            # Alpha that the target cannot hold is found out before minutes of work, not after.
            check_format_holds(picture, SUFFIX_FORMATS[target.suffix.lower()])
            write(target, upscaler.upscale(picture), quality=words.quality)
            done.append(str(target))
        except SharplineError as error:
            failed[str(source)] = str(error)
    return done, failed


def find_bundle(name_or_folder: str) -> Bundle:
    """A bundle by its folder, or a starter by its name; SharplineError names the choices."""
    folder = Path(name_or_folder)
    if (folder / INFO_FILE).is_file():
        return load_bundle(folder)
    if folder.exists():
        raise SharplineError(f"{folder} is not a model bundle: it has no {INFO_FILE}")
    starters = sorted(path.parent.name for path in STARTERS.glob(f"*/{INFO_FILE}"))
    if name_or_folder not in starters:
        raise SharplineError(
            f"no model {name_or_folder!r}; give a bundle folder or one of: "
            f"{', '.join(starters) or 'no starter is installed'}"
        )
    return load_bundle(STARTERS / name_or_folder)


def _add_backend_options(parser: argparse.ArgumentParser, precision: str) -> None:
    parser.add_argument("--backend", choices=("auto", "torch", "openvino"), default="auto")
    parser.add_argument("--device", default="auto", help="cpu, cuda or cuda:N")
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default=precision)


def _upscaler(bundle: Bundle, words: argparse.Namespace):
    from superres.backends import load_backend
    from superres.upscale import Upscaler

    backend = load_backend(
        bundle, backend=words.backend, device=words.device, precision=words.precision
    )
    return Upscaler(bundle, backend)
