"""BLEU (Papineni et al. 2002) and chrF (Popović 2015) by sacrebleu (Post 2018), on raw text, with signatures."""

from __future__ import annotations

from dataclasses import dataclass

from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from t2tdeploy.errors import InputError


@dataclass(frozen=True)
class TranslationScores:
    """Scores of a corpus, 0 to 100, each with the signature that makes it comparable."""

    bleu: float
    bleu_signature: str
    chrf: float
    chrf_signature: str


def translation_scores(hypotheses: list[str], references: list[str], *, lowercase: bool = False) -> TranslationScores:
    """Corpus BLEU and chrF of detokenized hypotheses against one reference each.

    Raises:
        InputError: not one hypothesis per reference, or none at all.
    """
    if len(hypotheses) != len(references) or not references:
        raise InputError(
            f"{len(hypotheses)} hypotheses for {len(references)} references: one of each is needed per sentence"
        )
    bleu, chrf = BLEU(lowercase=lowercase), CHRF(lowercase=lowercase)
    return TranslationScores(
        bleu=bleu.corpus_score(hypotheses, [references]).score,
        bleu_signature=str(bleu.get_signature()),
        chrf=chrf.corpus_score(hypotheses, [references]).score,
        chrf_signature=str(chrf.get_signature()),
    )
