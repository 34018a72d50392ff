"""The page asks models that classify or regress too, in a headless Chromium; skipped where there is none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from t2tdeploy.classifier import Classifier
from t2tdeploy.serving.bundle_source import BundleFolders
from tests.serving.running import running
from tests.serving.test_page_in_browser import REFUSED, Tab, browser
from tests.serving.toy_bundle import write_toy_bundle
from tests.serving.toy_classifier import write_image_classifier, write_table_classifier, write_text_classifier

__all__ = ["browser"]  # a fixture


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Classifier]:
    folder = tmp_path_factory.mktemp("models")
    bundles = [
        write_text_classifier(folder / "texts"),
        write_table_classifier(folder / "table"),
        write_image_classifier(folder / "image"),
    ]
    return {bundle.directory.name: Classifier(bundle, threads=1) for bundle in bundles}


@pytest.fixture(scope="module")
def page(browser: Any, local: dict[str, Classifier], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    toy = write_toy_bundle(tmp_path_factory.mktemp("toy") / "toy")
    folders = [toy.directory, *(one.bundle.directory for one in local.values())]
    tab = Tab(browser.new_page())
    tab.watch()
    with running(BundleFolders(folders), ui=True, http_port=0) as server:
        tab.page.goto(server.ui_url)
        yield tab.page
    assert set(tab.faults) <= {REFUSED}


def ask(page: Any, model: str, text: str) -> None:
    page.select_option("#model", model)
    page.fill("#sources", text)
    page.click("#go:enabled")


def answered(page: Any, model: str, text: str) -> Any:
    ask(page, model, text)
    page.locator("#status", has_text=" ms").wait_for()
    page.locator(".by strong", has_text=f"{model}:1").wait_for()
    return page.locator("article")


def percent(share: float) -> str:
    return "<1 %" if 0 < share < 0.005 else f"{round(100 * share)} %"


def test_classes_are_shown_with_the_local_probabilities(page: Any, local: dict[str, Classifier]) -> None:
    texts = ["abba", "dd"]
    cards = answered(page, "texts", "\n".join(texts))
    assert page.locator("#go").inner_text() == "Classify"
    assert page.locator("#options").is_hidden()
    for index, found in enumerate(local["texts"].classify(texts, top_k=4)):
        assert cards.nth(index).locator(".name").all_inner_texts() == [one.name for one in found.labels]
        assert cards.nth(index).locator(".share").all_inner_texts() == [
            percent(one.probability) for one in found.labels
        ]


def test_rows_are_written_as_json(page: Any, local: dict[str, Classifier]) -> None:
    cards = answered(page, "table", '{"width": 2, "colour": "red"}\n{"colour": "blue", "width": null}')
    assert page.locator("#sources-lines").inner_text() == 'One row a line: {"width": 1.5, "colour": "…"}'
    found = local["table"].classify([{"width": 2, "colour": "red"}, {"colour": "blue"}])
    assert [cards.nth(index).locator(".name").first.inner_text() for index in range(2)] == [
        one.labels[0].name for one in found
    ]


@pytest.mark.parametrize(
    ("model", "text", "words"),
    [
        ("texts", "a\n\n" + "b" * 60, "sources[1]: 61 tokens, the model takes 20 [line 3]"),
        ("table", '{"width": "x", "colour": "red"}', "sources[0]: width: 'x' is not a number"),
        ("table", '{"width": [1], "colour": "red"}', "sources[0]: width is neither number nor text"),
        ("table", "red", "sources[0]: not a JSON object"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(page: Any, model: str, text: str, words: str) -> None:
    ask(page, model, text)
    page.locator("#error:visible", has_text=words).wait_for()
    assert page.locator("#sources").get_attribute("aria-invalid") == "true"


def test_a_model_that_the_page_cannot_ask_is_named_and_another_can_still_be(page: Any) -> None:
    page.select_option("#model", "image")
    assert "an example of this model is inputs (image)" in page.locator("#status").inner_text()
    assert page.locator("#go").is_disabled()
    answered(page, "toy", "A house.")
    assert page.locator("#go").inner_text() == "Translate"
    assert page.locator("#options").is_visible()
    assert page.locator(".hypothesis .text").first.inner_text() == "A house."
