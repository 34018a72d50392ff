"""The picture of a load test."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from t2tdeploy.load_testing.run import Report
from t2tdeploy.load_testing.tally import Measured
from t2tdeploy.pictures import as_label, save

_COLOURS = ("#1b6ca8", "#e0a458", "#5a9367", "#a23b72", "#5c5c5c", "#7fb2d9", "#b5651d")
_SHARES = (0.5, 0.9, 0.99, 0.999, 0.9999)


def plot(report: Report, path: Path) -> None:
    """Draws the latencies by percentile, and for a sweep also goodput and latency over the load."""
    from matplotlib.figure import Figure

    sweep = len(report.measured) > 1
    figure = Figure(figsize=(15 if sweep else 6.5, 4.4), layout="constrained")
    panels = figure.subplots(1, 3 if sweep else 1, squeeze=False)[0]
    _percentiles(panels[0], report.measured)
    if sweep:
        _goodput(panels[1], report.measured)
        _latency(panels[2], report.measured)
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e5e5e5")
    title = f"{as_label(report.model)}, deadline {report.plan.deadline:g} s; load from {report.cpu}"
    figure.suptitle(title, fontsize=11)
    save(figure, path)


def _percentiles(axes: Any, measured: Sequence[Measured]) -> None:
    """Latency over the percentile, whose axis has as much room for 99 to 99.9 as for 90 to 99."""
    for place, one in enumerate(measured):
        histogram = one.tally.latency
        steps = [(seen / histogram.count, seconds * 1000) for seen, seconds in histogram.steps()]
        shares = [1 / (1 - share) for share, _ in steps if share < 1]
        values = [value for share, value in steps if share < 1]
        if histogram.count:
            shares, values = [*shares, histogram.count], [*values, histogram.max * 1000]
        axes.plot(shares, values, color=_COLOURS[place % len(_COLOURS)], label=one.load, drawstyle="steps-post")
    axes.set_xscale("log")
    most = max([one.tally.latency.count for one in measured] + [10])
    ticks = [share for share in _SHARES if 1 / (1 - share) <= most]
    axes.set_xticks([1 / (1 - share) for share in ticks], [f"{share * 100:g} %" for share in ticks], minor=False)
    axes.set_xticks([], minor=True)
    axes.set_xlim(left=1)
    axes.set_ylim(bottom=0)
    axes.set_title("latency by percentile, ms", loc="left", fontsize=11)
    axes.legend(frameon=False, fontsize=8)


def _goodput(axes: Any, measured: Sequence[Measured]) -> None:
    loads = [_size(one) for one in measured]
    axes.plot(loads, [one.per_second("requests") for one in measured], marker="o", color=_COLOURS[4], label="answered")
    axes.plot(loads, [one.per_second("good") for one in measured], marker="o", color=_COLOURS[0], label="in time")
    if all(one.rate for one in measured):
        axes.plot(loads, loads, linestyle=":", color=_COLOURS[1], label="asked")
    axes.set_ylim(bottom=0)
    axes.set_title("requests per second", loc="left", fontsize=11)
    _label_load(axes, measured)


def _latency(axes: Any, measured: Sequence[Measured]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    loads = [_size(one) for one in measured]
    for place, share in enumerate((0.5, 0.9, 0.99)):
        found = [one.tally.latency.percentile(share) for one in measured]
        values = [float("nan") if value is None else value * 1000 for value in found]
        axes.plot(loads, values, marker="o", color=_COLOURS[place], label=f"p{share * 100:g}")
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_title("latency, ms", loc="left", fontsize=11)
    _label_load(axes, measured)


def _label_load(axes: Any, measured: Sequence[Measured]) -> None:
    axes.set_xlabel("requests per second that come" if measured[0].rate else "callers")
    axes.legend(frameon=False, fontsize=8)


def _size(one: Measured) -> float:
    return float(one.rate or one.concurrency or 0)
