"""Decoding options: what a request may ask for, and what that means to a search in ids.

The search keeps the best 2 · beam_size continuations of a step, so a beam is also at most half the target vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, NamedTuple, Self

import numpy as np
from pydantic import Field

from t2tdeploy.errors import RequestError, UnknownNameError

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
        seed: of samples; the same seed and source give the same samples. None: others for every row of every search.
        patience: of early stopping: a sentence is decided once beam size * patience hypotheses, rounded, have ended
            (Kasai et al. 2022), and as many as are asked for. Those count that were among the beam-size best
            continuations of their step, as in fairseq, CTranslate2 and Transformers. Infinite: never early, but when
            nothing open can still become one of those asked for.
    """

    suppressed: tuple[int, ...] = ()
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    coverage_penalty: float = 0.0
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int | None = None
    patience: float = math.inf

    def enough(self, beam_size: int, num_hypotheses: int) -> float:
        """Hypotheses of a sentence that end its search; infinite without early stopping."""
        if math.isinf(self.patience):
            return math.inf
        return max(num_hypotheses, math.floor(beam_size * self.patience + 0.5))


NO_CONTROLS = SearchControls()
EARLY_STOPPING = SearchControls(patience=1.0)


@dataclass(frozen=True)
class TranslateOptions:
    """How to decode; None takes the bundle's default, or leaves the option out.

    Args:
        beam_size: hypotheses kept during the search, 1 to 16 and at most half the target vocabulary.
        alpha: length penalty ((5 + n) / 6)^alpha, 0 to 10.
        num_hypotheses: returned per source, 1 to beam_size; None: 1.
        extra_length: tokens that a translation may have more than its source, 1 to 1000.
        truncate: cut a source that is too long instead of refusing it.
        max_length: tokens that a translation may have at most, EOS included, whatever `extra_length` allows.
        max_ratio: the same, for every token of the source.
        min_length: tokens that a translation must have, EOS included.
        min_ratio: the same, for every token of the source.
        repetition_penalty: above 1 makes tokens that a translation has already less likely; see SearchControls.
        no_repeat_ngram_size: no sequence of so many tokens comes twice.
        coverage_penalty: for source tokens that were hardly looked at; see SearchControls.
        suppress: pieces of the target vocabulary that are never chosen, e.g. "\u2581Hund".
        suppress_unknown: nor is the unknown token.
        temperature: above 0 samples instead of searching: each hypothesis is a sample of its own.
        top_k: of samples: from the k likeliest tokens.
        top_p: of samples: from the likeliest tokens that have this probability together.
        seed: of samples; the same seed and source give the same samples. None: others each time, of equal
            sources of one call too.
        early_stopping: a sentence's search ends once beam_size of its hypotheses have, as in other systems; without,
            when nothing open can still become one of those asked for. Fewer steps, now and then a worse translation.
        patience: with early stopping, it ends once beam_size * patience have; None: 1. Turns early stopping on.
        alternatives: the hypotheses of a source all go on differently after its target prefix, and none ends there.
        return_tokens: hypotheses come with their tokens and the log-probability of each.
        return_attention: and with what of the source each token looked at.
        replace_unknown: the unknown token becomes the source token that it looked at most.
    """

    beam_size: int | None = None
    alpha: float | None = None
    num_hypotheses: int | None = None
    extra_length: int | None = None
    truncate: bool = False
    max_length: int | None = None
    max_ratio: float | None = None
    min_length: int | None = None
    min_ratio: float | None = None
    repetition_penalty: float | None = None
    no_repeat_ngram_size: int | None = None
    coverage_penalty: float | None = None
    suppress: tuple[str, ...] = ()
    suppress_unknown: bool = False
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    seed: int | None = None
    early_stopping: bool | None = None
    patience: float | None = None
    alternatives: bool = False
    return_tokens: bool = False
    return_attention: bool = False
    replace_unknown: bool = False

    def with_changes(self, changes: dict[str, Any]) -> Self:
        """These options with some others, by name.

        Raises:
            UnknownNameError: there is no such option.
        """
        known = {field.name: getattr(self, field.name) for field in fields(self)}
        for name in changes:
            if name not in known:
                raise UnknownNameError("option", name, known)
        return type(self)(**{**known, **changes})


BUNDLE_DEFAULTS = TranslateOptions()

RANGES: dict[str, tuple[float, float]] = {
    "max_length": (1, 100_000),
    "max_ratio": (0.01, 100),
    "min_length": (0, 100_000),
    "min_ratio": (0, 100),
    "repetition_penalty": (0.01, 100),
    "no_repeat_ngram_size": (0, 100),
    "coverage_penalty": (0, 10),
    "temperature": (0, 100),  # and 0 or at least MIN_TEMPERATURE
    "top_k": (0, 1_000_000),
    "top_p": (0.0001, 1),
    "seed": (0, 2**63 - 1),
    "patience": (0.01, 100),
}
"""Smallest and largest value of those options whose range does not depend on the bundle."""


def patience_of(options: TranslateOptions, *, default: bool) -> float:
    """What a search is asked: a patience, infinite without early stopping.

    Args:
        default: whether a search stops early if the options say nothing of it.

    Raises:
        RequestError: a patience out of range, or one without early stopping.
    """
    if options.patience is None:
        early = default if options.early_stopping is None else options.early_stopping
        return EARLY_STOPPING.patience if early else NO_CONTROLS.patience
    require_range("patience", options.patience, *RANGES["patience"])
    if options.early_stopping is False:
        raise RequestError(
            "options.patience", f"{options.patience:g} without early stopping", help="leave one of them out"
        )
    return options.patience


MIN_TEMPERATURE = 0.001
MAX_SUPPRESSED = 1000
"""Pieces of one request."""


class LengthLimits(NamedTuple):
    """How many tokens a target may and must have, EOS included; where both cannot be, what it may have holds."""

    extra_length: int
    max_length: int | None = None
    max_ratio: float | None = None
    min_length: int = 0
    min_ratio: float = 0.0

    def of(self, source_length: int, prefix_length: int = 0) -> tuple[int, int]:
        """(least, most) for a source; a prefix always has room, and a token after it."""
        most = source_length + self.extra_length
        if self.max_ratio is not None:
            most = min(most, math.floor(round(self.max_ratio * source_length, 6)))
        if self.max_length is not None:
            most = min(most, self.max_length)
        most = max(1, most, prefix_length + 1 if prefix_length else 1)
        least = max(self.min_length, math.ceil(round(self.min_ratio * source_length, 6)))
        return min(least, most), most


class SearchKey(NamedTuple):
    """Options that hold for a whole batch: only sentences with equal keys can share one."""

    beam_size: int
    alpha: float
    num_hypotheses: int
    lengths: LengthLimits
    controls: SearchControls = NO_CONTROLS
    alternatives: bool = False
    tokens: bool = False
    attention: bool = False
    replace_unknown: bool = False

    def cost(self, source_length: int, prefix_length: int = 0) -> int:
        """What a sentence makes the search remember, in tokens: its source and its longest possible translation, once
        per beam. All rows of a batch cost as much as the dearest."""
        return self.beam_size * (source_length + self.lengths.of(source_length, prefix_length)[1])


WHOLE = frozenset(
    {
        *("beam_size", "num_hypotheses", "extra_length", "max_length", "min_length"),
        *("no_repeat_ngram_size", "top_k", "seed"),
    }
)
"""Options that are whole numbers."""


FLAGS = frozenset(field.name for field in fields(TranslateOptions) if str(field.type).startswith("bool"))
"""Options that are on or off."""


def plain_options(options: TranslateOptions) -> TranslateOptions:
    """`options` with NumPy's scalars as Python's own, and without those that are None.

    Raises:
        RequestError: naming an option that is of another kind.
    """
    if not isinstance(options, TranslateOptions):
        raise RequestError(
            "options", f"{options!r:.80} is no TranslateOptions", help="give options by name: beam_size=2"
        )
    given = {name: value for name, value in vars(options).items() if value is not getattr(BUNDLE_DEFAULTS, name)}
    return replace(options, **{name: _plain(name, value) for name, value in given.items()}) if given else options


def _plain(name: str, value: Any) -> Any:
    if value is None:
        return getattr(BUNDLE_DEFAULTS, name)
    if name == "suppress":
        pieces = require_list("options.suppress", value)
        for piece in pieces:
            if not isinstance(piece, str):
                raise RequestError("options.suppress", f"{piece!r:.80} is no text")
        return tuple(pieces)
    value = value.item() if isinstance(value, np.generic) else value
    if name not in FLAGS:
        _require_number(name, value)
    elif not isinstance(value, bool):
        raise RequestError(f"options.{name}", f"{value!r:.80} is neither True nor False")
    return value


def require_list(field: str, texts: Iterable[Any]) -> list[Any]:
    """`texts` as a list.

    Raises:
        RequestError: `texts` is one string, of which each character would count as a text, or nothing with items.
    """
    if isinstance(texts, str | bytes):
        raise RequestError(field, "one string, where a list of strings is expected", help="put it into a list")
    try:
        return list(texts)
    except TypeError:
        raise RequestError(field, f"{texts!r:.80}, where a list of strings is expected") from None


def _require_number(name: str, value: Any) -> None:
    kinds = (int,) if name in WHOLE else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds):
        raise RequestError(f"options.{name}", f"{value!r:.80} is not a {'whole ' if name in WHOLE else ''}number")


def require_range(name: str, value: Any, low: float, high: float, why: str = "") -> None:
    """
    Raises:
        RequestError: naming the option; `value` is not in its range, or no number of its kind.
    """
    _require_number(name, value)
    if not low <= value <= high:  # also refuses NaN
        raise RequestError(f"options.{name}", f"{value} is not between {low:g} and {high:g}{why}")
