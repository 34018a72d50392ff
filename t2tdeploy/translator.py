"""Text in, text out, from a bundle on this machine. The server runs the same code, so both answer the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from t2tdeploy.bundle import Bundle
from t2tdeploy.errors import RequestError
from t2tdeploy.features import EOS_ID, PAD_ID
from t2tdeploy.runtime import Interrupt, SearchSession
from t2tdeploy.tokenizer import encode_with_eos

MAX_BEAM_SIZE = 16
MAX_ALPHA = 10.0
MAX_EXTRA_LENGTH = 1000


@dataclass(frozen=True)
class TranslateOptions:
    """How to decode; None takes the bundle's default.

    Args:
        beam_size: hypotheses kept during the search, 1 to 16.
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


@dataclass(frozen=True)
class Sentence:
    """A source as the graph takes it.

    Args:
        ids: EOS included; EOS alone if the source is blank.
        max_length: tokens of the longest translation. It follows from the sentence alone, so that the result does not
            depend on the batch.
        truncated: whether the source was cut.
    """

    ids: list[int]
    max_length: int
    truncated: bool = False

    @property
    def blank(self) -> bool:
        """Nothing to translate: the answer is BLANK, without a search."""
        return self.ids == [EOS_ID]


BLANK = [Hypothesis(text="", score=0.0, tokens=1, finished=True)]
"""The translation of an empty or blank source: one empty text, whatever num_hypotheses says. So a file with empty lines
keeps its lines, and no model is asked about nothing."""


class Translator:
    """Translates with one bundle.

    Args:
        variant: of the bundle; None: its default.
        threads: that one search uses; None: all CPUs this process may use.
        max_batch_size: sentences of one batch in `translate`.
        max_batch_tokens: source tokens of one batch in `translate`, padding included.

    Raises:
        CorruptFileError: the graph or a vocabulary cannot be loaded.
        OperationalError: onnxruntime is not installed.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        variant: str | None = None,
        threads: int | None = None,
        max_batch_size: int = 64,
        max_batch_tokens: int = 4096,
    ) -> None:
        self.bundle = bundle
        self.defaults = bundle.manifest.decode
        self.session = SearchSession(bundle, variant=variant, threads=threads)
        self._source = bundle.tokenizer("inputs")
        self._target = bundle.tokenizer("targets")
        self._max_batch_size, self._max_batch_tokens = max_batch_size, max_batch_tokens

    def translate(self, sources: Sequence[str], options: TranslateOptions = BUNDLE_DEFAULTS) -> list[list[Hypothesis]]:
        """The hypotheses of every source, best first, in the order of the sources.

        A blank source has one hypothesis, the empty text.

        Raises:
            RequestError: an option is out of range, or a source is too long and `truncate` is not set.
        """
        key = self.search_key(options)
        sentences = self.encode(sources, options)
        found: list[list[Hypothesis]] = [BLANK] * len(sentences)
        for indices in self._batches(sentences):
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
        _require_range("beam_size", beam_size, 1, MAX_BEAM_SIZE)
        _require_range("alpha", alpha, 0, MAX_ALPHA)
        _require_range("num_hypotheses", num_hypotheses, 1, MAX_BEAM_SIZE)
        if num_hypotheses > beam_size:
            raise RequestError(
                "options.num_hypotheses",
                f"{num_hypotheses} is more than beam_size = {beam_size}",
                help="raise beam_size",
            )
        return SearchKey(beam_size, float(alpha), num_hypotheses)

    def encode(self, sources: Sequence[str], options: TranslateOptions = BUNDLE_DEFAULTS) -> list[Sentence]:
        """Sources as the graph takes them, in order.

        Raises:
            RequestError: naming the first source that is too long or no Unicode text, or extra_length.
        """
        extra_length = self.defaults.extra_length if options.extra_length is None else options.extra_length
        _require_range("extra_length", extra_length, 1, MAX_EXTRA_LENGTH)
        return [
            self._encode(f"sources[{index}]", source, extra_length, options.truncate)
            for index, source in enumerate(sources)
        ]

    def search(
        self, sentences: Sequence[Sentence], key: SearchKey, *, interrupt: Interrupt | None = None
    ) -> list[list[Hypothesis]]:
        """Translates `sentences` as one batch; none of them may be blank.

        Raises:
            SearchStoppedError: the interrupt was used.
            OperationalError: onnxruntime failed.
        """
        lengths = [len(sentence.ids) for sentence in sentences]
        source_ids = np.full((len(sentences), max(lengths)), PAD_ID, dtype=np.int64)
        for row, sentence in zip(source_ids, sentences, strict=True):
            row[: len(sentence.ids)] = sentence.ids
        max_length = np.array([sentence.max_length for sentence in sentences], dtype=np.int64)
        result = self.session.search(source_ids, max_length, **key._asdict(), interrupt=interrupt)
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
            for row in range(len(sentences))
        ]

    def _encode(self, field: str, source: str, extra_length: int, truncate: bool) -> Sentence:
        try:
            source.encode("utf-8")
        except UnicodeEncodeError as error:
            raise RequestError(field, f"not Unicode text: lone surrogate at character {error.start}") from None
        ids = encode_with_eos(self._source, source) if source.strip() else [EOS_ID]
        limit = self.defaults.max_source_length
        truncated = len(ids) > limit
        if truncated and not truncate:
            raise RequestError(
                field, f"{len(ids)} tokens, the model takes {limit}", help="split the text, or ask for truncate"
            )
        if truncated:
            ids = [*ids[: limit - 1], EOS_ID]
        return Sentence(ids, max_length=len(ids) + extra_length, truncated=truncated)

    def _batches(self, sentences: Sequence[Sentence]) -> Iterator[list[int]]:
        """Indices of the sentences that are not blank, longest first, in batches within the limits."""
        order = [index for index, sentence in enumerate(sentences) if not sentence.blank]
        order.sort(key=lambda index: -len(sentences[index].ids))
        while order:
            rows = max(1, min(self._max_batch_size, self._max_batch_tokens // len(sentences[order[0]].ids)))
            yield order[:rows]
            order = order[rows:]


def _require_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:  # also refuses NaN
        raise RequestError(f"options.{name}", f"{value} is not between {low} and {high:g}")
