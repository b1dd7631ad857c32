"""The dataset's Markdown report: what is in it, what was left out and why."""

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
        f"Compared with {info.compared_with} reference pictures of benchmarks and folders."
        if info.compared_with
        else "Compared with no benchmark: none was fetched.",
        "",
        f"## Left out: {len(info.left_out)}",
        "",
    ]
    if info.left_out:
        lines += ["| picture | reason | duplicate of |", "|---|---|---|"]
        lines += [
            f"| {_cell(entry.name)} | {_cell(entry.reason)} | {_cell(entry.duplicate_of)} |"
            for entry in info.left_out
        ]
    else:
        lines.append("Nothing: every picture of the sources is in the dataset.")
    if info.near_duplicates:
        lines += ["", f"## Near-duplicates kept: {len(info.near_duplicates)}", ""]
        lines.append("Pictures that look like another one of the same split. They leak nothing.")
        lines += ["", "| picture | near-duplicate of |", "|---|---|"]
        lines += [
            f"| {_cell(pair.name)} | {_cell(pair.duplicate_of)} |" for pair in info.near_duplicates
        ]
        most, times = Counter(pair.duplicate_of for pair in info.near_duplicates).most_common(1)[0]
        if times > 1:
            lines += ["", f"Most repeated: {_cell(most)}, {times} times."]
    return lines


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
