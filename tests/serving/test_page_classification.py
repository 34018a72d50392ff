"""The page asks models that classify or regress too, in a headless Chromium; skipped where there is none."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from t2tdeploy.classifier import Classifier
from t2tdeploy.serving.bundle_source import BundleFolders
from tests.serving.running import running
from tests.serving.test_page_in_browser import REFUSED, UNNAMED, Tab, browser
from tests.serving.toy_bundle import write_toy_bundle
from tests.serving.toy_classifier import (
    write_image_classifier,
    write_table_classifier,
    write_tensor_regressor,
    write_text_classifier,
)

__all__ = ["browser"]  # a fixture
MOST_BYTES = 64 * 1024
DROP = """([name, bytes]) => {
  const given = new DataTransfer();
  given.items.add(new File([new Uint8Array(bytes)], name));
  for (const type of ["dragenter", "dragover", "drop"]) {
    document.body.dispatchEvent(new DragEvent(type, { dataTransfer: given, bubbles: true, cancelable: true }));
  }
}"""


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Classifier]:
    folder = tmp_path_factory.mktemp("models")
    bundles = [
        write_text_classifier(folder / "texts"),
        write_table_classifier(folder / "table"),
        write_image_classifier(folder / "image"),
        write_tensor_regressor(folder / "tensor"),
    ]
    return {bundle.directory.name: Classifier(bundle, threads=1) for bundle in bundles}


@pytest.fixture(scope="module")
def page(browser: Any, local: dict[str, Classifier], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    toy = write_toy_bundle(tmp_path_factory.mktemp("toy") / "toy")
    folders = [toy.directory, *(one.bundle.directory for one in local.values())]
    tab = Tab(browser.new_page())
    tab.watch()
    with running(BundleFolders(folders), ui=True, http_port=0, max_request_bytes=MOST_BYTES) as server:
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
    page.select_option("#model", "tensor")
    assert "an example of this model is x (tensor)" in page.locator("#status").inner_text()
    assert page.locator("#go").is_disabled()
    answered(page, "toy", "A house.")
    assert page.locator("#go").inner_text() == "Translate"
    assert page.locator("#options").is_visible()
    assert page.locator(".hypothesis .text").first.inner_text() == "A house."


def picture(colour: int, side: int = 9) -> bytes:
    """A PNG that is red, green or blue."""
    pixels = np.zeros((side, side, 3), np.uint8)
    pixels[:, :, colour] = 250
    content = io.BytesIO()
    PIL.Image.fromarray(pixels).save(content, "png")
    return content.getvalue()


@pytest.fixture
def image(page: Any) -> Iterator[Any]:
    """The page with the model of images chosen; afterwards, no picture is."""
    page.select_option("#model", "image")
    yield page
    page.select_option("#model", "image")
    while page.locator(".remove").count():
        page.locator(".remove").first.click()


def choose(page: Any, **files: bytes) -> None:
    page.set_input_files(
        "#images", [{"name": f"{name}.png", "mimeType": "image/png", "buffer": files[name]} for name in files]
    )


def middle_of(canvas: Any) -> list[int]:
    pixel = "c => [...c.getContext('2d').getImageData(c.width / 2, c.height / 2, 1, 1).data]"
    drawn = "c => new Promise(done => { const look = () => c.width > 1 ? done() : setTimeout(look, 5); look(); })"
    canvas.evaluate(drawn)
    return list(canvas.evaluate(pixel))


def test_pictures_are_chosen_or_dropped_shown_and_classified(image: Any, local: dict[str, Classifier]) -> None:
    files = [picture(1), picture(2, side=300)]
    assert image.locator("#sources").is_hidden()
    assert "together at most 49 kB. The model sees 4 × 4 pixels." in image.locator("#pictures-hint").inner_text()
    choose(image, green=files[0])
    image.evaluate(DROP, ["blue.png", [*files[1]]])
    assert image.locator("#chosen .name").all_inner_texts() == ["green.png", "blue.png"]
    image.click("#go:enabled")
    image.locator("#status", has_text="2 pictures in ").wait_for()
    cards = image.locator("article")
    for index, found in enumerate(local["image"].classify(files, top_k=3)):
        card = cards.nth(index)
        assert card.locator(".name").all_inner_texts() == [one.name for one in found.labels]
        assert card.locator(".share").all_inner_texts() == [percent(one.probability) for one in found.labels]
        assert card.locator(".source p").inner_text() == ("green.png", "blue.png")[index]
        for canvas in (card.locator("canvas"), image.locator("#chosen canvas").nth(index)):
            assert middle_of(canvas) == [0, 250 * (index == 0), 250 * (index == 1), 255]
    image.get_by_label("Remove green.png").click()
    image.click("#go:enabled")
    image.locator("#status", has_text="1 picture in ").wait_for()
    image.select_option("#model", "texts")
    assert image.locator("#pictures").is_hidden()
    assert image.locator("#sources").is_visible()


def test_what_is_wrong_with_pictures_is_said_with_the_name_of_the_file(image: Any) -> None:
    image.click("#go:enabled")
    image.locator("#error:visible", has_text="images: there is none").wait_for()
    choose(image, good=picture(0), bad=b"no picture")
    image.click("#go:enabled")
    image.locator("#error:visible", has_text="images[1]: not an image: neither PNG, JPEG").wait_for()
    assert "[bad.png]" in image.locator("#error").inner_text()
    assert image.locator("#images").get_attribute("aria-invalid") == "true"
    image.get_by_label("Remove bad.png").click()
    choose(image, empty=b"")
    image.click("#go:enabled")
    image.locator("#error:visible", has_text="images[1]: not an image: it has no bytes").wait_for()
    image.get_by_label("Remove empty.png").click()
    choose(image, cut=picture(0, side=300)[:200])
    image.click("#go:enabled")
    image.locator("#error:visible", has_text="images[1]: a damaged image").wait_for()
    image.get_by_label("Remove cut.png").click()
    choose(image, large=picture(0) + bytes(MOST_BYTES))
    image.click("#go:enabled")
    image.locator("#error:visible", has_text="images: 66 kB together, the server takes 49 kB at once").wait_for()
    assert "choose fewer or smaller ones" in image.locator("#error .help").inner_text()
    image.get_by_label("Remove large.png").click()
    choose(image, nearly=bytes(MOST_BYTES * 3 // 4 - len(picture(0))))
    image.click("#go:enabled")
    image.locator("#error:visible", has_text=f"bytes, the server takes {MOST_BYTES}").wait_for()


def test_a_file_that_is_gone_is_named(image: Any, tmp_path: Path) -> None:
    path = tmp_path / "gone.png"
    path.write_bytes(picture(0))
    image.set_input_files("#images", path)
    image.locator("#chosen .name", has_text="gone.png").wait_for()
    path.unlink()
    image.click("#go:enabled")
    image.locator("#error:visible", has_text="images[0]: the file cannot be read").wait_for()
    assert "[gone.png]" in image.locator("#error").inner_text()


def test_pictures_are_chosen_by_keyboard_and_fit_into_the_window(image: Any) -> None:
    choose(image, **{"a_name_" * 12: picture(0)})
    image.click("#go:enabled")
    image.locator("#status", has_text="1 picture in ").wait_for()
    image.locator("#images").focus()
    image.keyboard.press("Tab")
    assert image.locator(".remove:focus").count() == 1
    image.keyboard.press("Enter")
    assert image.locator("#images:focus").count() == 1
    assert image.locator("input:visible, select, button:visible").evaluate_all(UNNAMED) == []
    for width in (320, 390, 1280):
        image.set_viewport_size({"width": width, "height": 800})
        assert image.evaluate("document.documentElement.scrollWidth") <= width
