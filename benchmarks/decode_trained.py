"""The part of decode_vs_ctranslate2.py about a trained model: quality, agreement, speed on real sentences."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from decode_models import Files, write_files

from t2tdeploy.export.agreement import common_tokens
from t2tdeploy.problems.dataset import open_problem
from t2tdeploy.problems.metrics import translation_scores
from t2tdeploy.tokenizer import Tokenizer, encode_with_eos
from t2tdeploy.training.run_directory import RunDirectory

BATCH, CALIBRATION = 16, 128  # sentences; those of calibration come from the training data
SCORE_TOLERANCE = 1e-3


class Trained(NamedTuple):
    """A run's test set, and its model for every backend."""

    files: Files
    groups: dict[str, dict[str, Any]]
    order: list[int]  # of the sentences of group "test" in the test set
    references: list[str]
    targets: Tokenizer
    alpha: float

    def bleu(self, answers: Sequence[dict[str, Any]]) -> float:
        """Of the answers to group "test"."""
        texts = {place: self.targets.decode(answer["ids"]) for place, answer in zip(self.order, answers, strict=True)}
        return translation_scores([texts[place] for place in range(len(texts))], self.references).bleu


def trained_model(run_directory: Path, checkpoint: str, folder: Path) -> Trained:
    """Reads a run and writes its model for every backend."""
    run = RunDirectory.open(run_directory)
    data = open_problem(run.record.problem, Path(run.record.data_dir))
    tokenizer = run.tokenizers["inputs"]
    longest = run.hparams.max_length

    def ids_of(texts: Sequence[str]) -> list[list[int]]:
        return [encode_with_eos(tokenizer, text)[:longest] for text in texts]

    sample = random.Random(0).sample(range(len(data.split("train"))), CALIBRATION)
    texts = data.split("train").texts("inputs")
    files = write_files(run.model(checkpoint), folder, ids_of([texts[row] for row in sample]))
    test = data.split("test")
    sources = ids_of(test.texts("inputs"))
    order = sorted(range(len(sources)), key=lambda place: -len(sources[place]))
    batches = [[sources[place] for place in order[start : start + BATCH]] for start in range(0, len(order), BATCH)]
    groups = {"test": {"batches": batches, "length": None}}
    return Trained(files, groups, order, test.texts("targets"), run.tokenizers["targets"], run.hparams.alpha)


def agreement(ours: Sequence[dict[str, Any]], theirs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """How many sentences and tokens are the same; how far scores of the same sentences are apart.

    Tokens in order are those of the longest common subsequences, as in the bundles' manifests: one word more does not
    make all behind it differ. Equal tokens stand at the same place.
    """
    same = [one["ids"] == other["ids"] for one, other in zip(ours, theirs, strict=True)]
    apart = [abs(one["score"] - other["score"]) for one, other, equal in zip(ours, theirs, same, strict=True) if equal]
    tokens = sum(max(len(one["ids"]), len(other["ids"])) for one, other in zip(ours, theirs, strict=True))
    equal_tokens = sum(
        a == b for one, other in zip(ours, theirs, strict=True) for a, b in zip(one["ids"], other["ids"], strict=False)
    )
    in_order = sum(common_tokens(one["ids"], other["ids"]) for one, other in zip(ours, theirs, strict=True))
    return {
        "sentences": len(same),
        "identical": sum(same),
        "tokens_in_order": round(in_order / tokens, 4),
        "equal_tokens": round(equal_tokens / tokens, 4),
        "largest_score_difference_of_identical": round(max(apart, default=0.0), 6),
    }
