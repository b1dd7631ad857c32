"""The served models: what the model folder asks for, loaded, verified, routed, selected.

May import batching and what stands below it in docs/architecture.md.
"""
