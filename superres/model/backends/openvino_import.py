"""OpenVINO without telemetry: always import `openvino` and its parts from this module.

On import and at each conversion OpenVINO sends telemetry from a forked process. A picture server
must not connect to third parties. Without the telemetry package OpenVINO falls back to a stub, so
its import is blocked here.
"""

import sys

sys.modules.setdefault("openvino_telemetry", None)  # pyright: ignore[reportArgumentType]

# ruff: noqa: E402, TID251 - after the line above, in this module only
import openvino
from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

__all__ = ["TorchScriptPythonDecoder", "openvino"]
