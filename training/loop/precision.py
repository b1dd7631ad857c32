"""The precision that a device computes in: a recipe's bf16 only where the hardware has it.

Emulated bf16 is slower than float32: docs/training.md states the times of a step.
"""

import torch

BF16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "bf16")  # x86, x86, Arm


def has_bf16(device: torch.device) -> bool:
    """Whether the device has bf16 instructions."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    processor = torch.cpu.get_capabilities()
    return any(processor.get(name) for name in BF16_INSTRUCTIONS)


def effective_precision(precision: str, device: torch.device) -> str:
    """`bf16` or `fp32`: the recipe's precision, but `fp32` where bf16 would be emulated."""
    return "fp32" if precision == "bf16" and not has_bf16(device) else precision
