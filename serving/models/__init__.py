"""The served models: what the model folder asks for, loaded, verified, routed, selected.

May import batching, requests and telemetry.
"""
