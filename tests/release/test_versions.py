"""MLflow's entities as versions and numbers, and what a user may have typed into them."""

from types import SimpleNamespace

import pytest

from release.versions import NotRegistered, Version, numbers_of, version_of

BUNDLE_ID = "0123456789abcdef" * 4


def entity(**tags):
    return SimpleNamespace(name="m", version="7", run_id="r", tags=tags, aliases={})


def test_a_version_has_the_ids_of_its_bundle_run_and_evidence():
    version = version_of(entity(bundle_id=BUNDLE_ID, evidence_sha256="e"))
    assert version == Version(
        model="m", number=7, bundle_id=BUNDLE_ID, run_id="r", evidence_sha256=None
    )
    assert version.evidence_sha256 == "e"
    assert str(version) == "version 7"


@pytest.mark.parametrize("tags", [{}, {"evidence_sha256": ""}])
def test_a_version_without_evidence_has_none(tags):
    assert version_of(entity(bundle_id=BUNDLE_ID, **tags)).evidence_sha256 is None


@pytest.mark.parametrize("tags", [{}, {"bundle_id": ""}, {"bundle_id": "../" + BUNDLE_ID}])
def test_a_version_without_a_bundle_id_is_not_registered(tags):
    with pytest.raises(NotRegistered, match="version 7 of m has no bundle id"):
        version_of(entity(**tags))


def test_numbers_are_those_of_aliases_and_rollouts():
    model = SimpleNamespace(
        aliases={"champion": "3", "challenger": 4},
        tags={"canary": "5", "canary_percent": "20", "shadow": "yes", "owner": "12"},
    )
    numbers = {"champion": 3, "challenger": 4, "canary": 5, "canary_percent": 20}
    assert numbers_of(model) == numbers
    assert numbers_of(SimpleNamespace(aliases=None, tags={"shadow": "6"})) == {"shadow": 6}
