"""Quality of a model on a split: loss and accuracy given the true prefix, BLEU and chrF of what the search writes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from t2tdeploy.errors import NotNumbersError
from t2tdeploy.features import PAD_ID
from t2tdeploy.hypotheses import perplexity
from t2tdeploy.models.beam_search import SearchOptions, beam_search
from t2tdeploy.models.model import Model
from t2tdeploy.problems.batching import plan_evaluation
from t2tdeploy.problems.dataset import Dataset, ProblemData
from t2tdeploy.problems.metrics import TranslationScores, translation_scores
from t2tdeploy.progress import Reporter, SilentReporter
from t2tdeploy.sentences import encode_source, pad_rows
from t2tdeploy.tokenizer import Tokenizer
from t2tdeploy.training.engine import Batch, EvaluationSums, mean_loss
from t2tdeploy.training.gradient_engine import memory_errors
from t2tdeploy.training.processes import ALONE, Processes
from t2tdeploy.training.torch_engine import evaluation_sums

EXAMPLES = 5  # sentences shown in reports and TensorBoard


@dataclass(frozen=True)
class Example:
    """One sentence, its reference and what the model wrote."""

    source: str
    reference: str
    hypothesis: str


@dataclass(frozen=True)
class Losses:
    """Teacher-forced quality over the labels of a split.

    Args:
        loss: mean negative log-likelihood in nats per label, without label smoothing.
        perplexity: exp(loss).
        accuracy: share of labels that the model ranks first, given the true prefix.
        labels: their number.
    """

    loss: float
    perplexity: float
    accuracy: float
    labels: int


@dataclass(frozen=True)
class EvaluationReport:
    """The quality of one model on one split.

    Args:
        scores: of the search's first hypotheses; None if nothing was decoded.
        lowercase_scores: the same without regard to case; None unless asked for.
        sentences: how many were decoded.
        examples: some of them.
    """

    split: str
    losses: Losses
    scores: TranslationScores | None
    lowercase_scores: TranslationScores | None
    sentences: int
    examples: tuple[Example, ...]


def evaluate(
    model: Model,
    data: ProblemData,
    split: str,
    *,
    options: SearchOptions,
    extra_length: int,
    batch_size: int,
    sentences: int | None = None,
    decode: bool = True,
    lowercase: bool = False,
    score: Callable[[Batch], EvaluationSums] | None = None,
    reporter: Reporter | None = None,
    processes: Processes = ALONE,
) -> EvaluationReport:
    """Scores `model` on `split`; the same report in all processes.

    Args:
        batch_size: tokens per batch, padding included.
        sentences: how many to decode, from the start of the split; None: all.
        decode: False measures the losses only.
        lowercase: also score without regard to case.
        score: what measures a batch, e.g. an engine's `evaluate`; None: the model itself.
        processes: that share the batches, each with the same model.

    Raises:
        NotFiniteError: the loss is not finite.
    """
    dataset = data.split(split)
    model.eval()
    score = score or partial(evaluation_sums, model)
    losses = mean_losses(score, dataset, batch_size=batch_size, processes=processes)
    if not decode:
        return EvaluationReport(split, losses, scores=None, lowercase_scores=None, sentences=0, examples=())
    rows = np.arange(len(dataset) if sentences is None else min(sentences, len(dataset)))
    sources, references = dataset.texts("inputs", rows), dataset.texts("targets", rows)
    hypotheses = translate(
        model, data.tokenizers, sources, options=options, extra_length=extra_length, batch_size=batch_size,
        reporter=reporter, processes=processes,
    )  # fmt: skip
    examples = zip(sources, references, hypotheses, strict=True)
    return EvaluationReport(
        split=split,
        losses=losses,
        scores=translation_scores(hypotheses, references),
        lowercase_scores=translation_scores(hypotheses, references, lowercase=True) if lowercase else None,
        sentences=len(hypotheses),
        examples=tuple(Example(*example) for example in list(examples)[:EXAMPLES]),
    )


def probe_evaluation(
    model: Model,
    dataset: Dataset,
    *,
    options: SearchOptions,
    extra_length: int,
    batch_size: int,
    sentences: int | None,
    decode: bool,
    score: Callable[[Batch], EvaluationSums],
) -> None:
    """Scores and, with `decode`, searches the longest batch of what `evaluate` would do on `dataset`.

    Raises:
        TrainingError: memory ran out.
    """
    model.eval()
    score(dataset.batch(plan_evaluation(dataset.example_lengths, batch_size=batch_size)[0]))
    if decode:
        lengths = dataset.lengths["inputs"][:sentences]
        rows = plan_evaluation(lengths, batch_size=max(1, batch_size // options.beam_size))[0]
        _first_hypotheses(model, dataset.batch(rows)["inputs"], extra_length, options)


def mean_losses(
    score: Callable[[Batch], EvaluationSums], dataset: Dataset, *, batch_size: int, processes: Processes = ALONE
) -> Losses:
    """Sums `score` over every example of the split, once each; `processes` share the batches.

    Raises:
        NotFiniteError: the loss is not finite.
    """
    batches = plan_evaluation(dataset.example_lengths, batch_size=batch_size)[processes.rank :: processes.world_size]
    mine = [score(dataset.batch(rows)) for rows in batches]
    sums = [item for part in processes.broadcast(processes.gather(mine)) for item in part]
    labels = sum(item.labels for item in sums)
    loss = mean_loss(sums)
    return Losses(loss, perplexity(loss), sum(item.correct for item in sums) / labels, labels)


def translate(
    model: Model,
    tokenizers: Mapping[str, Tokenizer],
    texts: Sequence[str],
    *,
    options: SearchOptions,
    extra_length: int,
    batch_size: int = 4096,
    max_source_length: int | None = None,
    reporter: Reporter | None = None,
    processes: Processes = ALONE,
) -> list[str]:
    """The first hypothesis of each text, in the order of `texts`; of a blank text the empty one.

    Sentences are searched longest first, so that memory runs out at once or never; each may grow to its own length
    plus `extra_length`, whatever else is in its batch.

    Args:
        batch_size: source tokens per batch times beams, padding included.
        max_source_length: tokens of the longest text that is taken, EOS included; None: any number.
        processes: that share the batches, each with the same model.

    Raises:
        RequestError: a text is longer; it is named by its place, "line 1" the first.
        NotNumbersError: the model finds nothing, not even the end.
    """
    reporter = reporter or SilentReporter()
    sentences = [
        encode_source(tokenizers["inputs"], text, field=f"line {number}", max_length=max_source_length)
        for number, text in enumerate(texts, start=1)
    ]
    searched = [row for row, sentence in enumerate(sentences) if not sentence.blank]
    mine: dict[int, str] = {}
    model.eval()
    with reporter.task("decoding", total=len(texts), unit="sentences") as task:
        task.advance(len(texts) - len(searched))
        sources = [sentences[row].ids for row in searched]
        batches = _search_batches(sources, max(1, batch_size // options.beam_size))
        for number, (rows, ids) in enumerate(batches):
            if number % processes.world_size == processes.rank:
                found = _first_hypotheses(model, ids, extra_length, options)
                if not all(map(any, found)):
                    raise NotNumbersError
                for row, hypothesis in zip(rows, found, strict=True):
                    mine[searched[row]] = tokenizers["targets"].decode(hypothesis)
            task.advance(len(rows))
    parts = processes.broadcast(processes.gather(mine))
    translations = {row: text for part in parts for row, text in part.items()}
    return [translations.get(row, "") for row in range(len(texts))]


def _search_batches(sources: Sequence[Sequence[int]], batch_size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Batches of (rows, ids [batch, source_length]), longest first."""
    if not sources:
        return
    lengths = np.array([len(source) for source in sources], dtype=np.int32)
    for rows in plan_evaluation(lengths, batch_size=batch_size):
        yield rows, pad_rows([sources[row] for row in rows])


@torch.inference_mode()
def _first_hypotheses(model: Model, ids: np.ndarray, extra_length: int, options: SearchOptions) -> list[list[int]]:
    with memory_errors(f"{ids.shape[0]} × {ids.shape[1]} source tokens, with {options.beam_size} beams"):
        source_ids = torch.from_numpy(ids).to(next(model.parameters()).device)
        max_length = (source_ids != PAD_ID).sum(dim=1) + extra_length
        result = beam_search(model, source_ids, max_length, options)
        best: list[list[int]] = result.target_ids[:, 0].tolist()
    return best
