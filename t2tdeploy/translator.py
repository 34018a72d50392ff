"""Text in, text out, from a bundle on this machine. The server runs the same code, so both answer the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from t2tdeploy.bundle import MANIFEST, Bundle
from t2tdeploy.decoding import MAX_ALPHA, MAX_BEAM_SIZE, MAX_EXTRA_LENGTH
from t2tdeploy.errors import CorruptFileError, RequestError
from t2tdeploy.runtime import Interrupt, SearchSession
from t2tdeploy.sentences import Sentence, encode_source, pad_rows


@dataclass(frozen=True)
class TranslateOptions:
    """How to decode; None takes the bundle's default.

    Args:
        beam_size: hypotheses kept during the search, 1 to 16 and at most half the target vocabulary.
        alpha: length penalty ((5 + n) / 6)^alpha, 0 to 10.
        num_hypotheses: returned per source, 1 to beam_size; None: 1.
        extra_length: tokens that a translation may have more than its source, 1 to 1000.
        truncate: cut a source that is too long instead of refusing it.
    """

    beam_size: int | None = None
    alpha: float | None = None
    num_hypotheses: int | None = None
    extra_length: int | None = None
    truncate: bool = False


BUNDLE_DEFAULTS = TranslateOptions()


@dataclass(frozen=True)
class Hypothesis:
    """One translation.

    Args:
        score: log-probability over the length penalty; the raw log-probability if not finished.
        tokens: how many, EOS included.
        finished: False: nothing ended within the length limit; the text is cut off.
    """

    text: str
    score: float
    tokens: int
    finished: bool


class SearchKey(NamedTuple):
    """Options that hold for a whole batch: only sentences with equal keys can share one."""

    beam_size: int
    alpha: float
    num_hypotheses: int
    extra_length: int

    def cost(self, source_length: int) -> int:
        """What a sentence of `source_length` tokens makes the search remember, in tokens: its source and its longest
        possible translation, once per beam. All rows of a batch cost as much as its longest."""
        return self.beam_size * (2 * source_length + self.extra_length)


BLANK = [Hypothesis(text="", score=0.0, tokens=1, finished=True)]
"""The translation of an empty or blank source: one empty text, whatever num_hypotheses says."""


class Translator:
    """Translates with one bundle.

    Args:
        variant: of the bundle; None: its default.
        threads: that one search uses; None: all CPUs this process may use.
        max_batch_size: sentences of one batch in `translate`.
        max_batch_tokens: what one batch in `translate` may make the search remember, see `SearchKey.cost`.
        max_beam_size, max_extra_length: the most that options may ask for; never less than the bundle's defaults.

    Raises:
        CorruptFileError: the graph or a vocabulary cannot be loaded, or does not suit the bundle's own options.
        OperationalError: onnxruntime is not installed.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        variant: str | None = None,
        threads: int | None = None,
        max_batch_size: int = 64,
        max_batch_tokens: int = 32_768,
        max_beam_size: int = MAX_BEAM_SIZE,
        max_extra_length: int = MAX_EXTRA_LENGTH,
    ) -> None:
        self.bundle = bundle
        self.defaults = bundle.manifest.decode
        self.session = SearchSession(bundle, variant=variant, threads=threads)
        self._source = bundle.tokenizer("inputs")
        self._target = bundle.tokenizer("targets")
        self._max_batch_size, self._max_batch_tokens = max_batch_size, max_batch_tokens
        self._widest_beam = self._target.vocab_size // 2
        if self.defaults.beam_size > self._widest_beam:
            raise CorruptFileError(
                bundle.directory / MANIFEST,
                f"decode.beam_size = {self.defaults.beam_size} is more than half of the target vocabulary of "
                f"{self._target.vocab_size}",
                help="export the bundle again with a smaller beam_size",
            )
        self.max_beam_size = min(max(max_beam_size, self.defaults.beam_size), self._widest_beam)
        self.max_extra_length = max(max_extra_length, self.defaults.extra_length)

    def translate(self, sources: Sequence[str], options: TranslateOptions = BUNDLE_DEFAULTS) -> list[list[Hypothesis]]:
        """The hypotheses of every source, best first, in the order of the sources.

        A blank source has one hypothesis, the empty text.

        Raises:
            RequestError: an option is out of range, or a source is too long and `truncate` is not set.
        """
        if isinstance(sources, str):
            raise RequestError("sources", "one string, where a list of strings is expected", help="put it into a list")
        key = self.search_key(options)
        sentences = self.encode(sources, truncate=options.truncate)
        found: list[list[Hypothesis]] = [[]] * len(sentences)
        for indices in self._batches(sentences, key):
            hypotheses = self.search([sentences[index] for index in indices], key)
            for index, answer in zip(indices, hypotheses, strict=True):
                found[index] = answer
        return found

    def search_key(self, options: TranslateOptions) -> SearchKey:
        """`options` with the defaults filled in, checked.

        Raises:
            RequestError: naming the option that is out of range.
        """
        defaults = self.defaults
        beam_size = defaults.beam_size if options.beam_size is None else options.beam_size
        alpha = defaults.alpha if options.alpha is None else options.alpha
        num_hypotheses = 1 if options.num_hypotheses is None else options.num_hypotheses
        extra_length = defaults.extra_length if options.extra_length is None else options.extra_length
        why = f": half of the target vocabulary of {self._target.vocab_size}"
        _require_range(
            "beam_size", beam_size, 1, self.max_beam_size, why if self.max_beam_size == self._widest_beam else ""
        )
        _require_range("alpha", alpha, 0, MAX_ALPHA)
        _require_range("num_hypotheses", num_hypotheses, 1, self.max_beam_size)
        _require_range("extra_length", extra_length, 1, self.max_extra_length)
        if num_hypotheses > beam_size:
            raise RequestError(
                "options.num_hypotheses",
                f"{num_hypotheses} is more than beam_size = {beam_size}",
                help="raise beam_size",
            )
        return SearchKey(beam_size, float(alpha), num_hypotheses, extra_length)

    def encode(self, sources: Sequence[str], *, truncate: bool = False) -> list[Sentence]:
        """Sources as the search takes them, in order.

        Raises:
            RequestError: naming the first source that is too long or no Unicode text.
        """
        limit = self.defaults.max_source_length
        return [
            encode_source(self._source, source, field=f"sources[{index}]", max_length=limit, truncate=truncate)
            for index, source in enumerate(sources)
        ]

    def search(
        self, sentences: Sequence[Sentence], key: SearchKey, *, interrupt: Interrupt | None = None
    ) -> list[list[Hypothesis]]:
        """Translates `sentences` as one batch; a blank one becomes BLANK without a search.

        The length limit of a translation follows from its own source, so that it does not depend on the batch.

        Raises:
            SearchStoppedError: the interrupt was used.
            OperationalError: onnxruntime failed.
        """
        rows = [sentence.ids for sentence in sentences if not sentence.blank]
        found = iter(self._search(rows, key, interrupt) if rows else [])
        return [BLANK if sentence.blank else next(found) for sentence in sentences]

    def _search(self, rows: list[list[int]], key: SearchKey, interrupt: Interrupt | None) -> list[list[Hypothesis]]:
        result = self.session.search(
            pad_rows(rows),
            np.array([len(ids) + key.extra_length for ids in rows], dtype=np.int64),
            beam_size=key.beam_size,
            alpha=key.alpha,
            num_hypotheses=key.num_hypotheses,
            interrupt=interrupt,
        )
        return [
            [
                Hypothesis(
                    text=self._target.decode(result.target_ids[row, beam, : result.lengths[row, beam]].tolist()),
                    score=float(result.scores[row, beam]),
                    tokens=int(result.lengths[row, beam]),
                    finished=bool(result.finished[row]),
                )
                for beam in range(key.num_hypotheses)
                if result.lengths[row, beam] > 0  # fewer may have finished than were asked for
            ]
            for row in range(len(rows))
        ]

    def _batches(self, sentences: Sequence[Sentence], key: SearchKey) -> Iterator[list[int]]:
        """Indices of the sentences, longest first, in batches within the limits."""
        order = sorted(range(len(sentences)), key=lambda index: -len(sentences[index].ids))
        while order:
            cost = key.cost(len(sentences[order[0]].ids))
            rows = max(1, min(self._max_batch_size, self._max_batch_tokens // cost))
            yield order[:rows]
            order = order[rows:]


def _require_range(name: str, value: float, low: float, high: float, why: str = "") -> None:
    if not low <= value <= high:  # also refuses NaN
        raise RequestError(f"options.{name}", f"{value} is not between {low} and {high:g}{why}")
