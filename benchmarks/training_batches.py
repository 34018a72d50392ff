"""What the training benchmarks train on: batches whose lengths are those of Multi30k.

    python benchmarks/training_batches.py --data-dir DATA      # writes multi30k_lengths.json anew

DATA is what this command made (8000 is the vocabulary of these benchmarks):

    t2tdeploy datagen --problem translate_ende_multi30k --problem-options vocab_size=8000 --data-dir DATA
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from t2tdeploy.features import EOS_ID
from t2tdeploy.problems.batching import plan_epoch
from t2tdeploy.problems.dataset import open_problem

PROBLEM, VOCABULARY, MAX_LENGTH = "translate_ende_multi30k", 8000, 256
LENGTHS = Path(__file__).parent / "multi30k_lengths.json"

Lengths = dict[str, npt.NDArray[np.int32]]
Batch = dict[str, npt.NDArray[np.int64]]


@dataclass(frozen=True)
class Rotation:
    """Batches of one epoch, spread over its lengths, that a benchmark trains on again and again.

    Attributes:
        padding_share: pads / (pads + tokens) in these batches.
        epoch_padding_share: the same in the whole epoch.
        epoch_batches: of the whole epoch.
    """

    batches: list[Batch]
    padding_share: float
    epoch_padding_share: float
    epoch_batches: int

    @property
    def tokens(self) -> int:
        """Source and target tokens, without pads."""
        return sum(int(np.count_nonzero(array)) for batch in self.batches for array in batch.values())

    @property
    def shapes(self) -> list[str]:
        """ "examples × source length × target length" of each batch."""
        return [" × ".join(map(str, (*b["inputs"].shape, b["targets"].shape[1]))) for b in self.batches]


def multi30k_lengths(data_dir: Path | None) -> Lengths:
    """feature -> tokens of each training pair, int32 [29000]: of a data directory, or those kept here."""
    if data_dir is not None:
        return open_problem(PROBLEM, data_dir).split("train").lengths
    counts = json.loads(LENGTHS.read_text(encoding="utf-8"))
    pairs = [
        (int(source), shortest + offset, count)
        for source, (shortest, *of_targets) in counts.items()
        for offset, count in enumerate(of_targets)
    ]
    sources, targets, repeats = np.array(pairs, np.int32).T
    return {"inputs": np.repeat(sources, repeats), "targets": np.repeat(targets, repeats)}


def rotation(lengths: Lengths, *, batch_size: int, count: int, vocabulary: int = VOCABULARY) -> Rotation:
    """`count` batches of an epoch's plan: of its batches ordered by length, the middles of `count` equal parts.

    Args:
        batch_size: tokens, as in hparams.
        vocabulary: ids are drawn by Zipf's law, as words are: lookups and their gradients depend on it.
    """
    plan = plan_epoch(lengths, batch_size=batch_size, max_length=MAX_LENGTH, seed=0, epoch=0)
    longest = np.maximum(lengths["inputs"], lengths["targets"])
    ordered = sorted(plan.batches, key=lambda rows: int(longest[rows].max()))
    count = min(count, len(ordered))
    generator = np.random.default_rng(0)
    chosen = generator.permutation([(2 * part + 1) * len(ordered) // (2 * count) for part in range(count)])
    batches = [
        {name: _padded(of[ordered[place]], vocabulary, generator) for name, of in lengths.items()} for place in chosen
    ]
    places = sum(array.size for batch in batches for array in batch.values())
    made = Rotation(batches, 0.0, plan.padding_share, len(ordered))
    return Rotation(batches, 1 - made.tokens / places, plan.padding_share, len(ordered))


def random_batch(generator: np.random.Generator, *, batch_size: int, longest: int = 100) -> Batch:
    """A batch of any shape, up to `batch_size` tokens and `longest` tokens in a row."""
    source, target = generator.integers(1, min(longest, batch_size), 2, endpoint=True)
    examples = generator.integers(1, batch_size // max(source, target), endpoint=True)
    return {
        name: _padded(np.full(examples, length), VOCABULARY, generator)
        for name, length in (("inputs", source), ("targets", target))
    }


def _padded(lengths: npt.NDArray[np.int32], vocabulary: int, generator: np.random.Generator) -> npt.NDArray[np.int64]:
    """Ids: int64 [examples, longest], EOS at the end of every row, PAD behind it."""
    columns = np.arange(lengths.max())
    first = EOS_ID + 2  # after the reserved ids
    words = first * ((vocabulary - 1) / first) ** generator.random((len(lengths), len(columns)))
    ids = np.where(columns == lengths[:, None] - 1, EOS_ID, words.astype(np.int64))
    return np.where(columns < lengths[:, None], ids, 0).astype(np.int64)


def write_lengths(lengths: Lengths, path: Path) -> None:
    """Source length -> [shortest target, pairs with it, pairs with a target longer by 1, …]."""
    counts: dict[int, list[int]] = {}
    for source in np.unique(lengths["inputs"]):
        targets = lengths["targets"][lengths["inputs"] == source]
        counts[int(source)] = [int(targets.min()), *np.bincount(targets - targets.min()).tolist()]
    lines = ",\n".join(f'"{source}": {json.dumps(row)}' for source, row in counts.items())
    path.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    write_lengths(multi30k_lengths(parser.parse_args().data_dir), LENGTHS)


if __name__ == "__main__":
    main()
