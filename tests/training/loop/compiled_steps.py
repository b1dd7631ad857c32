"""Runs the same training steps uncompiled and compiled; prints metrics, weights and graphs as JSON.

    python compiled_steps.py RECIPE COMPILED_RECIPE

In a process of its own, because torch.compile cannot trace code that a coverage tool has changed.
The graphs run as traced, because generating their code takes minutes.
"""

import json
import sys
from functools import partial

import torch
from torch import fx

from superres.model.archs import build
from training.loop.distributed import DistributedContext
from training.loop.state import TrainState
from training.loop.step import TrainStep
from training.recipe import load_recipe

CPU, BATCH, STEPS = torch.device("cpu"), 5, 2
graphs: list[tuple[int, str | None]] = []  # convolutions and mode of each traced graph


def run_as_traced(graph: fx.GraphModule, _: object, **options: str) -> object:
    convolutions = [node for node in graph.graph.nodes if "conv2d" in str(node.target)]
    graphs.append((len(convolutions), options.get("mode")))
    return graph.forward


def run_steps(path: str) -> dict[str, list]:
    recipe = load_recipe(path)
    torch.manual_seed(recipe.seed)
    net = build(recipe.arch.name, recipe.arch.parameters)
    state = TrainState(net, recipe, recipe.full, CPU)
    step = TrainStep(state, recipe, BATCH, DistributedContext(), CPU)
    generator = torch.Generator().manual_seed(3)
    lr_bchw = torch.rand(BATCH, 3, 8, 8, generator=generator)
    hr_bchw = torch.rand(BATCH, 3, 16, 16, generator=generator)
    before = len(graphs)
    metrics = [step(lr_bchw, hr_bchw).values for _ in range(STEPS)]
    weights = [value for each in state.networks() for value in each.net.state_dict().values()]
    return {
        "metrics": metrics,
        "weights": torch.cat([value.flatten() for value in weights]).tolist(),
        "graphs": graphs[before:],
    }


if __name__ == "__main__":
    torch.compile = partial(torch.compile, backend=run_as_traced)
    sys.stdout.write(json.dumps([run_steps(path) for path in sys.argv[1:]]))
