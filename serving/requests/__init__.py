"""Request parsing: body, options, accepted formats, API keys, signatures, tensors.

May import telemetry and the packages below it in docs/architecture.md.
"""
