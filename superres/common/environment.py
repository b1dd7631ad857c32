"""The environment variables that every package reads; serving adds its own settings to these."""

import getpass
import os
import socket
from pathlib import Path

SHARED = {
    "SHARPLINE_STATE": "folder for runs, datasets and other state (default: .sharpline)",
    "SHARPLINE_MLFLOW_URI": "address of the MLflow server, e.g. http://127.0.0.1:5000",
    "SHARPLINE_PROMETHEUS_URL": "address of the Prometheus server whose alerts trigger retraining",
    "SHARPLINE_PARENT_RUN": "name of the parent MLflow run of a training",
    "SHARPLINE_METRIC_WEIGHTS": "folder with the authors' weights of LPIPS and DISTS",
    "SHARPLINE_VGG19": "torchvision's weights of VGG19, for the perceptual loss",
    "SHARPLINE_URL": "address of the picture server that `sharpline client` sends to",
    "SHARPLINE_KEY": "API key that `sharpline client` sends",
    "SHARPLINE_THREADS": "CPU threads one process may use (default: all cores)",
}


def state_folder() -> Path:
    """The state folder, absolute; not created here."""
    return Path(os.environ.get("SHARPLINE_STATE", ".sharpline")).resolve()


def mlflow_uri() -> str | None:
    """The address of the MLflow server, None if unset."""
    return os.environ.get("SHARPLINE_MLFLOW_URI") or None


def user_at_host() -> str:
    """The user and host that run this command, as user@host, for audit records."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user id without a name
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"


def cpu_threads() -> int:
    """Threads for numeric work: SHARPLINE_THREADS, else every core this process may use."""
    value = os.environ.get("SHARPLINE_THREADS", "")
    return int(value) if value.isdigit() and int(value) > 0 else len(os.sched_getaffinity(0))
