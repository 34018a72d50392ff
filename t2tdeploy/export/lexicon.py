"""Which target ids may translate a source id, counted in parallel text: what a shortlist is made of.

IBM model 1 (Brown et al. 1993): each target id comes from one source id of its sentence, or from none, whatever their
order. Expectation maximization finds how probable each pair is, and its likelihood has one maximum, so nothing depends
on a random start. Marian takes the same table from fast_align; model 1 is enough to know which ids can occur at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from t2tdeploy.decoding import MAX_BEAM_SIZE
from t2tdeploy.errors import InputError
from t2tdeploy.features import EOS_ID, PAD_ID
from t2tdeploy.progress import Reporter, SilentReporter
from t2tdeploy.tokenizer import Tokenizer, encode_with_eos

WIDTH = 100  # of a table and of its head: Marian's defaults
ITERATIONS = 5
LONGEST = 200  # tokens of a sentence: links grow with the square, and long ones tell little
CHUNK = 10_000  # pairs of sentences that are looked at at once

Ids = Sequence[int]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Lexicon:
    """What a search may choose from.

    Attributes:
        table: [source ids, width] target ids that may translate each source id, PAD where there are fewer.
        always: [count] target ids that may occur in every translation, PAD and EOS among them.
    """

    table: IntArray
    always: IntArray

    def allowed(self, source: Ids) -> set[int]:
        """All that a translation of `source` may consist of."""
        words = [one for one in source if one != PAD_ID]
        return {*self.always.tolist(), *self.table[words].ravel().tolist()}


class _Chunk(NamedTuple):
    """Every source id of a sentence, NULL first, beside each of its target ids."""

    cells: npt.NDArray[np.int32]  # [links] position in the table of probabilities
    starts: IntArray  # [target tokens], where the links of each target token begin
    sizes: IntArray  # [target tokens], how many these are


def lexicon_of_texts(
    texts: Iterable[tuple[str, str]],
    source: Tokenizer,
    target: Tokenizer,
    *,
    origin: str,
    width: int = WIDTH,
    reporter: Reporter | None = None,
) -> Lexicon:
    """`make_lexicon` of sentences and their translations, without those that are blank or long.

    Args:
        origin: where they come from, for progress and errors.

    Raises:
        InputError: none is left.
    """
    reporter = reporter or SilentReporter()
    pairs = [
        (encode_with_eos(source, one), encode_with_eos(target, other))
        for one, other in texts
        if one.strip() and other.strip()
    ]
    pairs = [pair for pair in pairs if max(map(len, pair)) <= LONGEST]
    if not pairs:
        raise no_pairs(f"{origin} has none of at most {LONGEST} tokens")
    reporter.message(f"making a lexicon of {origin}: {len(pairs)} pairs of sentences")
    return make_lexicon(
        pairs,
        source_size=source.vocab_size,
        target_size=target.vocab_size,
        shared=source.hash == target.hash,
        width=width,
        reporter=reporter,
    )


def no_pairs(reason: str) -> InputError:
    """What to say where there is nothing to count."""
    return InputError(
        f"there are no sentences with their translations to make a shortlist of: {reason}",
        help="name two files, line n of one the translation of line n of the other: --parallel-source, "
        "--parallel-target",
    )


def make_lexicon(
    pairs: Sequence[tuple[Ids, Ids]],
    *,
    source_size: int,
    target_size: int,
    shared: bool,
    width: int = WIDTH,
    iterations: int = ITERATIONS,
    reporter: Reporter | None = None,
) -> Lexicon:
    """The lexicon of parallel sentences.

    Args:
        pairs: ids of source and target, with or without EOS.
        source_size, target_size: of the vocabularies.
        shared: they are one, so that each id may be copied.
        width: most probable target ids that each source id gets, and most frequent ones that all get; of these at least
            so many as the widest beam chooses from.

    Raises:
        ValueError: there are no pairs.
    """
    if not pairs:
        raise ValueError("pairs is empty: a lexicon is counted in parallel sentences")
    keys, probabilities = _model_1(pairs, source_size, target_size, iterations, reporter or SilentReporter())
    table = _most_probable(keys, probabilities, source_size, target_size, width)
    if shared:
        table = np.concatenate([np.arange(source_size)[:, None], table], axis=1)
    counts = np.bincount(np.concatenate([target for _, target in pairs]), minlength=target_size)
    frequent = np.argsort(-counts, kind="stable")[: max(width, 2 * MAX_BEAM_SIZE)]
    return Lexicon(table, np.union1d(frequent, [PAD_ID, EOS_ID]))


def _model_1(
    pairs: Sequence[tuple[Ids, Ids]], source_size: int, target_size: int, iterations: int, reporter: Reporter
) -> tuple[IntArray, npt.NDArray[np.float64]]:
    """Pairs that occur, as source * target_size + target in order, and how probable each target is for its source."""
    linked = [_links(pairs[start : start + CHUNK], source_size, target_size) for start in range(0, len(pairs), CHUNK)]
    found = [np.unique(keys, return_inverse=True) for keys, _, _ in linked]
    keys = np.unique(np.concatenate([unique for unique, _ in found]))
    chunks = [
        _Chunk(np.searchsorted(keys, unique).astype(np.int32)[inverse], starts, sizes)
        for (unique, inverse), (_, starts, sizes) in zip(found, linked, strict=True)
    ]
    sources = keys // target_size
    probabilities = np.full(len(keys), 1 / target_size)
    with reporter.task("aligning words", iterations, "rounds") as task:
        for _ in range(iterations):
            counts = np.zeros(len(keys))
            for chunk in chunks:
                each = probabilities[chunk.cells]
                shares = each / np.repeat(np.add.reduceat(each, chunk.starts), chunk.sizes)
                counts += np.bincount(chunk.cells, weights=shares, minlength=len(keys))
            probabilities = counts / np.bincount(sources, weights=counts)[sources]
            task.advance()
    return keys, probabilities


def _links(pairs: Sequence[tuple[Ids, Ids]], null: int, target_size: int) -> tuple[IntArray, IntArray, IntArray]:
    """Keys of all links, and of each target token where its links begin and how many these are."""
    keys, sizes = [], []
    for source, target in pairs:
        from_ids = np.array([null, *source])
        keys.append((from_ids * target_size + np.array(target, np.int64)[:, None]).ravel())
        sizes.append(np.full(len(target), len(from_ids)))
    all_sizes = np.concatenate(sizes)
    return np.concatenate(keys), np.cumsum(all_sizes) - all_sizes, all_sizes


def _most_probable(
    keys: IntArray, probabilities: npt.NDArray[np.float64], source_size: int, target_size: int, width: int
) -> IntArray:
    sources, targets = keys // target_size, keys % target_size
    order = np.lexsort((targets, -probabilities, sources))
    sources, targets = sources[order], targets[order]
    place = np.arange(len(keys)) - np.searchsorted(sources, sources)
    kept = (place < width) & (sources < source_size)
    table = np.full((source_size, width), PAD_ID)
    table[sources[kept], place[kept]] = targets[kept]
    return table
