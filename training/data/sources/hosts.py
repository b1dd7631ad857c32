"""Servers that several public sets lie on."""

ETH = "https://data.vision.ee.ethz.ch"
HUB = "https://huggingface.co"
