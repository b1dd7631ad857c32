"""Batches are prefetched in step order; exceptions of the thread are raised by `take`."""

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from training.data.packs.crops import Batch
from training.loop.prefetch import PREFETCHED_BATCHES, BatchBuilder, Prefetcher, to_device


class CountingSampler:
    """A sampler that records the requested steps."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.steps: list[int] = []
        self.fails_at = fails_at
        self.ahead = threading.Event()

    def batch(self, step: int, part: slice = slice(None)) -> Batch:
        self.steps.append(step)
        if step == self.fails_at:
            raise OSError("the disk is gone")
        if step == PREFETCHED_BATCHES:
            self.ahead.set()
        names = tuple(f"picture-{number}" for number in range(4))[part]
        return Batch(
            lr_bhwc_u8=np.full((len(names), 2, 2, 3), step, np.uint8),
            hr_bhwc_u8=np.full((len(names), 4, 4, 3), step, np.uint8),
            names=names,
        )


def batch_builder(sampler: CountingSampler, part: slice = slice(None)) -> BatchBuilder:
    return BatchBuilder(
        samplers={2: sampler}, side=lambda step: 2, degradation=None, batch=4, part=part, pin=False
    )


def test_batches_are_prefetched_in_step_order() -> None:
    sampler = CountingSampler()
    with Prefetcher(batch_builder(sampler), 0, 10) as prefetcher:
        assert sampler.ahead.wait(timeout=60)
        steps = [prefetcher.take(step).step for step in range(10)]
    assert steps == sampler.steps == list(range(10))


def test_a_prefetcher_that_is_left_early_ends_its_thread() -> None:
    with Prefetcher(batch_builder(CountingSampler()), 0, 1_000_000) as prefetcher:
        prefetcher.take(0)
    assert not any(thread.name.startswith("prefetcher") for thread in threading.enumerate())


def test_an_exception_of_the_thread_is_raised_by_take() -> None:
    with Prefetcher(batch_builder(CountingSampler(fails_at=2)), 0, 10) as prefetcher:
        assert [prefetcher.take(0).step, prefetcher.take(1).step] == [0, 1]
        with pytest.raises(OSError, match="the disk is gone"):
            prefetcher.take(2)


def test_the_pictures_of_other_ranks_can_be_named() -> None:
    builder = batch_builder(CountingSampler(), part=slice(0, 2))
    host_batch = builder.make(5)
    assert host_batch.names == ("picture-0", "picture-1")
    assert builder.names(host_batch) == tuple(f"picture-{number}" for number in range(4))


def test_the_named_pictures_are_those_drawn_for_the_patch_side() -> None:
    sides = iter([2, 4])
    other = CountingSampler()
    builder = replace(
        batch_builder(CountingSampler(), part=slice(0, 2)),
        samplers={2: CountingSampler(), 4: other},
        side=lambda step: next(sides),
    )
    builder.names(builder.make(5))
    assert other.steps == []


def test_crops_reach_the_device_as_floats_from_0_to_1() -> None:
    host_batch = batch_builder(CountingSampler()).make(255)
    lr_bchw, hr_bchw = to_device(host_batch, torch.device("cpu"), torch.channels_last, 2)
    assert lr_bchw.shape == (4, 3, 2, 2)
    assert hr_bchw.is_contiguous(memory_format=torch.channels_last)
    assert lr_bchw.eq(1).all()
    assert hr_bchw.eq(1).all()
