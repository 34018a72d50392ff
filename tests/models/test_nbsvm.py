"""N-grams are those of the text alone, and the ratios those of counting in plain Python."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch
from torch import Tensor

from t2tdeploy.errors import SettingsError
from t2tdeploy.features import FeatureSpec, Modality
from t2tdeploy.models.nbsvm import PRIME, Nbsvm, ngrams
from t2tdeploy.models.nbsvm_hparams import NbsvmHParams
from tests.models.labelled import LABEL, LABELS, TEXT

BUCKETS = 2**20  # so many that none of the few n-grams of a model here share one


def texts(count: int, seed: int = 0) -> list[list[int]]:
    draw = np.random.default_rng(seed)
    return [draw.integers(1, 12, draw.integers(1, 9)).tolist() for _ in range(count)]


def padded(rows: list[list[int]], length: int = 0) -> Tensor:
    length = max(length, *map(len, rows))
    return torch.tensor([row + [0] * (length - len(row)) for row in rows])


def expected(row: list[int], shortest: int, longest: int) -> Counter[tuple[int, ...]]:
    return Counter(
        tuple(row[start : start + n]) for n in range(shortest, longest + 1) for start in range(len(row) - n + 1)
    )


@pytest.mark.parametrize(("shortest", "longest"), [(1, 1), (1, 3), (2, 6), (3, 12)])
def test_equal_ngrams_have_equal_hashes_and_others_have_others(shortest: int, longest: int) -> None:
    rows = texts(200)
    buckets, real = ngrams(padded(rows), shortest, longest, PRIME)
    names: dict[int, tuple[int, ...]] = {}
    for row, found, whole in zip(rows, buckets, real, strict=True):
        wanted = expected(row, shortest, longest)
        assert sorted(Counter(found[whole].tolist()).values()) == sorted(wanted.values())
        (alone,), (all_of_it,) = ngrams(padded([row]), shortest, longest, PRIME)
        assert Counter(alone[all_of_it].tolist()) == Counter(found[whole].tolist())
        for ngram in wanted:
            (one,), (its,) = ngrams(padded([list(ngram)]), len(ngram), len(ngram), PRIME)
            (bucket,) = one[its].tolist()
            assert names.setdefault(bucket, ngram) == ngram
    assert len(names) == len({ngram for row in rows for ngram in expected(row, shortest, longest)})


def test_padding_adds_nothing() -> None:
    rows = texts(5)
    few, many = (ngrams(padded(rows, length), 2, 4, 64) for length in (0, 30))
    for row in range(len(rows)):
        assert few[0][row][few[1][row]].tolist() == many[0][row][many[1][row]].tolist()


def model_of(target: FeatureSpec, shortest: int = 1, longest: int = 2) -> Nbsvm:
    hparams = NbsvmHParams.create({"min_ngram": shortest, "max_ngram": longest, "buckets": BUCKETS})
    return Nbsvm(hparams, {"inputs": TEXT, "targets": target})


def ratios_of(model: Nbsvm, ngram: tuple[int, ...]) -> list[float]:
    (found,), (whole,) = ngrams(padded([list(ngram)]), len(ngram), len(ngram), BUCKETS)
    (bucket,) = found[whole].tolist()
    ratios: list[float] = model.ratio[bucket].tolist()
    return ratios


@pytest.mark.parametrize("target", [LABEL, LABELS], ids=lambda spec: spec.modality)
def test_ratios_are_those_of_counting(target: FeatureSpec) -> None:
    rows = texts(60)
    draw = np.random.default_rng(1)
    several = target.modality is Modality.MULTI_LABEL
    classes = len(target.classes)
    has = draw.integers(0, 2, (60, classes)) if several else np.eye(classes, dtype=int)[draw.integers(0, classes, 60)]
    labels = torch.tensor(has, dtype=torch.float32) if several else torch.tensor(has.argmax(1))
    model = model_of(target)
    with torch.no_grad():
        model.initialize(
            {"inputs": padded(rows[start : start + 7]), "targets": labels[start : start + 7]}
            for start in range(0, 60, 7)
        )
    for ngram in {ngram for row in rows for ngram in expected(row, 1, 2)}:
        wanted = []
        for c in range(classes):
            logs = []
            for side in (1, 0):
                counts: Counter[tuple[int, ...]] = Counter()
                for row, label in zip(rows, has, strict=True):
                    if label[c] == side:
                        counts += expected(row, 1, 2)
                logs.append(math.log((counts[ngram] + 1) / (counts.total() + BUCKETS)))
            wanted.append(logs[0] - logs[1])
        assert ratios_of(model, ngram) == pytest.approx(wanted, abs=1e-5)


def test_logits_are_weighted_ratios_over_the_root_of_their_number() -> None:
    row, model = [3, 5, 3, 7], model_of(LABEL, 2, 3)
    torch.nn.init.normal_(model.ratio)
    torch.nn.init.normal_(model.weight)
    torch.nn.init.normal_(model.bias)
    wanted = model.bias.detach().clone()
    ids = expected(row, 2, 3)
    for ngram, count in ids.items():
        (found,), (whole,) = ngrams(padded([list(ngram)]), len(ngram), len(ngram), BUCKETS)
        (bucket,) = found[whole].tolist()
        wanted += count * (model.ratio * model.weight)[bucket].detach() / math.sqrt(ids.total())
    logits = model({"inputs": padded([row, [3]])})
    torch.testing.assert_close(logits[0], wanted)
    torch.testing.assert_close(logits[1], model.bias)  # a text too short for any n-gram


def test_a_range_of_ngrams_that_is_none_is_refused() -> None:
    with pytest.raises(SettingsError, match="min_ngram = 4 is more than max_ngram = 3"):
        NbsvmHParams.create({"min_ngram": 4, "max_ngram": 3})
