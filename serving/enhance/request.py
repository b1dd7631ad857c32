"""What is asked of the enhancer and what it answers; the routes speak to it in these words."""

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
    """What one client asked for.

    `read` decodes (and shrinks, converts, ...) the upload on a worker thread and may raise
    PictureError. `deadline_seconds` is on `time.monotonic`'s clock; `client` is the string that
    the client's fair share goes by. Outside `region` (in pixels of what `read` returns) the answer
    is resampled. `progress` hears the share of the work that is done, 0 to 1. What is in the
    `background` is worked on while nothing else is.
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
    """A picture on its way out, in pieces of its file; `size` is known once it is whole.

    The first piece is there: what fails after it can only be told by breaking off. Whoever takes
    an answer must take all of `chunks` or close them.
    """

    width: int
    height: int
    chunks: BodyChunks
    size: int | None
    consistency_result: ConsistencyResult
    stage_seconds: dict[str, float] = field(default_factory=dict)


class StageObserver(Protocol):
    """Hears how long the stages of a picture take."""

    def stage_done(self, stage: str, seconds: float) -> None: ...


class StageTimer:
    """Takes the time of each stage of one picture; a stage may go on in several parts."""

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

    def tell(self) -> None:
        """Report every stage; once, at the picture's end."""
        for stage, seconds in self.seconds.items():
            self._observer.stage_done(stage, seconds)


def server_timing(stage_seconds: dict[str, float]) -> str:
    """The header's value, in milliseconds (W3C Server Timing)."""
    return ", ".join(
        f"{stage};dur={seconds * 1000:.1f}" for stage, seconds in stage_seconds.items()
    )


def consistency_header(consistency_result: ConsistencyResult) -> str:
    """The value of the header `Sharpline-Consistency`."""
    state = "ok" if consistency_result.ok else "violated"
    worst_levels, regions = consistency_result.worst_levels, consistency_result.regions_off
    return f"{state}; worst-levels={worst_levels:.1f}; regions={regions}"
