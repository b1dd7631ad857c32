"""The `sharpline` command, the local stack and the HTTP client."""
