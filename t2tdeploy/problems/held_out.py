"""Rows held out of train for dev and test: chosen by their content alone, of every class its share."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from t2tdeploy.columns.values import Array, as_text
from t2tdeploy.problems.rows import Rows


def splits_to_hold_out(paths: Mapping[str, object], counts: Mapping[str, int | None]) -> dict[str, int]:
    """Split -> how many examples it takes from train: those of `counts` that have no file of their own."""
    return {split: count for split, count in counts.items() if count is not None and paths[split] is None}


def row_hashes(rows: Rows) -> list[int]:
    """A number per row that depends on its values alone."""
    names = sorted(rows.columns)
    texts = zip(*([as_text(value) for value in rows.columns[name]] for name in names), strict=True)
    return [int.from_bytes(hashlib.blake2b("\0".join(row).encode(), digest_size=8).digest()) for row in texts]


def hold_out(hashes: Sequence[int], classes: Sequence[str], counts: Mapping[str, int]) -> dict[str, Array]:
    """Split -> int64 indices, ascending, of about `counts[split]` rows, those with the smallest hashes.

    Every class gives its share, and keeps a row for train. Rows of one hash, which are equal, stay together: where they
    are more than is left of a share, rows with larger hashes are taken instead. Where all are more than a whole share,
    the fewest are taken, if they are at most two shares, otherwise none.
    """
    places: dict[str, dict[int, list[int]]] = {}  # class -> hash -> indices
    for index, (value, label) in enumerate(zip(hashes, classes, strict=True)):
        places.setdefault(label, {}).setdefault(value, []).append(index)
    sizes = {label: sum(map(len, groups.values())) for label, groups in places.items()}
    quotas = {split: _shares(count, sizes) for split, count in counts.items()}
    found: dict[str, list[int]] = {split: [] for split in counts}
    for label, groups in places.items():
        waiting = [groups[value] for value in sorted(groups)]
        for split in counts:
            taken, waiting = _take(waiting, quotas[split][label])
            found[split] += taken
    return {split: np.array(sorted(indices), np.int64) for split, indices in found.items()}


def _take(groups: Sequence[list[int]], quota: int) -> tuple[list[int], list[list[int]]]:
    """Indices of the first groups that fit into `quota`, or of the smallest one, see `hold_out`; and the other groups,
    of which there is one at least."""
    taken: list[int] = []
    left: list[list[int]] = []
    for place, group in enumerate(groups):
        is_last = not left and place == len(groups) - 1
        if is_last or len(taken) + len(group) > quota:
            left.append(group)
        else:
            taken += group
    smallest = min(left, key=len, default=[])
    if not taken and len(left) > 1 and len(smallest) <= 2 * quota:
        taken = smallest
        left.remove(smallest)
    return taken, left


def _shares(count: int, sizes: Mapping[str, int]) -> dict[str, int]:
    """`count` divided in proportion to `sizes`, by the largest remainders."""
    total = sum(sizes.values())
    exact = {label: count * size / total for label, size in sizes.items()}
    shares = {label: int(share) for label, share in exact.items()}
    by_remainder = sorted(sizes, key=lambda label: (shares[label] - exact[label], label))
    for label in by_remainder[: count - sum(shares.values())]:
        shares[label] += 1
    return shares


def others(count: int, held_out: Mapping[str, Array]) -> Array:
    """The indices below `count` that no split has."""
    return np.setdiff1d(np.arange(count), np.concatenate([np.empty(0, np.int64), *held_out.values()]))
