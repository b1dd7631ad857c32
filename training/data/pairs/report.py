"""The dataset's report for people: what is in it, what was left out and why."""

from collections import Counter
from pathlib import Path

from superres.common.files import write_bytes
from superres.dataset.manifest import DatasetInfo


def write_report(path: Path, info: DatasetInfo) -> None:
    """Write the report as Markdown; the same dataset gives the same bytes."""
    write_bytes(path, ("\n".join(_lines(info)) + "\n").encode())


def _lines(info: DatasetInfo) -> list[str]:
    counts = ", ".join(f"{count} {split}" for split, count in info.splits.items())
    lines = [
        f"# Dataset {info.id}",
        "",
        f"{info.source}, x{info.scale}, `{info.degradation}`: {counts} pairs.",
        "",
        "Licences:",
        *(f"- {licence}" for licence in info.licences),
        "",
        f"Compared with {info.compared_with} pictures of benchmarks and folders that must stay "
        "unseen."
        if info.compared_with
        else "Compared with no benchmark: none was here.",
        "",
        f"## Left out: {len(info.left_out)}",
        "",
    ]
    if info.left_out:
        lines += ["| picture | why | repeats |", "|---|---|---|"]
        lines += [
            f"| {_cell(entry.name)} | {_cell(entry.reason)} | {_cell(entry.duplicate_of)} |"
            for entry in info.left_out
        ]
    else:
        lines.append("Nothing: every picture of the sources is in the set.")
    if info.near_duplicates:
        lines += ["", f"## Alike and kept: {len(info.near_duplicates)}", ""]
        lines.append("Pictures that look like another one of their split. They leak nothing.")
        lines += ["", "| picture | looks like |", "|---|---|"]
        lines += [
            f"| {_cell(pair.name)} | {_cell(pair.duplicate_of)} |" for pair in info.near_duplicates
        ]
        most, times = Counter(pair.duplicate_of for pair in info.near_duplicates).most_common(1)[0]
        if times > 1:
            lines += ["", f"Most repeated: {_cell(most)}, {times} times."]
    return lines


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
