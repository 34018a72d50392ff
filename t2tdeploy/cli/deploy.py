"""Commands about bundles: export, serve."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from t2tdeploy.cli import options
from t2tdeploy.cli.console import make_reporter, print_result
from t2tdeploy.cli.lines import read_lines

if TYPE_CHECKING:
    from t2tdeploy.training.run_directory import RunDirectory


@click.command()
@options.output_dir
@click.option("--bundle", "bundle_dir", type=options.directory, required=True, help="Folder to write.")
@options.checkpoint
@click.option("--name", help="What requests call the model [the problem's name].")
@click.option("--parity-input", type=options.file, help="Source sentences for the parity check [the dev split].")
@click.option("--parity-sentences", type=click.IntRange(1), default=16, show_default=True, help="How many of them.")
@click.option("--overwrite", is_flag=True, help="Replace a bundle that is there.")
@options.as_json
def export(
    output_dir: Path,
    bundle_dir: Path,
    checkpoint: str,
    name: str | None,
    parity_input: Path | None,
    parity_sentences: int,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Export a run as a bundle: one ONNX graph with beam search inside, tokenizer, parity report.

    The graph is compared with a plain Python beam search on real sentences; a graph that differs is not written.

    \b
    Example:
      t2tdeploy export --output-dir runs/dates --bundle bundles/dates
    """
    from t2tdeploy.bundle import DecodeDefaults
    from t2tdeploy.export.package import export_bundle
    from t2tdeploy.training.run_directory import RunDirectory

    options.use_all_cpus(None)
    run = RunDirectory.open(output_dir)
    hparams = run.hparams
    bundle = export_bundle(
        run.model(checkpoint),
        bundle_dir,
        name=name or run.record.problem,
        tokenizers=run.tokenizers,
        decode=DecodeDefaults(
            beam_size=hparams.beam_size,
            alpha=hparams.alpha,
            extra_length=hparams.extra_length,
            max_source_length=hparams.max_length,
        ),
        sentences=_parity_sentences(run, parity_input, parity_sentences),
        provenance={**run.record.model_dump(mode="json"), "checkpoint": run.checkpoint_path(checkpoint).name},
        metrics=_dev_metrics(run, checkpoint),
        overwrite=overwrite,
        reporter=make_reporter(as_json),
    )
    size = (bundle.directory / "model.onnx").stat().st_size
    print_result(
        {"bundle": str(bundle.directory), "version": bundle.version, "graph_megabytes": round(size / 1e6, 1)},
        as_json=as_json,
    )


def _dev_metrics(run: RunDirectory, checkpoint: str) -> dict[str, Any]:
    """What training measured on dev when it wrote this checkpoint; nothing for one it did not evaluate."""
    from t2tdeploy.training.summaries import read_metrics

    name = run.checkpoint_path(checkpoint).name
    for line in read_metrics(run.path):
        if line["group"] == "evaluation" and name == f"step-{line['step']:08d}":
            measured = ("loss", "perplexity", "accuracy", "bleu", "chrf")
            return {f"dev_{key}": line[key] for key in measured if key in line}
    return {}


def _parity_sentences(run: RunDirectory, path: Path | None, count: int) -> list[str]:
    """The first sentences of a file, or sentences spread over the dev split (train, if there is none)."""
    from t2tdeploy.errors import InputError
    from t2tdeploy.problems.dataset import open_problem

    if path is not None:
        lines = [line for line in read_lines(path) if line.strip()][:count]
        if not lines:
            raise InputError(f"{path} holds no sentence", path=path)
        return lines
    import numpy as np

    try:
        data = open_problem(run.record.problem, Path(run.record.data_dir))
        split = data.split("dev" if "dev" in data.record.splits else "train")
    except InputError as error:
        raise InputError(
            f"no sentences for the parity check: {error.message}", path=error.path, help="name a file: --parity-input"
        ) from error
    return split.texts("inputs", np.unique(np.linspace(0, len(split) - 1, count).astype(np.int64)))


@click.command()
@click.option("--bundle", "bundle_dir", type=options.directory, required=True, help="What export wrote.")
@click.option("--host", help="Address to listen on [127.0.0.1]; 0.0.0.0 for every interface.")
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on [50051]; 0 takes a free one.")
@click.option("--workers", type=click.IntRange(1), help="Batches that run at once [1].")
@click.option("--threads", type=click.IntRange(1), help="Threads of the model [the CPUs available].")
@click.option(
    "--options", "overrides", default="", help="Further server options: max_batch_size=32,max_queue_delay_ms=5."
)
@options.as_json
def serve(bundle_dir: Path, overrides: str, as_json: bool, **given: Any) -> None:
    """Serve a bundle over gRPC until SIGTERM or Ctrl-C; accepted requests are finished first.

    \b
    Example:
      t2tdeploy serve --bundle bundles/dates --port 50051
    """
    from t2tdeploy.serving.options import ServerOptions
    from t2tdeploy.serving.server import serve as run_server

    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    chosen = ServerOptions.create({name: value for name, value in given.items() if value is not None})
    run_server(bundle_dir, chosen.override(overrides), make_reporter(as_json))
