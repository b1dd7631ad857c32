"""Compares a shadow model with the champion on the same tiles, after the answer.

A few tiles of a picture, with the champion's results, are kept until its answer is complete. The
shadow runs on them as background requests, which the scheduler serves one tile at a time while no
other request is open; so a shadow delays a picture by the time of one tile at most. Only numbers
are kept: the difference from the champion's pixels, and whether they are consistent with the input.
"""

import asyncio
import logging
import math
from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol

import numpy as np

from serving.batching.scheduler import Scheduler
from serving.batching.tiles import Tile
from serving.enhance.consistency import check_strip
from serving.enhance.enhancer import ResultQueue, batch_key_of
from serving.models.reload import Models
from serving.models.routing import ModelVersion
from serving.threads import in_thread
from superres.common.errors import SharplineError
from superres.image.codecs import Picture
from superres.model.tiling import Joiner, cut_tile, plan

log = logging.getLogger(__name__)

Outcome = Literal["compared", "inconsistent", "failed", "skipped"]

MAX_PENDING = 4  # pictures whose tiles are held in memory; further ones are skipped


class ShadowObserver(Protocol):
    """Is notified of each comparison."""

    def shadow_done(
        self, name: str, version: str, outcome: Outcome, levels: float | None = None
    ) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One tile: mean absolute difference from the champion in grey levels, and consistency."""

    levels: float
    consistent: bool


class ShadowRunner:
    """Compares shadows with champions; used on the event loop."""

    def __init__(
        self, models: Models, scheduler: Scheduler, observer: ShadowObserver, limit_levels: float
    ) -> None:
        self._models = models
        self._scheduler = scheduler
        self._observer = observer
        self._limit_levels = limit_levels
        self._tasks: set[asyncio.Task[None]] = set()

    def wants(self, model_version: ModelVersion) -> bool:
        """Whether to keep tiles of a picture of this model for comparison."""
        route = self._models.routes.get(model_version.name)
        return route is not None and route.shadow is not None and model_version.role == "champion"

    def compare(self, model_version: ModelVersion, tile_pairs: list[tuple[Tile, Tile]]) -> None:
        """Start a comparison; `tile_pairs` holds tiles with their halo and the champion's cores."""
        if len(self._tasks) >= MAX_PENDING:
            route = self._models.routes.get(model_version.name)
            if route is not None and route.shadow is not None:
                self._observer.shadow_done(model_version.name, route.shadow.version, "skipped")
            return
        task = asyncio.create_task(self._compare(model_version, tile_pairs))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """Cancel all pending comparisons."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _compare(
        self, model_version: ModelVersion, tile_pairs: list[tuple[Tile, Tile]]
    ) -> None:
        with self._models.use_shadow(model_version.name) as shadow:
            if shadow is None:
                return
            for tile_hwc, core_hwc in tile_pairs:
                try:
                    result_hwc = await self._run_shadow(shadow, tile_hwc)
                    halo = model_version.model.upscaler.geometry.halo
                    tiles = tile_hwc, core_hwc, result_hwc
                    comparison = await in_thread(
                        partial(compare_tiles, *tiles, halo, self._limit_levels)
                    )
                except SharplineError as error:
                    log.warning("the shadow of %s failed: %s", model_version.name, error)
                    self._observer.shadow_done(model_version.name, shadow.version, "failed")
                    return
                outcome: Outcome = "compared" if comparison.consistent else "inconsistent"
                self._observer.shadow_done(
                    model_version.name, shadow.version, outcome, comparison.levels
                )

    async def _run_shadow(self, shadow: ModelVersion, tile_hwc: Tile) -> Tile:
        """Run the shadow on a tile as if the tile were a whole picture."""
        height, width = tile_hwc.shape[:2]
        tile_plan = plan(height, width, shadow.model.upscaler.geometry)
        joiner = Joiner(tile_plan)
        result_queue = ResultQueue()
        request = self._scheduler.open(
            batch_key_of(shadow, tile_plan, str(tile_hwc.dtype)),
            deadline_seconds=math.inf,
            receiver=result_queue,
            background=True,
        )
        try:
            tiles = [(i, cut_tile(tile_hwc, tile_plan, i)) for i in range(len(tile_plan.boxes))]
            self._scheduler.put(request, tiles)
            missing = len(tiles)
            while missing:
                results = await result_queue.take()
                missing -= len(results)
                for index, result_hwc in results:
                    joiner.add(index, result_hwc)
            return joiner.result()
        finally:
            self._scheduler.close(request)


def compare_tiles(
    tile_hwc: Tile, core_hwc: Tile, result_hwc: Tile, halo: int, limit_levels: float
) -> Comparison:
    """Compare the shadow's result for a whole tile with the champion's core of that tile."""
    scale = result_hwc.shape[0] // tile_hwc.shape[0]
    height, width = core_hwc.shape[0] // scale, core_hwc.shape[1] // scale
    shadow_core_hwc = result_hwc[halo * scale :, halo * scale :][: height * scale, : width * scale]
    lr_hwc = tile_hwc[halo:, halo:][:height, :width]
    to_levels = 255.0 / np.iinfo(core_hwc.dtype).max
    levels = float(np.mean(np.abs(shadow_core_hwc.astype(np.float32) - core_hwc))) * to_levels
    consistency_result = check_strip(
        Picture(rgb_hwc=lr_hwc), shadow_core_hwc, top=0, scale=scale, limit_levels=limit_levels
    )
    return Comparison(levels=levels, consistent=consistency_result.ok)
