"""torchvision imports with any build of torch; operators that did not load fail when called."""

import subprocess
import sys

from training.basicsr_bridge import load_basicsr, patch_torchvision


def test_basicsr_imports_without_a_warning() -> None:
    assert load_basicsr().__name__ == "basicsr"


def test_the_renamed_module_imports_by_both_names() -> None:
    patch_torchvision()
    from torchvision.transforms import functional_tensor

    assert callable(functional_tensor.rgb_to_grayscale)


def test_an_operator_that_did_not_load_fails_at_the_call_not_at_the_import() -> None:
    script = """
import torch
from training import basicsr_bridge
basicsr_bridge._operators_load = lambda package: False
basicsr_bridge.patch_torchvision()
import torchvision
boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
try:
    torch.ops.torchvision.nms(boxes, torch.ones(1), 0.5)
except NotImplementedError:
    raise SystemExit(7)
"""
    completed = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=240)
    assert completed.returncode == 7, completed.stderr.decode()
