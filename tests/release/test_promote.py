"""Promotion and rollback on a real registry: promotion needs evidence for exactly its bytes."""

import json
import shutil
import threading

import pytest

from release.evidence import BrokenEvidence
from release.promote import EvidenceRefused, make_challenger, make_champion, promote, rollback
from release.registry import Registry
from release.versions import NotRegistered
from superres.model.bundle import BrokenBundle


@pytest.fixture
def passing_evidence(two_versions, run_gate, name):
    """The path of passing evidence for the challenger."""
    decision = run_gate(name)
    assert decision.passed
    return decision.evidence


def edited(path, **changes):
    """The evidence with some top-level fields changed."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return path


def test_promotion_makes_the_version_champion_and_the_champion_previous(
    registry, two_versions, passing_evidence, name
):
    done = promote(registry, name, None, passing_evidence)
    state = registry.state(name)
    assert (done.champion, done.previous, done.changed) == (two_versions[1], two_versions[0], True)
    assert (state.champion, state.previous) == (two_versions[1], two_versions[0])
    assert state.challenger is None


def test_the_evidence_folder_is_accepted_for_its_file(
    registry, two_versions, passing_evidence, name
):
    assert (
        promote(registry, name, two_versions[1].number, passing_evidence.parent).champion
        == two_versions[1]
    )


def test_promoting_again_changes_nothing_and_is_no_error(
    registry, two_versions, passing_evidence, name
):
    promote(registry, name, None, passing_evidence)
    again = promote(registry, name, None, passing_evidence)
    assert (again.champion, again.previous) == (two_versions[1], two_versions[0])
    assert not again.changed
    assert registry.state(name).previous == two_versions[0]


def test_the_first_champion_has_no_previous(registry, tiny_bundle, run_gate, name):
    version = registry.register(tiny_bundle(name=name, error_levels=2))
    done = promote(registry, name, None, run_gate(name, version.number).evidence)
    assert done.previous is None
    assert registry.state(name).champion == version
    assert registry.state(name).previous is None


def test_a_version_that_the_gate_refused_is_not_promoted(
    registry, two_versions, tiny_bundle, run_gate, name
):
    worse = registry.register(tiny_bundle(name=name, error_levels=12))
    with pytest.raises(EvidenceRefused, match="the gate refused version 3"):
        promote(registry, name, None, run_gate(name, worse.number).evidence)
    assert registry.state(name).champion == two_versions[0]


def test_evidence_for_other_bytes_is_refused(
    registry, two_versions, tiny_bundle, passing_evidence, name
):
    other = registry.register(tiny_bundle(name=name, error_levels=1))
    with pytest.raises(EvidenceRefused, match="is about the bundle"):
        promote(registry, name, other.number, passing_evidence)


def test_evidence_about_another_model_is_refused(
    registry, two_versions, tiny_bundle, passing_evidence, name
):
    other = registry.register(tiny_bundle(name=f"{name}-other", error_levels=4))
    with pytest.raises(EvidenceRefused, match=f"evidence about {name}, not"):
        promote(registry, other.model, other.number, passing_evidence)


def test_evidence_edited_to_name_another_bundle_is_refused(
    registry, two_versions, tiny_bundle, passing_evidence, name
):
    other = registry.register(tiny_bundle(name=name, error_levels=20))
    reference = {"version": other.number, "bundle_id": other.bundle_id}
    with pytest.raises(EvidenceRefused, match="not the gate's newest evidence"):
        promote(registry, name, None, edited(passing_evidence, challenger=reference))
    assert registry.state(name).champion == two_versions[0]


def test_evidence_edited_to_pass_is_refused(registry, two_versions, tiny_bundle, run_gate, name):
    worse = registry.register(tiny_bundle(name=name, error_levels=12))
    path = run_gate(name, worse.number).evidence
    with pytest.raises(BrokenEvidence):
        promote(registry, name, None, edited(path, passed=True))
    outcome = {"rule": "r", "passed": True, "value": 1.0, "limit": 0.0, "why": "forged"}
    with pytest.raises(EvidenceRefused, match="not the gate's newest evidence"):
        promote(registry, name, None, edited(path, passed=True, outcomes=[outcome]))


def test_only_the_newest_evidence_counts(
    registry, two_versions, passing_evidence, run_gate, rules, name
):
    harder = rules.model_copy(update={"min_gain_over_champion_db": 9.0})
    assert not run_gate(name, rules=harder).passed
    with pytest.raises(EvidenceRefused, match="not the gate's newest evidence"):
        promote(registry, name, None, passing_evidence)


def test_evidence_against_a_former_champion_is_refused(
    registry, two_versions, tiny_bundle, passing_evidence, name
):
    newer = registry.register(tiny_bundle(name=name, error_levels=1))
    registry.move_alias(name, "champion", newer, expected=two_versions[0])
    with pytest.raises(
        EvidenceRefused, match=r"version 3 now, but the evidence compares with version 1"
    ):
        promote(registry, name, None, passing_evidence)


def test_a_bundle_damaged_in_the_registry_is_not_promoted(
    registry, two_versions, passing_evidence, flip_byte, name
):
    flip_byte(two_versions[1], "weights.safetensors")
    with pytest.raises(BrokenBundle):
        promote(registry, name, None, passing_evidence)
    assert registry.state(name).champion == two_versions[0]


def test_of_concurrent_promotions_exactly_one_succeeds(
    registry, two_versions, tiny_bundle, run_gate, name, tmp_path
):
    challengers = [two_versions[1], registry.register(tiny_bundle(name=name, error_levels=2))]
    evidence = [run_gate(name, version.number).evidence for version in challengers]
    start, results = threading.Barrier(2), []

    def run(path):
        own = Registry(registry.uri, locks=tmp_path / "locks")
        start.wait()
        try:
            results.append(promote(own, name, None, path))
        except EvidenceRefused as error:
            results.append(error)

    threads = [threading.Thread(target=run, args=(path,)) for path in evidence]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    refused = [result for result in results if isinstance(result, EvidenceRefused)]
    (done,) = [result for result in results if not isinstance(result, EvidenceRefused)]
    assert "the evidence compares with version 1" in str(refused[0])
    state = registry.state(name)
    assert (state.champion, state.previous) == (done.champion, two_versions[0])


def test_rollback_restores_the_previous_champion(registry, two_versions, passing_evidence, name):
    promote(registry, name, None, passing_evidence)
    done = rollback(registry, name)
    state = registry.state(name)
    assert (done.champion, done.previous) == (two_versions[0], two_versions[1])
    assert (state.champion, state.previous) == (two_versions[0], None)


def test_a_second_rollback_is_refused(registry, two_versions, passing_evidence, name):
    promote(registry, name, None, passing_evidence)
    rollback(registry, name)
    with pytest.raises(NotRegistered, match="no previous champion"):
        rollback(registry, name)


def test_after_a_rollback_the_old_evidence_no_longer_promotes(
    registry, two_versions, passing_evidence, name
):
    promote(registry, name, None, passing_evidence)
    rollback(registry, name)
    with pytest.raises(EvidenceRefused, match="not the gate's newest evidence"):
        promote(registry, name, None, passing_evidence)


def test_after_a_rollback_new_evidence_promotes_again(
    registry, two_versions, passing_evidence, run_gate, name
):
    promote(registry, name, None, passing_evidence)
    rollback(registry, name)
    again = run_gate(name, two_versions[1].number).evidence
    assert promote(registry, name, None, again).champion == two_versions[1]


def test_only_the_first_version_becomes_champion_without_evidence(registry, tiny_bundle, name):
    first, second = (
        registry.register(tiny_bundle(name=name, error_levels=level)) for level in (0, 1)
    )
    assert make_champion(registry, first)
    assert not make_champion(registry, second)
    assert not make_champion(registry, first)
    assert registry.state(name).champion == first


def test_the_newest_version_is_the_challenger_unless_it_is_champion(
    registry, two_versions, tiny_bundle
):
    champion, _ = two_versions
    newest = registry.register(tiny_bundle(name=champion.model, error_levels=1))
    assert make_challenger(registry, newest)
    assert not make_challenger(registry, champion)
    assert registry.state(champion.model).challenger == newest


def test_missing_evidence_is_an_error(registry, two_versions, passing_evidence, name):
    shutil.rmtree(passing_evidence.parent)
    with pytest.raises(BrokenEvidence, match="there is no evidence at"):
        promote(registry, name, None, passing_evidence)
