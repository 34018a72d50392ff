"""The decoding benchmark compares like with like: CTranslate2 computes what our graph computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ctranslate2
import decode_vs_ctranslate2
import numpy as np
import pytest
import torch
from ctranslate2_model import convert, words
from decode_backends import CTranslate2, CTranslate2Shortlist, T2TDeploy
from decode_trained import agreement
from decode_vs_ctranslate2 import Measured, label

from t2tdeploy.export.beam_search import export_beam_search
from t2tdeploy.export.lexicon import Lexicon
from t2tdeploy.export.shortlist import shortlisted
from tests.models.tiny import random_sources, tiny_transformer

VOCAB = 40


def test_the_converted_model_is_the_model(tmp_path: Path) -> None:
    model = tiny_transformer(VOCAB, seed=2)
    convert(model, tmp_path)
    translator = ctranslate2.Translator(str(tmp_path), device="cpu", compute_type="float32")
    names = words(VOCAB)
    for source, target in zip(random_sources(VOCAB, seed=3), random_sources(VOCAB, seed=4), strict=True):
        texts = ([[names[one] for one in ids]] for ids in (source, target[:-1]))  # it adds the target's EOS
        theirs = translator.score_batch(*texts)[0].log_probs
        with torch.no_grad():
            logits = model({"inputs": torch.tensor([source]), "targets": torch.tensor([target])})[0]
        ours = torch.log_softmax(logits, dim=-1)[range(len(target)), target]
        torch.testing.assert_close(torch.tensor(theirs), ours, atol=1e-4, rtol=0)


def test_our_answers_have_the_scores_of_the_model(tmp_path: Path) -> None:
    model = tiny_transformer(VOCAB, seed=2)
    (tmp_path / "model.onnx").write_bytes(export_beam_search(model).SerializeToString())
    source = [[3, 4, 5, 1]]
    ((ids, score),) = T2TDeploy(tmp_path / "model.onnx", "float32", 1, 0.0)(source, None)
    with torch.no_grad():
        logits = model({"inputs": torch.tensor(source), "targets": torch.tensor([ids])})[0]
    of_model = torch.log_softmax(logits, dim=-1)[range(len(ids)), ids].sum()
    assert ids[-1] == 1
    assert score == pytest.approx(float(of_model), abs=1e-4)


def test_both_choose_from_the_same_shortlist(tmp_path: Path) -> None:
    model = tiny_transformer(VOCAB, seed=2)
    random = np.random.default_rng(4)
    lexicon = Lexicon(random.integers(0, VOCAB, (VOCAB, 2)), np.union1d(random.choice(VOCAB, 10), [0, 1, 2]))
    convert(model, tmp_path / "theirs", lexicon)
    (tmp_path / "ours.onnx").write_bytes(shortlisted(export_beam_search(model), lexicon).SerializeToString())
    ours = T2TDeploy(tmp_path / "ours.onnx", "float32", 1, 0.0)
    theirs = CTranslate2Shortlist(tmp_path / "theirs", "float32", 1, 0.0)
    free = CTranslate2(tmp_path / "theirs", "float32", 1, 0.0)
    sources = random_sources(VOCAB, seed=3, count=10)

    def strays(backend: Any) -> list[int]:
        return [one for source in sources for one in backend([source], 8)[0][0] if one not in lexicon.allowed(source)]

    assert strays(free)
    assert strays(ours) == strays(theirs) == []


def measured(*seconds: float) -> Measured:
    rounds = [{"seconds": [one / 2, one / 2], "tokens": [10.0, 10.0]} for one in seconds]
    return Measured([0.1], {"16": rounds}, {"peak_bytes": 2**20})


def test_ratios_compare_within_a_round() -> None:
    both = {label("t2tdeploy", "int8", 2): measured(1, 10, 2), label("ctranslate2", "int8", 2): measured(2, 20, 6)}
    assert decode_vs_ctranslate2.ratios(both, "int8", 2, ["16"]) == {"16": {"median": 2, "quartiles": [2, 2.5]}}
    both[label("ctranslate2", "int8", 2)] = Measured(failed="no such package")
    assert decode_vs_ctranslate2.ratios(both, "int8", 2, ["16"]) == {"16": None}


def test_agreement_counts_what_is_the_same() -> None:
    one = [{"ids": [3, 4, 1], "score": -1.0}, {"ids": [5, 1], "score": -2.0}]
    other = [{"ids": [3, 4, 1], "score": -1.5}, {"ids": [6, 1], "score": -2.0}]
    found = agreement(one, other)
    assert (found["sentences"], found["identical"], found["equal_tokens"]) == (2, 1, 0.8)
    assert (
        agreement([{"ids": [3, 4, 5, 1], "score": 0.0}], [{"ids": [4, 5, 1], "score": 0.0}])["tokens_in_order"] == 0.75
    )
    assert found["largest_score_difference_of_identical"] == pytest.approx(0.5)
