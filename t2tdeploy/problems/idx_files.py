"""The IDX format of MNIST and its kin: arrays of bytes, usually gzipped."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from t2tdeploy.errors import CorruptFileError
from t2tdeploy.files import reading

_UNSIGNED_BYTES = 0x08
_HELP = "fetch the file again"


def read_idx(path: Path, axes: int) -> npt.NDArray[np.uint8]:
    """The array of an IDX file of unsigned bytes, read-only; `.gz` files are decompressed.

    The header is two zeros, the type, the number of axes, and the size of each as four bytes, the highest first.

    Args:
        axes: how many it must have.

    Raises:
        InputError: the file cannot be read.
        CorruptFileError: it is no such file, or damaged or cut off.
    """
    with reading(path):
        content = path.read_bytes()
    if path.suffix == ".gz":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise CorruptFileError(path, str(error), help=_HELP) from error
    start = 4 + 4 * axes
    if content[:4] != bytes((0, 0, _UNSIGNED_BYTES, axes)) or len(content) < start:
        raise CorruptFileError(path, f"it does not begin as an IDX file of bytes with {axes} axes", help=_HELP)
    sizes = np.frombuffer(content, ">u4", axes, 4).tolist()
    if len(content) != start + math.prod(sizes):
        raise CorruptFileError(
            path, f"it has {len(content) - start} bytes of data instead of {math.prod(sizes)}", help=_HELP
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(sizes)
