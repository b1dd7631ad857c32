"""Benchmarks of networks with random weights: a network's cost does not depend on its weights."""

import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from superres.common.environment import cpu_threads
from superres.image.codecs import Picture
from superres.model.archs import build, facts
from superres.model.benchmark import median_seconds, noise_picture
from superres.model.bundle import Arch, Bounds, Bundle, BundleInfo, Licence, Training, write_bundle
from superres.model.networks import NamedNetwork

PROCESS_STATUS = Path("/proc/self/status")
RESET_PEAK = Path("/proc/self/clear_refs")  # man 5 proc: writing 5 resets the peak resident size


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSize:
    """Number of weights in the deploy form, and of multiply-adds for an output of given size."""

    weights: int
    multiply_adds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkCost:
    """Cost of one picture; `memory_mib` is what the process uses at its peak beyond what it used
    before runtime and network were loaded, on a GPU what torch allocates; None if the system does
    not tell.
    """

    backend: str
    device: str
    milliseconds: float
    memory_mib: float | None


def input_size(network: NamedNetwork, output_width: int, output_height: int) -> tuple[int, int]:
    """Width and height of the input, rounded up to the network's grid."""
    properties = facts(network.arch, network.parameters)
    width, height = (
        -(-(side // properties.scale) // properties.grid) * properties.grid
        for side in (output_width, output_height)
    )
    return width, height


def network_size(network: NamedNetwork, output_width: int, output_height: int) -> NetworkSize:
    """Count weights and multiply-adds of convolutions and matrix products.

    Counted on the grid and scaled to the exact number of output pixels.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from superres.model.archs import ARCHS

    module = build(network.arch, network.parameters).eval()
    deployed = ARCHS.get(network.arch).reparameterise(module)
    weights = sum(each.numel() for each in deployed.parameters())
    width, height = input_size(network, output_width, output_height)
    deployed.to("meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        deployed(torch.zeros(1, 3, height, width, device="meta"))
    scale = facts(network.arch, network.parameters).scale
    share = output_width * output_height / (width * height * scale**2)
    return NetworkSize(weights=weights, multiply_adds=round(counter.get_total_flops() / 2 * share))


def network_cost(
    network: NamedNetwork, size: tuple[int, int], precision: str, runs: int, device: str = "auto"
) -> NetworkCost:
    """Measure a network on an input of a width and height, on the backend that serving chooses.

    In a process of its own, so that no earlier measurement's memory is reused. Raises
    BackendUnavailable for a precision that this machine does not have.
    """
    measure = partial(_measure, network, size, precision, runs, device)
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as process:
        return process.submit(measure).result()


def _measure(
    network: NamedNetwork, size: tuple[int, int], precision: str, runs: int, device: str
) -> NetworkCost:
    import torch

    from superres.model.backends import load_backend

    torch.set_num_threads(cpu_threads())
    before = _status_kib("VmRSS")
    with tempfile.TemporaryDirectory() as folder:
        bundle = untrained_bundle(Path(folder) / network.name, network)
        backend = load_backend(bundle, device=device, precision=precision)
        tiles_bhwc = noise_picture(*size).rgb_hwc[None]
        on_gpu = backend.device.startswith("cuda")
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        elif RESET_PEAK.exists():
            RESET_PEAK.write_text("5")
        seconds = median_seconds(partial(backend.forward, tiles_bhwc), runs)
        peak = _status_kib("VmHWM")
        kib = torch.cuda.max_memory_allocated() / 1024 if on_gpu else None
        if not on_gpu and before is not None and peak is not None:
            kib = peak - before
        return NetworkCost(
            backend=backend.name,
            device=backend.device,
            milliseconds=round(1000 * seconds, 1),
            memory_mib=None if kib is None else round(kib / 1024, 1),
        )


def untrained_bundle(folder: Path, network: NamedNetwork) -> Bundle:
    """Write a bundle of a network with random weights, for measurements only."""
    properties = facts(network.arch, network.parameters)
    module = build(network.arch, network.parameters)
    grid = properties.grid
    bucket = -(-64 // grid) * grid
    draft = BundleInfo(
        name=network.name,
        task="super-resolution" if properties.scale > 1 else "restoration",
        scale=properties.scale,
        arch=Arch(name=network.arch, parameters=dict(network.parameters)),
        halo=0,
        size_multiple=properties.size_multiple,
        window=properties.window,
        tile_buckets=((bucket, bucket),),
        bounds=Bounds(seam_levels=0.0),
        training=Training(
            datasets=(), degradation="none", reference={}, steps=0, seconds=0.0, device="none"
        ),
        scores=(),
        licence=Licence(weights="none: random weights", lineage=(), commercial_use="unclear"),
        git_commit=None,
        mlflow_run=None,
        created="",
    )
    side = grid * properties.scale
    return write_bundle(
        folder,
        draft,
        {key: value.numpy() for key, value in module.state_dict().items()},
        Picture(rgb_hwc=np.zeros((grid, grid, 3), np.uint8)),
        Picture(rgb_hwc=np.zeros((side, side, 3), np.uint8)),
        f"# {network.name}\n\nRandom weights, for measurements.\n",
    )


def _status_kib(name: str) -> int | None:
    """A size of this process from its status, in KiB; None on systems without it."""
    if not PROCESS_STATUS.exists():
        return None
    lines = PROCESS_STATUS.read_text().splitlines()
    values = [line.split()[1] for line in lines if line.startswith(f"{name}:")]
    return int(values[0]) if values else None
