"""Evidence without a registry: what passes, the file, and files that are no evidence."""

import json

import pytest

from release.bounds import MeasuredBounds
from release.cost import Cost, MeasuredCosts
from release.evidence import (
    BrokenEvidence,
    Evidence,
    Outcome,
    Runtime,
    VersionRef,
    all_passed,
    evidence_path,
    read_evidence,
    write_evidence,
)

PASSED = Outcome.at_least("gain", 0.5, 0.5, "enough")
FAILED = Outcome.at_most("cost", 1.5, 1.0, "too much")
NOT_JUDGED = Outcome.not_judged("floor", 2.0, "another protocol")


@pytest.fixture
def evidence(rules):
    return Evidence(
        format_version=1,
        model="m",
        created="2026-01-01T00:00:00+00:00",
        seconds=1.5,
        passed=False,
        challenger=VersionRef(version=2, bundle_id="b"),
        champion=None,
        protocol={"dataset": "d", "scale": 2},
        gain_over_champion=None,
        gain_over_bicubic=None,
        outcomes=(PASSED, FAILED, NOT_JUDGED),
        pictures=(),
        bounds=MeasuredBounds(seam_levels=0.1, precision="fp32", precision_levels=0.0),
        costs=MeasuredCosts(
            pixels=9, rounds=3, challenger=Cost(seconds=1.0, memory_bytes=None), champion=None
        ),
        runtime=Runtime(backend="torch", device="cpu", precision="fp32", software={}),
        rules=rules,
    )


def test_an_outcome_at_its_limit_passes():
    assert Outcome.at_least("r", 1.0, 1.0, "w").passed is True
    assert Outcome.at_least("r", 0.9, 1.0, "w").passed is False
    assert Outcome.at_most("r", 1.0, 1.0, "w").passed is True
    assert Outcome.at_most("r", 1.1, 1.0, "w").passed is False
    assert (NOT_JUDGED.passed, NOT_JUDGED.value, NOT_JUDGED.limit) == (None, None, 2.0)
    assert NOT_JUDGED.why == "not judged: another protocol"


@pytest.mark.parametrize(
    ("outcomes", "passed"),
    [
        ((PASSED,), True),
        ((PASSED, NOT_JUDGED), True),
        ((PASSED, FAILED), False),
        ((FAILED,), False),
        ((NOT_JUDGED,), False),
        ((), False),
    ],
)
def test_something_must_be_judged_and_nothing_may_fail(outcomes, passed):
    assert all_passed(outcomes) is passed


def test_evidence_is_read_as_written_from_its_file_or_folder(evidence, tmp_path):
    path = write_evidence(tmp_path, evidence)
    assert path == evidence_path(path) == evidence_path(tmp_path) == tmp_path / "evidence.json"
    assert read_evidence(path) == evidence
    assert evidence.reasons == ("too much",)


def test_files_that_are_no_evidence_are_named_with_the_reason(evidence, tmp_path):
    path = tmp_path / "evidence.json"
    with pytest.raises(BrokenEvidence, match=f"no evidence at {tmp_path}; run `sharpline gate`"):
        evidence_path(tmp_path)
    with pytest.raises(BrokenEvidence, match=r"No such file.*run `sharpline gate` again"):
        read_evidence(path)
    write_evidence(tmp_path, evidence)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"passed": True}))
    with pytest.raises(BrokenEvidence, match="contradicts the outcomes"):
        read_evidence(path)
    path.write_text("{")
    with pytest.raises(BrokenEvidence, match=r"evidence\.json is not evidence.*Invalid JSON"):
        read_evidence(path)
