"""The command that asks a model for classes or values."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from t2tdeploy.cli import options
from t2tdeploy.cli.console import make_reporter
from t2tdeploy.cli.lines import name_of, one_line, read_bytes, read_lines, require_output, write_text

if TYPE_CHECKING:
    from t2tdeploy.classifier import Classification, Classifier, RawExample
    from t2tdeploy.errors import RequestError, UserError
    from t2tdeploy.serving.classification_client import ClassificationClient


@dataclass(frozen=True)
class _Examples:
    """What is asked about.

    Args:
        places: where each example stands, for errors.
        interactive: they were typed, so that no progress is shown.
    """

    examples: list[RawExample]
    places: list[str]
    interactive: bool = False


@click.command()
@click.option("--server", help="host:port of a t2tdeploy serve.")
@click.option("--bundle", "bundle_dir", type=options.directory, help="Instead of a server: a bundle on this machine.")
@options.variant
@click.argument("text", nargs=-1)
@click.option(
    "--input", "input_file", type=options.file_or_dash, help="Texts, one a line [the arguments, or -: a pipe]."
)
@click.option("--pairs", is_flag=True, help="A text consists of several, with tabs between them: a pair of sentences.")
@click.option(
    "--image",
    "images",
    type=options.file,
    multiple=True,
    help="An image file; arguments behind it are further ones, as of --image pictures/*.png.",
)
@click.option("--json", "json_file", type=options.file_or_dash,
              help="Values for each feature: JSON, an object, a list, or one a line; -: a pipe.")  # fmt: skip
@click.option("--csv", "csv_file", type=options.file_or_dash,
              help="Rows of a table, the names of its columns first; -: a pipe.")  # fmt: skip
@click.option("--without", multiple=True, metavar="COLUMN",
              help="With --csv: a column that the model does not look at, such as the answer; repeatable.")  # fmt: skip
@click.option("--top-k", type=click.IntRange(1), default=1, show_default=True, help="Classes of each answer.")
@click.option("--truncate", is_flag=True, help="Cut texts that are too long instead of refusing them.")
@click.option("--output", "output_file", type=options.file_or_stdout, help="Where answers go [-: standard output].")
@click.option("--format", "output_format", type=click.Choice(["text", "json"]), default="text", show_default=True,
              help="Lines of class and probability, or of values; or a JSON object for each example.")  # fmt: skip
@click.option("--model", default="", help="The server's model, NAME or NAME:VERSION [its only one].")
@click.option("--priority", type=click.IntRange(-2, 2), help="With --server: higher goes first [0].")
@click.option(
    "--timeout", type=options.Number(0, min_open=True, infinite=True), help="With --server: seconds per request [60]."
)
@options.security
def classify(
    server: str | None,
    bundle_dir: Path | None,
    variant: str | None,
    text: tuple[str, ...],
    input_file: Path | None,
    pairs: bool,
    images: tuple[Path, ...],
    json_file: Path | None,
    csv_file: Path | None,
    without: tuple[str, ...],
    top_k: int,
    truncate: bool,
    output_file: Path | None,
    output_format: str,
    model: str,
    priority: int | None,
    timeout: float | None,
    **given: Any,
) -> None:
    """Classify texts, images or rows of a table, or predict values: with a running server, or a bundle.

    \b
    Examples:
      t2tdeploy classify --server localhost:50051 --top-k 2 "A film to see twice."
      t2tdeploy classify --server localhost:50051 --input reviews.txt --output labels.tsv
      t2tdeploy classify --server localhost:50051 --image cat.png --image dog.jpg
      t2tdeploy classify --bundle bundles/iris --json rows.jsonl --format json
      t2tdeploy classify --bundle bundles/iris --csv flowers.csv --without species
    """
    from t2tdeploy.errors import RequestError

    _require_sensible(click.get_current_context())
    require_output(output_file)
    if json_file or csv_file:
        asked = _rows(json_file, csv_file, without)
    else:
        asked = _examples(text, input_file, pairs, images)
    try:
        if bundle_dir is not None:
            found = _local(bundle_dir, variant).classify(asked.examples, top_k=top_k, truncate=truncate)
        else:
            name, _, version = model.partition(":")
            chosen = {"model": name, "model_version": version, "priority": priority, "timeout": timeout or 60.0}
            security = options.security_of(given)
            reporter = None if asked.interactive else make_reporter(output_format == "json" and output_file is None)
            with _client(str(server), security=security, **chosen) as client:
                found = client.classify(asked.examples, top_k=top_k, truncate=truncate, reporter=reporter)
    except RequestError as error:
        raise _naming_the_place(error, asked.places) from None
    write = _as_json if output_format == "json" else _as_text
    write_text(output_file, write(found, top_k))


def _client(server: str, **chosen: Any) -> ClassificationClient:
    from t2tdeploy.serving.classification_client import ClassificationClient
    from t2tdeploy.serving.client import ClientOptions

    return ClassificationClient(server, ClientOptions(**chosen))


def _local(bundle_dir: Path, variant: str | None) -> Classifier:
    from t2tdeploy.bundle import load_bundle
    from t2tdeploy.classifier import Classifier
    from t2tdeploy.targets import require_runnable

    bundle = load_bundle(bundle_dir)
    require_runnable(bundle, variant)
    return Classifier(bundle, variant=variant)


def _require_sensible(context: click.Context) -> None:
    """Refuses options that do not go together."""
    options.require_server_or_bundle(context)
    given = options.given(context)
    names = {"text": "texts", "input_file": "--input", "images": "--image", "json_file": "--json",
             "csv_file": "--csv"}  # fmt: skip
    if "images" in given:
        del names["text"]  # more images
    forms = [option for name, option in names.items() if name in given]
    if len(forms) > 1:
        raise click.UsageError(f"{' and '.join(forms)} are given: choose one", ctx=context)
    if "pairs" in given and {"images", "json_file", "csv_file"} & given.keys():
        raise click.UsageError(f"--pairs is for texts, not {forms[0]}", ctx=context)
    if "without" in given and "csv_file" not in given:
        raise click.UsageError("--without is for columns of --csv", ctx=context)


def _rows(json_file: Path | None, csv_file: Path | None, without: tuple[str, ...]) -> _Examples:
    from t2tdeploy.cli.rows import read_csv_rows, read_json_rows

    if csv_file:
        rows, path = read_csv_rows(csv_file, without), csv_file
    else:
        assert json_file is not None
        rows, path = read_json_rows(json_file), json_file
    return _Examples([*rows], [f"{name_of(path)}, row {place}" for place in range(1, len(rows) + 1)])


def _examples(text: tuple[str, ...], input_file: Path | None, pairs: bool, images: tuple[Path, ...]) -> _Examples:
    from t2tdeploy.errors import InputError

    if images:
        paths = [*images, *map(Path, text)]
        contents: list[RawExample] = [read_bytes(path) for path in paths]
        return _Examples(contents, [str(path) for path in paths], interactive=True)
    lines = list(text) if text else read_lines(input_file)
    name = name_of(input_file)
    places = [f"text {place}" if text else f"{name}, line {place}" for place in range(1, len(lines) + 1)]
    if not lines:
        raise InputError(f"{name} holds no text", path=input_file)
    examples: list[Any] = [line.split("\t") for line in lines] if pairs else [*lines]
    return _Examples(examples, places, interactive=bool(text))


def _naming_the_place(error: RequestError, places: list[str]) -> UserError:
    """`error` with the file and line in place of examples[…]; any other field stays."""
    from t2tdeploy.errors import InputError

    index = re.match(r"examples\[(\d+)\]\.?", error.field)
    if index is None or int(index[1]) >= len(places):
        return error
    feature = error.field[index.end() :]
    reason = error.message.removeprefix(f"{error.field}: ")
    named = f"{feature}: {reason}" if feature and feature != "inputs" else reason
    return InputError(f"{places[int(index[1])]}: {named}", help=error.help or _help_for(reason))


def _help_for(reason: str) -> str | None:
    """What to type instead; a server's answer does not say, for it knows nothing of this command."""
    if reason.startswith("a text, where an image is expected"):
        return "name the files of pictures with --image: --image cat.png dog.jpg"
    if reason.startswith("no such feature"):
        return (
            "leave it out (--csv has --without COLUMN): a row has what the model looks at, neither the target nor "
            "columns that were ignored"
        )
    return None


def _as_text(found: list[Classification], top_k: int) -> str:
    """A line for each example; with several classes a block of lines, with an empty line behind it."""
    blocks = [
        "".join(f"{one_line(one.name)}\t{one.probability:.4f}\n" for one in answer.labels)
        if answer.labels
        else "\t".join(f"{value:.6g}" for value in answer.values) + "\n"
        for answer in found
    ]
    return ("\n" if top_k > 1 else "").join(blocks)


def _as_json(found: list[Classification], top_k: int) -> str:
    del top_k
    records = []
    for answer in found:
        labels = [
            {"label": one.name, "class_id": one.class_id, "probability": one.probability, "logit": one.logit}
            for one in answer.labels
        ]
        record: dict[str, Any] = {"labels": labels} if labels else {"values": list(answer.values)}
        records.append({**record, "truncated": True} if answer.truncated else record)
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
