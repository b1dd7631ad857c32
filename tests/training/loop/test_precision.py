"""bf16 is only used where the hardware computes it."""

from collections.abc import Mapping

import pytest
import torch

from training.loop.precision import effective_precision

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
NO_BF16 = {"architecture": "x86_64", "avx512_f": True, "avx512_bf16": False, "amx_bf16": False}


@pytest.mark.parametrize(
    ("capabilities", "used"),
    [
        (NO_BF16, "fp32"),
        (NO_BF16 | {"avx512_bf16": True}, "bf16"),
        (NO_BF16 | {"amx_bf16": True}, "bf16"),
        ({"architecture": "arm64", "neon": True, "bf16": True}, "bf16"),
        ({"architecture": "arm64", "neon": True, "bf16": False}, "fp32"),
    ],
)
def test_bf16_needs_a_processor_with_its_instructions(
    capabilities: Mapping[str, object], used: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert effective_precision("bf16", CPU) == used
    assert effective_precision("fp32", CPU) == "fp32"


@pytest.mark.parametrize(("native", "used"), [(True, "bf16"), (False, "fp32")])
def test_bf16_needs_a_gpu_that_does_not_emulate_it(
    native: bool, used: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def supported(including_emulation: bool = True) -> bool:
        return native or including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert effective_precision("bf16", CUDA) == used
