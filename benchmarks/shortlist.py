"""What a shortlist gives (export/shortlist.py), beside CTranslate2 with the same one.

    python benchmarks/shortlist.py --run RUN       # results/shortlist.json

trained    A trained Transformer and the test set of its problem: BLEU, how much of the translations is that of float32,
           and speed in batches of 1, 16 and 64. The lexicon is that of the training data.
base       transformer_base with random weights, one sentence of 25 tokens at a time, 32 target tokens. Each source
           token allows 100 random ones: hardly two are the same, more than those of a real sentence.

All decode in 8 bits with a beam of 4, each in a process of its own, and take turns on the same batches; a ratio is the
median over the rounds. CTranslate2 reads the lexicon as its vocabulary map, which allows a batch what any of its
sentences needs.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import publish
from ctranslate2_model import convert
from decode_models import VOCABULARY, Files, base_model, forced_groups, write_files
from decode_trained import Trained, agreement, trained_model
from decode_vs_ctranslate2 import OURS, PACKAGES, THEIRS, Measured, answers_of, jobs_of, label, measure, say
from train_engines import quartiles

from t2tdeploy.export.lexicon import WIDTH, Lexicon, lexicon_of_texts
from t2tdeploy.export.placement import read_search, serialized
from t2tdeploy.export.shortlist import shortlisted
from t2tdeploy.features import EOS_ID, PAD_ID
from t2tdeploy.models.transformer import Transformer
from t2tdeploy.problems.dataset import open_problem
from t2tdeploy.runtime import available_cpus
from t2tdeploy.training.run_directory import RunDirectory

SIZES, SINGLES = (1, 16, 64), 200  # batches of the test set; sentences of it that go alone
THEIRS_SHORT = "ctranslate2, shortlist"
INT8 = "int8"


def with_shortlists(files: Files, model: Transformer, lexicon: Lexicon, folder: Path) -> Files:
    """And both decoders once more, with a shortlist."""
    short = folder / "model.shortlist.onnx"
    short.write_bytes(serialized(shortlisted(read_search(files.models[OURS, INT8]), lexicon)))
    convert(model, folder / "ctranslate2-shortlist", lexicon)
    return Files(
        {**files.models, (f"{OURS}, shortlist", INT8): short, (THEIRS_SHORT, INT8): folder / "ctranslate2-shortlist"}
    )


def lexicon_of(run: RunDirectory) -> Lexicon:
    """Of all its training data."""
    train = open_problem(run.record.problem, Path(run.record.data_dir)).split("train")
    texts = zip(train.texts("inputs"), train.texts("targets"), strict=True)
    return lexicon_of_texts(texts, run.tokenizers["inputs"], run.tokenizers["targets"], origin="train")


def speeds(measured: dict[str, Measured], threads: int, groups: Sequence[str]) -> dict[str, Any]:
    """Group -> tokens per second of each decoder, and what the shortlist gives either."""
    names = {
        "t2tdeploy": label(OURS, INT8, threads),
        "t2tdeploy_shortlist": label(f"{OURS}, shortlist", INT8, threads),
        "ctranslate2": label(THEIRS, INT8, threads),
        "ctranslate2_shortlist": label(THEIRS_SHORT, INT8, threads),
    }

    def ratio(group: str, one: str, other: str) -> float:
        pairs = zip(measured[names[one]].rates(group), measured[names[other]].rates(group), strict=True)
        return round(quartiles([a / b for a, b in pairs])[1], 3)

    return {
        group: {
            "tokens_per_second": {
                name: round(quartiles(measured[of].rates(group))[1], 1) for name, of in names.items()
            },
            "gain": ratio(group, "t2tdeploy_shortlist", "t2tdeploy"),
            "gain_of_ctranslate2": ratio(group, "ctranslate2_shortlist", "ctranslate2"),
            "over_ctranslate2_shortlist": ratio(group, "t2tdeploy_shortlist", "ctranslate2_shortlist"),
        }
        for group in groups
    }  # fmt: skip


def groups_of(trained: Trained) -> dict[str, dict[str, Any]]:
    rows = [row for batch in trained.groups["test"]["batches"] for row in batch]
    alone = rows[:: max(1, len(rows) // SINGLES)]
    return {
        str(size): {
            "batches": [of[start : start + size] for start in range(0, len(of), size)], "length": None
        }
        for size in SIZES
        for of in [alone if size == 1 else rows]
    }  # fmt: skip


def ids_open(lexicon: Lexicon, batches: Sequence[Sequence[Sequence[int]]]) -> float:
    """Mean number of ids that a batch may choose from."""
    return float(np.mean([len(set().union(*map(lexicon.allowed, batch))) for batch in batches]))


def measure_trained(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    say("trained: writing the models")
    run = RunDirectory.open(options.run)
    trained = trained_model(options.run, "best", folder)
    lexicon = lexicon_of(run)
    files = with_shortlists(trained.files, run.model("best"), lexicon, folder)
    path, test = folder / "groups.json", folder / "test.json"
    groups = groups_of(trained)
    path.write_text(json.dumps(groups))
    test.write_text(json.dumps(trained.groups))
    answers = answers_of(jobs_of(files, ["float32", INT8], [options.threads], test, trained.alpha))
    measured = measure(jobs_of(files, [INT8], [options.threads], path, trained.alpha), list(groups), options.rounds)
    float32 = answers[label(OURS, "float32", options.threads)]
    compared = [label(name, INT8, options.threads) for name in (OURS, f"{OURS}, shortlist")]
    return {
        "width": WIDTH,
        "vocabulary": len(lexicon.table),
        "ids_open": {name: round(ids_open(lexicon, group["batches"])) for name, group in groups.items()},
        "bleu": {name: round(trained.bleu(found), 2) for name, found in answers.items()},
        "as_float32": {name: agreement(answers[name], float32) for name in compared},
        "file_mib": {f"{backend} {precision}": round(files.mib(backend, precision), 1)
                     for backend, precision in files.models},
        "batch_sizes": speeds(measured, options.threads, list(groups)),
    }  # fmt: skip


def measure_base(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    say("base: writing the models")
    model, groups = base_model(), forced_groups([1])
    draw = np.random.default_rng(0)
    always = np.union1d(draw.choice(VOCABULARY, WIDTH, replace=False), [PAD_ID, EOS_ID])
    lexicon = Lexicon(draw.integers(0, VOCABULARY, (VOCABULARY, WIDTH)), always)
    files = write_files(model, folder, groups["1"]["batches"][0])
    files = with_shortlists(files, model, lexicon, folder)
    path = folder / "groups.json"
    path.write_text(json.dumps(groups))
    threads = sorted({1, options.threads})
    measured = measure(jobs_of(files, [INT8], threads, path, 0.6), ["1"], options.rounds)
    return {
        "width": WIDTH,
        "vocabulary": VOCABULARY,
        "ids_open": round(ids_open(lexicon, groups["1"]["batches"])),
        "file_mib": {f"{backend} {precision}": round(files.mib(backend, precision), 1)
                     for backend, precision in files.models},
        "threads": {str(count): speeds(measured, count, ["1"])["1"] for count in threads},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="run directory of a trained Transformer")
    parser.add_argument("--threads", type=int, default=available_cpus())
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        result = {
            "base": measure_base(options, folder / "base"),
            "trained": measure_trained(options, folder / "trained"),
        }
    publish("shortlist", {"threads": options.threads, **result}, packages=PACKAGES)


if __name__ == "__main__":
    sys.exit(main())
