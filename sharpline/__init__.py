"""The front door: one command, `sharpline`."""
