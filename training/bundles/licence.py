"""What a training set's licences allow its models to be used for, read with caution."""

from collections.abc import Iterable
from typing import Literal

FREE = (
    "cc0",
    "public domain",
    "no known copyright restrictions",
    "unrestricted use",
    "cc-by-4.0",
    "mit",
    "bsd-2-clause",
    "bsd-3-clause",
    "apache-2.0",
    "owned",
)
FORBIDDING = ("non-commercial", "noncommercial", "research", "-nc")


def commercial_use(licences: Iterable[str]) -> Literal["yes", "no", "unclear"]:
    """`no` where any licence forbids it, `yes` where every one is known to allow it.

    A licence is read by its words; one that says neither leaves it unclear. This is a reading of
    what was stated, not legal advice.
    """
    readings = {_reading(licence.lower()) for licence in licences}
    if "no" in readings:
        return "no"
    return "yes" if readings == {"yes"} else "unclear"


def _reading(licence: str) -> str:
    if any(word in licence for word in FORBIDDING):
        return "no"
    return "yes" if licence.startswith(FREE) else "unclear"
