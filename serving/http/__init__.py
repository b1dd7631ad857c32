"""The HTTP layer: routes, responses, access control and security headers.

May import services and the packages below it in docs/architecture.md.
"""
