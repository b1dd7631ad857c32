"""Which of the served models a request gets: by name, by task and scale, or by the picture."""

from collections.abc import Mapping

from serving.errors import BadOptions
from serving.models.routing import Offer
from serving.requests.options import AUTO, Options
from superres.analysis.degradation_features import examine
from superres.analysis.model_selection import Candidate, Choice, NoModelFits, Wanted, choose
from superres.image.codecs import Picture


def named_model(
    options: Options, offers: Mapping[str, Offer], default_name: str | None
) -> str | None:
    """The name to ask the models for; None leaves it to them. Raises BadOptions.

    A task narrows the choice: to the default model where that does it, else to the first by name.
    """
    if options.task is None:
        return options.model
    if options.model is not None:
        offer = offers.get(options.model)
        if offer is not None and _task_of(offer) != options.task:
            raise BadOptions(f"model {options.model} is for {_task_of(offer)}")
        return options.model
    fitting = sorted(
        name
        for name, offer in offers.items()
        if _task_of(offer) == options.task and options.scale in (None, offer.scale)
    )
    if not fitting:
        tasks = ", ".join(sorted({_task_of(offer) for offer in offers.values()}))
        raise BadOptions(f"no model does this task at this scale; the tasks are: {tasks}")
    return default_name if default_name in fitting else fitting[0]


def least_scale(options: Options, offers: Mapping[str, Offer]) -> int:
    """The smallest scale that `auto` may come to; what the picture needs at the least."""
    return options.scale or min(offer.scale for offer in offers.values())


def chosen_for(
    picture: Picture,
    options: Options,
    offers: Mapping[str, Offer],
    seconds_per_pixel: Mapping[str, float],
) -> Choice:
    """The model that suits the picture, and why. Raises BadOptions where none does."""
    candidates = [
        Candidate.of(
            offer.model.bundle.info,
            seconds_per_megapixel=seconds_per_pixel[name] * 1e6
            if name in seconds_per_pixel
            else None,
        )
        for name, offer in sorted(offers.items())
    ]
    wanted = Wanted(scale=options.scale, task=options.task, deadline_seconds=options.deadline)
    try:
        return choose(examine(picture.rgb_hwc), wanted, candidates)
    except NoModelFits as error:
        raise BadOptions(str(error)) from error


def is_auto(options: Options) -> bool:
    """Whether the picture decides."""
    return options.model == AUTO


def _task_of(offer: Offer) -> str:
    return offer.model.bundle.info.task
