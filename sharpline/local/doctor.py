"""`sharpline doctor`: checks this machine's requirements and suggests remedies."""

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

from sharpline.local.monitoring import program_path
from sharpline.local.processes import port_is_free
from sharpline.local.up import DEFAULT_PORTS

OLDEST, NEWEST = (3, 11), (3, 12)
NEEDED_MEMORY_BYTES = 6 * 1024**3
NEEDED_DISK_BYTES = 4 * 1024**3
PACKAGES = {
    "torch": "torch",
    "openvino": "serve",
    "fastapi": "serve",
    "apache-airflow": "airflow",
    "mlflow": "mlflow",
    "scikit-image": "release",
    "basicsr": "train",
}
DEBIAN = {
    "prometheus": "prometheus",
    "promtool": "prometheus",
    "alertmanager": "prometheus-alertmanager",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """The result of one check. The loop runs only if every `needed` check is ok."""

    name: str
    ok: bool
    needed: bool
    found: str
    remedy: str = ""

    def as_dict(self) -> dict[str, object]:
        return asdict(self)

    def __str__(self) -> str:
        mark = "ok   " if self.ok else "FAIL " if self.needed else "-    "
        remedy = "" if self.ok or not self.remedy else f"; {self.remedy}"
        return f"{mark}  {self.name:<16} {self.found}{remedy}"


def examine(state: Path) -> list[CheckResult]:
    """Run every check for `demo` and `up` on the state folder `state`."""
    checks: list[Callable[[], Iterator[CheckResult]]] = [
        _python,
        _packages,
        _cores,
        _memory,
        lambda: _disk(state),
        lambda: _write_access(state),
        _gpu,
        _ports,
        _programs,
        _plugins,
    ]
    return [finding for check in checks for finding in check()]


def _python() -> Iterator[CheckResult]:
    version = sys.version_info[:2]
    yield CheckResult(
        name="Python",
        needed=True,
        ok=OLDEST <= version <= NEWEST,
        found=".".join(map(str, sys.version_info[:3])),
        remedy="install Python 3.11 or 3.12 and run make clean ALL=1 setup",
    )


def _packages() -> Iterator[CheckResult]:
    for package, extra in PACKAGES.items():
        try:
            version = metadata.version(package)
        except metadata.PackageNotFoundError:
            version = None
        yield CheckResult(
            name=package,
            needed=True,
            ok=version is not None,
            found=version or "not installed",
            remedy=f"make setup, or pip install 'sharpline[{extra}]'",
        )


def _cores() -> Iterator[CheckResult]:
    cores = len(os.sched_getaffinity(0))
    yield CheckResult(
        name="cores",
        needed=False,
        ok=cores >= 2,
        found=str(cores),
        remedy="the loop is slow on one core",
    )


def _memory() -> Iterator[CheckResult]:
    lines = Path("/proc/meminfo").read_text().splitlines()
    kibibytes = next(line.split()[1] for line in lines if line.startswith("MemAvailable:"))
    available = int(kibibytes) * 1024
    yield CheckResult(
        name="memory",
        needed=True,
        ok=available >= NEEDED_MEMORY_BYTES,
        found=f"{_gib(available)} available",
        remedy=f"the loop needs {_gib(NEEDED_MEMORY_BYTES)}; end other programs",
    )


def _disk(state: Path) -> Iterator[CheckResult]:
    free = shutil.disk_usage(_existing(state)).free
    yield CheckResult(
        name="disk",
        needed=True,
        ok=free >= NEEDED_DISK_BYTES,
        found=f"{_gib(free)} free for {state}",
        remedy=f"the loop needs {_gib(NEEDED_DISK_BYTES)}; free some or set SHARPLINE_STATE",
    )


def _write_access(state: Path) -> Iterator[CheckResult]:
    folder = _existing(state)
    try:
        with tempfile.TemporaryFile(dir=folder):
            problem = ""
    except OSError as error:
        problem = f": {error.strerror}"
    yield CheckResult(
        name="write access",
        needed=True,
        ok=not problem,
        found=f"{folder}{problem}",
        remedy="set SHARPLINE_STATE to a folder that you may write to",
    )


def _gpu() -> Iterator[CheckResult]:
    try:
        import torch

        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    except ImportError:
        names = []
    yield CheckResult(
        name="GPU",
        needed=False,
        ok=bool(names),
        found=", ".join(names) or "none",
        remedy="everything runs on the CPU, with small recipes",
    )


def _ports() -> Iterator[CheckResult]:
    ports = {
        "pictures": DEFAULT_PORTS.server,
        "Airflow": DEFAULT_PORTS.airflow,
        "MLflow": DEFAULT_PORTS.mlflow,
    }
    for name, port in ports.items():
        free = port_is_free(port)
        yield CheckResult(
            name=f"port {port}",
            needed=False,
            ok=free,
            found=f"for {name}: {'free' if free else 'in use'}",
            remedy="up uses another port and prints it",
        )


def _programs() -> Iterator[CheckResult]:
    for program, package in DEBIAN.items():
        path = program_path(program)
        yield CheckResult(
            name=program,
            needed=False,
            ok=path is not None,
            found=path or "not installed",
            remedy=f"needed for alerts and their tests: apt-get install {package}",
        )


def _plugins() -> Iterator[CheckResult]:
    """The entries that installed packages add."""
    from superres.degrade import DEGRADATIONS
    from superres.model.archs import ARCHS
    from superres.quality.metrics import QUALITY_METRICS
    from training.losses import LOSSES
    from training.optimizers import OPTIMIZERS

    for registry in (ARCHS, LOSSES, DEGRADATIONS, QUALITY_METRICS, OPTIMIZERS):
        for plugin in registry.plugins():
            yield CheckResult(
                name=f"plug-in {plugin.name}",
                needed=False,
                ok=not plugin.problem,
                found=f"{registry.noun} of {plugin.origin}",
                remedy="update or uninstall the package",
            )


def _existing(path: Path) -> Path:
    return next(folder for folder in (path, *path.parents) if folder.is_dir())


def _gib(size: int) -> str:
    return f"{size / 1024**3:.1f} GiB"
