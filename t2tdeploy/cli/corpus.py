"""The command that translates whole corpora."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from t2tdeploy.cli import options
from t2tdeploy.cli.console import make_reporter, print_result


@click.command("translate-corpus")
@click.option("--bundle", "bundle_dir", type=options.directory, required=True, help="What export wrote.")
@click.option("--input", "source", type=options.path, required=True, help="A Parquet file, or a folder of them.")
@click.option("--output", type=options.directory, required=True, help="Folder for the translated Parquet parts.")
@click.option("--column", default="source", show_default=True, help="Column of sentences.")
@click.option("--translation-column", default="translation", show_default=True, help="Name of the new column of text.")
@click.option("--score-column", default="score", show_default=True, help="Name of the new column of scores.")
@click.option(
    "--on-error", type=click.Choice(["skip", "truncate", "fail"]), default="fail", show_default=True,
    help="A row that is null, no text or too long: leave its translation null; the same, but cut it if too long; stop.",
)  # fmt: skip
@options.search
@click.option("--extra-length", type=click.IntRange(1), help="Tokens a translation may have more than its source.")
@click.option("--max-length", type=click.IntRange(1), help="Tokens that a translation may have at most.")
@click.option("--variant", help="Form of the graph that runs [the bundle's default].")
@click.option("--threads", type=click.IntRange(1), help="Threads of a worker's model [its share of the CPUs].")
@click.option("--block-rows", type=click.IntRange(1), default=4096, show_default=True, help="Rows of a part, at most.")
@click.option("--workers", type=click.IntRange(1), help="Translate in so many Ray actors [in this process].")
@click.option("--ray-address", help="Ray cluster that the workers run on [one on this machine].")
@options.as_json
def translate_corpus(
    bundle_dir: Path,
    source: Path,
    output: Path,
    variant: str | None,
    threads: int | None,
    workers: int | None,
    ray_address: str | None,
    as_json: bool,
    column: str,
    translation_column: str,
    score_column: str,
    on_error: str,
    block_rows: int,
    **decoding: Any,
) -> None:
    """Translate a column of Parquet files: all columns and rows are kept, in their order, with two columns more.

    Give the same command again to go on where it was stopped: finished blocks are kept. What could not be translated is
    listed in OUTPUT/_bad_rows.jsonl.

    \b
    Examples:
      t2tdeploy translate-corpus --bundle bundles/ende --input corpus.parquet --output translated
      t2tdeploy translate-corpus --bundle bundles/ende --input corpus --output translated --workers 4 --on-error skip
    """
    from t2tdeploy.bundle import load_bundle
    from t2tdeploy.corpus.job import make_job
    from t2tdeploy.corpus.run import run_here
    from t2tdeploy.corpus.run import translate_corpus as translate
    from t2tdeploy.corpus.source import find_files, open_files
    from t2tdeploy.decoding import TranslateOptions
    from t2tdeploy.targets import require_runnable

    context = click.get_current_context()
    if ray_address and not (workers and threads):
        raise click.UsageError("--ray-address needs --workers and --threads", ctx=context)
    if translation_column == score_column:
        raise click.UsageError(f"--translation-column and --score-column are both '{score_column}'", ctx=context)
    bundle = load_bundle(bundle_dir)
    if ray_address is None:
        require_runnable(bundle, variant)
    files = open_files(find_files(source, output), column, [translation_column, score_column])
    job = make_job(
        files, bundle, output, variant=variant, column=column, translation_column=translation_column,
        score_column=score_column, options=TranslateOptions(**decoding), on_error=on_error, block_rows=block_rows,
    )  # fmt: skip
    reporter = make_reporter(as_json)
    if workers is None:
        runner = run_here(threads)
    else:
        from t2tdeploy.corpus.ray_runner import run_on_ray

        runner = run_on_ray(workers=workers, threads=threads, address=ray_address, reporter=reporter)
    summary = translate(job, runner, reporter)
    found = {name: value for name, value in asdict(summary).items() if value is not None or as_json}
    print_result({**found, "output": str(output)}, as_json=as_json)
