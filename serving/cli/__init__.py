"""The commands `sharpline serve`, `sharpline keys` and `sharpline drift`.

May import everything of serving; nothing of serving imports it.
"""
