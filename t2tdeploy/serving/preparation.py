"""Turns what requests hold into what models take, off the event loop: long texts into tokens, pictures into pixels.

A thread that decodes a picture cannot be stopped, and one of a few kilobytes may take a second and hundreds of
megabytes. So there are few threads, which nothing else waits for; a request uses one for a few kilobytes at a time, by
turns with others; and what nobody waits for any more is not begun.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from t2tdeploy.classifier import Classifier, Example, RawExample
from t2tdeploy.runtime import available_cpus
from t2tdeploy.sentences import Sentence, Source
from t2tdeploy.translator import Translator

R = TypeVar("R")

_MOST_THREADS = 4
_PORTION = 16 * 1024
"""Bytes of examples that are read at once, but for a single one that has more."""


class Preparation:
    """The threads of a server that prepare requests."""

    def __init__(self) -> None:
        threads = min(_MOST_THREADS, available_cpus())
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="t2tdeploy-prepare")

    async def sentences(
        self,
        translator: Translator,
        sources: Sequence[Source],
        *,
        truncate: bool,
        target_prefixes: Sequence[str],
        deadline: float | None,
    ) -> list[Sentence]:
        """`Translator.encode`.

        Raises:
            RequestError: as there.
            TimeoutError: the deadline passed.
        """
        encode = partial(translator.encode, sources, truncate=truncate, target_prefixes=target_prefixes or None)
        async with asyncio.timeout_at(deadline):
            return await asyncio.get_running_loop().run_in_executor(self._pool, encode)

    async def examples(
        self, classifier: Classifier, examples: Sequence[RawExample], *, truncate: bool, deadline: float | None
    ) -> list[Example]:
        """`Classifier.encode`.

        Raises:
            RequestError: as there.
            TimeoutError: the deadline passed.
        """
        prepared: list[Example] = []
        async with asyncio.timeout_at(deadline):
            for portion in _portions(examples):
                encode = partial(classifier.encode, portion, truncate=truncate, first=len(prepared))
                prepared += await asyncio.get_running_loop().run_in_executor(self._pool, encode)
        return prepared

    def close(self) -> None:
        """Begins nothing more; what a thread is at goes on to its end."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _portions(examples: Iterable[RawExample]) -> Iterator[list[RawExample]]:
    portion: list[RawExample] = []
    size = 0
    for example in examples:
        portion.append(example)
        size += _size(example)
        if size >= _PORTION:
            yield portion
            portion, size = [], 0
    if portion:
        yield portion


def _size(example: RawExample) -> int:
    """Of what takes long: files of pictures and texts."""
    values = example.values() if isinstance(example, Mapping) else (example,)
    return sum(len(value) for value in values if isinstance(value, str | bytes))
