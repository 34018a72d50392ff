"""Variants × threads × batch sizes: speed, latency, memory.

All processes are there at once and take turns, so that what else the machine does meets them alike; each turn begins
with another. In a turn all translate the same batches, and what is told is the median of the turns.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from t2tdeploy.benchmark.process import Job, Loaded, Timed, VariantProcess
from t2tdeploy.bundle import Bundle
from t2tdeploy.errors import InputError, OperationalError, RequestError
from t2tdeploy.machine import cpu_model
from t2tdeploy.progress import Reporter, SilentReporter, Task
from t2tdeploy.runtime import available_cpus
from t2tdeploy.sentences import Sentence, encode_source
from t2tdeploy.translator import BUNDLE_DEFAULTS, TranslateOptions

TURNS = 5
SAMPLES_FOR_P99 = 100  # of fewer, the 99th percentile is the largest or a guess
SEED = 0  # of the order of batches


@dataclass(frozen=True)
class Plan:
    """What to measure.

    Args:
        variants: names.
        threads: of a search; each number is measured.
        batch_sizes: sentences of a batch; each number is measured.
        seconds: for each combination, about; the slowest variant decides how many batches that is.
    """

    variants: Sequence[str]
    threads: Sequence[int]
    batch_sizes: Sequence[int]
    seconds: float
    options: TranslateOptions = BUNDLE_DEFAULTS


@dataclass(frozen=True)
class Speed:
    """One variant with one number of threads, in batches of one size.

    Args:
        tokens_per_second: target tokens of the best hypotheses, EOS included.
        p50_ms, p99_ms: latency of a batch; p99 is None if there are fewer than SAMPLES_FOR_P99.
        batches: measured.
    """

    variant: str
    threads: int
    batch_size: int
    tokens_per_second: float
    sentences_per_second: float
    p50_ms: float
    p99_ms: float | None
    batches: int


@dataclass(frozen=True)
class Footprint:
    """One variant with one number of threads.

    Args:
        loaded_bytes, peak_bytes: memory in RAM of its whole process, after loading and at most; None if it failed.
        failed: why it could not go on.
    """

    variant: str
    threads: int
    file_bytes: int
    load_seconds: float | None = None
    loaded_bytes: int | None = None
    peak_bytes: int | None = None
    failed: str | None = None


@dataclass(frozen=True)
class Report:
    """All that was measured, and on what.

    Args:
        cpus: that this process may use.
        source_tokens: mean of the sentences.
    """

    bundle: str
    version: str
    cpu: str
    cpus: int
    sentences: int
    source_tokens: float
    beam_size: int
    speeds: list[Speed]
    footprints: list[Footprint]


@dataclass
class _Contestant:
    job: Job
    process: VariantProcess
    loaded: Loaded | None = None
    peak_bytes: int | None = None
    failed: OperationalError | RequestError | None = None
    turns: list[list[Timed]] = field(default_factory=list)


def benchmark(bundle: Bundle, sources: Sequence[str], plan: Plan, reporter: Reporter | None = None) -> Report:
    """Measures variants of `bundle` on `sources`; blank sentences are left out, long ones cut.

    A variant whose process ends, for want of memory say, or whose search the plan's options do not suit, is left out
    from there on, and the report says why.

    Raises:
        InputError: no sentence is left.
        RequestError, OperationalError: every variant failed; the reason of the first.
    """
    reporter = reporter or SilentReporter()
    sentences = _encoded(bundle, sources)
    jobs = [Job(bundle.directory, name, threads, plan.options) for threads in plan.threads for name in plan.variants]
    speeds: list[Speed] = []
    with ExitStack() as stack:
        contestants = []
        with reporter.task("loading", total=len(jobs), unit="processes") as task:
            for job in jobs:
                contestants.append(_start(job, stack))
                task.advance()
        total = TURNS * len(plan.batch_sizes) * len(jobs)
        with reporter.task("measuring", total=total, unit="turns") as task:
            for size in plan.batch_sizes:
                speeds += _measure_size(contestants, sentences, size, plan.seconds, task)
        for one in contestants:
            if one.failed is None:
                with _keeping(one):
                    one.peak_bytes = one.process.peak_bytes()
    if not speeds:
        raise next(one.failed for one in contestants if one.failed)
    beam_size = plan.options.beam_size
    return Report(
        bundle=bundle.manifest.name,
        version=bundle.version,
        cpu=cpu_model(),
        cpus=available_cpus(),
        sentences=len(sentences),
        source_tokens=round(statistics.mean(len(sentence.ids) for sentence in sentences), 1),
        beam_size=bundle.decode.beam_size if beam_size is None else beam_size,
        speeds=speeds,
        footprints=[_footprint(bundle, one) for one in contestants],
    )


def batches_of(sentences: Sequence[Sentence], size: int) -> list[list[Sentence]]:
    """Batches of `size` sentences of similar length, as a server forms them, in an order that is the same every time.

    Sentences are taken again where there are too few to fill the last batch.
    """
    ordered = sorted(sentences, key=lambda sentence: len(sentence.ids))
    count = -(-len(ordered) // size)
    filled = sorted(
        [*ordered, *(ordered[place % len(ordered)] for place in range(count * size - len(ordered)))],
        key=lambda sentence: len(sentence.ids),
    )
    batches = [filled[start : start + size] for start in range(0, len(filled), size)]
    random.Random(SEED).shuffle(batches)
    return batches


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest of `values` that at least this share of them does not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[math.ceil(share * len(ordered)) - 1]


def _encoded(bundle: Bundle, sources: Sequence[str]) -> list[Sentence]:
    longest, tokenizer = bundle.decode.max_source_length, bundle.tokenizer("inputs")
    found = [
        encode_source(tokenizer, source, field="sentence", max_length=longest, truncate=True) for source in sources
    ]
    kept = [sentence for sentence in found if not sentence.blank]
    if not kept:
        raise InputError("there is no sentence to translate", help="name a file with one a line: --input")
    return kept


def _start(job: Job, stack: ExitStack) -> _Contestant:
    one = _Contestant(job, stack.enter_context(VariantProcess(job)))
    with _keeping(one):
        one.loaded = one.process.loaded()
    return one


@contextmanager
def _keeping(one: _Contestant) -> Iterator[None]:
    """Keeps why a process failed instead of ending the benchmark."""
    try:
        yield
    except (OperationalError, RequestError) as error:  # of a search whose options are fixed, another asks too much
        one.failed = error


def _measure_size(
    contestants: Sequence[_Contestant], sentences: Sequence[Sentence], size: int, seconds: float, task: Task
) -> list[Speed]:
    batches = batches_of(sentences, size)
    largest = max(batches, key=lambda batch: len(batch[-1].ids))
    warm = [_run(one, [largest, largest, batches[0]]) for one in contestants]  # memory is taken now
    slowest = max((found[-1].seconds for found in warm if found), default=1.0)
    count = max(1, round(seconds / TURNS / slowest))
    for one in contestants:
        one.turns = []
    for turn in range(TURNS):
        chosen = [batches[(turn * count + place) % len(batches)] for place in range(count)]
        shift = turn % len(contestants)
        for one in [*contestants[shift:], *contestants[:shift]]:
            if found := _run(one, chosen):
                one.turns.append(found)
            task.advance(batch_size=size)
    return [_speed(one, size) for one in contestants if one.failed is None]


def _run(one: _Contestant, batches: Sequence[Sequence[Sentence]]) -> list[Timed]:
    """What the process measured; nothing if it failed, now or before."""
    found: list[Timed] = []
    if one.failed is None:
        with _keeping(one):
            found = one.process.run(batches)
    return found


def _speed(one: _Contestant, size: int) -> Speed:
    seconds = [sum(timed.seconds for timed in turn) for turn in one.turns]
    tokens = [sum(timed.tokens for timed in turn) for turn in one.turns]
    latencies = [timed.seconds * 1000 for turn in one.turns for timed in turn]
    return Speed(
        variant=one.job.variant,
        threads=one.job.threads,
        batch_size=size,
        tokens_per_second=round(statistics.median(a / b for a, b in zip(tokens, seconds, strict=True)), 1),
        sentences_per_second=round(
            statistics.median(size * len(turn) / b for turn, b in zip(one.turns, seconds, strict=True)), 2
        ),
        p50_ms=round(percentile(latencies, 0.5), 2),
        p99_ms=round(percentile(latencies, 0.99), 2) if len(latencies) >= SAMPLES_FOR_P99 else None,
        batches=len(latencies),
    )


def _footprint(bundle: Bundle, one: _Contestant) -> Footprint:
    return Footprint(
        variant=one.job.variant,
        threads=one.job.threads,
        file_bytes=bundle.size(one.job.variant),
        load_seconds=round(one.loaded.load_seconds, 3) if one.loaded else None,
        loaded_bytes=one.loaded.resident_bytes if one.loaded else None,
        peak_bytes=one.peak_bytes,
        failed=one.failed.message if one.failed else None,
    )
