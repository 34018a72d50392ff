"""What every protocol's service does with a request: admission, tokenizing, queue, answer.

A service turns its message into a `TranslateCall` and the `Translated` into its answer, or a `ClassifyCall` and the
`Classified`, both within `accepting`; what is raised here becomes a status by `status.status_of`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from t2tdeploy.classifier import Classification, Classifier, Example, RawExample
from t2tdeploy.decoding import BUNDLE_DEFAULTS, SearchKey, TranslateOptions
from t2tdeploy.errors import RequestError, TooLargeError
from t2tdeploy.hypotheses import Hypothesis
from t2tdeploy.sentences import Sentence, Source
from t2tdeploy.serving.batcher import MAX_PRIORITY, MIN_PRIORITY
from t2tdeploy.serving.call_record import current_record
from t2tdeploy.serving.options import ServerOptions
from t2tdeploy.serving.preparation import Preparation
from t2tdeploy.serving.repository import ModelRepository
from t2tdeploy.serving.scheduler import Answer, UnavailableError
from t2tdeploy.serving.served_model import ServedModel
from t2tdeploy.serving.work import Asked
from t2tdeploy.translator import Translator

MAX_DETAILS = 4_000_000
"""Log-probabilities and attention weights of one answer."""
SHORT_CHARACTERS = 1000
"""Text that is tokenized in some tenths of a millisecond."""


@dataclass(frozen=True)
class TranslateCall:
    """A request to translate, whatever protocol it came by.

    Args:
        sources: all texts, or all ids with EOS at the end, perhaps padded.
        target_prefixes: one for each source, or none.
        model: name or alias; empty: the only model.
        version: number or content id; empty: the newest.
        deadline: on the clock of the event loop; None: there is none.
        priority: MIN_PRIORITY to MAX_PRIORITY; higher goes first, see the batcher.
    """

    sources: Sequence[Source]
    options: TranslateOptions = BUNDLE_DEFAULTS
    target_prefixes: Sequence[str] = ()
    model: str = ""
    version: str = ""
    deadline: float | None = None
    priority: int = 0


@dataclass(frozen=True)
class Translated:
    """An answer, with the model that gave it and the sentences as it saw them."""

    model: ServedModel
    sentences: list[Sentence]
    key: SearchKey
    answer: Answer[list[Hypothesis]]


@dataclass(frozen=True)
class ClassifyCall:
    """A request to classify, or regress, whatever protocol it came by.

    Args:
        examples: see `examples.RawExample`.
        top_k: classes of each answer.
        truncate: whether texts that are too long are cut.
        model, version, deadline, priority: as of `TranslateCall`.
        size: bytes of the request, by which is judged whether a thread should read the examples.
    """

    examples: Sequence[RawExample]
    top_k: int = 1
    truncate: bool = False
    model: str = ""
    version: str = ""
    deadline: float | None = None
    priority: int = 0
    size: int = 0


@dataclass(frozen=True)
class Classified:
    """An answer, with the model that gave it."""

    model: ServedModel
    answer: Answer[Classification]


class Frontend:
    """Admits requests between `open` and `close`; in between counts those under way.

    Attributes:
        answers: calls answered so far, of all services, by status name.
    """

    def __init__(self, repository: ModelRepository, options: ServerOptions) -> None:
        self.answers: Counter[str] = Counter()
        self.repository, self.options = repository, options
        self._preparation = Preparation()
        self._state: Literal["starting", "serving", "leaving", "stopping"] = "starting"
        self._in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def serving(self) -> bool:
        """Whether requests are accepted now."""
        return self._state in ("serving", "leaving")

    @property
    def ready(self) -> bool:
        """Whether requests should come here: not once the server is leaving, though it still accepts some."""
        return self._state == "serving"

    def open(self) -> None:
        """Requests are accepted from now on."""
        self._state = "serving"

    def leave(self) -> None:
        """Requests are accepted until `close`, but whoever asks is told that the server is not ready."""
        if self._state == "serving":
            self._state = "leaving"

    async def close(self, grace: float) -> int:
        """Accepts nothing more, and waits up to `grace` seconds for what was accepted.

        Returns:
            Requests that are still not answered.
        """
        self._state = "stopping"
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace):
                await self._idle.wait()
        self._preparation.close()
        return self._in_flight

    @contextlib.contextmanager
    def accepting(self, size: int) -> Iterator[None]:
        """Around everything that a service does for a request: the server does not stop before it is answered.

        Args:
            size: bytes of the request.

        Raises:
            UnavailableError: the server is starting or stopping.
            TooLargeError: the request is.
        """
        if not self.serving:
            raise UnavailableError(f"the server is {self._state}")
        if size > self.options.max_request_bytes:
            raise TooLargeError("request", f"{size} bytes, the server takes {self.options.max_request_bytes}")
        self._in_flight += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._in_flight -= 1
            if self._in_flight == 0:
                self._idle.set()

    async def translate(self, call: TranslateCall, model: ServedModel | None = None) -> Translated:
        """Translates all sources of a call, or none. Cancelling it withdraws them.

        Args:
            model: that the call names, if it has been looked up.

        Raises:
            RequestError: a field is not valid.
            UnknownNameError: there is no such model or version.
            OverloadedError: the queue is full.
            TimeoutError: the deadline passed.
            UnavailableError: the model is not served now, or the server stopped.
        """
        model = model or self.repository.find(call.model, call.version)
        with model.used():
            self._require_count("sources", len(call.sources))
            self.require_at_most("target_prefixes", len(call.target_prefixes))
            require_priority(call.priority)
            translator, scheduler = model.translator, model.scheduler
            key = translator.search_key(call.options)
            # An overloaded server does not tokenize what it then refuses.
            with scheduler.expecting(len(call.sources), call.deadline, call.priority):
                sentences = await self._encode(translator, call)
            self.require_size(sentences, key)
            if record := current_record():
                record.admitted(len(sentences), _tokens(sentences))
            answer = await scheduler.answer(sentences, key, deadline=call.deadline, priority=call.priority)
            if record:
                target_tokens = sum(one.tokens for hypotheses in answer.results for one in hypotheses)
                record.answered(answer.queue, answer.compute, target_tokens)
            return Translated(model, sentences, key, answer)

    async def _encode(self, translator: Translator, call: TranslateCall) -> list[Sentence]:
        """Tokenizes in a thread, so that the event loop goes on, unless that takes longer than the tokenizing."""
        sources, prefixes, truncate = call.sources, call.target_prefixes, call.options.truncate
        if sum(map(len, sources)) + sum(map(len, prefixes)) <= SHORT_CHARACTERS:
            return translator.encode(sources, truncate=truncate, target_prefixes=prefixes or None)
        return await self._preparation.sentences(
            translator, sources, truncate=truncate, target_prefixes=prefixes, deadline=call.deadline
        )

    async def classify(self, call: ClassifyCall, model: ServedModel | None = None) -> Classified:
        """Answers all examples of a call, or none. Cancelling it withdraws them.

        Args:
            model: that the call names, if it has been looked up.

        Raises:
            RequestError, UnknownNameError, OverloadedError, TimeoutError, UnavailableError: as `translate` does.
        """
        model = model or self.repository.find(call.model, call.version)
        with model.used():
            self._require_count("examples", len(call.examples))
            require_priority(call.priority)
            classifier, scheduler = model.classifier, model.scheduler
            top_k = classifier.require_top_k(call.top_k, "options.top_k")
            with scheduler.expecting(len(call.examples), call.deadline, call.priority):
                examples = await self._encode_examples(classifier, call)
            tokens = sum(example.cost for example in examples)
            self._require_tokens("examples", tokens)
            if record := current_record():
                record.admitted(len(examples), tokens)
            rows = [Asked(example, top_k) for example in examples]
            answer = await scheduler.answer(rows, None, deadline=call.deadline, priority=call.priority)
            if record:
                record.answered(answer.queue, answer.compute, 0)
            return Classified(model, answer)

    async def _encode_examples(self, classifier: Classifier, call: ClassifyCall) -> list[Example]:
        if call.size <= SHORT_CHARACTERS:
            return classifier.encode(call.examples, truncate=call.truncate)
        return await self._preparation.examples(
            classifier, call.examples, truncate=call.truncate, deadline=call.deadline
        )

    def _require_count(self, field: str, count: int) -> None:
        if not count:
            raise RequestError(field, "there is none")
        self.require_at_most(field, count)

    def require_at_most(self, field: str, count: int) -> None:
        """For services, before they read each of the sources or examples of a request.

        Raises:
            TooLargeError: they are more than one request may have.
        """
        if count > (limit := self.options.max_sentences_per_request):
            raise TooLargeError(field, f"{count} in one request, the server takes {limit}")

    def require_size(self, sentences: Sequence[Sentence], key: SearchKey) -> None:
        """
        Raises:
            TooLargeError: they are more than the queue ever takes, or their answer could be too large.
        """
        self._require_tokens("sources", _tokens(sentences))
        if not key.tokens:
            return
        numbers = sum(
            key.num_hypotheses
            * key.lengths.of(len(one.ids), len(one.prefix))[1]
            * (1 + (len(one.ids) if key.attention else 0))
            for one in sentences
        )
        if numbers > MAX_DETAILS:
            name = "return_attention" if key.attention else "return_tokens"
            raise TooLargeError(
                f"options.{name}",
                f"up to {numbers} numbers in one answer, the server gives {MAX_DETAILS}",
                help="send fewer sources at once, or lower num_hypotheses or max_length",
            )

    def _require_tokens(self, field: str, tokens: int) -> None:
        if tokens > (limit := self.options.tokens_per_request):
            raise TooLargeError(field, f"{tokens} tokens in one request, the server takes {limit}")


def require_priority(priority: int) -> None:
    """
    Raises:
        RequestError: there is no such priority.
    """
    if not MIN_PRIORITY <= priority <= MAX_PRIORITY:
        raise RequestError("priority", f"{priority} is not between {MIN_PRIORITY} and {MAX_PRIORITY}")


def _tokens(sentences: Sequence[Sentence]) -> int:
    return sum(len(sentence.ids) + len(sentence.prefix) for sentence in sentences)
