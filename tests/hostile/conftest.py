"""A server with a model of known output, for hostile inputs."""

import shutil

import pytest


@pytest.fixture(scope="session")
def hostile_server(session_picture_server, tiny_bundle, tmp_path_factory):
    """Enlarges by two by repeating pixels; limits answers to a million pixels."""
    folder = tmp_path_factory.mktemp("hostile")
    shutil.copytree(tiny_bundle().root, folder / "compact_x2")
    limits = {"max_bytes": 4_000_000, "max_output_pixels": 1_000_000}
    return session_picture_server(folder, limits=limits)
