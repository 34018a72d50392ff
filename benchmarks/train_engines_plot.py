"""The chart of train_engines.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

COLOURS = {
    "ort": "#1b6ca8",
    "torch": "#9a9a9a",
    "torch_tuned": "#5c5c5c",
    "compile": "#e0a458",
    "compile_tuned": "#b5702a",
}


def plot(sizes: dict[str, Any], path: Path) -> None:
    """Two panels of bars, for each size and variant: speed and peak memory, both relative to torch's."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (speed, memory) = pyplot.subplots(2, 1, figsize=(11, 8), sharex=True, layout="constrained")
    names = list(dict.fromkeys(name for size in sizes.values() for name in size["variants"]))
    width = 0.85 / len(names)
    for number, name in enumerate(names):
        for place, size in enumerate(sizes.values()):
            record, torch = size["variants"].get(name, {}), size["variants"].get("torch", {})
            if "peak_mib" not in record or "peak_mib" not in torch:
                continue
            x = place + (number - (len(names) - 1) / 2) * width
            for axes, value, label in (
                (speed, record["tokens_per_second"] / torch["tokens_per_second"], f"{record['tokens_per_second']:,}"),
                (memory, record["peak_mib"] / torch["peak_mib"], f"{record['peak_mib']:,}"),
            ):
                axes.bar(x, value, width * 0.94, color=COLOURS[name])
                axes.annotate(label, (x, value), ha="center", va="bottom", fontsize=9)
        speed.bar(0, 0, color=COLOURS[name], label=name)
    for axes, title in (
        (speed, "speed, torch = 1 (numbers: source and target tokens per second)"),
        (memory, "peak memory, torch = 1 (numbers: MiB)"),
    ):
        axes.axhline(1, color="#bbbbbb", linewidth=0.8, zorder=0)
        axes.set_title(title, loc="left", fontsize=11)
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(y=0.12)
    memory.set_xticks(range(len(sizes)), [f"transformer_{size}" for size in sizes])
    speed.legend(ncols=len(names), frameon=False, loc="upper left", bbox_to_anchor=(0, 1.22))
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
