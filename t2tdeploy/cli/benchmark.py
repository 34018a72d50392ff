"""The command benchmark: how fast a bundle's variants are here."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from t2tdeploy.cli import options
from t2tdeploy.cli.console import make_reporter, print_lines, print_result, print_table, print_written

if TYPE_CHECKING:
    from t2tdeploy.benchmark.measure import Report
    from t2tdeploy.bundle import Bundle


def _counts(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    """`"1,4,16"` -> (1, 4, 16); a number that is given twice counts once."""
    if value is None:
        return None
    numbers = [part.strip() for part in value.split(",")]
    if not all(number.isdecimal() and int(number) > 0 for number in numbers):
        raise click.BadParameter(f"'{value}' is no list of numbers from 1 on, like 1,4,16", context, parameter)
    return tuple(dict.fromkeys(map(int, numbers)))


@click.command()
@click.option("--bundle", "bundle_dir", type=options.directory, required=True, help="What export or optimize wrote.")
@click.option(
    "--input", "input_file", type=options.file_or_dash,
    help="Source sentences, one a line; - reads standard input [the dev split of what the bundle was trained on].",
)  # fmt: skip
@click.option("--variant", "names", multiple=True, help="May be given several times [all that this machine runs].")
@click.option(
    "--batch-sizes", callback=_counts, metavar="N,N,…", default="1,4,16,64", show_default=True,
    help="Sentences of a batch.",
)  # fmt: skip
@click.option("--threads", callback=_counts, metavar="N,N,…", help="Threads of a search [the CPUs available].")
@click.option("--beam-size", type=click.IntRange(1, 16), help="Beams of the search [the bundle's].")
@click.option(
    "--seconds", type=options.Number(0, min_open=True), default=5.0, show_default=True,
    help="For each variant, number of threads and batch size, about.",
)  # fmt: skip
@click.option("--plot", "plot_file", type=options.file, help="Chart to write: .png, .svg or .pdf.")
@options.as_json
def benchmark(
    bundle_dir: Path,
    input_file: Path | None,
    names: tuple[str, ...],
    batch_sizes: tuple[int, ...],
    threads: tuple[int, ...] | None,
    beam_size: int | None,
    seconds: float,
    plot_file: Path | None,
    as_json: bool,
) -> None:
    """Measure a bundle's variants on this machine: speed, latency, memory.

    Each variant runs in a process of its own; all take turns on the same sentences. Let nothing else run meanwhile.

    \b
    Examples:
      t2tdeploy benchmark --bundle bundles/dates
      t2tdeploy benchmark --bundle bundles/dates --input in.en --batch-sizes 1,16 --threads 1,2 --plot speed.png
    """
    from t2tdeploy.benchmark.measure import Plan, benchmark
    from t2tdeploy.benchmark.plot import plot
    from t2tdeploy.bundle import load_bundle
    from t2tdeploy.pictures import require_drawable
    from t2tdeploy.runtime import available_cpus
    from t2tdeploy.targets import require_runnable, runnable
    from t2tdeploy.translator import TranslateOptions

    if plot_file is not None:
        require_drawable(plot_file)
    bundle, reporter = load_bundle(bundle_dir), make_reporter(as_json)
    _ = bundle.decode  # the error of one that does not translate, before its data are read
    for name in names:
        require_runnable(bundle, name)
    chosen = tuple(dict.fromkeys(names)) or runnable(bundle)
    left_out = [] if names else [name for name in bundle.manifest.variants if name not in chosen]
    for name in left_out:
        reporter.message(f"{name} is left out: it is made for {bundle.variant(name).target}")
    plan = Plan(chosen, threads or (available_cpus(),), batch_sizes, seconds, TranslateOptions(beam_size=beam_size))
    report = benchmark(bundle, _sentences(bundle, input_file), plan, reporter)
    if as_json:
        print_result({**asdict(report), "plot": plot_file and str(plot_file)}, as_json=True)
    else:
        _print(report)
    if plot_file is not None:
        plot(report, plot_file)
        print_written(plot_file, as_json=as_json)


def _sentences(bundle: Bundle, path: Path | None) -> list[str]:
    """Real ones: random ids would end neither when nor where real sentences do."""
    from t2tdeploy.cli.corpora import MOST, data_of, read_sentences
    from t2tdeploy.errors import InputError, UserError

    if path is not None:
        return read_sentences(path)
    try:
        data = data_of(bundle)
        split = data.split("dev" if "dev" in data.record.splits else "train")
    except (UserError, ModuleNotFoundError) as error:
        raise InputError(
            f"no sentences to translate: {error}",
            help="name a file with one a line, --input FILE, or pipe them in: --input -",
        ) from error
    return split.texts("inputs")[:MOST]


def _print(report: Report) -> None:
    print_table(
        ["variant", "threads", "batch", "tokens/s", "sentences/s", "p50 ms", "p99 ms", "batches"],
        [
            [
                one.variant, one.threads, one.batch_size, f"{one.tokens_per_second:,.0f}",
                f"{one.sentences_per_second:,.1f}", f"{one.p50_ms:,.1f}",
                None if one.p99_ms is None else f"{one.p99_ms:,.1f}", one.batches,
            ]
            for one in report.speeds
        ],
    )  # fmt: skip
    print_lines([])
    print_table(
        ["variant", "threads", "file MB", "load s", "memory MB", "peak MB"],
        [
            [one.variant, one.threads, _megabytes(one.file_bytes),
             None if one.load_seconds is None else f"{one.load_seconds:.2f}",
             _megabytes(one.loaded_bytes), _megabytes(one.peak_bytes)]
            for one in report.footprints
        ],
    )  # fmt: skip
    notes = [
        f"{report.bundle} {report.version}, beam {report.beam_size}; sentences: {report.sentences}, of "
        f"{report.source_tokens} tokens on average",
        f"{report.cpu}, {report.cpus} CPUs; memory is that of the whole process",
    ]
    if any(one.p99_ms is None for one in report.speeds):
        notes.append("no p99 where it is: fewer than 100 batches (more --seconds give more)")
    notes += [f"left out: {one.failed}" for one in report.footprints if one.failed]
    print_lines(notes)


def _megabytes(size: int | None) -> str | None:
    return None if size is None else f"{size / 1e6:.1f}"
