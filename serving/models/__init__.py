"""The served models: reading the model folder, loading, verification, routing and selection.

May import batching and the packages below it in docs/architecture.md.
"""
