"""The training loop: batches, steps, losses, state, checkpoints, distributed training.

May import weights, runs, bundles, data and the recipe.
"""
