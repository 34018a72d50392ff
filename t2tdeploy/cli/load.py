"""The command load-test: what a running server does under load."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from t2tdeploy.cli import options
from t2tdeploy.cli.console import make_reporter, print_lines, print_result, print_table, print_written
from t2tdeploy.cli.lines import require_output, write_text

if TYPE_CHECKING:
    from t2tdeploy.load_testing.plan import Shape
    from t2tdeploy.load_testing.run import Report

_LARGE_LAG_SECONDS = 0.02


def _rates(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[float, ...]:
    """`"50,100.5"` -> (50.0, 100.5)"""
    if value is None:
        return ()
    try:
        found = tuple(float(part) for part in value.split(","))
        if all(0 < rate < 1e6 for rate in found):
            return found
    except ValueError:
        pass
    raise click.BadParameter(f"'{value}' is no list of numbers above 0, like 50,100,200", context, parameter)


def _callers(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, ...]:
    """`"1,8,64"` -> (1, 8, 64)"""
    found = _rates(context, parameter, value)
    if any(count != int(count) for count in found):
        raise click.BadParameter(f"'{value}' is no list of whole numbers from 1 on, like 1,8,64", context, parameter)
    return tuple(map(int, found))


@click.command("load-test")
@click.option("--server", required=True, help="host:port of a t2tdeploy serve.")
@click.argument("text", nargs=-1)
@click.option(
    "--input", "input_file", type=options.file_or_dash,
    help="Sentences to send, one a line; - reads standard input. Taken in turn.",
)  # fmt: skip
@click.option("--rate", "rates", callback=_rates, metavar="R,R,…", help="Requests per second; each is measured.")
@click.option(
    "--concurrency", "callers", callback=_callers, metavar="N,N,…",
    help="Instead: callers that wait for their answers; each number is measured [1,8,64].",
)  # fmt: skip
@click.option(
    "--arrivals", type=click.Choice(["poisson", "constant"]), default="poisson", show_default=True,
    help="With --rate: as independent users, or at equal pauses.",
)  # fmt: skip
@click.option(
    "--duration", type=options.Number(0, min_open=True),
    help="Seconds of each measurement [10, or as long as --requests take].",
)  # fmt: skip
@click.option("--requests", type=click.IntRange(1), help="Of each measurement [as many as there are].")
@click.option("--warm-up", type=options.Number(0), default=2.0, show_default=True, help="Seconds before each.")
@click.option(
    "--deadline", type=options.Number(0, min_open=True), default=10.0, show_default=True,
    help="Seconds in which an answer is any good.",
)  # fmt: skip
@click.option("--sentences-per-request", type=click.IntRange(1), default=1, show_default=True)
@click.option("--connections", type=click.IntRange(1, 1000), default=1, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the arrivals.")
@click.option("--model", default="", help="NAME or NAME:VERSION of the server's model [its only one].")
@options.search
@click.option("--truncate", is_flag=True, help="Have the server cut sentences that are too long.")
@click.option("--output", "output_file", type=options.file, help="JSON file to write: all numbers and histograms.")
@click.option("--plot", "plot_file", type=options.file, help="Picture to write: .png, .svg or .pdf.")
@options.security
@options.as_json
def load_test(
    server: str,
    text: tuple[str, ...],
    input_file: Path | None,
    rates: tuple[float, ...],
    callers: tuple[int, ...],
    arrivals: Any,
    duration: float | None,
    requests: int | None,
    output_file: Path | None,
    plot_file: Path | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Put load on a running server, and measure latencies, goodput and statuses.

    With --rate, requests come at that rate however the server does, as users do; a latency counts from when a request
    was due. With --concurrency, callers wait for their answers, as batch jobs do. Requests are not retried.

    \b
    Examples:
      t2tdeploy load-test --server localhost:50051 --input in.en --concurrency 1,8,64
      t2tdeploy load-test --server localhost:50051 --input in.en --rate 50,100,200 --deadline 1 --plot load.png
    """
    import asyncio

    from t2tdeploy.decoding import TranslateOptions
    from t2tdeploy.load_testing.plan import ClosedLoop, OpenLoop, Plan
    from t2tdeploy.load_testing.plot import plot
    from t2tdeploy.load_testing.run import Asked, load_test
    from t2tdeploy.pictures import require_drawable

    if rates and callers:
        raise click.UsageError("--rate and --concurrency are given: choose one", ctx=click.get_current_context())
    if output_file is not None:
        require_output(output_file)
    if plot_file is not None:
        require_drawable(plot_file)
    shapes: list[Shape] = [OpenLoop(rate, arrivals) for rate in rates]
    shapes = shapes or [ClosedLoop(count) for count in callers or (1, 8, 64)]
    seconds = 10.0 if duration is None and requests is None else duration
    names = ("warm_up", "deadline", "connections", "seed")
    plan = Plan(duration=seconds, requests=requests, **{name: given[name] for name in names})
    decoding = {name: given[name] for name in ("beam_size", "alpha", "early_stopping", "patience", "truncate")}
    sources = _sources(text, input_file)
    name, _, version = given["model"].partition(":")
    asked = Asked(sources, given["sentences_per_request"], name, version, TranslateOptions(**decoding))
    report = asyncio.run(load_test(server, asked, shapes, plan, make_reporter(as_json), options.security_of(given)))
    if as_json:
        print_result(report.record(), as_json=True)
    else:
        _print(report)
    if output_file is not None:
        write_text(output_file, json.dumps(report.record(), indent=2, ensure_ascii=False) + "\n")
        print_written(output_file, as_json=as_json)
    if plot_file is not None:
        plot(report, plot_file)
        print_written(plot_file, as_json=as_json)


def _sources(text: tuple[str, ...], path: Path | None) -> list[str]:
    from t2tdeploy.cli.corpora import read_sentences

    if (path is None) != bool(text):
        what = "both are given: choose one" if text else "name a file, or - for standard input"
        raise click.UsageError(f"sentences or --input: {what}", ctx=click.get_current_context())
    return list(text) if path is None else read_sentences(path)


def _print(report: Report) -> None:
    rows = []
    for one in report.measured:
        latency, tally = one.tally.latency.summary(), one.tally
        queue, compute = tally.queue.summary()["p50_ms"], tally.compute.summary()["p50_ms"]
        rows.append([
            one.load, f"{one.per_second('requests'):,.1f}", f"{one.per_second('good'):,.1f}",
            f"{one.per_second('sentences'):,.1f}", f"{one.per_second('target_tokens'):,.0f}",
            *(_milliseconds(latency[f"{name}_ms"]) for name in ("p50", "p90", "p99", "p999", "max")),
            _milliseconds(queue), _milliseconds(compute), tally.total - tally.statuses["OK"],
        ])  # fmt: skip
    print_table(
        ["load", "answers/s", "in time/s", "sentences/s", "tokens/s", "p50 ms", "p90 ms", "p99 ms", "p99.9 ms",
         "max ms", "queue ms", "compute ms", "errors"],
        rows,
    )  # fmt: skip
    plan = report.plan
    notes = [
        f"{report.model} {report.version} at {report.server}; in time: within {plan.deadline:g} s of when it was due",
        "tokens: of the translations; queue, compute: medians, as the server tells",
        f"load from {report.cpu}, {report.cpus} CPUs, of which it used "
        + ", ".join(f"{one.cpu_seconds / one.seconds:.2f}" for one in report.measured),
    ]
    for one in report.measured:
        notes += [f"{one.load}: {count} × {words}" for words, count in one.tally.words.most_common(5)]
        lag = one.tally.lag.percentile(0.99)
        if one.rate and lag is not None and lag > _LARGE_LAG_SECONDS:
            notes.append(
                f"{one.load}: 1 % of the requests were sent {lag * 1000:.0f} ms late or more, which their latencies "
                "contain: the load generator is short of CPU"
            )
    print_lines(notes)


def _milliseconds(value: float | None) -> str | None:
    return None if value is None else f"{value:,.1f}"
