"""`sharpline passport`: which models made a picture, and their provenance."""

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from superres.common.console import emit, say, show
from superres.common.environment import mlflow_uri
from superres.common.errors import SharplineError
from superres.common.files import sha256_file
from superres.image.passport import DamagedPassport, Passport, Step, read_passport
from superres.image.picture import PictureError
from superres.model.bundle import INFO_FILE, BrokenBundle, BundleInfo, load_bundle
from superres.model.starters import STARTERS

STORE = "by-sha"  # subfolder in which `sharpline models follow` stores bundles by id

Use = Literal["yes", "no", "unclear"]
USE_TEXTS: dict[Use, str] = {
    "yes": "commercial use is allowed by every licence above",
    "no": "NO COMMERCIAL USE: a licence above forbids it",
    "unclear": "commercial use is NOT CLEAR: read the licences above before you sell",
}


class NoPassport(SharplineError):
    """The picture has no passport."""


class UnknownBundle(SharplineError):
    """The bundle was not found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepOrigin:
    """A step of the chain and its bundle; `info` is None, with a `problem`, if it was not found."""

    step: Step
    info: BundleInfo | None
    found_in: str = ""
    problem: str = ""


def passport(argv: Sequence[str]) -> int:
    """Show which models made a picture, with the run, data, commit and licence of each."""
    arguments = _parser().parse_args(argv)
    content = passport_of(arguments.file)
    origins = [origin_of(step, arguments.models) for step in content.chain]
    if arguments.json:
        emit(as_json(arguments.file, content, origins))
    else:
        for line in as_lines(arguments.file, content, origins):
            show(line)
    for problem in dict.fromkeys(origin.problem for origin in origins if origin.problem):
        say(f"sharpline: {problem}")
    return 1 if any(origin.info is None for origin in origins) else 0


def passport_of(path: Path) -> Passport:
    """A file's passport. Raises NoPassport, DamagedPassport or PictureError naming the file."""
    try:
        content = read_passport(path.read_bytes())
    except OSError as error:
        raise SharplineError(f"cannot read {path}: {error.strerror}") from error
    except (DamagedPassport, PictureError) as error:
        raise type(error)(f"{path}: {error}") from error
    if content is None:
        raise NoPassport(
            f"{path} has no passport: it was not made with Sharpline, passports were switched off, "
            "or another program removed it"
        )
    return content


def origin_of(step: Step, folders: Sequence[Path]) -> StepOrigin:
    """Find the bundle of a step in the folders, then in the registry if one is set."""
    for path in _candidates(step, folders):
        if sha256_file(path / INFO_FILE) == step.bundle:
            try:
                info = load_bundle(path, verify=False).info
            except BrokenBundle as error:
                return StepOrigin(step=step, info=None, problem=str(error))
            return StepOrigin(step=step, info=info, found_in=str(path))
    uri = mlflow_uri()
    searched = [str(folder) for folder in folders]
    if uri is not None:
        try:
            return _from_registry(step, uri)
        except UnknownBundle:
            searched.append(f"the registry at {uri}")
        except SharplineError as error:
            return StepOrigin(step=step, info=None, problem=str(error))
    hint = "" if uri else ", or set SHARPLINE_MLFLOW_URI to search the registry"
    problem = (
        f"the bundle {step.bundle[:12]} of {step.model} is not in {' nor in '.join(searched)}; "
        f"name its folder with --models{hint}"
    )
    return StepOrigin(step=step, info=None, problem=problem)


def commercial_use(origins: Sequence[StepOrigin]) -> Use:
    """The strictest commercial use of the chain; `unclear` where a bundle was not found."""
    uses = {origin.info.licence.commercial_use if origin.info else "unclear" for origin in origins}
    return "no" if "no" in uses else "unclear" if "unclear" in uses else "yes"


def as_json(file: Path, content: Passport, origins: Sequence[StepOrigin]) -> dict[str, object]:
    """The result as JSON: the passport, and each step's bundle, null where it is unknown."""
    return {
        "file": str(file),
        "passport": content.model_dump(mode="json"),
        "origins": [
            {
                "model": origin.step.model,
                "bundle": origin.step.bundle,
                "found_in": origin.found_in or None,
                "problem": origin.problem or None,
                "made": None if origin.info is None else _made(origin.info),
            }
            for origin in origins
        ],
        "commercial_use": commercial_use(origins),
    }


def as_lines(file: Path, content: Passport, origins: Sequence[StepOrigin]) -> Iterator[str]:
    """The result as text."""
    count = len(content.chain)
    yield f"{file} was made with {count} model{'s' if count > 1 else ''}:"
    for number, origin in enumerate(origins, start=1):
        yield from _step_lines(number, origin)
    yield USE_TEXTS[commercial_use(origins)]


def _step_lines(number: int, origin: StepOrigin) -> Iterator[str]:
    step, info = origin.step, origin.info
    yield f"{number}. {step.model}, version {step.version}: {', '.join(step.did) or 'enlarged'}"
    yield f"   request   {step.request or 'none: made from files'}"
    yield f"   bundle    {step.bundle}"
    if info is None:
        yield "   origin    unknown: the bundle was not found"
        return
    yield f"   found in  {origin.found_in}"
    yield f"   run       {info.mlflow_run or 'none: not trained under MLflow'}"
    yield f"   commit    {info.git_commit or 'unknown'}"
    for dataset in info.training.datasets:
        yield f"   data      {dataset.source} ({dataset.licence}), dataset {dataset.id}"
    yield f"   licence   {info.licence.weights}"
    yield f"   commercial use: {info.licence.commercial_use}"


def _made(info: BundleInfo) -> dict[str, object]:
    return {
        "name": info.name,
        "task": info.task,
        "created": info.created,
        "mlflow_run": info.mlflow_run,
        "git_commit": info.git_commit,
        "datasets": [dataset.model_dump() for dataset in info.training.datasets],
        "licence": info.licence.model_dump(mode="json"),
    }


def _candidates(step: Step, folders: Sequence[Path]) -> Iterator[Path]:
    """Folders that may be the step's bundle, the one named by its id first."""
    for folder in folders:
        for path in (folder / STORE / step.bundle, folder, *sorted(folder.glob("*"))):
            if (path / INFO_FILE).is_file():
                yield path


def _from_registry(step: Step, uri: str) -> StepOrigin:
    """Raises UnknownBundle, or the registry's error."""
    from release.registry import Registry

    registry = Registry(uri)
    version = registry.find_version(step.model, step.bundle)
    if version is None:
        raise UnknownBundle(f"the registry at {uri} does not hold the bundle {step.bundle[:12]}")
    with tempfile.TemporaryDirectory() as scratch:
        bundle = registry.fetch(version, Path(scratch) / "bundle")
    return StepOrigin(step=step, info=bundle.info, found_in=f"{uri}, {version} of {version.model}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sharpline passport", description=passport.__doc__)
    parser.add_argument("file", type=Path, metavar="FILE", help="a picture made with Sharpline")
    parser.add_argument(
        "--models",
        type=Path,
        nargs="+",
        default=[STARTERS],
        metavar="FOLDER",
        help="bundles, folders of bundles or model folders (default: the starter models)",
    )
    parser.add_argument("--json", action="store_true")
    return parser
