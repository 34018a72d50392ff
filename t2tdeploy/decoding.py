"""Decoding options: their ranges, the same for hparams, bundles and requests, and what they ask of a search.

The search keeps the best 2 · beam_size continuations of a step, so a beam is also at most half the target vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

MAX_BEAM_SIZE = 16
MAX_ALPHA = 10.0
MAX_EXTRA_LENGTH = 1000

BeamSize = Annotated[int, Field(ge=1, le=MAX_BEAM_SIZE)]
Alpha = Annotated[float, Field(ge=0, le=MAX_ALPHA)]
ExtraLength = Annotated[int, Field(ge=1, le=MAX_EXTRA_LENGTH)]


@dataclass(frozen=True)
class SearchControls:
    """What a search may be asked beyond its beam, in ids. Log-probabilities are the model's, over all ids: what is
    forbidden is not made up for.

    Args:
        suppressed: ids that are never chosen.
        repetition_penalty: the log-probability of an id that the hypothesis has already is multiplied by it (Keskar et
            al. 2019, on log-probabilities as in Transformers' beam search); above 1 it makes repetition less likely.
        no_repeat_ngram_size: no sequence of so many ids comes twice in a hypothesis; 0: off.
        coverage_penalty: beta of Wu et al. 2016, equation 14: a finished hypothesis pays for source positions that the
            last decoder layer's attention, all heads' mean, has looked at for less than 1 in all.
        temperature: above 0: each beam is a sample of its own, of log-probabilities over temperature; 0: beam search.
        top_k: samples are of the k likeliest ids; 0: of all.
        top_p: then of the likeliest ids that have this probability together (Holtzman et al. 2020).
        seed: of samples; the same seed and source give the same samples.
    """

    suppressed: tuple[int, ...] = ()
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    coverage_penalty: float = 0.0
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0


NO_CONTROLS = SearchControls()
