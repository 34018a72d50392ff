"""The page's routes, without a browser: what is served, with which headers, and who is kept out."""

from __future__ import annotations

import gzip
import http.client
import itertools
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from t2tdeploy.errors import InputError, SettingsError
from t2tdeploy.serving.options import ServerOptions
from t2tdeploy.serving.page import EXAMPLES, HEADERS, page_files, page_url, read_examples, takes_gzip
from tests.serving.running import running, starting
from tests.serving.toy_bundle import write_toy_bundle

FILES = page_files()
TEXTS = {name: asset.content.decode() for name, asset in FILES.items()}
SINKS = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function"
REQUEST = json.dumps({"sources": ["A house."]})
MAX_LINES = 400


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    bundle = write_toy_bundle(tmp_path_factory.mktemp("page") / "bundle")
    with running(bundle, ui=True, http_port=0) as server:
        assert server.http_port is not None
        yield server.http_port


def ask(
    port: int, path: str, method: str = "GET", body: str | None = None, **headers: str
) -> tuple[http.client.HTTPResponse, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        return response, response.read()
    finally:
        connection.close()


@pytest.mark.parametrize("name", sorted(FILES))
def test_every_file_is_served_with_the_headers_that_keep_it_safe(port: int, name: str) -> None:
    path = "/ui/" if name == "index.html" else f"/ui/{name}"
    response, body = ask(port, path)
    assert (response.status, body) == (200, FILES[name].content)
    assert response.headers.get_content_type() == FILES[name].content_type
    assert HEADERS.items() <= dict(response.headers).items()
    again, nothing = ask(port, path, If_None_Match=response.headers["ETag"])
    assert (again.status, nothing, again.headers["ETag"]) == (304, b"", response.headers["ETag"])
    changed, _ = ask(port, path, If_None_Match='"another"')
    assert changed.status == 200
    packed, content = ask(port, path, Accept_Encoding="br, gzip")
    assert packed.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(content) == body
    assert packed.headers["ETag"] != response.headers["ETag"]


@pytest.mark.parametrize("path", ["/", "/ui"])
def test_other_addresses_lead_to_the_page_by_a_relative_one(port: int, path: str) -> None:
    response, _ = ask(port, path)
    assert (response.status, response.headers["Location"]) == (302, "ui/")


@pytest.mark.parametrize("path", ["/ui/nothing", "/ui/../options.py", "/ui/%2e%2e/options.py", "/ui/__init__.py"])
def test_nothing_else_of_the_disk_is_served(port: int, path: str) -> None:
    assert ask(port, path)[0].status == 404


def test_without_ui_there_is_no_page(tmp_path: Path) -> None:
    with running(write_toy_bundle(tmp_path / "bundle"), http_port=0) as server:
        assert server.ui_url is None
        assert server.http_port is not None
        assert {ask(server.http_port, path)[0].status for path in ("/", "/ui", "/ui/", "/ui/app.js")} == {404}
        assert ask(server.http_port, "/v1/models")[0].status == 200


def test_the_page_is_there_before_the_models_are(tmp_path: Path) -> None:
    with starting(write_toy_bundle(tmp_path / "bundle", steps=1500), ui=True, http_port=0) as (server, ready):
        while server.http_port is None:
            time.sleep(0.005)
        assert ask(server.http_port, "/ui/")[0].status == 200
        assert ask(server.http_port, "/v1/models")[0].status == 503
        ready()
        assert ask(server.http_port, "/v1/models")[0].status == 200


def test_tokens_guard_all_but_the_pages_own_files(tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("web:0123456789abcdef\n")
    bundle = write_toy_bundle(tmp_path / "bundle")
    with running(bundle, ui=True, http_port=0, token_file=tmp_path / "tokens") as server:
        assert server.http_port is not None
        port = server.http_port
        assert {ask(port, f"/ui/{name}")[0].status for name in FILES if name != "index.html"} == {200}
        assert [ask(port, path)[0].status for path in ("/ui/", "/ui", "/")] == [200, 302, 302]
        for path in ("/ui/examples.json", "/v1/models"):
            assert ask(port, path)[0].status == 401
            assert ask(port, path, Authorization="Bearer 0123456789abcdef")[0].status == 200


def test_no_other_origin_may_read(port: int) -> None:
    for path, method, body in (("/ui/", "GET", None), ("/v1/models", "GET", None), ("/v1/translate", "POST", REQUEST)):
        response, _ = ask(port, path, method, body, Origin="https://other.example", Content_Type="application/json")
        assert not [name for name in response.headers if name.lower().startswith("access-control-")]
    preflight, _ = ask(
        port, "/v1/translate", "OPTIONS", Origin="https://other.example", Access_Control_Request_Method="POST"
    )
    assert preflight.status == 405


@pytest.mark.parametrize("kind", ["text/plain", "text/plain; charset=utf-8", "application/x-www-form-urlencoded", ""])
def test_what_a_page_could_send_unasked_is_refused(port: int, kind: str) -> None:
    for browser in ({"Origin": "https://other.example"}, {"Sec_Fetch_Site": "cross-site"}):
        response, body = ask(port, "/v1/translate", "POST", REQUEST, Content_Type=kind, **browser)
        assert response.status == 403
        assert "Content-Type" in json.loads(body)["error"]
        response, _ = ask(port, "/v2/repository/models/toy/unload", "POST", "", Content_Type=kind, **browser)
        assert response.status == 403
    assert ask(port, "/v1/translate", "POST", REQUEST, Content_Type=kind)[0].status == 200  # curl -d
    page = {"Origin": f"http://127.0.0.1:{port}", "Content_Type": "application/json"}
    assert ask(port, "/v1/translate", "POST", REQUEST, **page)[0].status == 200


def test_nothing_in_the_files_needs_what_the_policy_forbids() -> None:
    for name, text in TEXTS.items():
        assert len(text.splitlines()) <= MAX_LINES
        addresses = set(re.findall(r"https?://[^\s\"')]+", text))
        assert addresses <= {"http://www.w3.org/2000/svg"}, name  # the name of a namespace
        assert not re.search(SINKS, text), name
        if name.endswith(".html"):
            assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", text)
            assert not re.search(r"(?:src|href)=\"/", text), "an absolute path leaves a proxy's prefix"


def test_the_files_are_in_the_package() -> None:
    linked = set(re.findall(r"(?:src|href)=\"([\w.]+)\"", TEXTS["index.html"]))
    imported = {name for text in TEXTS.values() for name in re.findall(r"from \"\./([\w.]+)\"", text)}
    assert {"app.js", "style.css", "icon.svg"} <= linked
    assert linked | imported | {"index.html"} == set(FILES)


COLOURS = re.compile(r"--([\w-]+): #([0-9a-f]{6});")
LIGHT, DARK = (dict(COLOURS.findall(part)) for part in TEXTS["style.css"].split("@media", 2)[:2])


def contrast(one: str, other: str) -> float:
    """Of two colours, by WCAG 2.2."""
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def mixed(one: str, other: str, share: float) -> str:
    pairs = [(int(one[at : at + 2], 16), int(other[at : at + 2], 16)) for at in (0, 2, 4)]
    return "".join(f"{round(share * a + (1 - share) * b):02x}" for a, b in pairs)


@pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
def test_text_can_be_read(colours: dict[str, str]) -> None:
    pairs = [
        *itertools.product(("text", "soft", "accent"), ("page", "surface", "accent-soft")),
        *itertools.product(("text", "soft"), ("bad-soft", "warn-soft", "field")),
        *[("on-accent", "accent"), ("warn", "warn-soft"), ("bad", "bad-soft")],
    ]
    assert {pair: ratio for pair in pairs if (ratio := contrast(*(colours[name] for name in pair))) < 4.5} == {}
    strong = float(re.findall(r"STRONG = ([\d.]+)", TEXTS["heatmap.js"])[0])
    for share in [number / 100 for number in range(10, 101)]:
        name = "heat-strong-text" if share >= strong else "heat-text"
        assert contrast(colours[name], mixed(colours["heat"], colours["page"], share)) > 4.4, share
    assert contrast(colours["edge"], colours["field"]) >= 3  # of a field's border


def test_examples_are_those_of_the_file(port: int, tmp_path: Path) -> None:
    assert json.loads(ask(port, "/ui/examples.json")[1]) == list(EXAMPLES)
    path = tmp_path / "examples.txt"
    path.write_text("\ufeffEin Haus.\n\n  Zwei Hünde. \n", encoding="utf-8")
    assert read_examples(path) == ["Ein Haus.", "Zwei Hünde."]
    with running(write_toy_bundle(tmp_path / "bundle"), ui=True, http_port=0, ui_examples=str(path)) as server:
        assert server.http_port is not None
        assert json.loads(ask(server.http_port, "/ui/examples.json")[1]) == ["Ein Haus.", "Zwei Hünde."]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read: No such file"),
        (b"\n \n", "hold 0 sentences"),
        (b"one\n" * 21, "hold 21 sentences"),
        (b"ok\n" + b"x" * 501, "line 2: 501 characters"),
        (b"\xff\xfe\x00", "not UTF-8"),
    ],
)
def test_examples_that_cannot_be_shown_are_refused(tmp_path: Path, content: bytes | None, said: str) -> None:
    path = tmp_path / "examples.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=re.escape(said)):
        read_examples(path)


def test_examples_without_a_page_are_refused() -> None:
    with pytest.raises(SettingsError, match="ui_examples without ui"):
        ServerOptions.create({"ui_examples": "examples.txt"})


def test_the_page_implies_a_port() -> None:
    assert ServerOptions.create({}).bound_http_port is None
    assert ServerOptions.create({"ui": True}).bound_http_port == 8080
    assert ServerOptions.create({"ui": True, "http_port": 9000}).bound_http_port == 9000
    assert ServerOptions.create({"http_port": 9000}).bound_http_port == 9000


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:80/ui/"),
        ("0.0.0.0", "http://localhost:80/ui/"),
        ("::", "http://localhost:80/ui/"),
        ("::1", "http://[::1]:80/ui/"),
    ],
)
def test_the_address_told_can_be_opened(host: str, url: str) -> None:
    assert page_url(host, 80) == url


@pytest.mark.parametrize(
    ("header", "takes"),
    [("", False), ("gzip", True), ("br;q=1, GZIP;q=0.5", True), ("gzip;q=0", False), ("gzip; q=0.0", False)],
)
def test_gzip_is_sent_to_those_who_take_it(header: str, takes: bool) -> None:
    assert takes_gzip(header) is takes
