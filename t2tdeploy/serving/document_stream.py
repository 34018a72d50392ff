"""From a document to its sentences' answers, a bounded part of it at a time.

So many sentences are under way at once as keep a worker's batches full, and never more than a quarter of the queue:
the next is split off, tokenized and queued when the first of them has been sent. A client that reads slowly slows down
its own document, and one document of any length takes little memory.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass
from itertools import islice

from t2tdeploy.decoding import TranslateOptions
from t2tdeploy.document_translation import split_for
from t2tdeploy.documents import Part
from t2tdeploy.hypotheses import Hypothesis
from t2tdeploy.sentences import Sentence
from t2tdeploy.serving.call_record import current_record
from t2tdeploy.serving.frontend import Frontend, require_priority
from t2tdeploy.serving.scheduler import Answer
from t2tdeploy.serving.served_model import ServedModel
from t2tdeploy.translator import Translator

DOCUMENT_PRIORITY = -1
"""Of documents that ask for none: single requests pass them, for a while."""

_CHUNK = 32
"""Sentences that are split off and tokenized at once, in a thread."""


@dataclass(frozen=True)
class DocumentCall:
    """A document to translate.

    Args:
        language: of the document, as in "de"; empty: general rules.
        deadline: on the clock of the event loop; None: there is none.
    """

    document: str
    options: TranslateOptions
    language: str = ""
    priority: int = DOCUMENT_PRIORITY
    deadline: float | None = None


@dataclass(frozen=True)
class AnsweredPart:
    """A sentence of a document, as the model saw it, with its hypotheses."""

    part: Part
    sentence: Sentence
    hypotheses: list[Hypothesis]


@dataclass(frozen=True)
class _UnderWay:
    part: Part
    sentence: Sentence
    answer: asyncio.Task[Answer[list[Hypothesis]]]


async def stream_document(
    frontend: Frontend, model: ServedModel, call: DocumentCall
) -> AsyncGenerator[AnsweredPart, None]:
    """The sentences of a document, in its order, each as soon as it and those before it are done.

    Closing the iterator withdraws what is not done. A full queue is waited for.

    Raises:
        RequestError: an option, the priority or the document is not valid.
        TimeoutError: the deadline passed.
        UnavailableError: the server stopped.
        OperationalError: a search failed.
    """
    require_priority(call.priority)
    limits, translator, scheduler = frontend.options, model.translator, model.scheduler
    key = translator.search_key(call.options)
    parts = split_for(translator, call.document, language=call.language, longest=limits.tokens_per_request)
    window = limits.batch_limits().most_patient
    under_way: deque[_UnderWay] = deque()
    more = True
    try:
        while True:
            while more and len(under_way) < window and not (under_way and under_way[0].answer.done()):
                chunk = await asyncio.to_thread(_encode_next, translator, parts, min(_CHUNK, window - len(under_way)))
                more = bool(chunk)
                for part, sentence in chunk:
                    frontend.require_size([sentence], key)
                    answer = scheduler.answer(
                        [sentence], key, deadline=call.deadline, priority=call.priority, wait_for_room=True
                    )
                    under_way.append(_UnderWay(part, sentence, asyncio.create_task(answer)))
            if not under_way:
                return
            first = under_way[0]
            answered = await first.answer
            (hypotheses,) = answered.results
            under_way.popleft()
            if record := current_record():
                record.admitted(1, len(first.sentence.ids))
                record.answered(answered.queue, answered.compute, sum(one.tokens for one in hypotheses))
            yield AnsweredPart(first.part, first.sentence, hypotheses)
    finally:
        for one in under_way:
            one.answer.cancel()
        await asyncio.gather(*(one.answer for one in under_way), return_exceptions=True)


def _encode_next(translator: Translator, parts: Iterator[Part], count: int) -> list[tuple[Part, Sentence]]:
    chunk = list(islice(parts, count))
    return list(zip(chunk, translator.encode([part.text for part in chunk], truncate=True), strict=True))
