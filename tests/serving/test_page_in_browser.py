"""The page as people use it, in a headless Chromium; skipped where there is none."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from t2tdeploy.bundle import load_bundle
from t2tdeploy.serving.bundle_source import RepositoryFolder
from t2tdeploy.translator import Hypothesis, Translator
from tests.serving.attentive_bundle import write_attentive_bundle
from tests.serving.running import running
from tests.serving.toy_bundle import write_toy_bundle

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
REFUSED = "Failed to load resource: the server responded with a status of 400 (Bad Request)"  # Chromium's own note
TOKEN = "0123456789abcdef"
MINUS = "\u2212"
UNNAMED = "all => all.filter(e => !(e.labels?.[0] ?? e).innerText.trim()).map(e => e.outerHTML)"


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Model toy in two versions, and one whose graph is too old to tell tokens."""
    root = tmp_path_factory.mktemp("models")
    write_attentive_bundle(root / "toy" / "1")
    write_attentive_bundle(root / "toy" / "2", extra_length=20)
    write_toy_bundle(root / "old" / "1")
    return root


@pytest.fixture(scope="module")
def url(repository: Path) -> Iterator[str]:
    with running(RepositoryFolder(repository), ui=True, http_port=0, versions="all") as server:
        assert server.ui_url
        yield server.ui_url


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip(f"no browser is installed: none of {', '.join(BROWSERS)} is on the PATH")
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@dataclass
class Tab:
    """The browser's one tab, and what it has noticed since it was last looked at."""

    page: Any
    faults: list[str] = field(default_factory=list)
    hosts: set[str] = field(default_factory=set)

    def watch(self) -> None:
        self.page.set_default_timeout(10_000)
        self.page.on("console", lambda said: said.type in ("error", "warning") and self.faults.append(said.text))
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("request", lambda request: self.hosts.add(urlsplit(request.url).netloc))


@pytest.fixture(scope="module")
def tab(browser: Any) -> Tab:
    tab = Tab(browser.new_page())
    tab.watch()
    return tab


@pytest.fixture
def page(tab: Tab, url: str) -> Iterator[Any]:
    """The page, new, with model toy chosen. Afterwards: nothing went wrong in it, and no other host was asked."""
    tab.faults.clear()
    tab.hosts.clear()
    response = tab.page.goto(url)
    assert "default-src 'none'" in response.headers["content-security-policy"]
    tab.page.select_option("#model", "toy")
    yield tab.page
    assert set(tab.faults) <= {REFUSED}
    assert tab.hosts == {urlsplit(url).netloc}


def translate(page: Any, text: str) -> None:
    page.fill("#sources", text)
    page.click("#go:enabled")
    page.locator("#status", has_text=" ms").wait_for()


def local(repository: Path, version: str, sources: list[str]) -> list[list[Hypothesis]]:
    translator = Translator(load_bundle(repository / "toy" / version), threads=1)
    return translator.translate(sources, num_hypotheses=3, return_attention=True)


def shown_scores(hypotheses: list[Hypothesis]) -> list[str]:
    return [f"score {one.score:.3f}".replace("-", MINUS) for one in hypotheses]


def test_it_shows_what_a_local_translator_answers(page: Any, repository: Path) -> None:
    sources = ["Two dogs", "A house"]
    translate(page, "\n\n  ".join(sources))
    cards = page.locator("article")
    assert cards.count() == len(sources)
    for index, (source, hypotheses) in enumerate(zip(sources, local(repository, "2", sources), strict=True)):
        card = cards.nth(index)
        assert card.locator(".source p").inner_text() == source
        assert card.locator(".hypothesis .text").all_inner_texts() == [one.text for one in hypotheses]
        assert card.locator(".score").all_inner_texts() == shown_scores(hypotheses)
    assert page.locator(".by strong").inner_text() == "toy:2"
    for part in ("queue", "compute", "way"):
        assert float(page.locator(f"#time-{part}").inner_text().split()[0]) >= 0


def test_the_heat_map_has_a_cell_for_every_piece_and_token(page: Any, repository: Path) -> None:
    translate(page, "Two dogs")
    (hypotheses,) = local(repository, "2", ["Two dogs"])
    for rank in (0, 2):
        page.locator(".hypothesis").nth(rank).click()
        tokens = hypotheses[rank].details
        rows = page.locator(".heat-map tbody tr")
        assert rows.count() == len(tokens)
        cells = [int(text.strip("<")) for text in rows.locator("td").all_text_contents()]
        assert len(cells) == len(tokens) * len(tokens[0].attention)
        wanted = [100 * weight for token in tokens for weight in token.attention]
        assert all(abs(cell - weight) <= 1 for cell, weight in zip(cells, wanted, strict=True))
        assert rows.locator("th").all_text_contents() == [token.piece for token in tokens]
        assert page.locator(".token .piece").all_text_contents() == [token.piece for token in tokens]
    assert page.locator(".heat-map thead th").count() == len(tokens[0].attention)


def test_the_arrow_keys_move_through_the_heat_map(page: Any) -> None:
    translate(page, "Two dogs")
    assert page.locator(".heat-map [tabindex='0']").count() == 1
    page.locator(".heat-map [tabindex='0']").focus()
    for key in ("ArrowDown", "ArrowRight", "ArrowLeft", "ArrowLeft", "ArrowUp", "ArrowUp", "ArrowDown"):
        page.keyboard.press(key)
    cell = page.locator(".heat-map td:focus")
    assert cell.evaluate("cell => [cell.parentElement.rowIndex, cell.cellIndex]") == [2, 1]
    assert "looked at" in page.locator(".readout").inner_text()


def test_a_source_that_is_too_long_is_refused_in_the_servers_words(page: Any) -> None:
    translate(page, "Two dogs")
    page.fill("#sources", "ok\n" + "x" * 60)
    page.click("#go")
    page.locator("#error").wait_for()
    assert page.locator("#error code").inner_text() == "sources[1]"
    assert page.locator("#error .problem").inner_text() == "61 tokens, the model takes 40"
    assert "split the text" in page.locator("#error .help").inner_text()
    assert "line 2" in page.locator("#error").inner_text()
    assert page.locator("#sources").get_attribute("aria-invalid") == "true"
    page.locator("summary", has_text="Options").click()
    page.check("#truncate")
    translate(page, page.locator("#sources").input_value())
    assert page.locator("#error").is_hidden()
    assert page.locator("article").nth(1).locator(".badge.warn").inner_text() == "source was cut"


def test_an_option_out_of_range_is_marked(page: Any) -> None:
    page.locator("summary", has_text="Options").click()
    page.fill("#alpha", "11")
    page.locator("summary", has_text="Options").click()
    page.fill("#sources", "Two dogs")
    page.click("#go")
    page.locator("#error").wait_for()
    assert page.locator("#error").inner_text() == "options.alpha: 11 is not between 0 and 10".replace("11 ", "11.0 ")
    assert page.locator("#alpha:focus").get_attribute("aria-invalid") == "true"  # its drawer is open again


def test_options_are_sent(page: Any, repository: Path) -> None:
    page.locator("summary", has_text="Options").click()
    page.fill("#num_hypotheses", "2")
    page.fill("#alpha", "0")
    translate(page, "Two dogs")
    translator = Translator(load_bundle(repository / "toy" / "2"), threads=1)
    (hypotheses,) = translator.translate(["Two dogs"], num_hypotheses=2, alpha=0.0)
    assert page.locator(".score").all_inner_texts() == shown_scores(hypotheses)


def test_models_and_versions_can_be_switched(page: Any, repository: Path) -> None:
    page.select_option("#version", "1")
    translate(page, "Two dogs")
    assert page.locator(".by strong").inner_text() == "toy:1"
    (hypotheses,) = local(repository, "1", ["Two dogs"])
    assert page.locator(".score").all_inner_texts() == shown_scores(hypotheses)
    page.select_option("#model", "old")
    translate(page, "Two dogs")
    assert page.locator(".by strong").inner_text() == "old:1"
    assert page.locator(".heat-map").count() == 0
    assert "the graph of this model cannot do it" in page.locator(".notice").inner_text()


def test_markup_stays_text(page: Any) -> None:
    source = "<img src=x onerror=alert(1)>"
    translate(page, source)
    assert page.locator(".hypothesis .text").first.inner_text() == source
    assert page.locator("#results img").count() == 0


def test_it_is_used_by_keyboard_and_by_labels(page: Any) -> None:
    page.get_by_label("Text", exact=True).fill("Two dogs")
    page.keyboard.press("Control+Enter")
    page.locator("#status", has_text=" ms").wait_for()
    page.get_by_role("radio").first.focus()
    page.keyboard.press("ArrowDown")
    assert page.get_by_role("radio").nth(1).is_checked()
    assert page.locator("input:visible, select, textarea, button:visible").evaluate_all(UNNAMED) == []
    page.get_by_role("button", name="Two dogs run across a green field.").click()
    page.locator("article p", has_text="Two dogs run across").wait_for()


def test_nothing_sticks_out_of_the_window(page: Any) -> None:
    translate(page, "Two dogs run across a green field.\n" + "x" * 39)
    page.locator("summary", has_text="Options").click()
    page.locator("article summary").nth(1).click()
    page.locator(".heat-map").nth(1).wait_for()
    for width in (320, 390, 1280):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_it_asks_for_a_token_where_the_server_does(tab: Tab, repository: Path, tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text(f"web:{TOKEN}\n")
    with running(RepositoryFolder(repository), ui=True, http_port=0, token_file=tmp_path / "tokens") as server:
        page = tab.page
        page.goto(server.ui_url)
        page.locator("#token:focus").wait_for()
        assert "a token is needed" in page.locator("#error").inner_text()
        for token, said in (("wrong", "the token is not valid"), (TOKEN, None)):
            page.fill("#token", token)
            page.keyboard.press("Tab")
            if said:
                page.locator("#error", has_text=said).wait_for()
        page.locator(".example").first.wait_for()
        page.select_option("#model", "toy")
        translate(page, "Two dogs")
        assert page.locator("#error").is_hidden()


def test_it_works_behind_a_proxy_with_a_path(tab: Tab, url: str) -> None:
    page = tab.page
    address = urlsplit(url)
    prefix = f"{address.scheme}://{address.netloc}/mt"
    asked: list[str] = []

    def forward(route: Any) -> None:
        asked.append(route.request.url)
        route.fulfill(response=route.fetch(url=route.request.url.replace("/mt/", "/")))

    page.route("**/*", forward)
    page.goto(f"{prefix}/ui/")
    page.select_option("#model", "toy")
    translate(page, "Two dogs")
    page.unroute("**/*")
    assert f"{prefix}/v1/translate" in asked
    assert all(one.startswith(prefix) for one in asked)
