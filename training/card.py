"""The model card: what a person reads before using a model."""

from superres.bundle import BundleInfo, BundleScore
from superres.manifest import DatasetInfo


def model_card(info: BundleInfo, data: DatasetInfo) -> str:
    """Markdown made from the bundle's own facts, nothing else."""
    sections = [
        f"# {info.name}\n\n{info.task.capitalize()}, x{info.scale}, network `{info.arch.name}`.",
        _training(info, data),
        _figures(info),
        _limits(info, data),
        _licence(info),
    ]
    return "\n\n".join(sections) + "\n"


def _training(info: BundleInfo, data: DatasetInfo) -> str:
    training = info.training
    started = f" from bundle {training.parent}" if training.parent else " from scratch"
    sources = "\n".join(
        f"- {entry.source} ({entry.licence}), dataset {entry.id}" for entry in training.datasets
    )
    return (
        f"## Training\n\n{training.steps} steps in {training.seconds:.0f} s on "
        f"{training.device},{started}; degradation `{training.degradation}`, dataset "
        f"{data.id} with {data.splits['train']} training pictures. Code: "
        f"{info.git_commit or 'not a checkout'}.\n\nLearned from:\n\n{sources}"
    )


def _figures(info: BundleInfo) -> str:
    if not info.scores:
        return "## Figures\n\nNone: the dataset holds no pictures out."
    header = "| pictures | PSNR | SSIM | bicubic PSNR | bicubic SSIM |\n|---|---|---|---|---|"
    return "## Figures\n\n" + "\n".join([header, *map(_figures_row, info.scores)])


def _figures_row(score: BundleScore) -> str:
    protocol = score.protocol
    return (
        f"| {protocol['dataset']}, {protocol['channel']} channel, border {protocol['border']}, "
        f"{protocol['resampler']} | {score.psnr:.2f} dB | {score.ssim:.4f} | "
        f"{score.bicubic_psnr:.2f} dB | {score.bicubic_ssim:.4f} |"
    )


def _limits(info: BundleInfo, data: DatasetInfo) -> str:
    precision = ", ".join(
        f"{name} within {levels:.2f} levels"
        for name, levels in info.bounds.precision_levels.items()
    )
    return (
        f"## Bounds and limits\n\nTiles with a halo of {info.halo} pixels are within "
        f"{info.bounds.seam_levels:.2f} grey levels of the whole picture; {precision} for "
        f"99.9% of the values. Made for pictures damaged as by `{data.degradation}`: other "
        "damage (noise, blur, other compression) is likely to be kept or made stronger. It "
        "invents no detail that it can vouch for: do not use it for identification or "
        "measurement."
    )


def _licence(info: BundleInfo) -> str:
    lineage = "\n".join(f"- {licence}" for licence in info.licence.lineage)
    return (
        f"## Licence\n\nWeights: {info.licence.weights}. Commercial use: "
        f"{info.licence.commercial_use}, as read from the pictures' licences:\n\n{lineage}"
    )
