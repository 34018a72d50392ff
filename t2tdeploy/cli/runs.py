"""Commands about training runs: train, evaluate, decode, average."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from t2tdeploy.cli import options
from t2tdeploy.cli.console import INTERRUPTED, make_reporter, print_error, print_result
from t2tdeploy.cli.lines import one_line, read_lines, require_output, write_lines
from t2tdeploy.cli.predictions import print_predictions, refuse_options_of_translations, write_pictures
from t2tdeploy.cli.processes import is_to_launch, joined_processes, launch_again, train_together
from t2tdeploy.cli.recipes import recipe
from t2tdeploy.errors import UserError
from t2tdeploy.files import require_folder
from t2tdeploy.progress import SilentReporter

if TYPE_CHECKING:
    from t2tdeploy.hparams import HParams
    from t2tdeploy.models.model import Model
    from t2tdeploy.problems.dataset import ProblemData
    from t2tdeploy.progress import Reporter
    from t2tdeploy.training.evaluate import EvaluationReport
    from t2tdeploy.training.options import TrainOptions
    from t2tdeploy.training.run_directory import RunDirectory


@click.command()
@click.option("--problem", required=True, help="A name from `t2tdeploy list problems`; NAME_rev swaps the two sides.")
@click.option("--model", help="A name from `t2tdeploy list models` [the problem's own, of texts transformer].")
@click.option(
    "--hparams-set",
    help="A name from `t2tdeploy list hparams` [the model's own, e.g. transformer_tiny]. The problem's own "
    "settings win over it, and --hparams over both.",
)
@click.option("--hparams", default="", help="Single hyperparameters: dropout=0.3,batch_size=2048.")
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
@click.option(
    "--metric",
    type=click.Choice(["bleu", "chrf", "accuracy", "f1", "rmse", "loss"]),
    help="What makes a checkpoint the best [bleu of translations, accuracy of classes, rmse of numbers].",
)
@click.option("--early-stopping-evals", type=click.IntRange(1), help="Stop after so many evaluations without gain.")
@click.option("--warm-start", type=options.path, help="Run, checkpoint or .safetensors to start from.")
@click.option("--no-decode", is_flag=True, help="Evaluate the loss only, translate nothing.")
@click.option(
    "--seed",
    type=click.IntRange(0, 2**64 - 1),
    default=0,
    show_default=True,
    help="Of parameters, data order and dropout.",
)
@click.option(
    "--engine",
    type=click.Choice(["auto", "ort", "torch"]),
    help="onnxruntime, or torch alone [auto: ort, but torch for convolutions of images, faster on CPUs].",
)
@click.option(
    "--gradient-builder",
    type=click.Choice(["auto", "portable", "onnxruntime-training"]),
    help="What differentiates for engine ort, which a named one chooses, too [auto: what is installed].",
)
@click.option("--nproc", type=click.IntRange(1), help="Processes on this machine [1, or as torchrun says].")
@click.option("--threads", type=click.IntRange(1), help="CPU threads of a process [its share of the CPUs available].")
@click.option("--generate-data", is_flag=True, help="Run datagen first if the data are not there.")
@click.option("--source-dir", type=options.directory, help="With --generate-data: where raw files lie.")
@options.usr_dir
@options.as_json
def train(
    problem: str,
    model: str | None,
    hparams_set: str | None,
    hparams: str,
    data_dir: Path,
    output_dir: Path,
    train_steps: int | None,
    no_decode: bool,
    seed: int,
    nproc: int | None,
    threads: int | None,
    generate_data: bool,
    source_dir: Path | None,
    usr_dir: Path | None,
    as_json: bool,
    **train_options: Any,
) -> int:
    """Train a model; the same command again resumes it. Stopped by a signal it saves and exits with 130.

    \b
    Example:
      t2tdeploy train --problem translate_dates_ende --model transformer --hparams-set transformer_tiny \\
          --hparams "dropout=0.3" --data-dir data --output-dir runs/dates
    """
    if is_to_launch(nproc):
        return launch_again(nproc or 1)
    options.import_user_code(usr_dir)
    from t2tdeploy.problems.dataset import open_problem
    from t2tdeploy.problems.problem import get_problem
    from t2tdeploy.training.options import TrainOptions

    given = {name: value for name, value in train_options.items() if value is not None}
    settings = TrainOptions.create({**given, "decode": not no_decode})
    with joined_processes() as processes:
        reporter = make_reporter(as_json) if processes.first else SilentReporter()
        if not get_problem(problem).decides_task:
            _require_fitting(settings, get_problem(problem).task)  # a faulty one is told before data are generated
        chosen = recipe(get_problem(problem), model, hparams_set, hparams, train_steps, reporter)
        with processes.in_turn():
            if generate_data:
                _generate_if_missing(problem, data_dir, source_dir, usr_dir, as_json)
            data = open_problem(problem, data_dir)
        _require_fitting_data(settings, data, chosen.model, reporter)
        result = train_together(
            processes, data, settings, reporter, threads=threads,
            path=output_dir, data_dir=data_dir, seed=seed, usr_dir=usr_dir, **chosen._asdict(),
        )  # fmt: skip
        if processes.first:
            best = result.best and {f"best_{result.best.metric}": result.best.value, "best_step": result.best.step}
            ending = {"ending": str(result.ending), "step": result.step}
            print_result({**ending, **(best or {}), "checkpoint": str(result.checkpoint)}, as_json=as_json)
    return INTERRUPTED if result.stopped else 0  # so that `train && export` exports no half-trained model


def _require_fitting(settings: TrainOptions, task: str) -> None:
    """Checks that evaluations of a model of this task can follow the options.

    Raises:
        UserError: they cannot.
    """
    settings.deciding_metric(task)
    if task != "translate":
        no_decode = None if settings.decode else True
        refuse_options_of_translations(task, {"no_decode": no_decode, "eval_sentences": settings.eval_sentences})


def _require_fitting_data(settings: TrainOptions, data: ProblemData, model: str, reporter: Reporter) -> None:
    """The same, of data and a model that are there; tells if they leave nothing to evaluate.

    Raises:
        UserError: they cannot, or the model cannot treat the data.
    """
    from t2tdeploy import registry
    from t2tdeploy.models.model import TASKS

    registry.models.get(model).require_features(data.features)
    _require_fitting(settings, TASKS[data.features["targets"].modality])
    settings.require_dev(data.record.splits)
    if "dev" not in data.record.splits:
        reporter.message("no dev split: nothing is evaluated")


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


@click.command()
@options.output_dir
@click.option("--split", type=click.Choice(["train", "dev", "test"]), default="dev", show_default=True)
@options.checkpoint
@options.search
@click.option("--data-dir", type=options.directory, help="What datagen wrote [where the run was trained from].")
@click.option("--sentences", type=click.IntRange(1), help="Translate only so many [all].")
@click.option("--lowercase", is_flag=True, help="Also score translations without regard to case.")
@click.option("--pictures", type=options.directory, help="Folder for pictures of predicted classes or numbers.")
@options.as_json
def evaluate(
    output_dir: Path,
    split: str,
    checkpoint: str,
    data_dir: Path | None,
    sentences: int | None,
    lowercase: bool,
    pictures: Path | None,
    as_json: bool,
    **search: Any,
) -> None:
    """Measure a run: of translations loss, perplexity, accuracy, sacreBLEU and chrF; of classes loss, accuracy,
    precision, recall, F1, AUC and calibration; of numbers RMSE, mean error and explained variance.

    \b
    Examples:
      t2tdeploy evaluate --output-dir runs/dates --split test
      t2tdeploy evaluate --output-dir runs/mood --split test --pictures pictures
    """
    from t2tdeploy.problems.dataset import open_problem
    from t2tdeploy.training.evaluate import evaluate as run_evaluation
    from t2tdeploy.training.predictions import evaluate_predictions
    from t2tdeploy.training.run_directory import RunDirectory

    if pictures is not None:
        require_folder(pictures)
    options.use_all_cpus(None)
    run = RunDirectory.open(output_dir)
    data = open_problem(run.record.problem, data_dir or Path(run.record.data_dir))
    run.require_vocabulary_of(data)
    model = _model(run, checkpoint)
    if not model.autoregressive:
        refuse_options_of_translations(model.task, {"sentences": sentences, "lowercase": lowercase or None, **search})
        found = evaluate_predictions(model, data, split, batch_size=run.hparams.batch_size)
        print_predictions(found, run.checkpoint_path(checkpoint).name, as_json=as_json)
        if pictures is not None:
            write_pictures(found, pictures)
        return
    if pictures is not None:
        raise UserError("--pictures is for classes and numbers, and this run translates", help="leave it out")
    report = run_evaluation(
        model,
        data,
        split,
        options=_search_options(run.hparams, **search),
        extra_length=run.hparams.extra_length,
        batch_size=run.hparams.batch_size,
        sentences=sentences,
        lowercase=lowercase,
        reporter=make_reporter(as_json),
    )
    _print_report(split, run.checkpoint_path(checkpoint).name, report, as_json=as_json)


def _print_report(split: str, checkpoint: str, report: EvaluationReport, *, as_json: bool) -> None:
    assert report.scores is not None
    lower = report.lowercase_scores
    print_result(
        {
            "split": split,
            "checkpoint": checkpoint,
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
@click.option("--input", "input_file", type=options.file_or_dash, help="Text, a sentence a line [-: standard input].")
@click.option(
    "--output", "output_file", type=options.file_or_stdout, help="Where translations go [-: standard output]."
)
@options.as_json
def decode(
    output_dir: Path,
    checkpoint: str,
    input_file: Path | None,
    output_file: Path | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Translate text with a run's checkpoint: a file, a pipe, or line by line on a terminal.

    With --output or --json, a terminal is read to its end like a pipe.

    \b
    Examples:
      t2tdeploy decode --output-dir runs/dates --input in.en --output out.de
      echo "May 3, 2024" | t2tdeploy decode --output-dir runs/dates
    """
    from t2tdeploy.errors import RequestError
    from t2tdeploy.training.evaluate import translate as run_search
    from t2tdeploy.training.run_directory import RunDirectory

    require_output(output_file)
    options.use_all_cpus(None)
    run = RunDirectory.open(output_dir)
    model, search, reporter = (
        _model(run, checkpoint),
        _search_options(run.hparams, **given),
        make_reporter(as_json),
    )
    if not model.autoregressive:
        raise UserError(
            f"decode translates, and the model of {output_dir} is one to {model.task}",
            help="t2tdeploy evaluate measures it; t2tdeploy export makes a bundle of it that answers",
        )

    reporter.message(f"checkpoint {run.checkpoint_path(checkpoint).name}")

    def answer(sources: list[str], quiet: bool) -> list[str]:
        return run_search(
            model,
            run.tokenizers,
            sources,
            options=search,
            extra_length=run.hparams.extra_length,
            batch_size=run.hparams.batch_size,
            max_source_length=run.hparams.max_length,
            reporter=None if quiet else reporter,
        )

    if input_file is None and output_file is None and not as_json and _is_typed():
        for line in _prompted():
            try:
                print(*map(one_line, answer([line], quiet=True)))
            except RequestError as error:
                print_error(error, as_json=as_json)  # the next line may be better
        return
    sources = read_lines(input_file)
    write_lines(output_file, sources, answer(sources, quiet=False), as_json=as_json)


def _is_typed() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()


def _prompted() -> Iterator[str]:
    """Lines typed at a prompt, until end of file."""
    while True:
        try:
            yield input("> ")
        except EOFError:
            return


def _model(run: RunDirectory, checkpoint: str) -> Model:
    """The model of a checkpoint, where training would put it: on the GPU if there is one."""
    from t2tdeploy.training.gradient_engine import default_device

    return run.model(checkpoint).to(default_device())


def _search_options(
    hparams: HParams, beam_size: int | None, alpha: float | None, early_stopping: bool | None, patience: float | None
) -> Any:
    from t2tdeploy.decoding import TranslateOptions, patience_of
    from t2tdeploy.models.beam_search import SearchOptions

    return SearchOptions(
        beam_size=hparams.beam_size if beam_size is None else beam_size,
        alpha=hparams.alpha if alpha is None else alpha,
        patience=patience_of(TranslateOptions(early_stopping=early_stopping, patience=patience), default=False),
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
    steps = run.average(last)
    if len(steps) < last:
        make_reporter(as_json).message(
            f"{len(steps)} checkpoints, not {last}: there are no more in a row; train keeps more with --keep-last"
        )
    path = run.checkpoint_path("averaged")
    print_result({"averaged": ", ".join(map(str, steps)), "checkpoint": str(path)}, as_json=as_json)
