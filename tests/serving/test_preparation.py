"""Pictures and long texts are prepared a few at a time, and for nobody who has left."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
from PIL import Image

from t2tdeploy.classifier import Classifier, Example, RawExample
from t2tdeploy.serving.bundle_source import BundleFolders
from t2tdeploy.serving.preparation import Preparation
from t2tdeploy.serving.v1 import classification_pb2 as pb
from t2tdeploy.serving.v1.classification_pb2_grpc import ClassificationServiceStub
from tests.serving.running import running
from tests.serving.toy_classifier import write_image_classifier, write_text_classifier

LARGE = 20 * 1024
SIDE = 8000


class Held(Classifier):
    """Reads no example before `go` is set, and remembers which it began."""

    def __init__(self) -> None:
        self.begun: list[RawExample] = []
        self.go = threading.Event()

    def encode(self, examples: Sequence[RawExample], **options: Any) -> list[Example]:
        self.begun += examples
        self.go.wait(20)
        return [Example({}, 1, 1, False) for _ in examples]


def prepare(preparation: Preparation, held: Held, examples: Sequence[RawExample], after: float | None = None) -> Any:
    deadline = None if after is None else asyncio.get_running_loop().time() + after
    return asyncio.create_task(preparation.examples(held, examples, truncate=False, deadline=deadline))


@pytest.mark.parametrize("after", [None, 0.1])
def test_what_nobody_waits_for_is_not_begun(after: float | None) -> None:
    """Its client cancelled it, or its deadline passed: what a thread is at cannot be stopped, the rest is left."""
    held, preparation = Held(), Preparation()

    async def test() -> None:
        task = prepare(preparation, held, [bytes(LARGE)] * 5, after)
        while not held.begun:
            await asyncio.sleep(0.005)
        if after is None:
            task.cancel()
        with pytest.raises(TimeoutError if after else asyncio.CancelledError):
            await task
        held.go.set()
        assert len(await prepare(preparation, held, ["last"])) == 1

    asyncio.run(test())
    preparation.close()
    assert held.begun == [bytes(LARGE), "last"]


def test_small_ones_are_read_together_large_ones_by_turns_with_other_requests() -> None:
    held, preparation = Held(), Preparation()
    held.go.set()
    portions: list[int] = []
    encode = held.encode

    def counting(examples: Sequence[RawExample], **options: Any) -> list[Example]:
        portions.append(len(examples))
        return encode(examples, **options)

    held.encode = counting  # type: ignore[method-assign]

    async def test() -> None:
        small: list[RawExample] = [{"a": bytes(1024), "b": 1}] * 40
        assert len(await prepare(preparation, held, [*small, bytes(LARGE), bytes(LARGE), "x"])) == 43

    asyncio.run(test())
    preparation.close()
    assert portions == [16, 16, 9, 1, 1]


def picture() -> bytes:
    """A few kilobytes that take some tenths of a second."""
    file = io.BytesIO()
    Image.new("1", (SIDE, SIDE)).save(file, "PNG")
    return file.getvalue()


def test_pictures_that_nobody_waits_for_hold_up_nobody(tmp_path: Path) -> None:
    write_image_classifier(tmp_path / "images")
    write_text_classifier(tmp_path / "texts", max_length=4000)
    large = picture()
    with (
        running(BundleFolders([tmp_path / "images", tmp_path / "texts"])) as server,
        grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        stub = ClassificationServiceStub(channel)
        request = pb.ClassifyRequest(model="images", images=[large] * 64)
        calls = [stub.Classify.future(request, timeout=0.3) for _ in range(4)]
        assert {call.code() for call in calls} == {grpc.StatusCode.DEADLINE_EXCEEDED}
        # To decode all 256 takes several times this deadline.
        stub.Classify(pb.ClassifyRequest(model="texts", texts=["abcd " * 300]), timeout=15)


def test_errors_name_the_example_of_the_request(tmp_path: Path) -> None:
    bundle = write_image_classifier(tmp_path / "images")
    content = Image.effect_noise((100, 200), 50)
    file = io.BytesIO()
    content.save(file, "PNG")
    assert len(file.getvalue()) > 16 * 1024
    with running(bundle) as server, grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        with pytest.raises(grpc.RpcError) as caught:
            ClassificationServiceStub(channel).Classify(
                pb.ClassifyRequest(images=[file.getvalue()] * 3 + [b"none"]), timeout=20
            )
        assert "examples[3].inputs: not an image" in caught.value.details()
