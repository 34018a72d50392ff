"""Evaluation counts every label once; translation keeps order and does not depend on batches."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from t2tdeploy.errors import NotNumbersError, RequestError
from t2tdeploy.models.beam_search import SearchOptions
from t2tdeploy.models.model import Model
from t2tdeploy.problems.dataset import ProblemData
from t2tdeploy.training.evaluate import evaluate, mean_losses, translate
from t2tdeploy.training.torch_engine import evaluation_sums

from .conftest import make_run

GREEDY = SearchOptions(beam_size=2, alpha=0.6)


@pytest.fixture
def model(tmp_path: Path, data: ProblemData, data_dir: Path) -> Model:
    torch.manual_seed(0)
    return make_run(tmp_path / "run", data, data_dir).new_model().eval()


def test_losses_do_not_depend_on_batches(model: Model, data: ProblemData) -> None:
    dev = data.split("dev")
    one = mean_losses(lambda batch: evaluation_sums(model, batch), dev, batch_size=1)
    many = mean_losses(lambda batch: evaluation_sums(model, batch), dev, batch_size=10_000)
    assert one.labels == many.labels == int(dev.lengths["targets"].sum())
    assert one.loss == pytest.approx(many.loss, rel=1e-5)
    assert one.accuracy == pytest.approx(many.accuracy)
    assert one.perplexity == pytest.approx(math.exp(one.loss))


def test_translations_keep_their_order_and_do_not_depend_on_batches(model: Model, data: ProblemData) -> None:
    texts = ["a", "b c d e f", "", "c b", "f e d c b a f e d c"]

    def run(texts: list[str], batch_size: int) -> list[str]:
        options = SearchOptions(beam_size=2, alpha=0.6)
        return translate(model, data.tokenizers, texts, options=options, extra_length=3, batch_size=batch_size)

    alone = [run([text], 1)[0] for text in texts]
    assert run(texts, 10_000) == alone
    assert run(texts[::-1], 10_000) == alone[::-1]
    assert run([], 10) == []


def test_blank_and_over_long_lines_are_taken_as_the_server_takes_them(model: Model, data: ProblemData) -> None:
    def run(texts: list[str], max_source_length: int | None = 20) -> list[str]:
        return translate(
            model, data.tokenizers, texts, options=GREEDY, extra_length=3, max_source_length=max_source_length
        )

    assert run(["", " ", "\t", "\u3000"]) == [""] * 4
    longest = "a" * 19
    with pytest.raises(RequestError, match="line 3: 21 tokens, the model takes 20"):
        run([longest, "", longest + "a"])
    assert len(run([longest + "a"], max_source_length=None)) == 1, "evaluation leaves out nothing"


def test_a_model_of_nan_has_no_translations(model: Model, data: ProblemData) -> None:
    with torch.no_grad():
        model.modality("targets").weight.fill_(math.nan)
    with pytest.raises(NotNumbersError, match="not numbers"):
        translate(model, data.tokenizers, ["a b", "c"], options=GREEDY, extra_length=2)


def test_a_translation_is_bounded_by_its_own_length(model: Model, data: ProblemData) -> None:
    with torch.no_grad():
        model.modality("targets").weight[1] = 0.0  # EOS is never the best: translations run to their limit
    for extra in (1, 4):
        short, long = translate(
            model, data.tokenizers, ["a b", "a b c d e f"], options=GREEDY, extra_length=extra, batch_size=1000
        )
        # Bytes that are no UTF-8 decode to one character each, so a character is at least one id.
        assert len(short) <= 3 + 1 + extra
        assert len(long) <= 11 + 1 + extra


def test_the_report_is_whole(model: Model, data: ProblemData) -> None:
    report = evaluate(model, data, "dev", options=GREEDY, extra_length=2, batch_size=500, sentences=7, lowercase=True)
    assert report.sentences == 7
    assert report.scores is not None
    assert report.lowercase_scores is not None
    assert "case:mixed" in report.scores.bleu_signature
    assert "case:lc" in report.lowercase_scores.bleu_signature
    rows = np.arange(5)
    assert [example.source for example in report.examples] == data.split("dev").texts("inputs", rows)
    assert [example.reference for example in report.examples] == data.split("dev").texts("targets", rows)


def test_nothing_is_decoded_unasked(model: Model, data: ProblemData) -> None:
    report = evaluate(model, data, "dev", options=GREEDY, extra_length=2, batch_size=500, decode=False)
    assert (report.scores, report.sentences, report.examples) == (None, 0, ())
    assert report.losses.loss > 0
