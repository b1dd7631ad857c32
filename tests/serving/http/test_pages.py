import json
import re
from html.parser import HTMLParser

import pytest

from serving.http.routes.pages import WEB
from serving.problems import PROBLEMS
from serving.requests.negotiation import MEDIA_TYPES
from serving.requests.options import Options


class Tags(HTMLParser):
    """Every start tag of a page with its attributes."""

    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def of(self, *names):
        return [attributes for tag, attributes in self.tags if tag in names]


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("/", "text/html"),
        ("/docs", "text/html"),
        ("/web/app.js", "javascript"),
        ("/web/region.js", "javascript"),
        ("/web/docs.js", "javascript"),
        ("/web/style.css", "text/css"),
        ("/web/icon.svg", "image/svg"),
    ],
)
def test_page_is_served_with_its_type(server, address, kind):
    answer = server.client.get(address)
    assert answer.status_code == 200
    assert kind in answer.headers["Content-Type"]


@pytest.mark.parametrize("path", sorted(WEB.iterdir()), ids=lambda path: path.name)
def test_no_file_loads_from_another_host(path):
    text = re.sub(r"http://(www\.w3\.org/2000/svg|HOST:PORT)", "", path.read_text())
    assert not re.search(r"https?://|//cdn|@import", text)


@pytest.mark.parametrize("address", ["/", "/docs"])
def test_all_assets_of_a_page_exist_and_satisfy_its_csp(server, address):
    page = Tags(server.client.get(address).text)
    needed = [tag.get("src") or tag.get("href") for tag in page.of("script", "link", "img", "a")]
    for target in filter(None, needed):
        assert server.client.get(target).status_code == 200, target
    for tag, attributes in page.tags:
        assert "style" not in attributes, f"inline style on {tag}, which the CSP refuses"
        assert not [name for name in attributes if name.startswith("on")]
    assert all("src" in script for script in page.of("script"))


def test_every_control_and_image_of_the_page_has_an_accessible_name(server):
    text = server.client.get("/").text
    page = Tags(text)
    assert page.of("html")[0]["lang"] == "en"
    assert all("alt" in image for image in page.of("img"))
    for control in page.of("input", "select"):
        inside_label = re.search(rf'<label[^>]*>(?:(?!</label>).)*id="{control["id"]}"', text, re.S)
        assert "aria-label" in control or inside_label, control


def test_script_uses_only_elements_that_exist(server):
    ids = {
        attributes["id"]
        for _, attributes in Tags(server.client.get("/").text).tags
        if "id" in attributes
    }
    used = set(re.findall(r'\$\("([\w-]+)"\)', server.client.get("/web/app.js").text))
    assert {"file", "model", "send", "region"} <= used <= ids


def test_openapi_describes_requests_and_responses_of_enhance(server):
    document = server.client.get("/openapi.json").json()
    operation = document["paths"]["/v1/enhance"]["post"]
    parameters = {
        parameter["name"] for parameter in operation["parameters"] if parameter["in"] == "query"
    }
    assert parameters == set(Options.model_fields)
    headers = {p["name"].lower() for p in operation["parameters"] if p["in"] == "header"}
    assert headers == {"prefer", "idempotency-key"}
    content = operation["requestBody"]["content"]
    assert {"image/png", "image/avif", "multipart/form-data"} <= set(content)
    form = content["multipart/form-data"]["schema"]["properties"]
    assert set(form) == {"file", *Options.model_fields}
    answers = operation["responses"]
    assert set(answers["200"]["content"]) == set(MEDIA_TYPES.values())


def test_every_reference_of_openapi_resolves(server):
    text = server.client.get("/openapi.json").text
    references = set(re.findall(r'"\$ref":\s*"#/([^"]+)"', text))
    assert "components/schemas/JobView" in references
    for reference in references:
        node = json.loads(text)
        for name in reference.split("/"):
            node = node[name]


def test_openapi_lists_every_problem_type(server):
    paths = server.client.get("/openapi.json").json()["paths"]
    parameters = {
        label
        for methods in paths.values()
        for operation in methods.values()
        for answer in operation["responses"].values()
        for label in answer.get("content", {})
        .get("application/problem+json", {})
        .get("examples", {})
    }
    undescribed = {"not-found", "method-not-allowed", "client-gone"}  # of no particular route
    assert parameters | undescribed == set(PROBLEMS)


def test_problem_types_can_be_looked_up(server):
    for label in PROBLEMS:
        assert server.client.get(f"/problems/{label}").json()["type"] == f"/problems/{label}"
    missing = server.client.get("/problems/nonsense")
    assert missing.status_code == 404
    assert missing.json()["type"] == "/problems/not-found"


@pytest.mark.parametrize(
    ("method", "address", "status", "label"),
    [
        ("GET", "/nothing", 404, "not-found"),
        ("GET", "/web/../app.py", 404, "not-found"),
        ("GET", "/web/%2e%2e/app.py", 404, "not-found"),
        ("GET", "/v1/enhance", 405, "method-not-allowed"),
        ("DELETE", "/", 405, "method-not-allowed"),
    ],
)
def test_wrong_address_or_method_is_a_problem_too(server, method, address, status, label):
    answer = server.client.request(method, address)
    assert answer.status_code == status
    assert answer.json()["type"] == f"/problems/{label}"
