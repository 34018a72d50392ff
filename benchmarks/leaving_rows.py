"""What it gives that decided sentences leave the batch of a search (export/segments.py), on a test set.

    python benchmarks/leaving_rows.py --bundle BUNDLE --source test.en

The same graph twice: as it is, and with a batch kept whole until all its sentences are decided. They take turns on the
same batches, in the order of the file; a ratio is the median over the rounds. Writes results/leaving_rows.json:
sentences per second of both, and how much of the work of the whole batch is left (rows times steps).
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import publish
from onnx import ModelProto, TensorProto, helper, numpy_helper

from t2tdeploy.bundle import Bundle, load_bundle
from t2tdeploy.errors import UserError
from t2tdeploy.export.placement import read_search, serialized
from t2tdeploy.runtime import GraphSession
from t2tdeploy.sentences import pad_rows
from t2tdeploy.tokenizer import encode_with_eos

BATCHES = (1, 4, 16, 64)
FEWEST = 64  # sentences of a measurement


def kept_whole(model: ModelProto) -> ModelProto:
    """A copy with one segment, which ends when no row is open any more.

    Raises:
        UserError: the past of its caches lies apart, so that segments end for that as well.
    """
    copy = ModelProto()
    copy.CopyFrom(model)
    body = _segments(copy)
    if any(value.name.startswith("past_") for value in body.input):
        raise UserError(
            "a search with the past of its caches apart has no twin of one segment",
            help="give a bundle of a smaller model, or one exported with apart=False",
        )
    share = next(node.input[1] for node in body.node if node.op_type == "Mul" and node.input[0] == "segment_rows")
    tensor = next(tensor for tensor in copy.graph.initializer if tensor.name == share)
    tensor.CopyFrom(numpy_helper.from_array(np.array([0]), share))
    next(node for node in body.node if node.name == "search").input[0] = "longest"
    return copy


def watched(model: ModelProto) -> ModelProto:
    """A copy with the output `shapes` [segments, 3]: steps and rows of every segment, and the beam."""
    copy = ModelProto()
    copy.CopyFrom(model)
    body = _segments(copy)
    body.node.append(helper.make_node("Shape", ["segment_step_scores"], ["segment_shape"]))
    body.output.append(helper.make_tensor_value_info("segment_shape", TensorProto.INT64, [3]))
    next(node for node in copy.graph.node if node.name == "segments").output.append("shapes")
    copy.graph.output.append(helper.make_tensor_value_info("shapes", TensorProto.INT64, [None, 3]))
    return copy


def _segments(model: ModelProto) -> Any:
    loop = next(node for node in model.graph.node if node.name == "segments")
    return next(attribute.g for attribute in loop.attribute if attribute.name == "body")


class Searches:
    """The graphs, asked with the bundle's own options."""

    def __init__(self, bundle: Bundle, threads: int) -> None:
        model, self._decode = read_search(bundle.path("cpu-float32")), bundle.decode
        self.leaving = GraphSession(serialized(model), threads=threads)
        self.whole = GraphSession(serialized(kept_whole(model)), threads=threads)
        self._watched = GraphSession(serialized(watched(model)), threads=threads)

    def ask(self, session: GraphSession, rows: Sequence[Sequence[int]], outputs: Sequence[str]) -> list[Any]:
        limits = np.array([len(row) + self._decode.extra_length for row in rows])
        decode = self._decode
        return session.run(
            outputs, pad_rows(rows), limits, beam_size=decode.beam_size, alpha=decode.alpha, num_hypotheses=1
        )

    def work_left(self, batches: Sequence[Sequence[Sequence[int]]]) -> float:
        """Rows times steps, of those of whole batches."""
        done = whole = 0
        for batch in batches:
            (shapes,) = self.ask(self._watched, batch, ["shapes"])
            done += int((shapes[:, 0] * shapes[:, 1]).sum())
            whole += int(shapes[:, 0].sum()) * len(batch)
        return done / whole


def measure(searches: Searches, rows: Sequence[Sequence[int]], size: int, rounds: int) -> dict[str, Any]:
    """One batch size."""
    count = max(size, FEWEST)
    batches = [rows[start : start + size] for start in range(0, count, size)]
    rates: dict[str, list[float]] = {"leaving": [], "whole": []}
    for number in range(rounds + 1):  # the first one warms up
        for name, session in (("leaving", searches.leaving), ("whole", searches.whole)):
            begun = time.perf_counter()
            for batch in batches:
                searches.ask(session, batch, ["target_ids"])
            if number:
                rates[name].append(count / (time.perf_counter() - begun))
    ratios = [leaving / whole for leaving, whole in zip(*rates.values(), strict=True)]
    return {
        **{f"{name}_sentences_per_second": round(statistics.median(found), 1) for name, found in rates.items()},
        "speedup": round(statistics.median(ratios), 2),
        "speedup_of_rounds": [round(ratio, 2) for ratio in ratios],
        "work_left": round(searches.work_left(batches), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True, help="of a trained model")
    parser.add_argument("--source", type=Path, required=True, help="sentences that it was not trained on, one a line")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    bundle = load_bundle(options.bundle)
    tokenizer = bundle.tokenizer("inputs")
    rows = [encode_with_eos(tokenizer, line) for line in options.source.read_text(encoding="utf-8").splitlines()]
    searches = Searches(bundle, options.threads)
    result = {str(size): measure(searches, rows, size, options.rounds) for size in BATCHES}
    publish(
        "leaving_rows",
        {"threads": options.threads, "rounds": options.rounds, "batch_sizes": result},
        packages=("onnxruntime",),
        last_line={size: one["speedup"] for size, one in result.items()},
    )


if __name__ == "__main__":
    main()
