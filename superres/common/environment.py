"""The environment variables that every room understands; serving adds its own settings to these."""

import getpass
import os
import socket
from pathlib import Path

SHARED = {
    "SHARPLINE_STATE": "folder for everything that runs leave behind (default: .sharpline)",
    "SHARPLINE_MLFLOW_URI": "address of the MLflow server, e.g. http://127.0.0.1:5000",
    "SHARPLINE_PROMETHEUS_URL": "address of the Prometheus server whose alerts may retrain",
    "SHARPLINE_PARENT_RUN": "name of the MLflow run that a training stands under",
    "SHARPLINE_METRIC_WEIGHTS": "folder with the authors' weights of LPIPS and DISTS",
    "SHARPLINE_VGG19": "torchvision's weights of VGG19, which the perceptual loss asks",
    "SHARPLINE_URL": "address of the picture server that `sharpline client` asks",
    "SHARPLINE_KEY": "API key that `sharpline client` sends",
    "SHARPLINE_THREADS": "CPU threads one process may use (default: all cores)",
}


def state_folder() -> Path:
    """The state folder, absolute; not created here."""
    return Path(os.environ.get("SHARPLINE_STATE", ".sharpline")).resolve()


def mlflow_uri() -> str | None:
    """The address of the MLflow server, None where none is set."""
    return os.environ.get("SHARPLINE_MLFLOW_URI") or None


def person() -> str:
    """Who runs this command and where, as user@host: for records of who decided something."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user id without a name
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"


def cpu_threads() -> int:
    """Threads for numeric work: SHARPLINE_THREADS, else every core this process may use."""
    asked = os.environ.get("SHARPLINE_THREADS", "")
    return int(asked) if asked.isdigit() and int(asked) > 0 else len(os.sched_getaffinity(0))
