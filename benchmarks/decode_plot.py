"""The chart of decode_vs_ctranslate2.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

COLOURS = {"t2tdeploy": "#1b6ca8", "ctranslate2": "#e0a458", "transformers": "#9a9a9a", "optimum": "#5c5c5c"}


def plot(records: dict[str, dict[str, Any]], groups: list[str], path: Path) -> None:
    """A panel of bars for each batch size: target tokens per second of every decoder.

    Args:
        records: decoder -> what `Measured.record` says; decoders that failed are left out.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = [name for name, record in records.items() if "groups" in record]
    figure, panels = pyplot.subplots(
        1,
        len(groups),
        figsize=(4 * len(groups), 0.42 * len(names) + 1.6),
        sharey=True,
        layout="constrained",
        squeeze=False,
    )
    for axes, group in zip(panels[0], groups, strict=True):
        for place, name in enumerate(names):
            speed = records[name]["groups"][group]["tokens_per_second"]["median"]
            axes.barh(place, speed, color=COLOURS[name.split()[0]])
            axes.annotate(f" {speed:,.0f}", (speed, place), va="center", fontsize=9)
        axes.set_title(f"batch of {group}", loc="left", fontsize=11)
        axes.set_xlabel("target tokens per second")
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0.18)
    panels[0][0].set_yticks(range(len(names)), names)
    panels[0][0].invert_yaxis()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
