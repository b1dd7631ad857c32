"""The running API against its OpenAPI document: no 5xx and no undocumented response."""

import contextlib
import io
import shutil

import numpy as np
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from PIL import Image
from schemathesis import GenerationMode, checks
from schemathesis.specs.openapi import checks as openapi_checks

from serving.requests.keys import add_key


def picture(format, seed):
    samples = np.random.default_rng(seed).integers(0, 256, (9, 13, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(samples).save(buffer, format)
    return buffer.getvalue()


# Valid and truncated pictures, in addition to the random bytes that schemathesis generates.
for name in ("png", "jpeg", "webp", "gif", "tiff", "bmp", "avif"):
    pictures = [picture(name, seed) for seed in range(3)]
    strategy = st.sampled_from(pictures) | st.sampled_from(pictures).map(lambda data: data[:-30])
    schemathesis.openapi.media_type(f"image/{name}", strategy | st.binary(max_size=200))


@pytest.fixture(scope="module")
def api(module_picture_server, tiny_bundle, tmp_path_factory):
    """The OpenAPI schema of a server that requires a key; its requests send the key."""
    folder = tmp_path_factory.mktemp("fuzzed")
    for model, scale in (("compact_x2", 2), ("compact_x4", 4)):
        shutil.copytree(tiny_bundle(name=model, scale=scale).root, folder / "models" / model)
    _, key = add_key(folder / "keys.json", "fuzzer")
    server = module_picture_server(
        folder / "models",
        security={"keys_file": folder / "keys.json"},
        limits={"max_pixels": 10_000, "max_output_pixels": 100_000},
    )
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    schema.config.update(headers={"Authorization": f"Bearer {key}"})
    return schema


def no_server_error(ctx, response, case):
    """504 is expected with a very short deadline."""
    asked_for = response.status_code == 504 and "deadline" in (case.query or {})
    return None if asked_for else checks.not_a_server_error(ctx, response, case)


def wrong_data_is_refused(ctx, response, case):
    """Not for forms, where all values are text and numbers are valid strings."""
    if case.media_type == "multipart/form-data":
        return None
    return openapi_checks.negative_data_rejection(ctx, response, case)


CHECKS = [
    no_server_error,
    openapi_checks.status_code_conformance,
    openapi_checks.content_type_conformance,
    openapi_checks.response_schema_conformance,
    openapi_checks.response_headers_conformance,
    wrong_data_is_refused,
    openapi_checks.unsupported_method,
]


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_responses_match_the_openapi_document(api, mode, soak):
    for result in api.get_all_operations():

        @settings(suppress_health_check=list(HealthCheck), max_examples=500 if soak else 25)
        @given(case=result.ok().as_strategy(generation_mode=mode))
        def ask(case):
            case.call_and_validate(checks=CHECKS)

        # There is no invalid request for a route without parameters.
        no_case = Unsatisfiable if mode is GenerationMode.NEGATIVE else ()
        with contextlib.suppress(no_case):
            ask()
