"""Text in, text out, from a bundle on this machine. The server runs the same code, so both answer the same."""

from __future__ import annotations

import copy
import logging
import math
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np

from t2tdeploy.bundle import MANIFEST, Bundle
from t2tdeploy.decoding import (
    BUNDLE_DEFAULTS,
    MAX_BEAM_SIZE,
    MAX_EXTRA_LENGTH,
    NO_CONTROLS,
    LengthLimits,
    SearchKey,
    TranslateOptions,
    plain_options,
    require_list,
)
from t2tdeploy.errors import CorruptFileError, NotNumbersError, OperationalError, RequestError
from t2tdeploy.features import EOS_ID, PAD_ID, UNK_ID
from t2tdeploy.hypotheses import BLANK, NOTHING_ALLOWED, Hypothesis, TargetScore, Token, hypotheses_of
from t2tdeploy.runtime import SPIN_US, Interrupt, SearchResult
from t2tdeploy.search_keys import SearchKeys
from t2tdeploy.search_session import SearchSession
from t2tdeploy.sentences import CUT_HELP, Sentence, Source, encode_source, encode_sources, pad_rows
from t2tdeploy.tokenizer import encode_with_eos

__all__ = [
    "BLANK",
    "BUNDLE_DEFAULTS",
    "Hypothesis",
    "SearchKey",
    "TargetScore",
    "Token",
    "TranslateOptions",
    "Translator",
]


logger = logging.getLogger("t2tdeploy")

MANY_BATCHES = 4
"""From so many on, a second session is worth its loading."""
_AHEAD = 4  # batches that run or wait while the first of them is waited for


class Translator:
    """Translates with one bundle.

    Args:
        variant: of the bundle; None: its default.
        threads: that one search uses; None: all CPUs this process may use.
        spin_us: microseconds that a thread without work stays awake, see `runtime.session_options`.
        max_batch_size: sentences of one batch in `translate`.
        max_batch_tokens: what one batch in `translate` may make the search remember, see `SearchKey.cost`.
        max_beam_size, max_extra_length: the most that options may ask for; never less than the bundle's defaults.

    Raises:
        InputError: the bundle does not translate.
        CorruptFileError: the graph or a vocabulary cannot be loaded, or does not suit the bundle's own options.
        UnreadableError: one of them cannot be read.
        OperationalError: onnxruntime is not installed.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        variant: str | None = None,
        threads: int | None = None,
        spin_us: int = SPIN_US,
        max_batch_size: int = 64,
        max_batch_tokens: int = 32_768,
        max_beam_size: int = MAX_BEAM_SIZE,
        max_extra_length: int = MAX_EXTRA_LENGTH,
    ) -> None:
        self.bundle = bundle
        bundled = bundle.decode
        self.session = SearchSession(bundle, variant=variant, threads=threads, spin_us=spin_us)
        self.defaults = self.session.fixed or bundled
        self._source = bundle.tokenizer("inputs")
        self._target = bundle.tokenizer("targets")
        self._max_batch_size, self._max_batch_tokens = max_batch_size, max_batch_tokens
        if self.defaults.beam_size > self._target.vocab_size // 2:
            raise CorruptFileError(
                bundle.directory / MANIFEST,
                f"decode.beam_size = {self.defaults.beam_size} is more than half of the target vocabulary of "
                f"{self._target.vocab_size}",
                help="export the bundle again with a smaller beam_size",
            )
        self._keys = SearchKeys(
            self.session,
            self._target,
            self.defaults,
            max_beam_size=max_beam_size,
            max_extra_length=max_extra_length,
        )
        self.max_beam_size, self.max_extra_length = self._keys.max_beam_size, self._keys.max_extra_length
        self._forget_beside()

    def with_threads(self, threads: int) -> Translator:
        """The same with a session of its own, whose searches use so many threads. Each session holds the weights.

        Raises:
            CorruptFileError: the bundle's graph is gone, or another one is in its place.
            UnreadableError: it cannot be read.
        """
        other = copy.copy(self)
        other.session = self.session.with_threads(threads)
        other._forget_beside()
        return other

    def _forget_beside(self) -> None:
        self._opening = threading.Lock()
        self._beside: Translator | None = None
        self._may_open = True

    def warm_up(self) -> None:
        """Runs the graph once."""
        self.search([Sentence([UNK_ID] * 7 + [EOS_ID])], self.search_key(TranslateOptions(extra_length=1)))

    def translate(
        self,
        sources: Sequence[str],
        options: TranslateOptions = BUNDLE_DEFAULTS,
        *,
        target_prefixes: Sequence[str] | None = None,
        **changes: Any,
    ) -> list[list[Hypothesis]]:
        """The hypotheses of every source, best first, in the order of the sources.

        A blank source has one hypothesis, the empty text.

        Args:
            target_prefixes: what the translation of each source starts with; "" for nothing.
            changes: options by name, over those of `options`: translate(sources, beam_size=2).

        Raises:
            RequestError: an option is out of range, or a source is too long and `truncate` is not set.
            UnknownNameError: there is no such option.
            NotNumbersError: the model's scores are NaN.
        """
        sources = require_list("sources", sources)
        options = plain_options(options).with_changes(changes)
        key = self.search_key(options)
        sentences = self.encode(sources, truncate=options.truncate, target_prefixes=target_prefixes)
        if key.replace_unknown and not all(isinstance(source, str) for source in sources):
            raise RequestError("options.replace_unknown", "ids have no text to take it from", help="give texts")
        found: list[list[Hypothesis]] = [[]] * len(sentences)
        for indices, hypotheses in self.search_batches(sentences, key):
            for index, answer in zip(indices, hypotheses, strict=True):
                found[index] = answer
        return found

    def score(self, sources: Sequence[str], targets: Sequence[str]) -> list[TargetScore]:
        """How likely the model finds each target as the translation of its source.

        Raises:
            RequestError: the counts differ, or a text is too long or no Unicode text.
            NotNumbersError: the model's scores are NaN.
        """
        sources, targets = require_list("sources", sources), require_list("targets", targets)
        if len(sources) != len(targets):
            raise RequestError("targets", f"{len(targets)} for {len(sources)} sources")
        self._keys.require_graph("scores", "prefix")
        sentences = self.encode(sources, help="split the pair")
        longest = self.defaults.max_source_length + self.max_extra_length
        wanted = [
            encode_source(self._target, target, field=f"targets[{index}]", max_length=longest, help="split the pair")
            for index, target in enumerate(targets)
        ]
        sentences = [replace(one, prefix=tuple(target.ids)) for one, target in zip(sentences, wanted, strict=True)]
        key = SearchKey(1, 0.0, 1, LengthLimits(extra_length=1), tokens=True)
        found: list[TargetScore] = [TargetScore(0.0, ())] * len(sentences)
        for indices in self.batches(sentences, key):
            batch = [sentences[index] for index in indices]
            result = self._run(batch, key, [len(one.prefix) for one in batch])
            for row, index in enumerate(indices):
                best = hypotheses_of(result, row, batch[row], key, self._source, self._target)[0]
                found[index] = TargetScore(float(best.score) if best.tokens else -math.inf, best.details)
        return found

    def search_key(self, options: TranslateOptions) -> SearchKey:
        """`options` with the defaults filled in, checked.

        Raises:
            RequestError: naming the option that is out of range, or that the graph does not have, or has fixed.
        """
        return self._keys.of(options)

    def encode(
        self,
        sources: Sequence[Source],
        *,
        truncate: bool = False,
        target_prefixes: Sequence[str] | None = None,
        help: str = CUT_HELP,
    ) -> list[Sentence]:
        """Sources, texts or ids with EOS at the end, as the search takes them, in order.

        Args:
            help: what an error advises where a source is too long.

        Raises:
            RequestError: naming the first source or prefix that is too long or no Unicode text.
        """
        limit, sources = self.defaults.max_source_length, require_list("sources", sources)
        prefixes = [] if target_prefixes is None else require_list("target_prefixes", target_prefixes)
        sentences = encode_sources(self._source, sources, max_length=limit, truncate=truncate, help=help)
        if not prefixes:
            return sentences
        if len(prefixes) != len(sources):
            raise RequestError("target_prefixes", f"{len(prefixes)} for {len(sources)} sources")
        self._keys.require_graph("target_prefixes", "prefix")
        encoded = [
            encode_source(
                self._target, prefix, field=f"target_prefixes[{index}]", max_length=limit, help="shorten the prefix"
            )
            for index, prefix in enumerate(prefixes)
        ]
        return [
            replace(sentence, prefix=tuple(prefix.ids[:-1]))
            for sentence, prefix in zip(sentences, encoded, strict=True)
        ]

    def count_source_tokens(self, text: str) -> int:
        """Tokens of a source as the search takes it, EOS included."""
        return len(encode_with_eos(self._source, text))

    def source_pieces(self, sentence: Sentence) -> list[str]:
        """The piece of every token of a source, which a token's attention refers to."""
        return self._source.pieces(sentence.ids)

    def search(
        self, sentences: Sequence[Sentence], key: SearchKey, *, interrupt: Interrupt | None = None
    ) -> list[list[Hypothesis]]:
        """Translates `sentences` as one batch; a blank one becomes BLANK without a search.

        The length limits of a translation follow from its own source, so that it does not depend on the batch.

        Raises:
            SearchStoppedError: the interrupt was used.
            NotNumbersError: the model's scores are NaN.
            OperationalError: onnxruntime failed.
        """
        rows = [sentence for sentence in sentences if not sentence.blank]
        found = iter(self._search(rows, key, interrupt) if rows else [])
        return [[*BLANK] if sentence.blank else next(found) for sentence in sentences]

    def search_batches(
        self, sentences: Sequence[Sentence], key: SearchKey
    ) -> Iterator[tuple[list[int], list[list[Hypothesis]]]]:
        """Translates `sentences` in batches within the limits: the indices of each batch, and what `search` finds.

        Of many batches two run at once, on a share of the threads each: they do more than one on all of them, as the
        threads of a search wait for each other at the end of each of its operators.

        Raises:
            OperationalError: onnxruntime failed.
        """
        batches = list(self.batches(sentences, key))
        rows = [[sentences[index] for index in indices] for indices in batches]
        beside = self._opened_beside() if len(batches) >= MANY_BATCHES and self.session.shares_threads else None
        if beside is None:
            yield from zip(batches, (self.search(batch, key) for batch in rows), strict=True)
            return
        pool, running = ThreadPoolExecutor(2, thread_name_prefix="t2tdeploy-search"), deque[Any]()
        try:
            for indices, batch in zip(batches, rows, strict=True):
                running.append((indices, pool.submit(beside.search, batch, key)))
                if len(running) == _AHEAD:
                    first, found = running.popleft()
                    yield first, found.result()
            for first, found in running:
                yield first, found.result()
        finally:  # also when nobody wants the rest
            pool.shutdown(cancel_futures=True)

    def _opened_beside(self) -> Translator | None:
        """What two searches at once run in; None if it cannot be opened: the bundle may be gone, or be another one."""
        with self._opening:
            if self._may_open:
                self._may_open = False
                # Two runs of a session share its threads, and each brings one of its own.
                try:
                    self._beside = self.with_threads(self.session.threads - 1)
                except OperationalError as error:
                    logger.warning("translating one batch at a time, not two at once: %s", error.message)
            return self._beside

    def _search(
        self, sentences: Sequence[Sentence], key: SearchKey, interrupt: Interrupt | None
    ) -> list[list[Hypothesis]]:
        if key.alternatives:
            return self._alternatives(sentences, key, interrupt)
        return self._hypotheses(sentences, key, interrupt)

    def _hypotheses(
        self, sentences: Sequence[Sentence], key: SearchKey, interrupt: Interrupt | None, chosen: int = 0
    ) -> list[list[Hypothesis]]:
        """
        Args:
            chosen: how many tokens at the end of each prefix count as the search's own.
        """
        limits = [key.lengths.of(len(one.ids), len(one.prefix) - chosen) for one in sentences]
        shortest = [least for least, _ in limits] if key.lengths.min_length or key.lengths.min_ratio else None
        longest = [most for _, most in limits]
        result = self._run(sentences, key, longest, shortest=shortest, interrupt=interrupt)
        return [
            hypotheses_of(result, row, sentence, key, self._source, self._target)
            for row, sentence in enumerate(sentences)
        ]

    def _alternatives(
        self, sentences: Sequence[Sentence], key: SearchKey, interrupt: Interrupt | None
    ) -> list[list[Hypothesis]]:
        """The likeliest tokens after the prefixes, then for each the best translation that goes on with it."""
        count, lengths = key.num_hypotheses, [len(one.prefix) + 1 for one in sentences]
        free = key.controls  # PAD in a prefix would leave the place free
        first = key._replace(controls=replace(free, suppressed=tuple(sorted({*free.suppressed, PAD_ID}))))
        result = self._run(sentences, first, lengths, shortest=[length + 1 for length in lengths], interrupt=interrupt)
        branches, owners = [], []
        for row, sentence in enumerate(sentences):
            for beam in range(count):
                if result.lengths[row, beam]:
                    token = int(result.target_ids[row, beam, lengths[row] - 1])
                    branches.append(replace(sentence, prefix=(*sentence.prefix, token)))
                    owners.append(row)
        then = key._replace(num_hypotheses=1, alternatives=False)
        found: list[list[Hypothesis]] = []
        for start in range(0, len(branches), len(sentences)):  # as many at a time as the batch was made for
            found += self._hypotheses(branches[start : start + len(sentences)], then, interrupt, chosen=1)
        answers: list[list[Hypothesis]] = [[] for _ in sentences]
        for row, hypotheses in zip(owners, found, strict=True):
            answers[row] += [one for one in hypotheses if one.tokens]  # of others nothing may follow
        ranked = [sorted(each, key=lambda one: (not one.finished, -one.score)) for each in answers]
        return [each or [*NOTHING_ALLOWED] for each in ranked]

    def _run(
        self,
        sentences: Sequence[Sentence],
        key: SearchKey,
        longest: Sequence[int],
        *,
        shortest: Sequence[int] | None = None,
        interrupt: Interrupt | None = None,
    ) -> SearchResult:
        prefixes = [list(one.prefix) for one in sentences]
        ids, limits = pad_rows([one.ids for one in sentences]), np.array(longest, dtype=np.int64)
        asked: dict[str, Any] = {"beam_size": key.beam_size, "alpha": key.alpha, "num_hypotheses": key.num_hypotheses}
        result = self.session.search(
            ids,
            limits,
            **asked,
            controls=key.controls,
            min_length=None if shortest is None else np.array(shortest, dtype=np.int64),
            prefix=pad_rows(prefixes) if any(prefixes) else None,
            interrupt=interrupt,
        )
        if (empty := ~result.lengths.any(axis=1)).any():  # because of the options, or of the model?
            free = replace(NO_CONTROLS, patience=key.controls.patience)
            again = self.session.search(ids[empty], limits[empty], **asked, controls=free, interrupt=interrupt)
            if not again.lengths.any(axis=1).all():
                raise NotNumbersError
        return result

    def batches(self, sentences: Sequence[Sentence], key: SearchKey) -> Iterator[list[int]]:
        """Indices of the sentences, dearest first, in batches for `search` within the limits."""
        costs = [key.cost(len(one.ids), len(one.prefix)) for one in sentences]
        order = sorted(range(len(sentences)), key=lambda index: -costs[index])
        while order:
            cost = costs[order[0]]
            rows = max(1, min(self._max_batch_size, self._max_batch_tokens // cost))
            yield order[:rows]
            order = order[rows:]
