"""torchvision imports whatever torch it stands beside; what it cannot do fails at the call."""

import subprocess
import sys

from training.weights.basicsr_bridge import load_basicsr, mend_torchvision


def test_basicsr_imports_without_a_warning() -> None:
    assert load_basicsr().__name__ == "basicsr"


def test_the_renamed_module_answers_to_both_names() -> None:
    mend_torchvision()
    from torchvision.transforms import functional_tensor

    assert callable(functional_tensor.rgb_to_grayscale)


def test_an_operator_that_did_not_load_fails_at_the_call_not_at_the_import() -> None:
    script = """
import torch
from training.weights import basicsr_bridge
basicsr_bridge._operators_load = lambda package: False
basicsr_bridge.mend_torchvision()
import torchvision
boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
try:
    torch.ops.torchvision.nms(boxes, torch.ones(1), 0.5)
except NotImplementedError:
    raise SystemExit(7)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=240)
    assert done.returncode == 7, done.stderr.decode()
