"""Servers that host several public sets."""

ETH = "https://data.vision.ee.ethz.ch"
HUB = "https://huggingface.co"
