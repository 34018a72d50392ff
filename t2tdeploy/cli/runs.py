"""Commands about training runs: train, evaluate, decode, average."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from t2tdeploy.cli import options
from t2tdeploy.cli.console import make_reporter, print_result
from t2tdeploy.cli.lines import read_lines, write_lines

if TYPE_CHECKING:
    from t2tdeploy.hparams import HParams
    from t2tdeploy.problems.problem import Problem


@click.command()
@click.option("--problem", required=True, help="A name from `t2tdeploy list problems`; NAME_rev swaps the two sides.")
@click.option("--model", default="transformer", show_default=True, help="A name from `t2tdeploy list models`.")
@click.option(
    "--hparams-set", default="transformer_tiny", show_default=True, help="A name from `t2tdeploy list hparams`."
)
@click.option("--hparams", default="", help="Overrides of the set: dropout=0.3,batch_size=2048.")
@click.option("--data-dir", type=options.directory, required=True, help="What datagen wrote.")
@click.option("--output-dir", type=options.directory, required=True, help="Run directory; an existing one is resumed.")
@click.option("--train-steps", type=click.IntRange(1), help="Optimizer steps [the hparams' train_steps].")
@click.option("--eval-every", "eval_every_steps", type=click.IntRange(1), help="Evaluate after so many steps [1000].")
@click.option("--save-every", "save_every_steps", type=click.IntRange(1), help="Save after so many steps [1000].")
@click.option(
    "--log-every", "log_every_steps", type=click.IntRange(1), help="A point of the curves after so many steps."
)
@click.option("--keep-last", type=click.IntRange(1), help="Checkpoints kept, beside the best [8].")
@click.option("--eval-sentences", type=click.IntRange(1), help="Dev sentences to translate [all].")
@click.option("--metric", type=click.Choice(["bleu", "chrf", "loss", "accuracy"]), help="What makes the best [bleu].")
@click.option("--early-stopping-evals", type=click.IntRange(1), help="Stop after so many evaluations without gain.")
@click.option("--warm-start", type=click.Path(path_type=Path), help="Run, checkpoint or .safetensors to start from.")
@click.option("--no-decode", is_flag=True, help="Evaluate the loss only, translate nothing.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of parameters, data order and dropout.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads [the CPUs available].")
@click.option("--generate-data", is_flag=True, help="Run datagen first if the data are not there.")
@click.option("--source-dir", type=options.directory, help="With --generate-data: where raw files lie.")
@options.usr_dir
@options.as_json
def train(
    problem: str,
    model: str,
    hparams_set: str,
    hparams: str,
    data_dir: Path,
    output_dir: Path,
    train_steps: int | None,
    no_decode: bool,
    seed: int,
    threads: int | None,
    generate_data: bool,
    source_dir: Path | None,
    usr_dir: Path | None,
    as_json: bool,
    **train_options: Any,
) -> None:
    """Train a model; the same command again resumes it.

    \b
    Example:
      t2tdeploy train --problem translate_dates_ende --model transformer --hparams-set transformer_tiny \\
          --hparams "dropout=0.3" --data-dir data --output-dir runs/dates
    """
    options.import_user_code(usr_dir)
    from t2tdeploy.problems.dataset import open_problem
    from t2tdeploy.problems.problem import get_problem

    chosen = _hparams(get_problem(problem), model, hparams_set, hparams, train_steps)
    if generate_data:
        _generate_if_missing(problem, data_dir, source_dir, usr_dir, as_json)
    data = open_problem(problem, data_dir)
    from t2tdeploy.training.allocator import keep_freed_memory
    from t2tdeploy.training.options import TrainOptions
    from t2tdeploy.training.run_directory import RunDirectory
    from t2tdeploy.training.trainer import train as run_training

    given = {name: value for name, value in train_options.items() if value is not None}
    settings = TrainOptions.create({**given, "decode": not no_decode})
    options.use_all_cpus(threads)
    keep_freed_memory()
    run = RunDirectory.create_or_resume(
        output_dir,
        data=data,
        data_dir=data_dir,
        model=model,
        hparams=chosen,
        hparams_set=hparams_set,
        seed=seed,
        usr_dir=usr_dir,
    )
    result = run_training(run, data, settings, make_reporter(as_json))
    best = {f"best_{result.best.metric}": result.best.value, "best_step": result.best.step} if result.best else {}
    print_result(
        {"ending": str(result.ending), "step": result.step, **best, "checkpoint": str(result.checkpoint)},
        as_json=as_json,
    )


def _generate_if_missing(
    problem: str, data_dir: Path, source_dir: Path | None, usr_dir: Path | None, as_json: bool
) -> None:
    from t2tdeploy.cli.data import generate_data
    from t2tdeploy.problems.dataset import record_path
    from t2tdeploy.problems.problem import get_problem

    problem_class = get_problem(problem)
    if record_path(data_dir, problem).exists():
        return
    generate_data(
        problem_class(problem_class.options_class.create({})),
        data_dir=data_dir,
        source_dir=source_dir,
        processes=None,
        num_shards=None,
        usr_dir=usr_dir,
        as_json=as_json,
    )


def _hparams(problem: type[Problem], model: str, set_name: str, overrides: str, train_steps: int | None) -> HParams:
    """The set, then the problem's own wishes, then the user's."""
    from t2tdeploy import registry
    from t2tdeploy.errors import UserError
    from t2tdeploy.hparams import HParams
    from t2tdeploy.settings import parse_overrides

    hparams_class = registry.models.get(model).hparams_class
    hparams = registry.hparams_sets.get(set_name)()
    if not isinstance(hparams, hparams_class):
        fitting = [
            n for n in registry.hparams_sets.names() if isinstance(registry.hparams_sets.get(n)(), hparams_class)
        ]
        raise UserError(
            f"hparams set '{set_name}' is not made for model '{model}'",
            help=f"valid choices: {', '.join(fitting) or 'none'}",
        )
    wishes = {
        name: value
        for name, _, value in parse_overrides(problem.default_hparams)
        if name in hparams_class.model_fields  # a problem cannot know the fields of every model
    }
    hparams = hparams.replace(**wishes).override(overrides)
    assert isinstance(hparams, HParams)
    return hparams if train_steps is None else hparams.replace(train_steps=train_steps)


@click.command()
@options.output_dir
@click.option("--split", type=click.Choice(["train", "dev", "test"]), default="dev", show_default=True)
@options.checkpoint
@options.search
@click.option("--data-dir", type=options.directory, help="What datagen wrote [where the run was trained from].")
@click.option("--sentences", type=click.IntRange(1), help="Translate only so many [all].")
@click.option("--lowercase", is_flag=True, help="Also score without regard to case.")
@options.as_json
def evaluate(
    output_dir: Path,
    split: str,
    checkpoint: str,
    beam_size: int | None,
    alpha: float | None,
    data_dir: Path | None,
    sentences: int | None,
    lowercase: bool,
    as_json: bool,
) -> None:
    """Measure loss, perplexity, accuracy, sacreBLEU and chrF of a run.

    \b
    Example:
      t2tdeploy evaluate --output-dir runs/dates --split test
    """
    from t2tdeploy.problems.dataset import open_problem
    from t2tdeploy.training.evaluate import evaluate as run_evaluation
    from t2tdeploy.training.run_directory import RunDirectory

    options.use_all_cpus(None)
    run = RunDirectory.open(output_dir)
    data = open_problem(run.record.problem, data_dir or Path(run.record.data_dir))
    report = run_evaluation(
        run.model(checkpoint),
        data,
        split,
        options=_search_options(run.hparams, beam_size, alpha),
        extra_length=run.hparams.extra_length,
        batch_size=run.hparams.batch_size,
        sentences=sentences,
        lowercase=lowercase,
        reporter=make_reporter(as_json),
    )
    assert report.scores is not None
    lower = report.lowercase_scores
    print_result(
        {
            "split": split,
            "checkpoint": run.checkpoint_path(checkpoint).name,
            **asdict(report.losses),
            "sentences": report.sentences,
            **asdict(report.scores),
            **({f"lowercase_{name}": value for name, value in asdict(lower).items()} if lower else {}),
        },
        as_json=as_json,
    )


@click.command()
@options.output_dir
@options.checkpoint
@options.search
@click.option("--input", "input_file", type=options.file, help="Text, a sentence a line [standard input].")
@click.option("--output", "output_file", type=options.file, help="Where translations go [standard output].")
@options.as_json
def decode(
    output_dir: Path,
    checkpoint: str,
    beam_size: int | None,
    alpha: float | None,
    input_file: Path | None,
    output_file: Path | None,
    as_json: bool,
) -> None:
    """Translate text with a run's checkpoint: a file, a pipe, or line by line on a terminal.

    \b
    Examples:
      t2tdeploy decode --output-dir runs/dates --input in.en --output out.de
      echo "May 3, 2024" | t2tdeploy decode --output-dir runs/dates
    """
    from t2tdeploy.training.evaluate import translate as run_search
    from t2tdeploy.training.run_directory import RunDirectory

    options.use_all_cpus(None)
    run = RunDirectory.open(output_dir)
    model, search, reporter = (
        run.model(checkpoint),
        _search_options(run.hparams, beam_size, alpha),
        make_reporter(as_json),
    )

    def answer(sources: list[str], quiet: bool) -> list[str]:
        return run_search(
            model,
            run.tokenizers,
            sources,
            options=search,
            extra_length=run.hparams.extra_length,
            batch_size=run.hparams.batch_size,
            reporter=None if quiet else reporter,
        )

    if input_file is None and sys.stdin.isatty():
        for line in _prompted():
            print(*answer([line], quiet=True))
        return
    sources = read_lines(input_file)
    write_lines(output_file, sources, answer(sources, quiet=False), as_json=as_json)


def _prompted() -> Iterator[str]:
    """Lines typed at a prompt, until end of file."""
    while True:
        try:
            yield input("> ")
        except EOFError:
            return


def _search_options(hparams: HParams, beam_size: int | None, alpha: float | None) -> Any:
    from t2tdeploy.models.search import SearchOptions

    return SearchOptions(
        beam_size=hparams.beam_size if beam_size is None else beam_size,
        alpha=hparams.alpha if alpha is None else alpha,
    )


@click.command()
@options.output_dir
@click.option(
    "--last", type=click.IntRange(1), default=5, show_default=True, help="How many of the newest checkpoints."
)
@options.as_json
def average(output_dir: Path, last: int, as_json: bool) -> None:
    """Average the parameters of the last checkpoints, usually worth some tenths of BLEU.

    \b
    Example:
      t2tdeploy average --output-dir runs/dates --last 5
      t2tdeploy evaluate --output-dir runs/dates --checkpoint averaged
    """
    from t2tdeploy.training.run_directory import RunDirectory

    run = RunDirectory.open(output_dir)
    steps = run.checkpoints.steps()[-last:]
    path = run.average(last)
    print_result({"averaged": ", ".join(map(str, steps)), "checkpoint": str(path)}, as_json=as_json)
