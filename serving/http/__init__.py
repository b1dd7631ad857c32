"""What a client meets on the wire: routes, responses, access control and security headers.

May import services, jobs, enhance, models, batching, requests and telemetry.
"""
