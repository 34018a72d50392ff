"""What a search found, as text with its tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from t2tdeploy.decoding import SearchKey
from t2tdeploy.features import EOS_ID, UNK_ID
from t2tdeploy.runtime import SearchResult
from t2tdeploy.sentences import Sentence
from t2tdeploy.tokenizer import Tokenizer

WORD_MARK = "\u2581"
"""SentencePiece's blank at the start of a word."""


@dataclass(frozen=True)
class Token:
    """One token of a hypothesis.

    Args:
        piece: of the target vocabulary.
        score: its log-probability, given the source and the tokens before it.
        attention: what of each source token the model looked at when it chose this one; empty unless asked for.
    """

    piece: str
    score: float
    attention: tuple[float, ...] = ()


@dataclass(frozen=True)
class Hypothesis:
    """One translation.

    Args:
        score: log-probability over the length penalty; the raw log-probability if not finished.
        tokens: how many, EOS included.
        finished: False: nothing ended within the length limit; the text is cut off.
        details: of each token, EOS included; empty unless asked for.
        ids: of its tokens in the target vocabulary, EOS included; not part of a comparison, since not every answer
            of a server has them.
    """

    text: str
    score: float
    tokens: int
    finished: bool
    details: tuple[Token, ...] = ()
    ids: tuple[int, ...] = field(default=(), compare=False, repr=False)


@dataclass(frozen=True)
class TargetScore:
    """How likely a model finds a given target.

    Args:
        log_prob: of all its tokens together, EOS included, natural logarithm; -inf: the model can never say it.
        tokens: with the log-probability of each; empty if the model can never say it.
    """

    log_prob: float
    tokens: tuple[Token, ...]


def perplexity(loss: float) -> float:
    """exp of a mean loss in nats; infinite where that is larger than a float can be."""
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf


BLANK = (Hypothesis(text="", score=0.0, tokens=1, finished=True, ids=(EOS_ID,)),)
"""The translation of an empty or blank source: one empty text, whatever the options say."""

NOTHING_ALLOWED = (Hypothesis(text="", score=float(np.finfo(np.float32).min), tokens=0, finished=False),)
"""The translation of a source for which the options forbid every token."""


def hypotheses_of(
    result: SearchResult, row: int, sentence: Sentence, key: SearchKey, source: Tokenizer, target: Tokenizer
) -> list[Hypothesis]:
    """The hypotheses of one row of a search, best first; NOTHING_ALLOWED if there are none."""
    found = [
        _hypothesis(result, row, beam, sentence, key, source, target)
        for beam in range(result.lengths.shape[1])
        if result.lengths[row, beam] > 0  # fewer may have finished than were asked for
    ]
    return found or [*NOTHING_ALLOWED]


def _hypothesis(
    result: SearchResult, row: int, beam: int, sentence: Sentence, key: SearchKey, source: Tokenizer, target: Tokenizer
) -> Hypothesis:
    length = int(result.lengths[row, beam])
    ids = result.target_ids[row, beam, :length].tolist()
    if key.replace_unknown and UNK_ID in ids and result.attention is not None:
        looks = result.attention[row, beam, :length, : len(sentence.ids)]
        at = [int(one.argmax()) if one.any() else None for one in looks]  # none: a model that does not say
        text = _replaced(ids, at, source.surfaces(sentence.text)[: len(sentence.ids) - 1], target)
    else:
        text = target.decode(ids)
    return Hypothesis(
        text=text,
        score=float(result.scores[row, beam]),
        tokens=length,
        finished=bool(result.finished[row]),
        details=_details(result, row, beam, ids, len(sentence.ids), key.attention, target) if key.tokens else (),
        ids=tuple(ids),
    )


def _details(
    result: SearchResult,
    row: int,
    beam: int,
    ids: Sequence[int],
    source_length: int,
    attention: bool,
    target: Tokenizer,
) -> tuple[Token, ...]:
    assert result.token_scores is not None  # a key with `tokens` is only made for graphs that have them
    assert result.attention is not None
    scores = result.token_scores[row, beam].tolist()
    looks = np.round(result.attention[row, beam, : len(ids), :source_length].astype(np.float64), 6).tolist()
    return tuple(
        Token(piece, scores[i], tuple(looks[i]) if attention else ()) for i, piece in enumerate(target.pieces(ids))
    )


def _replaced(ids: Sequence[int], looked_at: Sequence[int | None], surfaces: Sequence[str], target: Tokenizer) -> str:
    """The text, the unknown token replaced by the source token that it looked at; by nothing at the source's end."""
    pieces: list[str] = []
    for token, at, piece in zip(ids, looked_at, target.pieces(ids), strict=True):
        if token == EOS_ID:
            break
        if token != UNK_ID or at is None:
            pieces.append(piece)
        elif at < len(surfaces):  # a word's mark apart from what the target vocabulary does not know
            mark = surfaces[at].startswith(WORD_MARK)
            pieces += [*[WORD_MARK] * mark, surfaces[at][mark:]]
    return target.join(pieces)
