"""Starts every service of the local stack in order, awaits readiness and stops them at the end.

Independent steps overlap: MLflow starts during Airflow's database migration, and models are
registered and fetched while Airflow's processes start.
"""

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass, field
from pathlib import Path

from pipelines.steps import STARTERS, StepFailed, step
from sharpline.local import airflow, mlflow, monitoring
from sharpline.local.airflow_api import AirflowApi
from sharpline.local.processes import (
    Service,
    Services,
    choose_ports,
    interruptible,
    local_url,
    responds,
)
from sharpline.local.progress import Log, reported
from sharpline.local.supervisor import GracePeriods
from superres.common.errors import SharplineError
from superres.common.files import file_lock

BIN = Path(sys.executable).parent
DAG_IDS = frozenset({"build_pairs", "finetune", "release"})
NEEDED_BYTES = 2 * 1024**3
READY_SECONDS = 240.0
FOLLOW_SECONDS = 2
# The services and commands share this machine's cores. By default an OpenMP thread that waits for
# another spins for long and keeps the core that the other needs: on two cores with one busy,
# training steps took up to three times as long.
OPENMP = {"GOMP_SPINCOUNT": "1000"}
SERVER_GRACE = GracePeriods(command_seconds=50.0)  # it finishes the requests in flight first


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """Ports on 127.0.0.1. As a preference, each is used if free, and 0 means any."""

    server: int = 0
    airflow: int = 0
    mlflow: int = 0
    prometheus: int = 0
    alertmanager: int = 0

    def chosen(self) -> "Ports":
        """Free ports: each preferred one if free, else any."""
        names = ("server", "airflow", "mlflow", "prometheus", "alertmanager")
        return Ports(**dict(zip(names, choose_ports(*astuple(self)), strict=True)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """The services of one machine and their addresses."""

    state: Path
    ports: Ports
    services: Services
    airflow_config: airflow.AirflowConfig
    with_prometheus: bool
    with_alertmanager: bool
    environment: dict[str, str] = field(repr=False)

    @property
    def server_url(self) -> str:
        return local_url(self.ports.server)

    @property
    def mlflow_url(self) -> str:
        return local_url(self.ports.mlflow)

    @property
    def prometheus_url(self) -> str | None:
        return local_url(self.ports.prometheus) if self.with_prometheus else None

    @property
    def alertmanager_url(self) -> str | None:
        return local_url(self.ports.alertmanager) if self.with_alertmanager else None

    @property
    def models(self) -> Path:
        """The model folder that the follower writes and the server reads."""
        return self.state / "models"

    def await_server(self) -> None:
        """Return once the picture server has loaded its models and is ready."""
        _await(self.services.named("server"), lambda: responds(f"{self.server_url}/readyz"))

    def airflow_api(self) -> AirflowApi:
        """A new client of this Airflow."""
        return AirflowApi(self.airflow_config.url, airflow.USER, self.airflow_config.password)


@contextmanager
def running(state: Path, preferred: Ports, *, with_monitoring: bool, log: Log) -> Iterator[Stack]:
    """Start every service on the state folder `state`; leaving the block stops them all.

    The picture server may still be loading its models; see `Stack.await_server`.
    `with_monitoring` adds Prometheus and Alertmanager where they are installed. SIGTERM and SIGHUP
    interrupt the block like Ctrl-C. Raises SharplineError where another `demo` or `up` uses this
    state, the disk is full, the starter models are missing, or a service does not get ready.
    """
    _require_disk(state)
    with (
        file_lock(state / "running.lock"),
        interruptible(),
        Services(state / "logs") as services,
    ):
        stack = _plan(state, preferred.chosen(), services, with_monitoring=with_monitoring)
        try:
            _start(stack, log)
            yield stack
        finally:
            log("stopping all services")


def _plan(state: Path, ports: Ports, services: Services, *, with_monitoring: bool) -> Stack:
    with_prometheus = with_monitoring and monitoring.program_path("prometheus") is not None
    environment = (
        OPENMP
        | dict(os.environ)
        | {
            "PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "SHARPLINE_STATE": str(state),
            "SHARPLINE_MLFLOW_URI": local_url(ports.mlflow),
        }
    )
    if with_prometheus:
        environment["SHARPLINE_PROMETHEUS_URL"] = local_url(ports.prometheus)
    return Stack(
        state=state,
        ports=ports,
        services=services,
        airflow_config=airflow.prepare(state / "airflow", ports.airflow),
        with_prometheus=with_prometheus,
        with_alertmanager=with_prometheus and monitoring.program_path("alertmanager") is not None,
        environment=environment,
    )


def _start(stack: Stack, log: Log) -> None:
    services, environment = stack.services, stack.environment
    with reported(log, "step 1 of 5: starting MLflow, creating Airflow's database"):
        registry = mlflow.start(services, stack.state / "mlflow", stack.ports.mlflow, environment)
        monitoring_services = list(_start_monitoring(stack))
        airflow.migrate(services, stack.airflow_config, environment)
        api_server, *_ = airflow.start_components(services, stack.airflow_config, environment)
        _await(registry, lambda: mlflow.is_up(stack.mlflow_url))
    # Without `reported`: the command writes lines itself, and is started without other threads.
    log("step 2 of 5: registering the starter models as first champions")
    _register_starters(stack, log)
    with reported(log, "step 3 of 5: starting the follower and the picture server"):
        _start_serving(stack)
    with reported(log, "step 4 of 5: starting Airflow"):
        for service, url in monitoring_services:
            _await(service, lambda url=url: monitoring.is_up(url))
        _await(api_server, lambda: airflow.is_up(stack.airflow_config))
    with reported(log, "step 5 of 5: reading the DAGs"):
        _await_dags(stack, api_server)


def _register_starters(stack: Stack, log: Log) -> None:
    starters = sorted(path.parent for path in STARTERS.glob("*/bundle.json"))
    if not starters:
        raise SharplineError(
            f"{STARTERS} holds no models; run this from a full checkout of the repository"
        )
    try:
        step("register", *starters, "--first-champion", environment=stack.environment, log=log)
    except StepFailed as error:
        raise SharplineError(str(error)) from error


def _start_serving(stack: Stack) -> None:
    sharpline = BIN / "sharpline"
    follow = [sharpline, "models", "follow", "--to", stack.models, "--every", str(FOLLOW_SECONDS)]
    serve = [sharpline, "serve", "--port", str(stack.ports.server), "--models", stack.models]
    follower = stack.services.start("follower", follow, environment=stack.environment)
    _await(follower, lambda: _has_models(stack.models))
    stack.services.start("server", serve, environment=stack.environment, grace=SERVER_GRACE)


def _has_models(folder: Path) -> bool:
    """Whether the follower has written an index with models; an empty one comes first."""
    try:
        return bool(json.loads((folder / "index.json").read_bytes()))
    except (FileNotFoundError, ValueError):  # the follower replaces a damaged one
        return False


def _start_monitoring(stack: Stack) -> Iterator[tuple[Service, str]]:
    root, services = stack.state / "monitoring", stack.services
    if stack.alertmanager_url:
        yield (
            monitoring.start_alertmanager(
                services,
                root / "alertmanager",
                stack.ports.alertmanager,
                environment=stack.environment,
            ),
            stack.alertmanager_url,
        )
    if stack.prometheus_url:
        yield (
            monitoring.start_prometheus(
                services,
                root / "prometheus",
                stack.ports.prometheus,
                scrape_port=stack.ports.server,
                alertmanager_port=stack.ports.alertmanager if stack.with_alertmanager else None,
                environment=stack.environment,
            ),
            stack.prometheus_url,
        )


def _await(service: Service, ready: Callable[[], bool]) -> None:
    service.await_ready(ready, timeout_seconds=READY_SECONDS)


def _await_dags(stack: Stack, api_server: Service) -> None:
    with stack.airflow_api() as api:
        _await(api_server, lambda: bool(api.import_errors()) or api.dag_ids() >= DAG_IDS)
        errors = api.import_errors()
    if errors:
        raise SharplineError("Airflow cannot read a DAG file:\n" + "\n".join(errors))


def _require_disk(state: Path) -> None:
    state.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(state).free
    if free < NEEDED_BYTES:
        raise SharplineError(
            f"{state} has {free / 1024**3:.1f} GiB free, but {NEEDED_BYTES / 1024**3:.0f} GiB are "
            "needed; free some, or set SHARPLINE_STATE to a folder on a larger disk"
        )
