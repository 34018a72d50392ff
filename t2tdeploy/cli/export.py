"""From a run, or from a bundle, to what is deployed: a bundle, a model repository of Triton, a text graph."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NoReturn

import click
from click.core import ParameterSource

from t2tdeploy.cli import options
from t2tdeploy.cli.console import make_reporter, print_result
from t2tdeploy.cli.lines import read_lines

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from t2tdeploy.bundle import Bundle
    from t2tdeploy.export.single_pass import Batch
    from t2tdeploy.export.triton import TritonOptions
    from t2tdeploy.models.model import Model
    from t2tdeploy.progress import Reporter
    from t2tdeploy.training.run_directory import RunDirectory

_CALIBRATION_EXAMPLES = 10_000


@click.command()
@click.option("--output-dir", type=options.directory, help="Run directory that train wrote.")
@click.option("--from-bundle", type=options.directory, help="Bundle to take instead of a run.")
@click.option("--format", type=click.Choice(["bundle", "triton", "text"]), default="bundle", show_default=True,
              help="A bundle; models for NVIDIA Triton; one ONNX file, strings in and out.")  # fmt: skip
@click.option("--bundle", "bundle_dir", type=options.directory,
              help="Folder of the bundle to write [with --from-bundle: the same].")  # fmt: skip
@click.option("--output", type=options.path, help="Model repository (triton) or file (text) to write.")
@click.option(
    "--text-graph", is_flag=True, help="Write a graph from strings to strings too (pip install t2tdeploy[text])."
)
@click.option("--options", "overrides", default="",
              help="Options of --format triton: max_batch_size=32,device=gpu; see docs/triton.md.")  # fmt: skip
@options.checkpoint
@click.option("--early-stopping", is_flag=True,
              help="Requests that say nothing stop early: faster; see docs/decoding.md.")  # fmt: skip
@click.option("--name", help="What requests call the model [the problem's name, or the bundle's].")
@click.option("--parity-input", type=options.file, help="Source sentences for the parity check [the dev split].")
@click.option(
    "--parity-sentences", type=click.IntRange(1), default=16, show_default=True, help="How many of them, or examples."
)
@click.option("--overwrite", is_flag=True, help="Replace what is there.")
@options.as_json
@click.pass_context
def export(context: click.Context, /, **given: Any) -> None:
    """Export a run as a bundle: one ONNX graph with beam search inside, tokenizer, parity report.

    The graph is compared with a plain Python beam search on real sentences; a graph that differs is not written. A text
    graph has the tokenizers inside too, and is compared with the Python ones.

    A model that classifies or regresses has no search: its graph is compared with the model itself on examples of dev,
    and its probabilities are calibrated there.

    \b
    Examples:
      t2tdeploy export --output-dir runs/dates --bundle bundles/dates --name dates
      t2tdeploy export --from-bundle bundles/dates --text-graph
      t2tdeploy export --from-bundle bundles/dates --format text --output dates.onnx
      t2tdeploy export --from-bundle bundles/dates --format triton --output models
    """
    _check_usage(context)
    asked = _Asked(**given)
    if asked.format == "triton":
        asked.triton_options()
    if asked.text_graph or asked.format == "text":
        from t2tdeploy.export.text_bundle import extensions_library

        extensions_library()  # not after minutes of work
    result = _from_bundle(asked, asked.from_bundle) if asked.from_bundle else _from_run(asked)
    print_result(result, as_json=asked.as_json)


@dataclass(frozen=True)
class _Asked:
    """The options of the command, once `_check_usage` has found that they fit together.

    Args:
        output_dir: given if `from_bundle` is not.
        output: given if `format` is not "bundle".
    """

    output_dir: Path
    from_bundle: Path | None
    format: str
    bundle_dir: Path | None
    output: Path
    text_graph: bool
    overrides: str
    checkpoint: str
    early_stopping: bool
    name: str | None
    parity_input: Path | None
    parity_sentences: int
    overwrite: bool
    as_json: bool

    def triton_options(self) -> TritonOptions:
        from t2tdeploy.export.triton import TritonOptions

        return TritonOptions().override(self.overrides)

    def reporter(self) -> Reporter:
        return make_reporter(self.as_json)


def _check_usage(context: click.Context) -> None:
    given = context.params

    def refuse(message: str) -> NoReturn:
        raise click.UsageError(message, ctx=context)

    if bool(given["output_dir"]) == bool(given["from_bundle"]):
        refuse("name either a run (--output-dir) or a bundle (--from-bundle)")
    if given["format"] == "bundle":
        if given["output"]:
            refuse("--output is for --format triton and text; a bundle is written to --bundle")
        if given["output_dir"] and not given["bundle_dir"]:
            refuse("name the folder of the bundle to write: --bundle")
        if given["from_bundle"] and not given["text_graph"]:
            refuse("nothing to do with the bundle: add --text-graph, or choose another --format")
    elif given["bundle_dir"]:
        refuse(
            f"--bundle is for --format bundle; {given['format']} is written to --output, and read from --from-bundle"
        )
    elif not given["output"]:
        refuse(f"--format {given['format']} needs --output")
    if given["overrides"] and given["format"] != "triton":
        refuse("--options are those of --format triton")
    if given["from_bundle"]:
        if context.get_parameter_source("checkpoint") == ParameterSource.COMMANDLINE:
            refuse("--checkpoint is for a run (--output-dir)")
        if given["early_stopping"]:
            refuse("--early-stopping is for a run (--output-dir); a bundle has it or not")
        if given["name"] and given["format"] != "triton":
            refuse("--name is for a run (--output-dir) or --format triton")
        if given["format"] == "triton":
            words = "is for a run (--output-dir) or a text graph: nothing is compared here"
            options.refuse(context, ("parity_input", "parity_sentences"), words)
        if not given["parity_input"]:
            options.refuse(context, ["parity_sentences"], "of a bundle counts those of --parity-input")


def _from_bundle(asked: _Asked, source: Path) -> dict[str, Any]:
    from t2tdeploy.bundle import load_bundle

    target = asked.bundle_dir or source
    in_place = asked.format == "bundle" and target.resolve() == source.resolve()
    overwrite = asked.overwrite or in_place
    bundle = load_bundle(source)
    _require_free(asked, target, asked.name or bundle.manifest.name, overwrite)
    sentences = _first_lines(asked.parity_input, asked.parity_sentences) if asked.parity_input else []
    return _converted(asked, bundle, target, sentences, overwrite)


def _from_run(asked: _Asked) -> dict[str, Any]:
    """Exports the run to a bundle, and that, out of a temporary folder, to anything else that was asked for."""
    from t2tdeploy.training.run_directory import RunDirectory

    run = RunDirectory.open(asked.output_dir)
    target = asked.bundle_dir or asked.output
    _require_free(asked, target, asked.name or run.record.problem, asked.overwrite)
    if asked.format == "bundle" and not asked.text_graph:
        return _bundle_result(_export_run(asked, run, target, asked.overwrite))
    with TemporaryDirectory() as folder:
        bundle = _export_run(asked, run, Path(folder) / "bundle", overwrite=False)
        sentences = _parity_sentences(run, asked.parity_input, asked.parity_sentences)
        return _converted(asked, bundle, target, sentences, asked.overwrite)


def _require_free(asked: _Asked, target: Path, name: str, overwrite: bool) -> None:
    """Whether the result can be written, before the work that leads to it."""
    if asked.format == "bundle":
        from t2tdeploy.bundle import require_free

        require_free(target, overwrite)
    elif asked.format == "text":
        from t2tdeploy.export.text_bundle import require_free_file

        require_free_file(asked.output, overwrite)
    else:
        from t2tdeploy.export.triton import require_free_models

        require_free_models(asked.output, name, text=asked.text_graph, overwrite=overwrite)


def _converted(asked: _Asked, bundle: Bundle, target: Path, sentences: list[str], overwrite: bool) -> dict[str, Any]:
    """Writes what was asked for, and says what it is."""
    if asked.format == "triton":
        from t2tdeploy.export.triton import write_triton

        folders = write_triton(
            bundle,
            asked.output,
            name=asked.name,
            text=asked.text_graph,
            options=asked.triton_options(),
            overwrite=overwrite,
        )
        return {"repository": str(asked.output), "models": ", ".join(folder.name for folder in folders)}
    from t2tdeploy.export.text_bundle import add_text_graph, write_text_graph

    reporter = asked.reporter()
    if asked.format == "text":
        write_text_graph(bundle, asked.output, overwrite=overwrite, sentences=sentences, reporter=reporter)
        return {"text_graph": str(asked.output), "graph_megabytes": _megabytes(asked.output.stat().st_size)}
    return _bundle_result(add_text_graph(bundle, target, overwrite=overwrite, sentences=sentences, reporter=reporter))


def _bundle_result(bundle: Bundle) -> dict[str, Any]:
    text = bundle.manifest.text_graph
    result = {
        "bundle": str(bundle.directory), "version": bundle.version, "graph_megabytes": _megabytes(bundle.size()),
    }  # fmt: skip
    return {**result, "text_graph": text.file} if text else result


def _megabytes(count: int) -> float:
    return round(count / 1e6, 1 if count >= 1e6 else 4)  # that of a small model is not 0


def _export_run(asked: _Asked, run: RunDirectory, directory: Path, overwrite: bool) -> Bundle:
    from t2tdeploy.bundle import DecodeDefaults
    from t2tdeploy.export.classifier import task_of
    from t2tdeploy.export.package import export_bundle

    options.use_all_cpus(None)
    hparams = run.hparams
    model = run.model(asked.checkpoint)
    if task_of(model.features) != "translate":
        return _export_classifier(asked, run, model, directory, overwrite)
    return export_bundle(
        model,
        directory,
        name=asked.name or run.record.problem,
        tokenizers=run.tokenizers,
        decode=DecodeDefaults(
            beam_size=hparams.beam_size,
            alpha=hparams.alpha,
            extra_length=hparams.extra_length,
            max_source_length=hparams.max_length,
            early_stopping=asked.early_stopping,
        ),
        sentences=_parity_sentences(run, asked.parity_input, asked.parity_sentences),
        provenance={
            **run.record.model_dump(mode="json"),
            "checkpoint": run.checkpoint_path(asked.checkpoint).name,
            "run_dir": str(run.path.resolve()),
        },
        metrics=_dev_metrics(run, asked.checkpoint),
        overwrite=overwrite,
        reporter=asked.reporter(),
    )


def _export_classifier(asked: _Asked, run: RunDirectory, model: Model, directory: Path, overwrite: bool) -> Bundle:
    from t2tdeploy.errors import UserError
    from t2tdeploy.export.classifier import export_classifier, task_of

    given = {
        f"--format {asked.format}": asked.format != "bundle",
        "--text-graph": asked.text_graph,
        "--early-stopping": asked.early_stopping,
        "--parity-input": asked.parity_input is not None,
    }
    for option in (name for name, there in given.items() if there):
        raise UserError(
            f"{option} is for models that translate; the task of {run.path} is '{task_of(model.features)}'",
            help="leave it out",
        )
    examples, calibration = _labelled_examples(run, asked.parity_sentences)
    return export_classifier(
        model,
        directory,
        name=asked.name or run.record.problem,
        tokenizers=run.tokenizers,
        max_length=run.hparams.max_length,
        examples=examples,
        calibration=calibration,
        provenance={**run.record.model_dump(mode="json"), "checkpoint": run.checkpoint_path(asked.checkpoint).name},
        metrics=_dev_metrics(run, asked.checkpoint),
        overwrite=overwrite,
        reporter=asked.reporter(),
    )


def _labelled_examples(run: RunDirectory, count: int) -> tuple[Batch, Sequence[Batch]]:
    """Examples spread over dev (train, if there is none), and batches of dev to calibrate with."""
    import numpy as np

    from t2tdeploy.errors import InputError
    from t2tdeploy.problems.dataset import open_problem

    try:
        data = open_problem(run.record.problem, Path(run.record.data_dir))
        has_dev = "dev" in data.record.splits
        split = data.split("dev" if has_dev else "train")
    except InputError as error:
        raise InputError(
            f"no examples for the parity check: {error.message}",
            path=error.path,
            help=f"the graph is checked on the data of the run: {error.help or 'make them again'}",
        ) from error
    run.require_vocabulary_of(data)

    def spread(count: int) -> npt.NDArray[np.int64]:
        return np.unique(np.linspace(0, len(split) - 1, count).astype(np.int64))

    lengths = [*split.lengths.values()]
    order = spread(_CALIBRATION_EXAMPLES) if has_dev else spread(0)
    if lengths:  # of similar length together: less padding
        order = order[np.argsort(np.max(lengths, axis=0)[order], kind="stable")]
    batches = [split.batch(order[start : start + 64]) for start in range(0, len(order), 64)]
    return split.batch(spread(count)), batches


def _dev_metrics(run: RunDirectory, checkpoint: str) -> dict[str, Any]:
    """What training measured on dev when it wrote this checkpoint; nothing for one it did not evaluate."""
    from t2tdeploy.training.summaries import read_metrics

    name = run.checkpoint_path(checkpoint).name
    for line in read_metrics(run.path):
        if line["group"] == "evaluation" and name == f"step-{line['step']:08d}":
            measured = ("loss", "perplexity", "accuracy", "f1", "auc", "bleu", "chrf", "rmse", "mae", "r2")
            return {f"dev_{key}": line[key] for key in measured if key in line}
    return {}


def _parity_sentences(run: RunDirectory, path: Path | None, count: int) -> list[str]:
    """The first sentences of a file, or sentences spread over the dev split (train, if there is none)."""
    from t2tdeploy.errors import InputError
    from t2tdeploy.problems.dataset import open_problem

    if path is not None:
        return _first_lines(path, count)
    import numpy as np

    try:
        data = open_problem(run.record.problem, Path(run.record.data_dir))
        split = data.split("dev" if "dev" in data.record.splits else "train")
    except InputError as error:
        raise InputError(
            f"no sentences for the parity check: {error.message}", path=error.path, help="name a file: --parity-input"
        ) from error
    return split.texts("inputs", np.unique(np.linspace(0, len(split) - 1, count).astype(np.int64)))


def _first_lines(path: Path, count: int) -> list[str]:
    from t2tdeploy.errors import InputError

    lines = [line for line in read_lines(path) if line.strip()][:count]
    if not lines:
        raise InputError(f"{path} holds no sentence", path=path)
    return lines
