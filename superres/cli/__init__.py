"""The commands `sharpline enhance`, `sharpline evaluate` and `sharpline bench`.

May import every package of superres; none of them imports it.
"""
