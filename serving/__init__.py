"""The HTTP server that enhances pictures."""
