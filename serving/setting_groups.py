"""The settings of each component of the server, with defaults and descriptions."""

from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_settings import NoDecode


def _split(value: object) -> object:
    """Split a list given as text: environment variables hold comma-separated lists."""
    return tuple(filter(None, value.split(","))) if isinstance(value, str) else value


def _require_networks(networks: tuple[str, ...]) -> tuple[str, ...]:
    for network in networks:
        ip_network(network, strict=False)
    return networks


Seconds = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(gt=0)]


class Section(BaseModel):
    """Settings of one component."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class LimitSettings(Section):
    """Limits of one request."""

    max_bytes: Count = Field(
        default=64 * 1024 * 1024, description="maximum body size of a request in bytes"
    )
    max_pixels: Count = Field(default=50_000_000, description="maximum pixels of an input picture")
    max_side: Count = Field(
        default=65_500, description="maximum width or height of an input picture in pixels"
    )
    max_output_pixels: Count = Field(default=134_217_728, description="maximum pixels of an output")
    body_seconds: Seconds = Field(default=60.0, description="timeout for receiving the body")
    deadline_seconds: Seconds = Field(
        default=300.0, description="timeout from the body to the answer, then 504"
    )


class QueueSettings(Section):
    """Admission limits of the whole process; requests beyond them get 429."""

    max_pictures: Count = Field(default=64, description="maximum pictures in flight")
    max_pictures_per_client: Count = Field(
        default=32,
        description="maximum pictures in flight of one client (its key, or else its address)",
    )
    max_wait_seconds: Seconds = Field(
        default=3.0, description="predicted queueing time that any picture may have"
    )
    max_stretch: float = Field(
        default=8.0,
        ge=1,
        description="predicted latency that any picture may have, as a multiple of its latency on "
        "an idle server; the larger of both limits applies",
    )
    max_bytes: Count = Field(
        default=256 * 1024 * 1024, description="maximum bytes of request bodies in memory"
    )
    max_output_pixels: Count = Field(
        default=268_435_456, description="maximum output pixels of all pictures in flight"
    )


class BatchSettings(Section):
    """How tiles are batched."""

    max_tiles: Count = Field(default=8, description="tiles in a full batch")
    max_pixels: Count = Field(
        default=512 * 512, description="low-resolution pixels in a full batch"
    )
    max_wait_seconds: float = Field(
        default=0.005, ge=0, description="maximum wait of a tile for a full batch"
    )
    fair_pixels: Count = Field(
        default=512 * 512,
        description="low-resolution pixels by which an earlier deadline may exceed its fair share",
    )
    stuck_seconds: Seconds = Field(
        default=300.0, description="run time of one batch after which `/livez` fails"
    )


class ConsistencySettings(Section):
    """The check that an answer, downscaled, matches its input region by region."""

    action: Literal["refuse", "flag", "off"] = Field(
        default="refuse",
        description="fail an inconsistent answer (refuse), only report it in the header "
        "`Sharpline-Consistency` (flag), or skip the check (off)",
    )
    max_levels: float = Field(
        default=12.0,
        gt=0,
        description="maximum RMS error of a region beyond its own standard deviation, in grey "
        "levels of 255",
    )


class ModelSettings(Section):
    """Which models are served, with which backend and device."""

    folder: Path = Field(
        default=Path("models"), description="folder of bundles, or one with index.json"
    )
    default: str = Field(default="compact_x4", description="model of a request that names none")
    poll_seconds: Seconds = Field(default=1.0, description="poll interval of the folder")
    backend: Literal["auto", "torch", "openvino"] = Field(
        default="auto", description="inference backend"
    )
    device: str = Field(
        default="auto", description="auto, cpu, cuda (every device of the machine) or e.g. cuda:1"
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        default="auto", description="arithmetic precision of inference"
    )


class DriftSettings(Section):
    """How live pictures are compared with a model's training data."""

    window: Count = Field(default=500, description="latest pictures of a model to compare")
    minimum: Count = Field(default=20, description="minimum pictures before drift is reported")
    max_age_seconds: Seconds = Field(default=3600.0, description="maximum age of these pictures")


Texts = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
Networks = Annotated[Texts, AfterValidator(_require_networks)]


class SecuritySettings(Section):
    """Authentication and access."""

    keys_file: Path | None = Field(
        default=None, description="file of API keys; if set, every request needs a key"
    )
    open: bool = Field(
        default=False, description="allow requests from other machines without API keys"
    )
    allow_hosts: Texts = Field(
        default=(),
        description="allowed Host headers, comma-separated; if empty, a server on a loopback "
        "address allows localhost and that address, any other server allows all",
    )
    trusted_proxies: Networks = Field(
        default=(),
        description="networks, comma-separated, of proxies whose X-Forwarded-For is trusted",
    )
    allow_origins: Texts = Field(default=(), description="allowed CORS origins, comma-separated")


class JobSettings(Section):
    """Asynchronous jobs and the storage of their pictures."""

    folder: Path = Field(
        default=Path(".sharpline/jobs"),
        description="folder of jobs, their pictures and the signing key, shared by all replicas of "
        "one machine",
    )
    bucket: str | None = Field(
        default=None,
        description="S3 bucket, or bucket/prefix, that stores pictures instead of the folder; "
        "credentials and region come from boto3's sources, e.g. AWS_* variables",
    )
    bucket_endpoint: str | None = Field(
        default=None, description="endpoint URL of an S3-compatible server other than AWS"
    )
    bucket_direct: bool = Field(
        default=True,
        description="give clients presigned URLs of the bucket; false if they cannot reach it",
    )
    signing_key: Path | None = Field(
        default=None,
        description="file of the key that signs URLs and receipts, the same for all replicas; "
        "if unset, signing.key in the folder, created if missing",
    )
    database: str | None = Field(
        default=None,
        description="SQLAlchemy URL of a Postgres database for replicas on several machines, "
        "e.g. postgresql+psycopg://user:password@host/name; if unset, SQLite in the folder",
    )
    workers: Count = Field(default=2, description="concurrent jobs of one replica")
    lease_seconds: Seconds = Field(
        default=15.0, description="time without a heartbeat after which a job's lease expires"
    )
    heartbeat_seconds: Seconds = Field(
        default=1.0, description="heartbeat interval of a running job"
    )
    poll_seconds: Seconds = Field(
        default=1.0, description="poll interval for jobs submitted to other replicas"
    )
    picture_seconds: Seconds = Field(default=3600.0, description="timeout of one picture")
    wait_seconds: Seconds = Field(default=86_400.0, description="time to live of an unfinished job")
    result_seconds: Seconds = Field(
        default=2700.0, description="time to live of a finished job and its results"
    )
    upload_seconds: Seconds = Field(
        default=3600.0, description="time to live of an upload until a job uses it"
    )
    sweep_seconds: Seconds = Field(
        default=30.0, description="interval between deletions of what has expired"
    )
    max_pictures: Count = Field(default=1000, description="maximum pictures of one job")
    max_queued_per_client: Count = Field(
        default=1000, description="maximum queued jobs of one client"
    )
    webhook_seconds: Seconds = Field(default=10.0, description="timeout of a webhook request")
    webhook_networks: Networks = Field(
        default=(),
        description="non-public networks, comma-separated, that webhooks may reach",
    )


class LogSettings(Section):
    """Log output."""

    format: Literal["text", "json"] = Field(
        default="text", description="plain text, or one JSON object per line"
    )
    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="minimum level of log lines"
    )


class PassportSettings(Section):
    """The passport in an answer's file."""

    embed: bool = Field(
        default=True,
        description="write model, version, bundle and request id into the answer's file; the "
        "response headers always have them",
    )


class DrainSettings(Section):
    """Graceful shutdown."""

    linger_seconds: float = Field(
        default=0.0, ge=0, description="minimum time to keep answering 503"
    )
    max_seconds: Seconds = Field(default=40.0, description="maximum wait for pictures in flight")
