"""A rectangle of a picture."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """The core of one tile: the rectangle of the picture that only this tile contributes."""

    top: int
    left: int
    height: int
    width: int
