"""What a client meets on the wire: routes, responses, access control and security headers.

May import services and what stands below it in docs/architecture.md.
"""
