"""The commands `sharpline serve`, `sharpline keys` and `sharpline drift`.

May import all of serving; no other package of serving imports it.
"""
