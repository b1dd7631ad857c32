import ast
from pathlib import Path

import pytest

from serving import errors
from serving.errors import RetryLater, ServingError
from serving.problems import PROBLEMS, Problem, explain, problem_response
from superres.image.codecs import PictureError

SERVING = Path(errors.__file__).parent


def subclasses(base):
    return {base, *(deeper for each in base.__subclasses__() for deeper in subclasses(each))}


def test_every_error_has_its_own_label_in_the_table():
    # Other packages may define picture errors that no request raises.
    raised = {
        error
        for error in subclasses(ServingError) | subclasses(PictureError)
        if error.__module__.split(".")[0] in ("serving", "superres")
    }
    by_label = {}
    for error in raised - {RetryLater, PictureError}:
        # A subclass without a label of its own is shown to clients as its base class.
        if "label" in vars(error) or error.__module__ == errors.__name__:
            by_label.setdefault(error.label, set()).add(error)
    assert {label: {error} for label, error in PROBLEMS.items()} == by_label


@pytest.mark.parametrize("label", PROBLEMS)
def test_every_problem_type_is_explained(label):
    explanation = explain(label)
    assert explanation.type == f"/problems/{label}"
    assert explanation.status == PROBLEMS[label].status
    assert len(explanation.advice) > 20


def test_problem_has_the_shape_of_rfc_9457():
    response = problem_response(errors.QueueFull("full", seconds=2.2), "urn:request:1")
    assert response.status_code == 429
    assert response.media_type == "application/problem+json"
    assert response.headers["Retry-After"] == "3"
    assert Problem.model_validate_json(response.body) == Problem(
        type="/problems/queue-full",
        title="Queue full",
        status=429,
        detail="full",
        instance="urn:request:1",
    )


def test_routes_never_catch_every_exception():
    routes = list((SERVING / "http" / "routes").glob("*.py"))
    assert len(routes) > 5
    for path in routes:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ExceptHandler):
                caught = ast.unparse(node.type) if node.type else "everything"
                assert caught not in ("everything", "Exception", "BaseException"), path
