"""Scores at the ends of their range: targets that a model can never say, and some that it finds absurd."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from t2tdeploy.bundle import Bundle, write_bundle
from t2tdeploy.cli.translate import score
from t2tdeploy.export.beam_search import export_beam_search
from t2tdeploy.features import EOS_ID
from t2tdeploy.hypotheses import perplexity
from t2tdeploy.tokenizer import ByteTokenizer
from t2tdeploy.translator import Translator
from tests.models.tiny import masked_transformer
from tests.serving.toy_bundle import toy_files, toy_manifest


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Of a model that says a, b and c alone, and is far too sure of which."""
    model = masked_transformer(ByteTokenizer.vocab_size, [EOS_ID, *ByteTokenizer().encode("abc")], -math.inf)
    with torch.no_grad():
        model.modality("targets").weight.mul_(1e4)
    files = {**toy_files(), "model.onnx": export_beam_search(model).SerializeToString()}
    return write_bundle(tmp_path_factory.mktemp("sure") / "bundle", toy_manifest(), files)


def test_what_a_model_never_says_has_no_probability(bundle: Bundle) -> None:
    possible, impossible = Translator(bundle, threads=1).score(["x", "x"], ["abc", "abx"])
    assert math.isfinite(possible.log_prob)
    assert len(possible.tokens) == 4
    assert (impossible.log_prob, impossible.tokens) == (-math.inf, ())


def test_the_command_says_so(bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def ask(targets: list[str], *more: str) -> tuple[list[str], str]:
        (tmp_path / "source").write_text("x\n" * len(targets))
        (tmp_path / "target").write_text("".join(f"{target}\n" for target in targets))
        files = ["--source", str(tmp_path / "source"), "--target", str(tmp_path / "target")]
        score.main(["--bundle", str(bundle.directory), *files, *more], standalone_mode=False)
        said = capsys.readouterr()
        return said.out.splitlines(), said.err

    lines, summary = ask(["abc", "abx"])
    assert lines[1] == "-inf\t0"
    assert summary == "2 pairs, 4 tokens, perplexity inf; 1 not counted, whose targets the model can never say\n"
    assert ask(["abx"])[1] == "1 pairs, 0 tokens; 1 not counted, whose targets the model can never say\n"
    records = [json.loads(line) for line in ask(["abc", "abx"], "--json")[0]]
    assert records[0]["log_prob"] / records[0]["tokens"] < -709, "no float is large enough for its perplexity"
    assert records[1] == {"log_prob": None, "tokens": 0}


def test_a_perplexity_is_a_float_or_infinite() -> None:
    assert perplexity(1.0) == pytest.approx(math.e)
    assert perplexity(709.0) < perplexity(710.0) == perplexity(math.inf) == math.inf
