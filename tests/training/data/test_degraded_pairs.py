"""Pairs of each kind of degradation, and of a mix, can be reproduced from the manifest."""

import json
from pathlib import Path

import numpy as np
import pytest

from superres.common.errors import UsageError
from superres.dataset.manifest import read_manifest
from superres.degrade import degrade
from superres.image.codecs import read
from training.data.pairs.build import build
from training.data.shards.plan import PairRecipe, make_plan, read_plan
from training.data.sources.resolve import find_pictures

MIX = "{bicubic: 0.3, motion: 0.3, real_esrgan: 0.4}"


@pytest.mark.parametrize(("kind", "scale"), [("real_esrgan", 2), ("motion", 1), (MIX, 2)])
def test_a_pair_is_reproduced_from_its_manifest_row(
    kind: str, scale: int, pictures: Path, tmp_path: Path
) -> None:
    sources = find_pictures([str(pictures)], split_every=3)
    built = build(make_plan(sources, PairRecipe(scale=scale, degradation=kind), tmp_path))
    rows = read_manifest(built.path)
    assert {row.degradation for row in rows} == {kind}
    for row in rows:
        hr, lr = read(built.path / row.hr_path), read(built.path / row.lr_path)
        reproduced = degrade(hr.rgb_hwc, kind=row.degradation, scale=row.scale, seed=row.seed)
        assert np.array_equal(reproduced.lr_hwc_u8, lr.rgb_hwc)
        assert reproduced.parameters == json.loads(row.parameters)
    if kind == MIX:
        assert len({json.loads(row.parameters)["kind"] for row in rows}) > 1


def test_the_id_does_not_depend_on_the_spelling_of_a_mix(pictures: Path, tmp_path: Path) -> None:
    sources = find_pictures([str(pictures)])
    spellings = (MIX, "{real_esrgan: .4,motion: 0.30, bicubic: 0.3}")
    plans = [
        read_plan(make_plan(sources, PairRecipe(scale=2, degradation=text), tmp_path))
        for text in spellings
    ]
    assert plans[0] == plans[1]
    assert plans[0].degradation == MIX


def test_an_unknown_kind_in_a_mix_is_rejected_before_planning(
    pictures: Path, tmp_path: Path
) -> None:
    sources = find_pictures([str(pictures)])
    with pytest.raises(UsageError, match="no degradation 'fog'"):
        make_plan(sources, PairRecipe(scale=2, degradation="{bicubic: 1, fog: 1}"), tmp_path)
    assert not list(tmp_path.rglob("plan.json"))
