"""Assembles one picture's tiles into the bytes of its answer; runs on worker threads.

Tiles are cut on demand, results are joined into strips of rows, and each strip is checked against
its input and encoded before the next one exists. So a picture needs memory for its input, a few
tiles and the incomplete strips only.
"""

import time
from collections.abc import Callable, Iterable

import numpy as np

from serving.batching.tiles import Tile
from serving.enhance.consistency import ConsistencyResult, check_strip
from serving.enhance.request import EnhanceRequest
from serving.errors import InconsistentOutput
from serving.setting_groups import ConsistencySettings
from serving.telemetry.drift import ConsistencySample, Observation
from superres.analysis.degradation_features import measure
from superres.image.box import Box
from superres.image.codecs import Picture, StripEncoder
from superres.image.region import Region
from superres.image.strips import enlarged_frame, enlarged_strip, resampled_rows
from superres.model.tiling import Joiner, TilePlan, core_of, cut_tile

SHADOW_PAIRS = 2  # tiles of each picture that are kept with their results for a shadow


class StripAssembler:
    """Cuts the tiles of one picture, joins their results into strips and encodes these."""

    def __init__(
        self,
        picture: Picture,
        tile_plan: TilePlan,
        enhance_request: EnhanceRequest,
        settings: ConsistencySettings,
    ) -> None:
        self.picture = picture
        self.plan = tile_plan
        self._settings = settings
        self._joiner = Joiner(tile_plan)
        self._region = enhance_request.region
        self._next_tile = 0  # index of the next tile to cut
        self._in_flight = 0  # tiles that were cut and have no result yet
        self._frame = enlarged_frame(picture, tile_plan.scale)
        self._encoder = StripEncoder(
            self._frame, enhance_request.format, quality=enhance_request.quality
        )
        self._sample = ConsistencySample(picture, tile_plan.scale)
        self._top = 0  # of the next strip, in rows of the input
        self._pair_interval = max(1, len(tile_plan.boxes) // SHADOW_PAIRS)
        self.tile_pairs: list[tuple[Tile, Tile]] = []
        self.tiles_done = 0
        self.consistency_result = ConsistencyResult()
        self.check_seconds = 0.0
        self.encode_seconds = 0.0

    @property
    def width(self) -> int:
        return self._frame.width

    @property
    def height(self) -> int:
        return self._frame.height

    @property
    def waits_for_device(self) -> bool:
        return self._in_flight > 0

    @property
    def complete(self) -> bool:
        return self._joiner.complete

    @property
    def share_done(self) -> float:
        return self.tiles_done / len(self.plan.boxes)

    def cut(self, count: int) -> list[tuple[int, Tile]]:
        """The next tiles for the device, at most `count`.

        Tiles outside the region are skipped, at most a row of tiles per call.
        """
        tiles: list[tuple[int, Tile]] = []
        skipped = 0
        while (
            self._next_tile < len(self.plan.boxes)
            and len(tiles) < count
            and skipped < self.plan.columns
        ):
            index, box = self._next_tile, self.plan.boxes[self._next_tile]
            self._next_tile += 1
            if self._region is None or self._region.touches(box):
                tiles.append((index, cut_tile(self.picture.rgb_hwc, self.plan, index)))
            else:
                self._joiner.add_core(index, self._blank(box))
                self.tiles_done += 1
                skipped += 1
        self._in_flight += len(tiles)
        return tiles

    def add(self, results: Iterable[tuple[int, Tile]], *, keep_pairs: bool = False) -> bytes:
        """Add results; returns the bytes of the file that are complete now.

        `keep_pairs` keeps a few tiles for a shadow. Raises InconsistentOutput for a strip that
        fails the check.
        """
        for index, result_hwc in results:
            core_hwc = core_of(result_hwc, self.plan, index)
            if (
                keep_pairs
                and index % self._pair_interval == 0
                and len(self.tile_pairs) < SHADOW_PAIRS
            ):
                tile_hwc = cut_tile(self.picture.rgb_hwc, self.plan, index)
                self.tile_pairs.append((tile_hwc, core_hwc.copy()))
            self._joiner.add_core(index, core_hwc)
            self._in_flight -= 1
            self.tiles_done += 1
        chunks = [self._finish(strip_hwc) for strip_hwc in self._joiner.strips()]
        if self.complete:
            chunks.append(self._timed_encode(self._encoder.end))
        return b"".join(chunks)

    def observe(self) -> Observation:
        """The observation for drift detection, once the answer is complete."""
        return Observation(features=measure(self.picture.rgb_hwc), consistency_db=self._sample.db())

    def _finish(self, strip_hwc: Tile) -> bytes:
        began_seconds = time.perf_counter()
        top, scale = self._top, self.plan.scale
        self._top += len(strip_hwc) // scale
        if self._region is not None:
            strip_hwc = self._blended(self._region, strip_hwc, top)
        strip = enlarged_strip(self.picture, strip_hwc, top, scale)
        self._check(strip.rgb_hwc, top)
        self._sample.add(top, strip.rgb_hwc)
        self.check_seconds += time.perf_counter() - began_seconds
        return self._timed_encode(lambda: self._encoder.add(strip))

    def _blank(self, box: Box) -> Tile:
        """A placeholder for a tile outside the region; uses no memory."""
        shape = (box.height * self.plan.scale, box.width * self.plan.scale, 3)
        return np.broadcast_to(np.zeros((), self.picture.rgb_hwc.dtype), shape)

    def _blended(self, region: Region, strip_hwc: Tile, top: int) -> Tile:
        """The model's pixels inside the region, resampled ones outside."""
        scale = self.plan.scale
        height, width = len(strip_hwc) // scale, self.picture.width
        resampled_hwc = resampled_rows(self.picture.rgb_hwc, slice(top, top + height), scale)
        box = Box(top=top, left=0, height=height, width=width)
        return region.blended(box, scale, strip_hwc, resampled_hwc)

    def _check(self, strip_hwc: Tile, top: int) -> None:
        if self._settings.action == "off":
            return
        limit = self._settings.max_levels
        strip_result = check_strip(
            self.picture, strip_hwc, top=top, scale=self.plan.scale, limit_levels=limit
        )
        self.consistency_result = self.consistency_result.combined_with(strip_result)
        if not strip_result.ok and self._settings.action == "refuse":
            raise InconsistentOutput(
                f"{strip_result.inconsistent_regions} regions of the answer do not match the "
                f"input: error up to {strip_result.worst_levels:.0f} grey levels, {limit:g} allowed"
            )

    def _timed_encode(self, encode: Callable[[], bytes]) -> bytes:
        began_seconds = time.perf_counter()
        chunk = encode()
        self.encode_seconds += time.perf_counter() - began_seconds
        return chunk
