"""A bundle that classifies or regresses, on this machine: right answers whatever the batch, errors with their place."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

import t2tdeploy
from t2tdeploy.bundle import Bundle
from t2tdeploy.classifier import Classification, Classifier, Label
from t2tdeploy.errors import CorruptFileError, InputError, RequestError
from t2tdeploy.tokenizer import ByteTokenizer, encode_with_eos
from t2tdeploy.translator import Translator
from tests.serving.toy_bundle import write_toy_bundle
from tests.serving.toy_classifier import (
    LETTERS,
    TEMPERATURE,
    write_image_classifier,
    write_table_classifier,
    write_tensor_regressor,
    write_text_classifier,
)

TEXTS = ["a", "", "abba", "ccccc", "dad", "Käse", "b" * 19, "dcba"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bundles")


@pytest.fixture(scope="module")
def texts(folder: Path) -> Classifier:
    return Classifier(write_text_classifier(folder / "texts"), threads=1, max_batch_size=3)


@pytest.fixture(scope="module")
def table(folder: Path) -> Classifier:
    return Classifier(write_table_classifier(folder / "table"), threads=1)


@pytest.fixture(scope="module")
def image(folder: Path) -> Classifier:
    return Classifier(write_image_classifier(folder / "image"), threads=1)


@pytest.fixture(scope="module")
def regressor(folder: Path) -> Classifier:
    return Classifier(write_tensor_regressor(folder / "tensor"), threads=1)


def expected(text: str, top_k: int) -> list[Label]:
    logits = [float(text.count(letter)) for letter in LETTERS]
    total = sum(math.exp(logit / TEMPERATURE) for logit in logits)
    labels = [
        Label(letter, place, math.exp(logit / TEMPERATURE) / total, logit)
        for place, (letter, logit) in enumerate(zip(LETTERS, logits, strict=True))
    ]
    return sorted(labels, key=lambda one: (-one.logit, one.class_id))[:top_k]


@pytest.mark.parametrize("top_k", [1, 2, 4])
def test_the_likeliest_classes_come_first_with_calibrated_probabilities(texts: Classifier, top_k: int) -> None:
    for text, found in zip(TEXTS, texts.classify(TEXTS, top_k=top_k), strict=True):
        for label, wanted in zip(found.labels, expected(text, top_k), strict=True):
            assert (label.name, label.class_id, label.logit) == (wanted.name, wanted.class_id, wanted.logit)
            assert label.probability == pytest.approx(wanted.probability, abs=1e-6)


def test_an_answer_does_not_depend_on_the_batch(texts: Classifier) -> None:
    together = texts.classify(TEXTS, top_k=4)
    assert together == [texts.classify([text], top_k=4)[0] for text in TEXTS]
    assert together[::-1] == texts.classify(TEXTS[::-1], top_k=4)
    assert texts.classify([]) == []


def test_threads_share_a_classifier(texts: Classifier) -> None:
    wanted = [texts.classify([text])[0] for text in TEXTS]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda text: texts.classify([text])[0], TEXTS * 4)) == wanted * 4


def test_several_labels_have_probabilities_of_their_own(folder: Path) -> None:
    several = Classifier(write_text_classifier(folder / "several", multi_label=True), threads=1)
    (found,) = several.classify(["aab"], top_k=4)
    assert [one.name for one in found.labels] == ["a", "b", "c", "d"]
    chances = [1 / (1 + math.exp(-logit / TEMPERATURE)) for logit in (2, 1, 0, 0)]
    assert [one.probability for one in found.labels] == pytest.approx(chances)


def test_what_a_text_may_be(texts: Classifier) -> None:
    ids = np.array([*encode_with_eos(ByteTokenizer(), "abba"), 0, 0])
    (wanted,) = texts.classify(["abba"], top_k=4)
    assert texts.classify([{"inputs": "abba"}, ids, {"inputs": ids}], top_k=4) == [wanted] * 3


def test_texts_that_belong_together_follow_each_other(folder: Path) -> None:
    pairs = Classifier(write_text_classifier(folder / "pairs", parts=2), threads=1)
    ids = pairs.encode([("ab", "cd")])[0].inputs["inputs_ids"].tolist()
    assert ids == [*encode_with_eos(ByteTokenizer(), "ab"), *encode_with_eos(ByteTokenizer(), "cd")]
    cut = pairs.encode([("ab", "c" * 40)], truncate=True)[0]
    assert cut.cost == 20
    assert ByteTokenizer().decode(cut.inputs["inputs_ids"]) == "ab"  # the shorter one is whole
    with pytest.raises(RequestError, match=r"examples\[0\]\.inputs: 1 text, but it consists of 2"):
        pairs.classify(["ab"])


def test_a_text_that_is_too_long_is_refused_or_cut_and_says_so(texts: Classifier) -> None:
    with pytest.raises(RequestError, match=r"examples\[1\]\.inputs: 26 tokens, the model takes 20"):
        texts.classify(["a", "b" * 25])
    found = texts.classify(["a", "b" * 25], truncate=True)
    assert [one.truncated for one in found] == [False, True]
    assert found[1].labels == texts.classify(["b" * 19])[0].labels


def test_a_row_of_a_table_has_a_value_for_every_column(table: Classifier) -> None:
    rows = [{"width": 2, "colour": "red"}, {"colour": "blue"}, {"width": np.float64(0.5), "colour": "never seen"}]
    found = table.classify(rows, top_k=3)
    logits = [{one.name: one.logit for one in each.labels} for each in found]
    assert logits[0] == {"wide": 2, "red": 1, "blue": 0}
    assert logits[1] == {"wide": -1, "red": 0, "blue": 1}
    assert logits[2] == {"wide": 0.5, "red": 0, "blue": 0}
    for missing in (math.nan, None, "", "n/a"):
        assert table.classify([{"width": missing, "colour": "blue"}], top_k=3) == [found[1]]
    assert table.classify([{"width": " 2.0", "colour": " red "}], top_k=3) == [found[0]]


def test_images_come_as_files_or_pixels(image: Classifier) -> None:
    green = np.zeros((4, 4, 3), np.uint8)
    green[:, :, 1] = 255
    buffer = io.BytesIO()
    PIL.Image.fromarray(green).resize((40, 30)).save(buffer, "PNG")
    found = image.classify([green, buffer.getvalue(), {"inputs": green}])
    assert [one.labels[0].name for one in found] == ["green"] * 3
    assert found[0] == found[1] == found[2]


def test_a_model_that_regresses_answers_with_values(regressor: Classifier) -> None:
    rows = [np.ones((2, 3)), [[1, 2, 3], [4, 5, 6]], {"x": np.zeros((2, 3), np.float32)}]
    assert regressor.task == "regress"
    answers = [(3.0, 3.0), (6.0, 15.0), (0.0, 0.0)]
    assert regressor.classify(rows) == [Classification(values=each) for each in answers]
    with pytest.raises(RequestError, match="top_k: 2 is not between 1 and 1: the model gives values"):
        regressor.classify(rows, top_k=2)


BROKEN_IMAGE = b"\x89PNG\r\n\x1a\n nothing"


@pytest.mark.parametrize(
    ("name", "example", "words"),
    [
        ("texts", b"abc", r"\.inputs: a string of bytes, where a text"),
        ("texts", 3, r"\.inputs: a int, where a text"),
        ("texts", (), r"\.inputs: 0 texts, but it consists of 1"),
        ("texts", ("a", 3), r"\.inputs: a tuple, where a text"),
        ("texts", "\ud800", r"\.inputs: not Unicode text: lone surrogate at character 0"),
        ("texts", {}, ": empty; an example has inputs"),
        ("texts", {"input": "a"}, r"\.input: no such feature; an example has inputs"),
        ("texts", np.array([5, 6]), r"\.inputs: the ids do not end with EOS, 1"),
        ("texts", np.array([5, 600, 1]), r"\.inputs: 600 at place 1 is not the id of a token; they are 1 to 258"),
        ("texts", np.array([0.5]), r"\.inputs: ids are an array of whole numbers"),
        ("table", "red", ": one value, but an example has several features: width, colour"),
        ("table", {"width": 1}, r"\.colour: missing; an example has width, colour"),
        ("table", {"width": 1, "color": "red"}, r"\.color: no such feature"),
        ("table", {}, ": empty; an example has width, colour"),
        ("table", {"width": "1,5", "colour": "red"}, r"\.width: '1,5' is not a number; decimals"),
        ("table", {"width": [1], "colour": "red"}, r"\.width: \[1\] is a list, not a number"),
        ("table", {"width": 1, "colour": b"red"}, r"\.colour: b'red' is bytes, not a text"),
        ("table", {"width": 1, "colour": None}, r"\.colour: missing"),
        ("table", {"width": 1, "colour": "\ud800"}, r"\.colour: .* \(lone surrogates\)"),
        ("image", BROKEN_IMAGE, r"\.inputs: (not an|a damaged) image"),
        ("image", np.zeros((4, 4, 3)), r"\.inputs: pixels are float64"),
        ("image", "cat.png", r"\.inputs: a text, where an image is expected"),
        ("regressor", np.zeros((3, 2)), r"\.x: shape \[3, 2\], but it is \[2, 3\]"),
        ("regressor", [[1, 2], [3]], r"\.x: rows of different lengths"),
        ("regressor", np.full((2, 3), math.nan), r"\.x: not all of its numbers are finite"),
        ("regressor", "abc", r"\.x: a text, where numbers are expected"),
    ],
)
def test_what_is_not_valid_is_named_by_its_place(
    name: str, example: Any, words: str, request: pytest.FixtureRequest
) -> None:
    classifier: Classifier = request.getfixturevalue(name)
    good: dict[str, Any] = {"texts": "a", "table": {"colour": "red"}, "regressor": np.zeros((2, 3))}
    good["image"] = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(RequestError, match=rf"^examples\[1\]{words}"):
        classifier.classify([good[name], example])


def test_the_nearest_feature_is_shown(table: Classifier) -> None:
    with pytest.raises(RequestError) as caught:
        table.classify([{"width": 1, "color": "red"}])
    assert caught.value.help == "did you mean 'colour'?"


@pytest.mark.parametrize("top_k", [0, -1, 5, 1.5, True])
def test_options_out_of_range_are_named(texts: Classifier, top_k: Any) -> None:
    with pytest.raises(RequestError, match=r"^top_k: "):
        texts.classify(["a"], top_k=top_k)
    with pytest.raises(RequestError, match="examples: one example, where a list"):
        texts.classify("abc")


def test_load_goes_by_the_task(folder: Path, tmp_path: Path) -> None:
    assert isinstance(t2tdeploy.load(folder / "texts", threads=1), Classifier)
    toy = write_toy_bundle(tmp_path / "toy")
    assert isinstance(t2tdeploy.load(toy.directory, threads=1), Translator)
    with pytest.raises(InputError, match="is a bundle that translates; it has no classes"):
        Classifier(toy)


def _translator(bundle: Bundle, tmp_path: Path) -> None:
    del tmp_path
    Translator(bundle)


def _triton(bundle: Bundle, tmp_path: Path) -> None:
    from t2tdeploy.export.triton import write_triton

    write_triton(bundle, tmp_path / "models")


def _text_graph(bundle: Bundle, tmp_path: Path) -> None:
    from t2tdeploy.export.text_bundle import write_text_graph

    write_text_graph(bundle, tmp_path / "text.onnx")


@pytest.mark.parametrize("use", [_translator, _triton, _text_graph])
def test_what_only_translation_can_do_is_refused(
    texts: Classifier, use: Callable[[Bundle, Path], None], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"only a bundle that translates can do this; the task of .* is 'classify'"):
        use(texts.bundle, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_graph_that_is_not_the_manifests_is_refused(folder: Path) -> None:
    texts = write_text_classifier(folder / "changed")
    manifest = texts.manifest
    feature = manifest.features["inputs"].model_copy(update={"graph_input": "pixels"})
    texts.manifest = manifest.model_copy(update={"features": {"inputs": feature}})
    with pytest.raises(CorruptFileError, match="not those of the graph: inputs_ids, pixels"):
        Classifier(texts)
