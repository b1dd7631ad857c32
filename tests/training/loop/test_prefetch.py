"""Batches come in the order of their steps, made ahead; what making one raises, the taker sees."""

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from training.data.packs.crops import Batch
from training.loop.prefetch import AHEAD, BatchBuilder, Prefetcher, to_device


class Counting:
    """A sampler that notes what it was asked for."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.asked: list[int] = []
        self.fails_at = fails_at
        self.ahead = threading.Event()

    def batch(self, step: int, part: slice = slice(None)) -> Batch:
        self.asked.append(step)
        if step == self.fails_at:
            raise OSError("the disk is gone")
        if step == AHEAD:
            self.ahead.set()
        names = tuple(f"picture-{number}" for number in range(4))[part]
        return Batch(
            lr_bhwc_u8=np.full((len(names), 2, 2, 3), step, np.uint8),
            hr_bhwc_u8=np.full((len(names), 4, 4, 3), step, np.uint8),
            names=names,
        )


def batch_builder(sampler: Counting, part: slice = slice(None)) -> BatchBuilder:
    return BatchBuilder(
        samplers={2: sampler}, side=lambda step: 2, degradation=None, batch=4, part=part, pin=False
    )


def test_batches_are_ready_before_they_are_asked_for() -> None:
    sampler = Counting()
    with Prefetcher(batch_builder(sampler), 0, 10) as prefetcher:
        assert sampler.ahead.wait(timeout=60)
        steps = [prefetcher.take(step).step for step in range(10)]
    assert steps == sampler.asked == list(range(10))


def test_a_feed_that_is_left_early_ends_its_thread() -> None:
    with Prefetcher(batch_builder(Counting()), 0, 1_000_000) as prefetcher:
        prefetcher.take(0)
    assert not any(thread.name.startswith("prefetcher") for thread in threading.enumerate())


def test_what_making_a_batch_raises_the_taker_sees_in_its_place() -> None:
    with Prefetcher(batch_builder(Counting(fails_at=2)), 0, 10) as prefetcher:
        assert [prefetcher.take(0).step, prefetcher.take(1).step] == [0, 1]
        with pytest.raises(OSError, match="the disk is gone"):
            prefetcher.take(2)


def test_the_pictures_of_other_shares_can_be_named() -> None:
    cook = batch_builder(Counting(), part=slice(0, 2))
    host_batch = cook.make(5)
    assert host_batch.names == ("picture-0", "picture-1")
    assert cook.names(host_batch) == tuple(f"picture-{number}" for number in range(4))


def test_the_pictures_named_are_those_that_were_drawn_though_patches_have_grown_since() -> None:
    sides = iter([2, 4])
    other = Counting()
    cook = replace(
        batch_builder(Counting(), part=slice(0, 2)),
        samplers={2: Counting(), 4: other},
        side=lambda step: next(sides),
    )
    cook.names(cook.make(5))
    assert other.asked == []


def test_crops_reach_the_device_as_floats_from_0_to_1() -> None:
    host_batch = batch_builder(Counting()).make(255)
    lr_bchw, hr_bchw = to_device(host_batch, torch.device("cpu"), torch.channels_last, 2)
    assert lr_bchw.shape == (4, 3, 2, 2)
    assert hr_bchw.is_contiguous(memory_format=torch.channels_last)
    assert lr_bchw.eq(1).all()
    assert hr_bchw.eq(1).all()
