"""A request taken apart: body, options, accepted formats, API keys, signatures, tensors.

May import telemetry and what stands below it in docs/architecture.md.
"""
