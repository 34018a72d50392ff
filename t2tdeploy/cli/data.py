"""Commands about problems and their data: list, datagen."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import click

from t2tdeploy.cli import options
from t2tdeploy.cli.console import make_reporter, print_result


@click.command("list")
@click.argument("kind", type=click.Choice(["problems", "models", "hparams"]))
@click.argument("name", required=False)
@options.usr_dir
@options.as_json
def list_names(kind: str, name: str | None, usr_dir: Path | None, as_json: bool) -> None:
    """Show the registered problems, models or hparams sets; with a NAME, its fields, values and what they mean.

    \b
    Examples:
      t2tdeploy list problems
      t2tdeploy list hparams transformer_tiny
      t2tdeploy list problems translate_pairs
    """
    from t2tdeploy import registry

    options.import_user_code(usr_dir)
    if name is not None:
        print_result(_fields(kind, name), as_json=as_json)
        return
    found = {"problems": registry.problems, "models": registry.models, "hparams": registry.hparams_sets}[kind]
    lines = {name: (inspect.getdoc(found.get(name)) or "").partition("\n")[0] for name in found.names()}
    print_result(lines, as_json=as_json)


def _fields(kind: str, name: str) -> dict[str, str]:
    """Field -> its value (of a set) or default (of a problem's options, a model's hparams), and its description.

    Of a problem also what a model of it does, and its classes if the problem's own code names them.
    """
    from t2tdeploy import registry
    from t2tdeploy.problems.classes import shown_classes
    from t2tdeploy.problems.problem import get_problem
    from t2tdeploy.settings import Settings

    settings: Settings
    about: dict[str, str] = {}
    if kind == "hparams":
        settings = registry.hparams_sets.get(name)()
    elif kind == "models":
        settings = registry.models.get(name).hparams_class.create({})
    else:
        problem = get_problem(name)
        settings = problem.options_class.create({})
        classes = getattr(problem, "classes", ())
        about = {"(task)": problem.task}
        if isinstance(classes, tuple) and classes:  # else they are found in the data
            about["(classes)"] = shown_classes(classes)
    fields = type(settings).model_fields
    values = {field: str(value).lower() if value is None else str(value) for field, value in settings}
    width = max(map(len, values.values()), default=0)
    described = {field: f"{value:<{width}}  {fields[field].description or ''}" for field, value in values.items()}
    return {**about, **{field: line.rstrip() for field, line in described.items()}}


@click.command()
@click.option("--problem", required=True, help="A name from `t2tdeploy list problems`; NAME_rev swaps the two sides.")
@click.option("--data-dir", type=options.directory, required=True, help="Where shards and vocabulary are written.")
@click.option("--source-dir", type=options.directory, help="Where raw files lie or are downloaded to [DATA_DIR/raw].")
@click.option("--problem-options", default="", help="Overrides of the problem's options: a=1,b=[x,y].")
@click.option("--processes", type=click.IntRange(1), help="Workers that tokenize [the CPUs available].")
@click.option("--num-shards", type=click.IntRange(1), help="Files per split [one per 50 000 examples].")
@options.usr_dir
@options.as_json
def datagen(
    problem: str,
    data_dir: Path,
    source_dir: Path | None,
    problem_options: str,
    processes: int | None,
    num_shards: int | None,
    usr_dir: Path | None,
    as_json: bool,
) -> None:
    """Fetch a problem's examples, train its vocabulary, write its Parquet shards.

    A run that was stopped goes on where it stopped. Statistics land in NAME.statistics.json and .png. Of labels, the
    classes are printed with their training examples.

    \b
    Examples:
      t2tdeploy datagen --problem translate_dates_ende --data-dir data
      t2tdeploy datagen --problem translate_pairs --data-dir data --source-dir . \\
          --problem-options "train=[corpus.en,corpus.de],vocab_size=8000"
      t2tdeploy datagen --problem text_class_pairs --data-dir data --source-dir . \\
          --problem-options "train=reviews.csv,inputs_column=review,targets_column=stars"
    """
    from t2tdeploy.problems.problem import get_problem

    options.import_user_code(usr_dir)
    problem_class = get_problem(problem)
    generate_data(
        problem_class(problem_class.options_class.create({}).override(problem_options)),
        data_dir=data_dir,
        source_dir=source_dir,
        processes=processes,
        num_shards=num_shards,
        usr_dir=usr_dir,
        as_json=as_json,
    )


def generate_data(
    problem: object,
    *,
    data_dir: Path,
    source_dir: Path | None,
    processes: int | None,
    num_shards: int | None,
    usr_dir: Path | None,
    as_json: bool,
) -> None:
    """Runs datagen and prints the sizes of the splits, and classes with how many training examples each has."""
    from t2tdeploy.problems.datagen import generate
    from t2tdeploy.problems.problem import Problem
    from t2tdeploy.problems.statistics import statistics_path
    from t2tdeploy.runtime import available_cpus

    assert isinstance(problem, Problem)
    record = generate(
        problem,
        data_dir=data_dir,
        source_dir=source_dir or data_dir / "raw",
        processes=processes or available_cpus(),
        num_shards=num_shards,
        reporter=make_reporter(as_json),
        usr_dirs=[usr_dir] if usr_dir else [],
    )
    sizes = {split: size.examples for split, size in record.splits.items()}
    path = statistics_path(data_dir, record.problem)
    of_train = json.loads(path.read_text(encoding="utf-8"))["splits"]["train"]
    counts = {name: of_train[name]["classes"] for name, spec in record.features.items() if spec["classes"]}
    classes = {f"classes of {name}": _with_counts(of_name) for name, of_name in counts.items()}
    print_result(
        {
            "problem": record.problem,
            **sizes,
            **({"classes": counts} if as_json and counts else classes),
            "statistics": str(path),
        },
        as_json=as_json,
    )


def _with_counts(classes: dict[str, int]) -> str:
    from t2tdeploy.problems.classes import shown_classes

    return shown_classes(tuple(f"{name} ({count})" for name, count in classes.items()))
