"""The settings of each component of the server, with their defaults and meanings."""

from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_settings import NoDecode


def _split(value: object) -> object:
    """Environment variables are text: a list in one is joined by commas."""
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
    """What one request may bring and take away."""

    max_bytes: Count = Field(default=64 * 1024 * 1024, description="bytes of one request's body")
    max_pixels: Count = Field(default=50_000_000, description="pixels of one input picture")
    max_side: Count = Field(default=65_500, description="pixels of one side of an input picture")
    max_answer_pixels: Count = Field(default=134_217_728, description="pixels of one answer")
    body_seconds: Seconds = Field(default=60.0, description="time a client has to send its body")
    deadline_seconds: Seconds = Field(
        default=300.0, description="time from body to answer, then 504"
    )


class QueueSettings(Section):
    """What the whole process holds at once; beyond it clients hear 429."""

    max_pictures: Count = Field(default=64, description="pictures admitted and not yet answered")
    max_pictures_per_client: Count = Field(
        default=32, description="the same, of one client (its key, or else its address)"
    )
    max_wait_seconds: Seconds = Field(
        default=3.0, description="predicted wait for others that any picture may have"
    )
    max_stretch: float = Field(
        default=8.0,
        ge=1,
        description="predicted time to the answer, in times of that on an idle server, that a "
        "picture may have",
    )
    max_bytes: Count = Field(
        default=256 * 1024 * 1024, description="bytes of bodies held in memory"
    )
    max_answer_pixels: Count = Field(
        default=268_435_456, description="answer pixels of admitted pictures"
    )


class BatchSettings(Section):
    """When tiles go to the device."""

    max_tiles: Count = Field(default=8, description="tiles in a full batch")
    max_pixels: Count = Field(
        default=512 * 512, description="low-resolution pixels in a full batch"
    )
    max_wait_seconds: float = Field(
        default=0.005, ge=0, description="longest wait for a fuller batch"
    )
    fair_pixels: Count = Field(
        default=512 * 512, description="low-resolution pixels an earlier deadline may get ahead by"
    )
    stuck_seconds: Seconds = Field(
        default=300.0, description="time of one batch after which the process counts as dead"
    )


class ConsistencySettings(Section):
    """What happens to an answer of which a region, shrunk, is not its input's."""

    action: Literal["refuse", "flag", "off"] = Field(
        default="refuse",
        description="refuse it, or answer it with the header `Sharpline-Consistency`",
    )
    max_levels: float = Field(
        default=12.0,
        gt=0,
        description="grey levels that a region may be off beyond its own standard deviation",
    )


class ModelSettings(Section):
    """Which models are served, and on what."""

    folder: Path = Field(
        default=Path("models"), description="folder of bundles, or one with index.json"
    )
    default: str = Field(default="compact_x4", description="model of a request that names none")
    poll_seconds: Seconds = Field(default=1.0, description="time between looks at the folder")
    backend: Literal["auto", "torch", "openvino"] = Field(
        default="auto", description="what runs networks"
    )
    device: str = Field(
        default="auto", description="auto, cpu, cuda (every device of the machine) or e.g. cuda:1"
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        default="auto", description="arithmetic"
    )


class DriftSettings(Section):
    """How live pictures are compared with a model's training data."""

    window: Count = Field(default=500, description="latest pictures that are compared")
    minimum: Count = Field(default=20, description="pictures needed before a figure is shown")
    max_age_seconds: Seconds = Field(default=3600.0, description="older pictures are forgotten")


Texts = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]


class SecuritySettings(Section):
    """Who may call."""

    keys_file: Path | None = Field(
        default=None, description="file of API keys; with one, every call needs a key"
    )
    open: bool = Field(
        default=False, description="answer other machines than this one without keys"
    )
    allow_hosts: Texts = Field(
        default=(),
        description="names that the server goes by (the Host header), joined by commas; without "
        "any, a server for this machine alone goes by localhost and its address, another by all",
    )
    trusted_proxies: Annotated[Texts, AfterValidator(_require_networks)] = Field(
        default=(),
        description="networks, joined by commas, of proxies whose X-Forwarded-For is believed",
    )
    allow_origins: Texts = Field(
        default=(), description="other sites whose pages may call (CORS), joined by commas"
    )


class JobSettings(Section):
    """Jobs: what is answered later, and kept until it is fetched."""

    folder: Path = Field(
        default=Path(".sharpline/jobs"),
        description="where jobs, their pictures and the signing key are kept, for all replicas of "
        "one machine",
    )
    bucket: str | None = Field(
        default=None,
        description="S3 bucket, or bucket/prefix, that pictures are kept in and not in the folder; "
        "credentials and region are found as boto3 does, e.g. in AWS_* variables",
    )
    bucket_endpoint: str | None = Field(
        default=None, description="address of a server other than AWS's that speaks S3"
    )
    bucket_direct: bool = Field(
        default=True,
        description="give clients signed addresses of the bucket; false where they cannot reach it",
    )
    signing_key: Path | None = Field(
        default=None,
        description="file of the key that signs addresses and receipts, the same for all "
        "replicas; without it signing.key in the folder, made when it is not there",
    )
    database: str | None = Field(
        default=None,
        description="SQLAlchemy's address of a Postgres database for replicas of several machines, "
        "e.g. postgresql+psycopg://user:password@host/name; without it SQLite in the folder",
    )
    workers: Count = Field(default=2, description="jobs that one replica works on at once")
    lease_seconds: Seconds = Field(
        default=15.0, description="silence after which a replica's job is given to another"
    )
    heartbeat_seconds: Seconds = Field(
        default=1.0, description="time between a working replica's signs"
    )
    poll_seconds: Seconds = Field(
        default=1.0, description="time between looks for jobs that came in elsewhere"
    )
    picture_seconds: Seconds = Field(default=3600.0, description="longest work on one picture")
    wait_seconds: Seconds = Field(
        default=86_400.0, description="longest life of a job that is not over"
    )
    result_seconds: Seconds = Field(
        default=2700.0, description="time that a job and its results are kept once it is over"
    )
    upload_seconds: Seconds = Field(
        default=3600.0, description="time that an upload waits for its bytes and its job"
    )
    sweep_seconds: Seconds = Field(
        default=30.0, description="time between looks for what has expired"
    )
    max_pictures: Count = Field(default=1000, description="pictures of one job")
    max_queued_per_client: Count = Field(default=1000, description="waiting jobs of one client")
    webhook_seconds: Seconds = Field(default=10.0, description="time a webhook has to answer")
    webhook_networks: Annotated[Texts, AfterValidator(_require_networks)] = Field(
        default=(),
        description="networks, joined by commas, that webhooks may go to though they are not "
        "public",
    )


class LogSettings(Section):
    """What the log looks like."""

    format: Literal["text", "json"] = Field(
        default="text", description="lines for people, or one JSON object a line"
    )
    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="the least weighty lines that are written"
    )


class PassportSettings(Section):
    """What an answer's file says of its making."""

    embed: bool = Field(
        default=True,
        description="write model, version, bundle and request id into the answer's file; the "
        "headers tell them in any case",
    )


class DrainSettings(Section):
    """How the server leaves."""

    linger_seconds: float = Field(
        default=0.0, ge=0, description="keep answering 503 at least this long"
    )
    max_seconds: Seconds = Field(default=40.0, description="longest wait for pictures in flight")
