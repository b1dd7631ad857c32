"""OpenVINO without its telemetry: import `openvino` from here, and from nowhere else.

On import and at each conversion OpenVINO reports to its makers, through a process forked off this
one. Whoever serves pictures decides alone whom their server talks to. Where the package that
reports is missing, OpenVINO falls back to a stub of its own, so it is missing here.
"""

import sys

sys.modules.setdefault("openvino_telemetry", None)  # pyright: ignore[reportArgumentType]

import openvino  # noqa: E402, TID251 - after the line above, and the one place

__all__ = ["openvino"]
