"""A real server with a model whose answers are known, for inputs that mean harm."""

import shutil

import pytest


@pytest.fixture(scope="session")
def hostile_server(session_picture_server, tiny_bundle, tmp_path_factory):
    """Enlarges by two, repeating pixels; answers of more than a million pixels are over its cap."""
    folder = tmp_path_factory.mktemp("hostile")
    shutil.copytree(tiny_bundle().root, folder / "compact_x2")
    limits = {"max_bytes": 4_000_000, "max_answer_pixels": 1_000_000}
    return session_picture_server(folder, limits=limits)
