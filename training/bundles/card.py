"""The model card of a bundle."""

from superres.dataset.manifest import DatasetInfo
from superres.model.bundle import BundleInfo, BundleScore, Dataset

NOT_STATED = "not stated"

ADVERSARIAL_WARNING = (
    "It was trained against a discriminator, so it invents plausible texture that was never in the "
    "picture: never use it for identification, measurement or evidence."
)
DETAIL_WARNING = (
    "Its details are estimates, not facts: do not use it for identification or measurement."
)


def model_card(info: BundleInfo, data: DatasetInfo | None) -> str:
    """Markdown made from the bundle's info; `data` is None for imported weights."""
    summary = (
        f"{info.task.capitalize()}, x{info.scale}, network `{info.arch.name}`{_package(info)}."
    )
    sections = [
        f"# {info.name}\n\n{summary}",
        _training(info, data) if data else _imported(info),
        _learned_from(info),
        _scores(info),
        _limits(info),
        _licence(info),
    ]
    return "\n\n".join(sections) + "\n"


def _training(info: BundleInfo, data: DatasetInfo) -> str:
    training = info.training
    parent = f", from bundle {training.parent}" if training.parent else ""
    start = f"Loaded {training.start}." if training.start else "Trained from scratch."
    return (
        f"## Training\n\n{training.steps} steps in {training.seconds:.0f} s on "
        f"{training.device}{parent}; minimised: {', '.join(training.losses)}; degradation "
        f"`{training.degradation}`, dataset {data.id} with {data.splits['train']} training "
        f"pictures. {start} Code: {info.git_commit or 'not a checkout'}."
    )


def _imported(info: BundleInfo) -> str:
    return (
        f"## Origin\n\nNot trained by Sharpline: {info.training.start}. How it was trained is "
        "not recorded here; Sharpline measured the halo and bounds below."
    )


def _learned_from(info: BundleInfo) -> str:
    """Each source once, with its licences and datasets."""
    lines = []
    for source in info.training.sources:
        entries = [entry for entry in info.training.datasets if entry.source == source]
        licences = "; ".join(dict.fromkeys(entry.licence for entry in entries))
        lines.append(f"- {source} ({licences}){_datasets(info, entries)}")
    return "Learned from:\n\n" + "\n".join(lines)


def _datasets(info: BundleInfo, entries: list[Dataset]) -> str:
    """The ids of datasets that Sharpline built; imported weights have none."""
    if info.training.steps == 0:
        return ""
    ids = list(dict.fromkeys(entry.id for entry in entries))
    return f", {'dataset' if len(ids) == 1 else 'datasets'} {', '.join(ids)}"


def _scores(info: BundleInfo) -> str:
    if not info.scores:
        return "## Scores\n\nNone was measured when this bundle was made."
    plain = "bicubic" if info.scale > 1 else "input"
    header = f"| pictures | PSNR | SSIM | {plain} PSNR | {plain} SSIM |\n|---|---|---|---|---|"
    return "## Scores\n\n" + "\n".join([header, *map(_score_row, info.scores)])


def _score_row(score: BundleScore) -> str:
    protocol = score.protocol
    return (
        f"| {protocol['dataset']}, {protocol['channel']} channel, border {protocol['border']}, "
        f"{protocol['resampler']} | {score.psnr:.2f} dB | {score.ssim:.4f} | "
        f"{score.bicubic_psnr:.2f} dB | {score.bicubic_ssim:.4f} |"
    )


def _limits(info: BundleInfo) -> str:
    precision = ", ".join(
        f"{name} within {levels:.2f} levels"
        for name, levels in info.bounds.precision_levels.items()
    )
    return (
        f"## Bounds and limits\n\nTiles with a halo of {info.halo} pixels are within "
        f"{info.bounds.seam_levels:.2f} grey levels of the whole picture; {precision} for "
        f"99.9% of the values{_measured_on(info)}. {_trained_for(info)}: other degradations "
        "(noise, blur, other compression) are likely to be kept or amplified. "
        + (ADVERSARIAL_WARNING if info.training.is_adversarial else DETAIL_WARNING)
    )


def _package(info: BundleInfo) -> str:
    return "" if info.arch.package is None else f" of the package {info.arch.package}"


def _measured_on(info: BundleInfo) -> str:
    pictures = info.bounds.pictures
    if pictures is None:
        return ""
    return f", as measured on {pictures} {'picture' if pictures == 1 else 'pictures'}"


def _trained_for(info: BundleInfo) -> str:
    if info.training.degradation == NOT_STATED:
        return "Its import did not state which degradations it was trained for"
    return f"Trained for pictures degraded by `{info.training.degradation}`"


def _licence(info: BundleInfo) -> str:
    lineage = "\n".join(f"- {licence}" for licence in info.licence.lineage)
    return (
        f"## Licence\n\nWeights: {info.licence.weights}. Commercial use: "
        f"{info.licence.commercial_use}, as read from these terms:\n\n{lineage}"
    )
