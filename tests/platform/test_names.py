"""Names that the field's terms have replaced stay away, and the glossary says where terms live."""

import ast
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RETIRED = {
    kind: frozenset(names)
    for kind, names in tomllib.loads(
        Path(__file__).with_name("retired_names.toml").read_text()
    ).items()
}
MAX_TERMS = 60
# | term | what it means, in one sentence. | `path` or `dotted.name` |
GLOSSARY_ROW = re.compile(r"^\| ([^|]+) \| ([^|]+) \| `([^`|]+)` \|$", re.MULTILINE)
GLOSSARY = GLOSSARY_ROW.findall((ROOT / "docs" / "glossary.md").read_text())


def defined_names(source: str) -> Iterator[tuple[str, str]]:
    """(kind, name) of the classes, functions, parameters, variables and attributes defined."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.ClassDef(name=name):
                yield "class", name
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield "function", name
            case ast.arg(arg=name):
                yield "variable", name
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield "variable", name
            case ast.alias(asname=str(name)):
                yield "variable", name


def retired_in(path: str, source: str) -> list[str]:
    """The retired names that a file defines, and those in its own path, as `path: kind name`."""
    names = {("module", part) for part in Path(path).with_suffix("").parts}
    names |= set(defined_names(source))
    return sorted(
        f"{path}: {kind} {name}" for kind, name in names if name.strip("_") in RETIRED[kind]
    )


def test_no_retired_name_comes_back() -> None:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found = [
        fault
        for path in listed.stdout.split()
        if (ROOT / path).is_file()
        for fault in retired_in(path, (ROOT / path).read_text())
    ]
    assert not found, "names that the terms of docs/glossary.md replaced:\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("path", "source", "fault"),
    [
        ("a/b.py", "class Kitchen: ...", "class Kitchen"),
        ("a/b.py", "class _Kitchen: ...", "class _Kitchen"),
        ("a/b.py", "async def prove(x): ...", "function prove"),
        ("a/b.py", "def f(*, wish): ...", "variable wish"),
        ("a/b.py", "for lane in lanes: ...", "variable lane"),
        ("a/b.py", "class A:\n    twin: str = ''", "variable twin"),
        ("a/b.py", "self._kitchen = 1", "variable _kitchen"),
        ("a/b.py", "from x import y as wish", "variable wish"),
        ("a/wishes.py", "", "module wishes"),
        ("keeper/b.py", "", "module keeper"),
    ],
)
def test_a_retired_name_is_found(path: str, source: str, fault: str) -> None:
    assert retired_in(path, source) == [f"{path}: {fault}"]


def test_words_in_texts_are_free() -> None:
    source = '"""The kitchen."""\nlane_width = "lane"  # a lane\nprint(kitchen.players)'
    assert retired_in("a/b.py", source) == []


def test_the_glossary_is_short_and_in_order() -> None:
    terms = [term for term, _, _ in GLOSSARY]
    assert 0 < len(terms) <= MAX_TERMS
    assert terms == sorted(set(terms), key=str.lower)


@pytest.mark.parametrize(("term", "meaning", "where"), GLOSSARY, ids=[row[0] for row in GLOSSARY])
def test_a_term_has_one_sentence_and_is_defined_where_it_says(
    term: str, meaning: str, where: str
) -> None:
    assert meaning.endswith(".")
    assert ". " not in meaning, f"{term} has more than one sentence"
    if (ROOT / where).exists():
        return
    module, _, name = where.rpartition(".")
    source = (ROOT / module.replace(".", "/")).with_suffix(".py").read_text()
    defined = {defined for _, defined in defined_names(source)}
    assert name in defined, f"{module} does not define {name}"
