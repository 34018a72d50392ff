"""What stopping a search early saves and costs, on a test set: steps of the search, and BLEU.

    python benchmarks/stop_rules.py --bundle BUNDLE --source test.en --target test.de

It writes results/stop_rules.json: for each rule, how many steps a batch took, beside the tokens of its longest
translation, which no rule can do without; BLEU; and how many sentences have the same translation as without early
stopping. It measures no time.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
from common import publish

from t2tdeploy.bundle import DecodeDefaults, load_bundle
from t2tdeploy.decoding import SearchControls
from t2tdeploy.problems.metrics import translation_scores
from t2tdeploy.runtime import GraphSession
from t2tdeploy.search_session import SearchSession
from t2tdeploy.sentences import pad_rows
from t2tdeploy.tokenizer import encode_with_eos

PATIENCE = (math.inf, 0.5, 1.0, 1.5, 2.0)
BATCH = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True, help="of a trained model")
    parser.add_argument("--source", type=Path, required=True, help="sentences that it was not trained on, one a line")
    parser.add_argument("--target", type=Path, required=True, help="their translations")
    options = parser.parse_args()
    bundle = load_bundle(options.bundle)
    defaults, session = bundle.manifest.decode, SearchSession(bundle)
    texts, references = (path.read_text(encoding="utf-8").splitlines() for path in (options.source, options.target))
    sources = [encode_with_eos(bundle.tokenizer("inputs"), text)[: defaults.max_source_length] for text in texts]
    rules: dict[str, dict[str, Any]] = {}
    exact: list[tuple[int, ...]] = []
    for patience in PATIENCE:
        name = "until nothing open can win" if math.isinf(patience) else f"patience {patience:g}"
        print(name, file=sys.stderr, flush=True)
        record, answers = decode(session, sources, defaults, patience)
        exact = exact or answers
        found = [bundle.tokenizer("targets").decode(list(ids)) for ids in answers]
        same = sum(one == other for one, other in zip(answers, exact, strict=True))
        rules[name] = {**record, "bleu": round(translation_scores(found, references).bleu, 2), "identical": same}
    result = {
        "sentences": len(sources), "batch_size": BATCH, "beam_size": defaults.beam_size, "alpha": defaults.alpha,
        "rules": rules,
    }  # fmt: skip
    publish("stop_rules", result, packages=("onnxruntime",))


def decode(
    session: GraphSession, sources: list[list[int]], defaults: DecodeDefaults, patience: float
) -> tuple[dict[str, Any], list[tuple[int, ...]]]:
    """What the batches took on average, and the translation of every source."""
    order = sorted(range(len(sources)), key=lambda place: -len(sources[place]))
    steps, longest, answers = [], [], {}
    for start in range(0, len(order), BATCH):
        places = order[start : start + BATCH]
        found = session.search(
            pad_rows([sources[place] for place in places]),
            np.array([len(sources[place]) + defaults.extra_length for place in places]),
            beam_size=defaults.beam_size,
            alpha=defaults.alpha,
            num_hypotheses=1,
            controls=SearchControls(patience=patience),
        )
        steps.append(found.target_ids.shape[2])
        longest.append(int(found.lengths.max()))
        for row, place in enumerate(places):
            answers[place] = tuple(found.target_ids[row, 0, : found.lengths[row, 0]].tolist())
    record = {"steps": round(float(np.mean(steps)), 2), "longest_translation": round(float(np.mean(longest)), 2)}
    return record, [answers[place] for place in range(len(sources))]


if __name__ == "__main__":
    main()
