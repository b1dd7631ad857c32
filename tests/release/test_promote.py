"""Promotion and rollback on a real registry: nothing goes live without proof of its very bytes."""

import json
import shutil
import threading

import pytest

from release.evidence import BrokenEvidence
from release.promote import EvidenceMissing, make_challenger, make_champion, promote, rollback
from release.registry import Registry
from release.versions import NotRegistered
from superres.model.bundle import BrokenBundle


@pytest.fixture
def proven(contest, gated, name):
    """The path of passing evidence for the contest's challenger."""
    decision = gated(name)
    assert decision.passed
    return decision.evidence


def edited(path, **changes):
    """The evidence with some top-level fields changed."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return path


def test_a_proven_version_becomes_champion_and_the_champion_previous(
    registry, contest, proven, name
):
    done = promote(registry, name, None, proven)
    state = registry.state(name)
    assert (done.champion, done.before, done.changed) == (contest[1], contest[0], True)
    assert (state.champion, state.previous) == (contest[1], contest[0])
    assert state.challenger is None


def test_the_evidence_folder_is_as_good_as_its_file(registry, contest, proven, name):
    assert promote(registry, name, contest[1].number, proven.parent).champion == contest[1]


def test_promoting_again_changes_nothing_and_is_no_error(registry, contest, proven, name):
    promote(registry, name, None, proven)
    again = promote(registry, name, None, proven)
    assert (again.champion, again.before, again.changed) == (contest[1], contest[0], False)
    assert registry.state(name).previous == contest[0]


def test_the_first_champion_has_nobody_before(registry, tiny_bundle, gated, name):
    version = registry.register(tiny_bundle(name=name, error_levels=2))
    done = promote(registry, name, None, gated(name, version.number).evidence)
    assert done.before is None
    assert registry.state(name).champion == version
    assert registry.state(name).previous is None


def test_a_version_that_the_gate_refused_is_not_promoted(
    registry, contest, tiny_bundle, gated, name
):
    worse = registry.register(tiny_bundle(name=name, error_levels=12))
    with pytest.raises(EvidenceMissing, match="the gate refused version 3"):
        promote(registry, name, None, gated(name, worse.number).evidence)
    assert registry.state(name).champion == contest[0]


def test_evidence_for_other_bytes_is_refused(registry, contest, tiny_bundle, proven, name):
    other = registry.register(tiny_bundle(name=name, error_levels=1))
    with pytest.raises(EvidenceMissing, match="is about the bundle"):
        promote(registry, name, other.number, proven)


def test_evidence_about_another_model_is_refused(registry, contest, tiny_bundle, proven, name):
    other = registry.register(tiny_bundle(name=f"{name}-other", error_levels=4))
    with pytest.raises(EvidenceMissing, match=f"evidence about {name}, not"):
        promote(registry, other.model, other.number, proven)


def test_evidence_edited_to_speak_of_other_bytes_is_refused(
    registry, contest, tiny_bundle, proven, name
):
    other = registry.register(tiny_bundle(name=name, error_levels=20))
    contender = {"version": other.number, "bundle_id": other.bundle_id}
    with pytest.raises(EvidenceMissing, match="not what the gate last found"):
        promote(registry, name, None, edited(proven, challenger=contender))
    assert registry.state(name).champion == contest[0]


def test_evidence_edited_to_pass_is_refused(registry, contest, tiny_bundle, gated, name):
    worse = registry.register(tiny_bundle(name=name, error_levels=12))
    path = gated(name, worse.number).evidence
    with pytest.raises(BrokenEvidence):
        promote(registry, name, None, edited(path, passed=True))
    outcome = {"rule": "r", "passed": True, "value": 1.0, "limit": 0.0, "why": "so I say"}
    with pytest.raises(EvidenceMissing, match="not what the gate last found"):
        promote(registry, name, None, edited(path, passed=True, outcomes=[outcome]))


def test_only_the_newest_evidence_counts(registry, contest, proven, gated, rules, name):
    harder = rules.model_copy(update={"min_gain_over_champion_db": 9.0})
    assert not gated(name, rules=harder).passed
    with pytest.raises(EvidenceMissing, match="not what the gate last found"):
        promote(registry, name, None, proven)


def test_evidence_against_a_champion_of_the_past_is_refused(
    registry, contest, tiny_bundle, proven, name
):
    newer = registry.register(tiny_bundle(name=name, error_levels=1))
    registry.move_alias(name, "champion", newer, expected=contest[0])
    with pytest.raises(
        EvidenceMissing, match=r"version 3 now, but the evidence compares with version 1"
    ):
        promote(registry, name, None, proven)


def test_bytes_that_changed_in_the_registry_are_not_promoted(
    registry, contest, proven, flip_byte, name
):
    flip_byte(contest[1], "weights.safetensors")
    with pytest.raises(BrokenBundle):
        promote(registry, name, None, proven)
    assert registry.state(name).champion == contest[0]


def test_of_promotions_at_the_same_moment_exactly_one_succeeds(
    registry, contest, tiny_bundle, gated, name, tmp_path
):
    rivals = [contest[1], registry.register(tiny_bundle(name=name, error_levels=2))]
    evidence = [gated(name, version.number).evidence for version in rivals]
    start, results = threading.Barrier(2), []

    def run(path):
        own = Registry(registry.uri, locks=tmp_path / "locks")
        start.wait()
        try:
            results.append(promote(own, name, None, path))
        except EvidenceMissing as error:
            results.append(error)

    threads = [threading.Thread(target=run, args=(path,)) for path in evidence]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    refused = [result for result in results if isinstance(result, EvidenceMissing)]
    (done,) = [result for result in results if not isinstance(result, EvidenceMissing)]
    assert "the evidence compares with version 1" in str(refused[0])
    state = registry.state(name)
    assert (state.champion, state.previous) == (done.champion, contest[0])


def test_rollback_returns_to_the_champion_before(registry, contest, proven, name):
    promote(registry, name, None, proven)
    done = rollback(registry, name)
    state = registry.state(name)
    assert (done.champion, done.before) == (contest[0], contest[1])
    assert (state.champion, state.previous) == (contest[0], None)


def test_there_is_nothing_to_roll_back_to_twice(registry, contest, proven, name):
    promote(registry, name, None, proven)
    rollback(registry, name)
    with pytest.raises(NotRegistered, match="no previous champion"):
        rollback(registry, name)


def test_after_a_rollback_the_old_evidence_no_longer_promotes(registry, contest, proven, name):
    promote(registry, name, None, proven)
    rollback(registry, name)
    with pytest.raises(EvidenceMissing, match="not what the gate last found"):
        promote(registry, name, None, proven)


def test_after_a_rollback_new_evidence_promotes_again(registry, contest, proven, gated, name):
    promote(registry, name, None, proven)
    rollback(registry, name)
    again = gated(name, contest[1].number).evidence
    assert promote(registry, name, None, again).champion == contest[1]


def test_only_the_first_version_is_crowned_without_proof(registry, tiny_bundle, name):
    first, second = (
        registry.register(tiny_bundle(name=name, error_levels=level)) for level in (0, 1)
    )
    assert make_champion(registry, first)
    assert not make_champion(registry, second)
    assert not make_champion(registry, first)
    assert registry.state(name).champion == first


def test_the_newest_version_is_the_challenger_unless_it_is_champion(registry, contest, tiny_bundle):
    champion, _ = contest
    newest = registry.register(tiny_bundle(name=champion.model, error_levels=1))
    assert make_challenger(registry, newest)
    assert not make_challenger(registry, champion)
    assert registry.state(champion.model).challenger == newest


def test_evidence_that_is_gone_is_named(registry, contest, proven, name):
    shutil.rmtree(proven.parent)
    with pytest.raises(BrokenEvidence, match="there is no evidence at"):
        promote(registry, name, None, proven)
