"""Training: recipes and datasets in, model bundles out."""
