"""A request taken apart: body, options, accepted formats, API keys, signatures, tensors.

May import telemetry, errors and settings; nothing of models or devices.
"""
