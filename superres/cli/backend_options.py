"""The options of commands that run a model, and the upscaler built from them."""

import argparse

from superres.model.backends import load_backend
from superres.model.bundle import Bundle
from superres.model.upscaler import Upscaler


def add_backend_options(parser: argparse.ArgumentParser, precision: str) -> None:
    parser.add_argument("--backend", choices=("auto", "torch", "openvino"), default="auto")
    parser.add_argument("--device", default="auto", help="cpu, cuda or cuda:N")
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default=precision)


def load_upscaler(bundle: Bundle, arguments: argparse.Namespace) -> Upscaler:
    backend = load_backend(
        bundle, backend=arguments.backend, device=arguments.device, precision=arguments.precision
    )
    return Upscaler(bundle, backend)
