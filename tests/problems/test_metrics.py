"""BLEU and chrF are sacrebleu's, on raw text."""

import pytest
import sacrebleu

from t2tdeploy.errors import InputError
from t2tdeploy.problems.metrics import translation_scores

REFERENCES = ["Ein Hund läuft über den Strand.", "Zwei Männer sitzen auf einer Bank und reden."]
HYPOTHESES = ["Ein Hund rennt über den Strand.", "Zwei männer sitzen auf einer Bank und lesen."]


def test_scores_are_sacrebleus():
    scores = translation_scores(HYPOTHESES, REFERENCES)
    assert scores.bleu == pytest.approx(sacrebleu.corpus_bleu(HYPOTHESES, [REFERENCES]).score)
    assert scores.chrf == pytest.approx(sacrebleu.corpus_chrf(HYPOTHESES, [REFERENCES]).score)
    assert 0 < scores.bleu < 100


def test_a_perfect_translation_has_100():
    scores = translation_scores(REFERENCES, REFERENCES)
    assert (scores.bleu, scores.chrf) == (pytest.approx(100), pytest.approx(100))


def test_lowercase_is_in_score_and_signature():
    cased, uncased = (translation_scores(HYPOTHESES, REFERENCES, lowercase=lowercase) for lowercase in (False, True))
    assert uncased.bleu > cased.bleu
    assert "case:lc" in uncased.bleu_signature
    assert "case:mixed" in cased.bleu_signature
    assert f"version:{sacrebleu.__version__}" in cased.chrf_signature


@pytest.mark.parametrize(("hypotheses", "references"), [(["a"], ["a", "b"]), ([], [])])
def test_one_hypothesis_per_reference(hypotheses, references):
    with pytest.raises(InputError):
        translation_scores(hypotheses, references)
