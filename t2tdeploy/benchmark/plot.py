"""The chart of a report."""

from __future__ import annotations

from pathlib import Path

from t2tdeploy.benchmark.measure import Report, Speed
from t2tdeploy.pictures import as_label, save

_COLOURS = ("#1b6ca8", "#e0a458", "#5a9367", "#a23b72", "#5c5c5c")
_STYLES = ("-", "--", ":", "-.")


def plot(report: Report, path: Path) -> None:
    """Draws speed and latency over the batch size, a line for each variant and number of threads."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    figure = Figure(figsize=(10, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    lines: dict[tuple[str, int], list[Speed]] = {}
    for speed in report.speeds:
        lines.setdefault((speed.variant, speed.threads), []).append(speed)
    variants = list(dict.fromkeys(variant for variant, _ in lines))
    threads = list(dict.fromkeys(count for _, count in lines))
    for (variant, count), speeds in lines.items():
        look = {
            "color": _COLOURS[variants.index(variant) % len(_COLOURS)],
            "linestyle": _STYLES[threads.index(count) % len(_STYLES)],
            "marker": "o",
            "markersize": 4,
            "label": f"{variant}, {count} thread{'s' if count > 1 else ''}",
        }
        sizes = [speed.batch_size for speed in speeds]
        left.plot(sizes, [speed.tokens_per_second for speed in speeds], **look)
        right.plot(sizes, [speed.p50_ms for speed in speeds], **look)
    left.set_title("target tokens per second", loc="left", fontsize=11)
    right.set_title("latency of a batch, median, ms", loc="left", fontsize=11)
    sizes = sorted({speed.batch_size for speed in report.speeds})
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.set_xticks(sizes, [str(size) for size in sizes], minor=False)
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("sentences of a batch")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e5e5e5")
    left.set_ylim(bottom=0)
    right.set_yscale("log")
    right.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    right.yaxis.set_minor_formatter(NullFormatter())
    right.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    figure.suptitle(f"{as_label(report.bundle)}, beam {report.beam_size}: {report.cpu}", fontsize=12)
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)), frameon=False)
    save(figure, path)
