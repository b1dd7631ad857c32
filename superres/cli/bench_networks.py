"""`sharpline bench --networks`: what networks cost, and what they reach."""

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from superres.common.console import emit, say, show
from superres.common.environment import cpu_threads
from superres.common.errors import UsageError
from superres.common.files import write_json
from superres.common.names import unknown_name
from superres.evaluation.evaluate import evaluate
from superres.evaluation.held_out import HeldOut, find_held_out
from superres.model.backends import BackendUnavailable, load_backend
from superres.model.benchmark import cpu_name
from superres.model.network_benchmark import input_size, network_cost, network_size
from superres.model.networks import NETWORKS, NamedNetwork
from superres.model.starters import STARTERS, find_bundle
from superres.model.upscaler import Upscaler

OUTPUT_WIDTH, OUTPUT_HEIGHT = 1280, 720  # for which papers state multiply-adds
PRECISIONS = ("fp32", "bf16")
NONE = "-"
DATASET_CHARACTERS = 12  # of an id, enough to tell sets apart
HEADINGS = (
    "network",
    "weights",
    "multiply-adds",
    *(f"{precision} ms" for precision in PRECISIONS),
    *(f"{precision} MiB" for precision in PRECISIONS),
    "published PSNR",
    "own PSNR",
)


def bench_networks(arguments: argparse.Namespace) -> int:
    """Print one row per network, and the protocols of the scores."""
    networks = [_network(name) for name in arguments.bundles] or NETWORKS
    held_out = find_held_out(arguments.on) if arguments.on else None
    machine = {"cpu": cpu_name(), "threads": cpu_threads()}
    if not arguments.json:
        show(
            f"{machine['cpu']}, {machine['threads']} threads; output {OUTPUT_WIDTH}x"
            f"{OUTPUT_HEIGHT}, random weights, median of {arguments.runs} runs\n"
        )
        show(f"| {' | '.join(HEADINGS)} |\n|{'---|' * len(HEADINGS)}")
    rows = []
    for network in networks:
        own = _own_score(network, held_out, arguments.device)
        rows.append(_measure(network, own, arguments.runs, arguments.device))
        if not arguments.json:
            show(_line(rows[-1]))
    document = {
        "machine": machine,
        "output": {"width": OUTPUT_WIDTH, "height": OUTPUT_HEIGHT, "runs": arguments.runs},
        "networks": rows,
    }
    if arguments.out:
        write_json(arguments.out, document)
    if arguments.json:
        emit(document)
    else:
        for note in _notes(rows):
            show(note)
    return 0


def _network(name: str) -> NamedNetwork:
    by_name = {network.name: network for network in NETWORKS}
    if name not in by_name:
        raise UsageError(unknown_name("network", name, by_name))
    return by_name[name]


def _own_score(
    network: NamedNetwork, held_out: HeldOut | None, device: str
) -> dict[str, Any] | None:
    """PSNR and protocol of the network's starter, None without one."""
    if network.starter is None or not (STARTERS / network.starter).is_dir():
        return None
    bundle = find_bundle(network.starter)
    if held_out is not None:
        backend = load_backend(bundle, device=device, precision="fp32")
        pairs = held_out.pairs(bundle.info.scale, "validation")
        evaluation = evaluate(Upscaler(bundle, backend), pairs.pairs, pairs.protocol("y"))
        backend.close()
        psnr, protocol = evaluation.psnr, asdict(evaluation.protocol)
    elif bundle.info.scores:
        score = bundle.info.scores[0]
        psnr, protocol = score.psnr, dict(score.protocol)
    else:
        return None
    return {"starter": network.starter, "psnr": round(psnr, 2), "protocol": protocol}


def _measure(
    network: NamedNetwork, own: dict[str, Any] | None, runs: int, device: str
) -> dict[str, Any]:
    size = network_size(network, OUTPUT_WIDTH, OUTPUT_HEIGHT)
    width, height = input_size(network, OUTPUT_WIDTH, OUTPUT_HEIGHT)
    costs: dict[str, Any] = {}
    unavailable: BackendUnavailable | None = None
    for precision in PRECISIONS:
        try:
            cost = network_cost(network, (width, height), precision, runs, device)
        except BackendUnavailable as error:
            say(f"bench: {network.name} in {precision} left out: {error}")
            unavailable = error
            continue
        costs[precision] = asdict(cost)
    if not costs and unavailable is not None:
        raise unavailable
    return {
        "network": network.name,
        "arch": network.arch,
        "input": {"width": width, "height": height},
        "weights": size.weights,
        "multiply_adds": size.multiply_adds,
        "costs": costs,
        "published": asdict(network.published) if network.published else None,
        "own": own,
    }


def _line(row: dict[str, Any]) -> str:
    published, own = row["published"], row["own"]
    cells = [
        row["network"],
        f"{row['weights'] / 1000:,.0f} k",
        f"{row['multiply_adds'] / 1e9:.1f} G",
        *(_cost(row, precision, "milliseconds") for precision in PRECISIONS),
        *(_cost(row, precision, "memory_mib") for precision in PRECISIONS),
        f"{published['psnr']:.2f} {published['protocol']}" if published else NONE,
        f"{own['psnr']:.2f} {_set_name(own)}" if own else NONE,
    ]
    return f"| {' | '.join(cells)} |"


def _set_name(own: dict[str, Any]) -> str:
    return str(own["protocol"]["dataset"])[:DATASET_CHARACTERS]


def _cost(row: dict[str, Any], precision: str, name: str) -> str:
    value = row["costs"].get(precision, {}).get(name)
    return NONE if value is None else f"{value:,.0f}"


def _notes(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The backend of the measurements, and the source or protocol of every score."""
    backends = {
        f"{cost['backend']} on {cost['device']}" for row in rows for cost in row["costs"].values()
    }
    notes = [
        "",
        f"Run by {' and '.join(sorted(backends)) or 'no backend'}; memory is the peak beyond the "
        "process before runtime and network were loaded.",
        "Published: bicubic inputs as MATLAB's, border crop as wide as the scale.",
    ]
    for row in rows:
        if row["published"]:
            notes.append(f"- {row['network']}: {row['published']['source']}")
    protocols: dict[str, list[str]] = {}
    for row in rows:
        if row["own"]:
            text = ", ".join(f"{key} {value}" for key, value in row["own"]["protocol"].items())
            protocols.setdefault(text, []).append(row["own"]["starter"])
    notes += [f"Own, {', '.join(names)}: {text}" for text, names in protocols.items()]
    return notes
