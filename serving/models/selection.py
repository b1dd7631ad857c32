"""Selects a served model for a request: by name, by task and scale, or by the picture."""

from collections.abc import Mapping

from serving.errors import BadOptions
from serving.models.routing import ModelVersion
from serving.requests.options import AUTO, Options
from superres.analysis.degradation_features import examine
from superres.analysis.model_selection import (
    Candidate,
    ModelChoice,
    NoModelFits,
    SelectionRequest,
    select_model,
)
from superres.image.codecs import Picture


def named_model(
    options: Options, champions: Mapping[str, ModelVersion], default_name: str | None
) -> str | None:
    """The model's name; None selects the best match in `ServedModels.use`. Raises BadOptions.

    For a task it is the default model if that has the task, else the first such model by name.
    """
    if options.task is None:
        return options.model
    if options.model is not None:
        model_version = champions.get(options.model)
        if model_version is not None and _task_of(model_version) != options.task:
            raise BadOptions(f"model {options.model} is for {_task_of(model_version)}")
        return options.model
    matching = sorted(
        name
        for name, model_version in champions.items()
        if _task_of(model_version) == options.task and options.scale in (None, model_version.scale)
    )
    if not matching:
        tasks = ", ".join(sorted({_task_of(model_version) for model_version in champions.values()}))
        raise BadOptions(f"no model does this task at this scale; the tasks are: {tasks}")
    return default_name if default_name in matching else matching[0]


def min_scale(options: Options, champions: Mapping[str, ModelVersion]) -> int:
    """The smallest scale that `auto` may select."""
    return options.scale or min(model_version.scale for model_version in champions.values())


def select_for_picture(
    picture: Picture,
    options: Options,
    champions: Mapping[str, ModelVersion],
    seconds_per_pixel: Mapping[str, float],
) -> ModelChoice:
    """The model for the picture, and the reason. Raises BadOptions if none fits."""
    candidates = [
        Candidate.of(
            model_version.model.bundle.info,
            seconds_per_megapixel=seconds_per_pixel[name] * 1e6
            if name in seconds_per_pixel
            else None,
        )
        for name, model_version in sorted(champions.items())
    ]
    selection = SelectionRequest(
        scale=options.scale, task=options.task, deadline_seconds=options.deadline
    )
    try:
        return select_model(examine(picture.rgb_hwc), selection, candidates)
    except NoModelFits as error:
        raise BadOptions(str(error)) from error


def is_auto(options: Options) -> bool:
    """Whether the model is selected by the picture."""
    return options.model == AUTO


def _task_of(model_version: ModelVersion) -> str:
    return model_version.model.bundle.info.task
