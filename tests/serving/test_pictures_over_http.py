"""Pictures as a browser sends them: files of any format as base64 in JSON, to a real server."""

from __future__ import annotations

import base64
import http.client
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from t2tdeploy.classifier import Classifier
from t2tdeploy.images import FORMATS
from tests.serving.running import running
from tests.serving.toy_classifier import write_image_classifier

MOST_BYTES = 64 * 1024
PIXELS = np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8)


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    return Classifier(write_image_classifier(tmp_path_factory.mktemp("image") / "image"), threads=1)


@pytest.fixture(scope="module")
def port(local: Classifier) -> Iterator[int]:
    with running(local.bundle, ui=True, http_port=0, max_request_bytes=MOST_BYTES, max_batch_size=4) as server:
        assert server.http_port is not None
        yield server.http_port


def picture(format: str = "PNG") -> bytes:
    content = io.BytesIO()
    PIL.Image.fromarray(PIXELS).save(content, format)
    return content.getvalue()


def ask(port: int, *images: bytes | str, **more: Any) -> tuple[int, Any]:
    """Status and JSON of a request about files, or about what stands in the place of their base64."""
    texts = [one if isinstance(one, str) else base64.b64encode(one).decode() for one in images]
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        body = json.dumps({"images": texts, **more})
        connection.request("POST", "/v1/classify", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def test_files_of_every_format_are_answered_as_here(port: int, local: Classifier) -> None:
    files = [picture(format) for format in FORMATS]
    status, answer = ask(port, *files, options={"top_k": 3})
    assert status == 200
    for found, expected in zip(answer["classifications"], local.classify(files, top_k=3), strict=True):
        assert [one["name"] for one in found["labels"]] == [one.name for one in expected.labels]
        assert [one["probability"] for one in found["labels"]] == pytest.approx(
            [one.probability for one in expected.labels]
        )


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (b"no picture", "examples[1].inputs: not an image: neither PNG, JPEG"),
        (b"", "examples[1].inputs: not an image: it has no bytes"),
        (picture()[:-60], "examples[1].inputs: a damaged image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "examples[1].inputs: not an image"),
        ("A", "request: "),
    ],
)
def test_what_is_no_picture_is_named_by_its_place(port: int, image: bytes | str, words: str) -> None:
    status, answer = ask(port, picture(), image)
    assert status == 400
    assert answer["error"].startswith(words)
    assert "Traceback" not in answer["error"]


def test_the_limit_is_that_of_every_message(port: int) -> None:
    filler = bytes(MOST_BYTES * 3 // 4 - len(picture()) - 100)  # behind its end, where no decoder looks
    assert ask(port, picture() + filler)[0] == 200
    status, answer = ask(port, picture() + filler + bytes(200))
    assert (status, answer["error"].startswith("request: ")) == (400, True)
    assert f"the server takes {MOST_BYTES}" in answer["error"]
    status, answer = ask(port, bytes(4 * MOST_BYTES))
    assert status == 413
    assert f"more than {4 * MOST_BYTES} bytes" in answer["error"]
    assert ask(port, picture())[0] == 200


def test_a_picture_of_too_many_pixels_is_refused_before_it_is_decoded(port: int, tmp_path: Path) -> None:
    PIL.Image.new("1", (9000, 9000)).save(tmp_path / "large.png")
    content = (tmp_path / "large.png").read_bytes()
    assert len(content) < MOST_BYTES
    status, answer = ask(port, content)
    assert status == 400
    assert answer["error"].startswith("examples[0].inputs: too large: 9000 × 9000 pixels")
