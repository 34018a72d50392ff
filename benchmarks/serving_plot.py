"""The chart of serving.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

COLOURS = {
    "t2tdeploy": "#1b6ca8", "bare": "#5c5c5c", "bare, in order of arrival": "#9a9a9a", "litserve": "#e0a458",
    "litserve, a worker per CPU": "#c77b1e", "bare, a loop per CPU": "#2b2b2b",
    "grpcio alone": "#a23b72",
}  # fmt: skip


def plot(result: dict[str, Any], path: Path) -> None:
    """Speed and median latency of all contestants with 1, 8 and 64 callers, and what overload leaves of goodput."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    count = 2 * ("compare" in result) + ("overload" in result)
    if not count:
        return
    figure, (panels,) = pyplot.subplots(1, count, figsize=(5 * count, 4.2), layout="constrained", squeeze=False)
    if "compare" in result:
        _contestants(*panels[:2], result["compare"]["contestants"])
    if "overload" in result:
        _overload(panels[-1], result["overload"])
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e5e5e5")
        axes.set_axisbelow(True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _contestants(speed: Any, latency: Any, contestants: dict[str, Any]) -> None:
    names = [name for name in COLOURS if name in contestants]
    counts = ["1", "8", "64"]
    width = 0.8 / len(names)
    for place, name in enumerate(names):
        of = {str(count): cell for count, cell in contestants[name].items()}
        there = [count for count in counts if count in of]
        places = [counts.index(count) + (place - (len(names) - 1) / 2) * width for count in there]
        speed.bar(
            places, [of[count]["sentences_per_second"] for count in there], width, color=COLOURS[name], label=name
        )
        latency.bar(places, [of[count]["latency"]["p50_ms"] for count in there], width, color=COLOURS[name])
    for axes, title in ((speed, "sentences per second"), (latency, "median latency, ms")):
        axes.set_title(title, loc="left", fontsize=11)
        axes.set_xticks(range(len(counts)), counts)
        axes.set_xlabel("callers")
    latency.set_yscale("log")
    speed.legend(frameon=False, fontsize=8)


def _overload(axes: Any, overload: dict[str, Any]) -> None:
    loads = overload["loads"]
    axes.plot([load["factor"] for load in loads], [load["goodput_over_peak"] for load in loads], marker="o")
    axes.axhline(0.9, linestyle=":", color="#a23b72")
    axes.set_ylim(0, 1.1)
    axes.set_title("goodput under overload, over the most it can do", loc="left", fontsize=11)
    axes.set_xlabel("requests that come, over the most it can do")
