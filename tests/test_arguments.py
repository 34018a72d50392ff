"""What Python programs pass by mistake is named, and NumPy's numbers are numbers: on this machine and to a server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from t2tdeploy.bundle import Bundle, write_bundle
from t2tdeploy.errors import RequestError
from t2tdeploy.features import EOS_ID
from t2tdeploy.serving.client import Client
from t2tdeploy.translator import Hypothesis, TranslateOptions, Translator
from tests.export.graphs import byte_graph
from tests.serving.running import running
from tests.serving.toy_bundle import toy_files, toy_manifest

NAN = float("nan")
Ask = Callable[..., list[list[Hypothesis]]]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    files: dict[str, bytes | Path] = {**toy_files(), "model.onnx": byte_graph().SerializeToString()}
    return write_bundle(tmp_path_factory.mktemp("bundles") / "bytes", toy_manifest(), files)


@pytest.fixture(scope="module")
def translator(bundle: Bundle) -> Translator:
    return Translator(bundle, threads=1)


@pytest.fixture(scope="module", params=["local", "served"])
def ask(request: pytest.FixtureRequest, bundle: Bundle, translator: Translator) -> Iterator[Ask]:
    if request.param == "local":
        yield translator.translate
        return
    with running(bundle) as server, Client(f"127.0.0.1:{server.port}") as client:
        yield client.translate


@pytest.mark.parametrize(
    ("given", "plain"),
    [
        ({"beam_size": np.int64(3), "num_hypotheses": np.int32(2)}, {"beam_size": 3, "num_hypotheses": 2}),
        ({"alpha": np.float64(0.5), "max_ratio": np.float32(1.5)}, {"alpha": 0.5, "max_ratio": 1.5}),
        ({"temperature": np.float32(0.5), "seed": np.uint8(4)}, {"temperature": 0.5, "seed": 4}),
        ({"return_tokens": np.True_, "max_length": np.int16(4)}, {"return_tokens": True, "max_length": 4}),
        ({"suppress": np.array(["<0x41>", "<0x42>"])}, {"suppress": ("<0x41>", "<0x42>")}),
        ({"suppress": None, "truncate": None, "alternatives": None}, {}),
    ],
)
def test_what_numpy_has_is_what_python_has(ask: Ask, given: dict[str, Any], plain: dict[str, Any]) -> None:
    assert ask(["ab"], TranslateOptions(**given)) == ask(["ab"], TranslateOptions(**plain))


def test_sources_and_prefixes_come_in_anything_with_items(ask: Ask) -> None:
    sources, prefixes = ["ab", "Käse"], ["x", ""]
    expected = ask(sources, target_prefixes=prefixes)
    assert ask(np.array(sources), target_prefixes=np.array(prefixes)) == expected
    assert ask((one for one in sources), target_prefixes=(one for one in prefixes)) == expected


def test_ids_are_whole_numbers_of_any_kind(translator: Translator) -> None:
    expected = translator.translate(["ab"])
    ids = translator.encode(["ab"])[0].ids
    assert translator.translate([np.array(ids)]) == translator.translate(np.array([ids], np.int32)) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beam_size": NAN}, r"options\.beam_size: nan is not a whole number"),
        ({"beam_size": np.float64(4)}, r"options\.beam_size: 4\.0 is not a whole number"),
        ({"beam_size": np.array([4, 4])}, r"options\.beam_size: array\(\[4, 4\]\) is not a whole number"),
        ({"alpha": NAN}, r"options\.alpha: nan is not between 0 and 10"),
        ({"alpha": "0.6"}, r"options\.alpha: '0\.6' is not a number"),
        ({"seed": True}, r"options\.seed: True is not a whole number"),
        ({"seed": 2**70}, r"options\.seed: .*1180591620717411303424"),
        ({"truncate": "no"}, r"options\.truncate: 'no' is neither True nor False"),
        ({"early_stopping": np.array([1, 0])}, r"options\.early_stopping: array\(\[1, 0\]\) is neither"),
        ({"alternatives": NAN}, r"options\.alternatives: nan is neither"),
        ({"suppress": 5}, r"options\.suppress: 5, where a list of strings is expected"),
        ({"suppress": [None]}, r"options\.suppress: None is no text"),
        ({"suppress": np.array([3, 4])}, r"options\.suppress: .*3.* is no text"),
    ],
)
def test_an_option_of_another_kind_is_named(ask: Ask, options: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=f"^{message}"):
        ask(["ab"], TranslateOptions(**options))


@pytest.mark.parametrize(
    ("sources", "arguments", "message"),
    [
        (None, {}, "sources: None, where a list of strings is expected"),
        (NAN, {}, "sources: nan, where"),
        (b"ab", {}, "sources: one string, where"),
        (["ab", None], {}, r"sources\[1\]: None is "),
        (["ab", NAN], {}, r"sources\[1\]: nan is "),
        ([b"ab"], {}, r"sources\[0\]: b'ab' is "),
        (["ab"], {"target_prefixes": 3}, "target_prefixes: 3, where"),
        (["ab"], {"target_prefixes": [None]}, r"target_prefixes\[0\]: None is no text"),
        (["ab"], {"target_prefixes": [[5, 6]]}, r"target_prefixes\[0\]: \[5, 6\] is no text"),
        (["ab"], {"target_prefixes": np.array([NAN])}, r"target_prefixes\[0\]: .*nan.* is no text"),
        (["ab"], {"options": None}, "options: None is no TranslateOptions"),
        (["ab"], {"options": {"beam_size": 2}}, r"options: \{'beam_size': 2\} is no TranslateOptions"),
    ],
)
def test_what_is_no_text_is_named(ask: Ask, sources: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=f"^{message}"):
        ask(sources, **arguments)


@pytest.mark.parametrize("ids", [[5.0, 1.0], [NAN, EOS_ID], np.array([5.0, 1.0]), [None, EOS_ID], [[5], EOS_ID]])
def test_ids_that_are_no_whole_numbers_are_named(translator: Translator, ids: Any) -> None:
    with pytest.raises(RequestError, match=r"^sources\[1\]: .* is neither a text nor the ids of one"):
        translator.translate(["ab", ids])


def test_targets_to_score_are_texts(translator: Translator) -> None:
    for targets, message in ((None, "targets: None, where"), ([None], r"targets\[0\]: None is no text")):
        with pytest.raises(RequestError, match=message):
            translator.score(["ab"], targets)  # type: ignore[arg-type]
