"""A model whose scores are NaN is called that: it finds nothing, which is no translation."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from grpc import StatusCode
from onnx import numpy_helper

import t2tdeploy
from t2tdeploy.bundle import Bundle, write_bundle
from t2tdeploy.errors import NotNumbersError
from t2tdeploy.serving.status import status_of
from t2tdeploy.tokenizer import ByteTokenizer
from t2tdeploy.translator import Translator
from tests.export.graphs import byte_graph
from tests.serving.running import running
from tests.serving.toy_bundle import toy_files, toy_manifest


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Of a model whose training diverged."""
    graph = byte_graph()
    graph = type(graph).FromString(graph.SerializeToString())
    for tensor in graph.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.ndim > 1 and array.dtype == np.float32 and array.size:
            tensor.CopyFrom(numpy_helper.from_array(np.full_like(array, np.nan), tensor.name))
    files = {**toy_files(), "model.onnx": graph.SerializeToString()}
    return write_bundle(tmp_path_factory.mktemp("nan") / "bundle", toy_manifest(), files)


ALL_PIECES = tuple(ByteTokenizer().pieces(range(ByteTokenizer.vocab_size)))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"beam_size": 1},
        {"num_hypotheses": 3, "alternatives": True},
        {"temperature": 1.0, "num_hypotheses": 2},
        {"no_repeat_ngram_size": 2, "min_length": 3, "target_prefixes": ["x"]},
        {"early_stopping": True, "suppress": ALL_PIECES},
    ],
)
def test_nothing_found_is_no_translation(bundle: Bundle, options: dict[str, Any]) -> None:
    with pytest.raises(NotNumbersError, match="scores are not numbers") as caught:
        Translator(bundle, threads=1).translate(["ab"], **options)
    assert caught.value.help


def test_it_scores_nothing_either(bundle: Bundle) -> None:
    with pytest.raises(NotNumbersError):
        Translator(bundle, threads=1).score(["ab"], ["xyz"])


def test_it_is_not_loaded(bundle: Bundle) -> None:
    with pytest.raises(NotNumbersError):
        t2tdeploy.load(bundle.directory, threads=1)
    words = [sys.executable, "-m", "t2tdeploy", "translate", "--bundle", str(bundle.directory), "ab"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout) == (1, "")
    assert "error: the model's scores are not numbers" in done.stderr
    assert "help: " in done.stderr


def test_it_is_not_served(bundle: Bundle) -> None:
    with pytest.raises(NotNumbersError), running(bundle):
        pass


def test_during_a_request_it_is_the_server_s_own_fault() -> None:
    assert status_of(NotNumbersError()).code is StatusCode.INTERNAL
