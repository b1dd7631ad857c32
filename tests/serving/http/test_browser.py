"""The web page in a real browser, used by keyboard."""

import re
import shutil

import pytest

from superres.image.codecs import decode

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


@pytest.fixture(scope="module")
def browser():
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # The sandbox needs privileges that containers lack; only our own page is loaded.
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


def test_page_enhances_by_keyboard_alone_and_on_a_phone(browser, server, noise_png, tmp_path):
    context = browser.new_context(viewport={"width": 390, "height": 844}, accept_downloads=True)
    page = context.new_page()
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(server.url)
    page.locator("#model option[value=compact_x2]").wait_for(state="attached")

    page.set_input_files(
        "#file", {"name": "not.png", "mimeType": "image/png", "buffer": b"<html>" * 9}
    )
    page.focus("#send")
    page.keyboard.press("Enter")
    page.locator("#fault", has_text="Not a picture").wait_for()
    assert "its content decides" in page.text_content("#fault-advice")

    page.set_input_files(
        "#file", {"name": "cat.png", "mimeType": "image/png", "buffer": noise_png(40, 60)}
    )
    page.locator("#preview").wait_for()
    page.select_option("#model", "compact_x2")
    page.focus("summary")
    page.keyboard.press("Enter")
    page.focus("#part")
    page.keyboard.press("Space")
    page.fill("#region", "10, 10, 20, 20")
    assert page.locator("#selection").is_visible()
    page.keyboard.press("Enter")
    page.locator("#status", has_text="Done.").wait_for()
    facts = page.text_content("#facts")
    assert re.sub(r"\D+", " ", facts).strip().startswith("60 40 120 80 ")
    assert "compact_x2" in facts

    page.focus("#split")
    page.keyboard.press("Home")
    assert "--split: 0%" in page.get_attribute("#compare", "style")
    with page.expect_download() as download:
        page.click("#download")
    assert download.value.suggested_filename == "cat.png"
    assert decode(download.value.path().read_bytes()).width == 120

    box = page.locator("body").bounding_box()
    assert box["width"] <= 390, "the page fits a phone's screen"
    assert not errors
    assert not re.search("undefined|NaN|null", page.inner_text("main"))
    context.close()


def test_api_documentation_fits_a_phone(browser, server):
    context = browser.new_context(viewport={"width": 390, "height": 844})
    page = context.new_page()
    page.goto(f"{server.url}/docs")
    page.locator(".operation", has_text="/v1/enhance").first.wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert not re.search("undefined|NaN|null", page.inner_text("main"))
    context.close()
