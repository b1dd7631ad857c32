"""`sharpline drift`: the drift of live pictures from the models' training data."""

import argparse
from collections import defaultdict
from dataclasses import asdict, dataclass

import httpx
from prometheus_client.parser import text_string_to_metric_families

from superres.common.console import emit, show
from superres.common.errors import SharplineError, UsageError

TIMEOUT_SECONDS = 10.0
HEADINGS = ("model", "pictures", "feature", "drift")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelDrift:
    """One model's drift metrics.

    `drift` maps each feature to the distance of the live mean from the training mean, in standard
    deviations of the training data; it is empty if the server has seen too few recent pictures, or
    if the bundle has no reference. `consistency_db` is the PSNR of downscaled outputs against
    their inputs.
    """

    model: str
    pictures: int
    consistency_db: float | None
    drift: dict[str, float]


def drift(argv: list[str]) -> int:
    """Show how far live pictures have drifted from each model's training data."""
    arguments = _parser().parse_args(argv)
    models = read_drift(_fetch_metrics(arguments.url))
    if arguments.json:
        emit({"url": arguments.url, "models": [asdict(each) for each in models]})
    else:
        show(table(models) if models else "no recent pictures")
    return 0


def read_drift(text: str) -> list[ModelDrift]:
    """The drift metrics in the text of /metrics, by model, the largest drift first.

    Raises SharplineError if the text is not a picture server's.
    """
    pictures: dict[str, int] = {}
    consistency: dict[str, float] = {}
    features: defaultdict[str, dict[str, float]] = defaultdict(dict)
    try:
        families = {family.name: family for family in text_string_to_metric_families(text)}
        for sample in families["sharpline_drift_pictures"].samples:
            pictures[sample.labels["model"]] = int(sample.value)
        for sample in families["sharpline_consistency_db"].samples:
            consistency[sample.labels["model"]] = sample.value
        for sample in families["sharpline_input_drift"].samples:
            features[sample.labels["model"]][sample.labels["feature"]] = sample.value
    except (ValueError, KeyError) as error:
        raise SharplineError(
            "these are not the metrics of a picture server; set --url to the address that "
            "`sharpline serve` prints, without a path"
        ) from error
    return [
        ModelDrift(
            model=model,
            pictures=count,
            consistency_db=consistency.get(model),
            drift=dict(sorted(features[model].items(), key=lambda item: -item[1])),
        )
        for model, count in sorted(pictures.items())
    ]


def table(models: list[ModelDrift]) -> str:
    """A table with one line for each model and feature."""
    rows: list[tuple[str, ...]] = [HEADINGS]
    for each in models:
        head = (each.model, str(each.pictures))
        rows += [(*head, feature, f"{value:.2f}") for feature, value in each.drift.items()]
        if not each.drift:
            rows.append((*head, "(too few pictures, or no reference in the bundle)", ""))
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    lines = [
        f"{model:<{widths[0]}}  {pictures:>{widths[1]}}  {feature:<{widths[2]}}  "
        f"{value:>{widths[3]}}"
        for model, pictures, feature, value in rows
    ]
    return "\n".join(line.rstrip() for line in lines)


def _fetch_metrics(url: str) -> str:
    """The text of /metrics of the server at `url`. Raises SharplineError or UsageError."""
    try:
        response = httpx.get(f"{url.rstrip('/')}/metrics", timeout=TIMEOUT_SECONDS)
        response.raise_for_status()
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        raise UsageError(f"{url} is not a valid server URL: {error}") from error
    except httpx.HTTPError as error:
        raise SharplineError(
            f"cannot read the metrics of the picture server at {url} ({error}); check that "
            "`sharpline serve` runs there, or set --url"
        ) from error
    return response.text


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sharpline drift", description=drift.__doc__)
    parser.add_argument(
        "--url",
        default="http://127.0.0.1:8000",
        metavar="URL",
        help="URL of the picture server (default: http://127.0.0.1:8000)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON line")
    return parser
