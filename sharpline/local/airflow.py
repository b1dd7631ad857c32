"""Airflow on one machine: its four processes, configured by environment variables only."""

import json
import secrets
import sys
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx

import pipelines
from sharpline.local.processes import Service, Services, local_url
from sharpline.local.supervisor import DEFAULT_GRACE, GracePeriods
from superres.common.files import write_json

USER = "sharpline"
DAGS = Path(pipelines.__file__).parent / "dags"
MIGRATE_SECONDS = 180.0
GRACES = {
    # On SIGTERM the scheduler waits for its tasks, trainings included; so the tasks get SIGTERM
    # soon after, and a longer grace period.
    "scheduler": GracePeriods(command_seconds=5.0, descendants_seconds=12.0),
    # The triggerer often hangs after its triggers have ended; their state is stored by then.
    "triggerer": GracePeriods(command_seconds=3.0, descendants_seconds=1.0),
}
COMPONENTS = {  # no log servers: they listen on every interface; the API server reads the files
    "api-server": (),
    "scheduler": ("--skip-serve-logs",),
    "dag-processor": (),
    "triggerer": ("--skip-serve-logs",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class AirflowConfig:
    """Home folder, port and secrets of this Airflow."""

    home: Path
    port: int
    password: str
    jwt_secret: str
    api_secret: str
    fernet_key: str

    @property
    def url(self) -> str:
        return local_url(self.port)

    def environment(self) -> dict[str, str]:
        """Airflow's configuration as environment variables; they override the user's own."""
        options = {
            "CORE__DAGS_FOLDER": DAGS,
            "CORE__LOAD_EXAMPLES": False,
            "CORE__EXECUTOR": "LocalExecutor",
            "CORE__PARALLELISM": 2,
            "CORE__DAGS_ARE_PAUSED_AT_CREATION": False,
            "CORE__EXECUTION_API_SERVER_URL": f"{self.url}/execution/",
            "CORE__HOSTNAME_CALLABLE": "socket.gethostname",
            "CORE__FERNET_KEY": self.fernet_key,
            "CORE__SIMPLE_AUTH_MANAGER_USERS": f"{USER}:admin",
            "CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": self.home / "passwords.json",
            "DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{self.home}/airflow.db",
            "API__HOST": "127.0.0.1",
            "API__PORT": self.port,
            "API__WORKERS": 1,
            "API__SECRET_KEY": self.api_secret,
            "API_AUTH__JWT_SECRET": self.jwt_secret,
            "SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": 0.5,
            # How often a worker checks whether its task ended; until then it occupies its slot.
            "WORKERS__MIN_HEARTBEAT_INTERVAL": 1,
            "DAG_PROCESSOR__PARSING_PROCESSES": 1,
            # A run that was marked as failed is noticed only when its DAG's file is parsed again.
            "DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": 20,
            "LOGGING__COLORED_CONSOLE_LOG": False,
        }
        variables = {f"AIRFLOW__{name}": str(value) for name, value in options.items()}
        return variables | {"AIRFLOW_HOME": str(self.home)}


def prepare(home: Path, port: int) -> AirflowConfig:
    """The configuration in `home`; secrets are generated once, in files only the owner can read."""
    home.mkdir(parents=True, exist_ok=True)
    home.chmod(0o700)
    secrets_file = home / "secrets.json"
    if not secrets_file.exists():
        write_json(
            secrets_file,
            {
                "password": secrets.token_urlsafe(9),
                "jwt_secret": secrets.token_hex(32),
                "api_secret": secrets.token_hex(32),
                "fernet_key": urlsafe_b64encode(secrets.token_bytes(32)).decode(),
            },
        )
        secrets_file.chmod(0o600)
    config = AirflowConfig(home=home, port=port, **json.loads(secrets_file.read_text()))
    write_json(home / "passwords.json", {USER: config.password})
    return config


def migrate(services: Services, config: AirflowConfig, environment: Mapping[str, str]) -> None:
    """Create or migrate the database. Raises ServiceFailed with the end of its log."""
    full_environment = {**environment, **config.environment()}
    services.run(
        "airflow-db",
        command("db", "migrate"),
        environment=full_environment,
        timeout_seconds=MIGRATE_SECONDS,
    )


def start_components(
    services: Services, config: AirflowConfig, environment: Mapping[str, str]
) -> list[Service]:
    """Start the four processes; the first is the API server."""
    full_environment = {**environment, **config.environment()}
    return [
        services.start(
            f"airflow-{component}",
            command(component, *options),
            environment=full_environment,
            grace=GRACES.get(component, DEFAULT_GRACE),
        )
        for component, options in COMPONENTS.items()
    ]


def command(*arguments: str) -> list[str]:
    """An Airflow command line with this Python."""
    return [sys.executable, "-m", "airflow", *arguments]


def is_up(config: AirflowConfig) -> bool:
    """Whether the API reports scheduler, dag-processor and triggerer as healthy."""
    try:
        response = httpx.get(f"{config.url}/api/v2/monitor/health", timeout=5).json()
    except (httpx.HTTPError, ValueError):
        return False
    components = ("metadatabase", "scheduler", "dag_processor", "triggerer")
    return all(
        (response.get(component) or {}).get("status") == "healthy" for component in components
    )
