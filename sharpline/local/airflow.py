"""Airflow on one machine: its four processes, configured by the environment alone."""

import json
import secrets
import sys
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx

import pipelines
from sharpline.local.processes import Service, Services
from sharpline.local.supervisor import USUAL_GRACE, GracePeriods
from superres.common.files import write_json

USER = "sharpline"
DAGS = Path(pipelines.__file__).parent / "dags"
MIGRATE_SECONDS = 180.0
GRACES = {
    # Asked to end, the scheduler waits for its tasks, a training among them; so they are asked soon
    # too, and have the time then.
    "scheduler": GracePeriods(command_seconds=5.0, others_seconds=12.0),
    # The triggerer often hangs after its triggers have ended, and what they remember is stored.
    "triggerer": GracePeriods(command_seconds=3.0, others_seconds=1.0),
}
PARTS = {  # its log server would listen on every interface; the API server reads the files
    "api-server": (),
    "scheduler": ("--skip-serve-logs",),
    "dag-processor": (),
    "triggerer": ("--skip-serve-logs",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class AirflowSite:
    """Where this Airflow keeps its state, where it listens, and who may log in."""

    home: Path
    port: int
    password: str
    jwt_secret: str
    api_secret: str
    fernet_key: str

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def environment(self) -> dict[str, str]:
        """Airflow's whole configuration; a user's own AIRFLOW__* settings do not reach it."""
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
            # How often a worker looks whether its task is over: until then the slot is taken.
            "WORKERS__MIN_HEARTBEAT_INTERVAL": 1,
            "DAG_PROCESSOR__PARSING_PROCESSES": 1,
            # A run that was given up is noticed only when its DAG's file is read again.
            "DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": 20,
            "LOGGING__COLORED_CONSOLE_LOG": False,
        }
        named = {f"AIRFLOW__{name}": str(value) for name, value in options.items()}
        return named | {"AIRFLOW_HOME": str(self.home)}


def prepare(home: Path, port: int) -> AirflowSite:
    """A site in `home` with secrets that are made once and kept in files only the owner reads."""
    home.mkdir(parents=True, exist_ok=True)
    home.chmod(0o700)
    kept = home / "secrets.json"
    if not kept.exists():
        write_json(
            kept,
            {
                "password": secrets.token_urlsafe(9),
                "jwt_secret": secrets.token_hex(32),
                "api_secret": secrets.token_hex(32),
                "fernet_key": urlsafe_b64encode(secrets.token_bytes(32)).decode(),
            },
        )
        kept.chmod(0o600)
    site = AirflowSite(home=home, port=port, **json.loads(kept.read_text()))
    write_json(home / "passwords.json", {USER: site.password})
    return site


def migrate(services: Services, site: AirflowSite, environment: Mapping[str, str]) -> None:
    """Create or raise the database. Raises ServiceFailed with the end of its log."""
    whole = {**environment, **site.environment()}
    services.run(
        "airflow-db", command("db", "migrate"), environment=whole, timeout_seconds=MIGRATE_SECONDS
    )


def start_parts(
    services: Services, site: AirflowSite, environment: Mapping[str, str]
) -> list[Service]:
    """Start the four processes; the first of them is the API server."""
    whole = {**environment, **site.environment()}
    return [
        services.start(
            f"airflow-{part}",
            command(part, *options),
            environment=whole,
            grace=GRACES.get(part, USUAL_GRACE),
        )
        for part, options in PARTS.items()
    ]


def command(*arguments: str) -> list[str]:
    """An Airflow command line in this Python."""
    return [sys.executable, "-m", "airflow", *arguments]


def is_up(site: AirflowSite) -> bool:
    """Whether the API answers and scheduler, dag-processor and triggerer report in."""
    try:
        answer = httpx.get(f"{site.url}/api/v2/monitor/health", timeout=5).json()
    except (httpx.HTTPError, ValueError):
        return False
    parts = ("metadatabase", "scheduler", "dag_processor", "triggerer")
    return all((answer.get(part) or {}).get("status") == "healthy" for part in parts)
