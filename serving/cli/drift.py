"""`sharpline drift`: how far live pictures are from those that the models were trained on."""

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
    """One model's live figures.

    `drift` has by feature the distance of the live mean from the training pictures' in their
    standard deviations; it is empty where the server has seen too few pictures of late, or where
    the bundle does not say what it was trained on. `consistency_db` is how well answers, shrunk,
    fit their inputs.
    """

    model: str
    pictures: int
    consistency_db: float | None
    drift: dict[str, float]


def drift(argv: list[str]) -> int:
    """Show how far live pictures are from those that each model was trained on."""
    arguments = _parser().parse_args(argv)
    found = read_drift(_fetched(arguments.url))
    if arguments.json:
        emit({"url": arguments.url, "models": [asdict(each) for each in found]})
    else:
        show(table(found) if found else "no picture was answered of late")
    return 0


def read_drift(text: str) -> list[ModelDrift]:
    """The drift figures in what /metrics answers, by model and the farthest feature first.

    Raises SharplineError for a text that is not the picture server's.
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
            "these are not the figures of a picture server; give --url the address that "
            "`sharpline serve` says, without a path"
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


def table(found: list[ModelDrift]) -> str:
    """One line for each model and feature, under a line of headings."""
    rows: list[tuple[str, ...]] = [HEADINGS]
    for each in found:
        head = (each.model, str(each.pictures))
        rows += [(*head, feature, f"{far:.2f}") for feature, far in each.drift.items()]
        if not each.drift:
            rows.append((*head, "(too few pictures, or no reference in the bundle)", ""))
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    lines = [
        f"{model:<{widths[0]}}  {pictures:>{widths[1]}}  {feature:<{widths[2]}}  {far:>{widths[3]}}"
        for model, pictures, feature, far in rows
    ]
    return "\n".join(line.rstrip() for line in lines)


def _fetched(url: str) -> str:
    """What the server at `url` says at /metrics. Raises SharplineError where it says nothing."""
    try:
        answer = httpx.get(f"{url.rstrip('/')}/metrics", timeout=TIMEOUT_SECONDS)
        answer.raise_for_status()
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        raise UsageError(f"{url} is no address of a server: {error}") from error
    except httpx.HTTPError as error:
        raise SharplineError(
            f"the picture server at {url} gives no figures ({error}); see that `sharpline serve` "
            "runs there, or name another with --url"
        ) from error
    return answer.text


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sharpline drift", description=drift.__doc__)
    parser.add_argument(
        "--url",
        default="http://127.0.0.1:8000",
        metavar="ADDRESS",
        help="of the picture server (default: http://127.0.0.1:8000)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON line")
    return parser
