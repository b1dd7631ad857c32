"""Whether the licences of the training data allow commercial use; a conservative reading."""

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
    """`no` if any licence forbids it, `yes` if all are known to allow it, else `unclear`.

    Licences are matched by keywords; this is not legal advice.
    """
    readings = {_reading(licence.lower()) for licence in licences}
    if "no" in readings:
        return "no"
    return "yes" if readings == {"yes"} else "unclear"


def _reading(licence: str) -> str:
    if any(word in licence for word in FORBIDDING):
        return "no"
    return "yes" if licence.startswith(FREE) else "unclear"
