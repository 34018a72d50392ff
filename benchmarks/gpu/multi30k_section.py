"""The real run on a GPU, by the commands that a user types."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from processes import CouldNotRunError, Section, run_python

PROBLEM, HPARAMS_SET = "translate_ende_multi30k", "transformer_multi30k"
REDUCED_PROBLEM, REDUCED_DATA = (
    "translate_dates_ende",
    "train_examples=200,dev_examples=8,test_examples=8,vocab_size=400",
)
REDUCED_HPARAMS = (
    "hidden_size=16,filter_size=16,num_heads=2,num_encoder_layers=1,num_decoder_layers=1,batch_size=256,extra_length=5"
)


def run_multi30k(
    section: Section, engine: str, precision: str, folder: Path, *, source_dir: Path | None, data_dir: Path | None
) -> None:
    """One row: minutes of training and scores on test of the checkpoint that is best on dev.

    Raises:
        CouldNotRunError: the data are not there, or a command failed.
    """
    problem = REDUCED_PROBLEM if section.reduced else PROBLEM
    data = _data(section, problem, folder, source_dir, data_dir)
    run = folder / f"{engine}-{precision}"
    begun = time.monotonic()
    trained = _t2tdeploy(section, _training(section, problem, data, run, engine, precision))
    minutes = (time.monotonic() - begun) / 60
    _t2tdeploy(section, ["average", "--output-dir", run, "--last", "5"])
    checkpoints = ("averaged",) if section.reduced else ("best", "averaged")
    scores = {checkpoint: _evaluate(section, run, "dev", checkpoint) for checkpoint in checkpoints}
    chosen = max(scores, key=lambda checkpoint: scores[checkpoint]["bleu"])
    test = _evaluate(section, run, "test", chosen)
    section.rows.append(
        {
            "engine": engine,
            "precision": precision,
            "steps": trained["step"],
            "training_minutes": round(minutes, 2),
            "checkpoint": chosen,
            "dev_bleu": round(scores[chosen]["bleu"], 2),
            "test_bleu": round(test["bleu"], 2),
            "test_lowercase_bleu": round(test["lowercase_bleu"], 2),
        }
    )


def _training(
    section: Section, problem: str, data: Path, run: Path, engine: str, precision: str
) -> list[str | Path]:  # fmt: skip
    """The words of `t2tdeploy train`."""
    words: list[str | Path] = ["train", "--problem", problem, "--data-dir", data, "--output-dir", run]
    words += ["--engine", engine]
    if section.reduced:
        few = ["--train-steps", "4", "--save-every", "2", "--eval-every", "4", "--eval-sentences", "2"]
        sizes = f"{REDUCED_HPARAMS},precision={precision}"
        return [*words, "--hparams-set", "transformer_tiny", "--hparams", sizes, *few]
    often = ["--save-every", "200", "--eval-every", "800"]
    return [*words, "--hparams-set", HPARAMS_SET, "--hparams", f"precision={precision}", *often]


def _data(section: Section, problem: str, folder: Path, source_dir: Path | None, data_dir: Path | None) -> Path:
    if data_dir is not None and not section.reduced:
        return data_dir.resolve()
    data = folder / "data"
    if (data / f"{problem}.json").exists():  # another run of this call made them
        return data
    words: list[str | Path] = ["datagen", "--problem", problem, "--data-dir", data]
    if section.reduced:
        words += ["--problem-options", REDUCED_DATA]
    elif source_dir is None:
        raise CouldNotRunError("the raw files of Multi30k are not given: --source-dir FOLDER, or --data-dir FOLDER")
    else:
        words += ["--source-dir", source_dir.resolve()]
    _t2tdeploy(section, words)
    return data


def _evaluate(section: Section, run: Path, split: str, checkpoint: str) -> dict[str, Any]:
    words: list[str | Path] = [
        "evaluate",
        "--output-dir",
        run,
        "--split",
        split,
        "--checkpoint",
        checkpoint,
        "--lowercase",
    ]
    scores: dict[str, Any] = _t2tdeploy(section, words)
    return scores


def _t2tdeploy(section: Section, words: list[str | Path]) -> Any:
    """The JSON object of a command's last line."""
    try:
        printed = run_python(
            ["-m", "t2tdeploy", *words, "--json"], variables=section.variables, seconds=section.seconds_left
        )
    except CouldNotRunError as error:
        raise CouldNotRunError(f"t2tdeploy {words[0]}: {error}") from None
    return json.loads(printed.splitlines()[-1])
