"""Request and result of the enhancer, and the timing of its stages."""

import contextlib
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Protocol

from serving.enhance.consistency import ConsistencyResult
from serving.models.routing import ModelVersion
from serving.requests.chunks import BodyChunks
from superres.image.codecs import Picture
from superres.image.region import Region


@dataclass(frozen=True, slots=True, kw_only=True)
class EnhanceRequest:
    """One picture to enhance.

    `read` decodes (and shrinks, converts, ...) the upload on a worker thread and may raise
    PictureError. `deadline_seconds` is on `time.monotonic`'s clock; `client` identifies the client
    for fair queueing. Outside `region` (in pixels of what `read` returns) the answer is resampled.
    `progress` is called with the share of the work that is done, 0 to 1. A `background` request is
    served while no other request is open.
    """

    read: Callable[[], Picture]
    model_version: ModelVersion
    format: str
    quality: int
    deadline_seconds: float
    client: str = ""
    region: Region | None = None
    progress: Callable[[float], None] = lambda share: None
    background: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class EnhanceResult:
    """An answer as a stream of chunks of its file; `size` in bytes is None while incomplete.

    The first chunk is ready; a later failure can only abort the response. The caller must consume
    all of `chunks` or close them.
    """

    width: int
    height: int
    chunks: BodyChunks
    size: int | None
    consistency_result: ConsistencyResult
    stage_seconds: dict[str, float] = field(default_factory=dict)


class StageObserver(Protocol):
    """Is notified of the duration of each stage of a picture."""

    def stage_done(self, stage: str, seconds: float) -> None: ...


class ResponseObserver(Protocol):
    """Is notified of aborted responses."""

    def response_aborted(self, reason: str) -> None: ...


class StageTimer:
    """Measures the stages of one picture; the parts of a stage are added up."""

    def __init__(self, observer: StageObserver) -> None:
        self._observer = observer
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def __call__(self, stage: str) -> Generator[None]:
        started_seconds = time.perf_counter()
        yield
        self.add(stage, time.perf_counter() - started_seconds)

    def add(self, stage: str, seconds: float) -> None:
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds

    def report(self) -> None:
        """Report every stage to the observer; called once, at the end."""
        for stage, seconds in self.seconds.items():
            self._observer.stage_done(stage, seconds)


def server_timing(stage_seconds: dict[str, float]) -> str:
    """The value of the header `Server-Timing`, in milliseconds (W3C Server Timing)."""
    return ", ".join(
        f"{stage};dur={seconds * 1000:.1f}" for stage, seconds in stage_seconds.items()
    )


def consistency_header(consistency_result: ConsistencyResult) -> str:
    """The value of the header `Sharpline-Consistency`."""
    state = "ok" if consistency_result.ok else "violated"
    worst_levels, regions = consistency_result.worst_levels, consistency_result.inconsistent_regions
    return f"{state}; worst-levels={worst_levels:.1f}; regions={regions}"
