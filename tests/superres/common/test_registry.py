"""Registries load built-in entries on demand and leave bad plug-ins out."""

import sys
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from types import SimpleNamespace
from unittest.mock import Mock

import pytest

from superres.common import registry as registry_module
from superres.common.errors import UsageError
from superres.common.registry import EntryRegistry, PluginFailed


@dataclass(frozen=True)
class Colour:
    name: str


RED, GREEN = Colour("red"), Colour("green")


@pytest.fixture
def announced(monkeypatch: pytest.MonkeyPatch) -> list[EntryPoint]:
    """The entry points that installed packages announce."""
    points: list[EntryPoint] = []
    monkeypatch.setattr(registry_module, "entry_points", lambda group: list(points))
    module = SimpleNamespace(RED=RED, GREEN=GREEN, NUMBER=3)
    monkeypatch.setitem(sys.modules, "colours", module)
    return points


def colours() -> EntryRegistry[Colour]:
    return EntryRegistry(
        group="test.colours", noun="colour", entry_type=Colour, built_in={"red": "colours:RED"}
    )


def point(name: str, attribute: str) -> EntryPoint:
    return EntryPoint(name=name, value=f"colours:{attribute}", group="test.colours")


def test_a_built_in_entry_is_found_without_looking_for_plugins(
    monkeypatch: pytest.MonkeyPatch, announced: list[EntryPoint]
) -> None:
    monkeypatch.delattr(registry_module, "entry_points")
    assert colours().get("red") is RED
    assert "red" in colours()


def test_a_plugin_is_found_by_its_name(announced: list[EntryPoint]) -> None:
    announced.append(point("green", "GREEN"))
    registry = colours()
    assert registry.names() == ("red", "green")
    assert registry.get("green") is GREEN
    assert [str(plugin) for plugin in registry.plugins()] == [
        "test.colours 'green' of an unknown package"
    ]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (point("red", "GREEN"), "Sharpline has an entry of this name"),
        (point("blue", "GREEN"), "its entry is named 'green'"),
        (point("blue", "NUMBER"), "is of type int, not"),
        (point("blue", "NOTHING"), "NOTHING"),
        (point("Blue-ish", "GREEN"), "its name does not match"),
    ],
)
def test_a_bad_plugin_is_named_and_left_out(
    bad: EntryPoint, reason: str, announced: list[EntryPoint], caplog: pytest.LogCaptureFixture
) -> None:
    announced += [point("green", "GREEN"), bad]
    registry = colours()
    assert registry.names() == ("red", "green")
    assert registry.get("red") is RED
    assert reason in caplog.text
    assert bad.name in caplog.text


def test_two_packages_with_one_name_are_both_left_out(
    announced: list[EntryPoint], caplog: pytest.LogCaptureFixture
) -> None:
    """An installation must not change what a name means."""
    announced += [point("green", "GREEN"), point("green", "GREEN")]
    registry = colours()
    assert registry.names() == ("red",)
    assert caplog.text.count("has an entry of this name") == 2


def test_an_interrupted_discovery_is_repeated(
    announced: list[EntryPoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    announced.append(point("green", "GREEN"))
    registry = colours()
    with monkeypatch.context() as patched:
        patched.setattr(EntryPoint, "load", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            registry.names()
    assert registry.names() == ("red", "green")


def test_failures_of_a_plugin_name_it_and_those_of_built_in_entries_are_unchanged(
    announced: list[EntryPoint],
) -> None:
    announced.append(point("green", "GREEN"))
    registry = colours()
    with (
        pytest.raises(PluginFailed, match="colour 'green' of an unknown package failed: KeyError"),
        registry.failures_of("green"),
    ):
        raise KeyError("secret")
    with pytest.raises(KeyError), registry.failures_of("red"):
        raise KeyError("secret")
    with pytest.raises(UsageError, match="for the user"), registry.failures_of("green"):
        raise UsageError("a text for the user")


def test_an_unknown_name_is_refused_with_the_nearest_or_the_plugins_problem(
    announced: list[EntryPoint],
) -> None:
    announced.append(point("blue", "NUMBER"))
    with pytest.raises(UsageError, match=r"no colour 'rad'; did you mean red\? Available: red"):
        colours().get("rad")
    with pytest.raises(UsageError, match=r"no colour 'blue': .* is left out: TypeError"):
        colours().get("blue")
    with pytest.raises(UsageError, match="no colour 'pizza'; available: red"):
        colours().get("pizza")


def test_a_plugin_that_looks_names_up_on_import_sees_the_built_in_ones(
    announced: list[EntryPoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = colours()
    announced.append(point("green", "GREEN"))
    monkeypatch.setattr(EntryPoint, "load", lambda self: (registry.names(), GREEN)[1])
    assert registry.names() == ("red", "green")
