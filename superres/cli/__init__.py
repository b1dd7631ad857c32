"""The commands `sharpline enhance`, `sharpline evaluate` and `sharpline bench`.

May import everything of superres; nothing of superres imports it.
"""
