"""The training loop: batches, steps, losses, state, checkpoints, several processes.

May import weights, runs, bundles, data and the recipe.
"""
