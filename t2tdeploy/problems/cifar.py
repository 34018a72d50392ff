"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009): colour pictures of 32 × 32 pixels in 10 and in 100 classes.

50 000 are published for training and 10 000 as test; dev is the last 5 000 of the former. We read the archives of the
binary version: those of the Python version hold pickles, which can run any code.
"""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import numpy as np

from t2tdeploy.errors import CorruptFileError
from t2tdeploy.problems.augmentation import Augmentation
from t2tdeploy.problems.images import ImageToClass, PublishedImagesOptions, labelled
from t2tdeploy.problems.sources import Source, fetch
from t2tdeploy.progress import Reporter
from t2tdeploy.registry import register_problem

_URLS = ("https://www.cs.toronto.edu/~kriz", "https://cave.cs.toronto.edu/kriz")
_PIXELS = 3 * 32 * 32
_FINE_CLASSES = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster
man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck
pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk
skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger
tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""


class _Cifar(ImageToClass):
    """Records of label bytes, of which the last counts, and 32 × 32 red, green and blue values.

    Attributes:
        label_bytes: of each record.
        members: split -> the files of the archive that hold it, in their order.
        names_member: the file that lists the classes.
    """

    options_class = PublishedImagesOptions
    options: PublishedImagesOptions
    shape = (32, 32, 3)
    augmentation = Augmentation(crop_padding=4, flip=True)  # He et al. 2016
    source: ClassVar[Source]
    label_bytes: ClassVar[int]
    members: ClassVar[dict[str, tuple[str, ...]]]
    names_member: ClassVar[str]

    def generate_samples(self, split: str, source_dir: Path, reporter: Reporter) -> Iterator[dict[str, Any]]:
        source = self.source
        if self.options.mirror:
            source = Source(source.name, (f"{self.options.mirror.rstrip('/')}/{source.name}",), source.sha256)
        path = fetch(source, source_dir, reporter=reporter)
        wanted = self.members["test" if split == "test" else "train"]
        found = _members(path, {*wanted, self.names_member})
        names = tuple(found[self.names_member].decode("ascii", errors="replace").split())
        if names != self.classes:
            raise CorruptFileError(path, f"{self.names_member} lists other classes than those of {self.name}")
        records = np.concatenate([self._records(path, name, found[name]) for name in wanted])
        records = records[self.options.part(split, len(records))]
        images = records[:, self.label_bytes :].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        yield from labelled(images, records[:, self.label_bytes - 1], self.classes, path)

    def _records(self, path: Path, name: str, content: bytes) -> np.ndarray[Any, np.dtype[np.uint8]]:
        size = self.label_bytes + _PIXELS
        if len(content) % size:
            raise CorruptFileError(path, f"{name} has {len(content)} bytes, which are not whole records of {size}")
        return np.frombuffer(content, np.uint8).reshape(-1, size)


def _members(path: Path, names: set[str]) -> dict[str, bytes]:
    """The contents of the files of an archive that have these names, in whatever folder of it.

    Raises:
        CorruptFileError: one is missing, or the archive is damaged.
    """
    found = {}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                name = PurePosixPath(member.name).name
                if name in names and (file := archive.extractfile(member)) is not None:
                    found[name] = file.read()
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise CorruptFileError(path, str(error), help="fetch the file again") from error
    if missing := sorted(names - found.keys()):
        raise CorruptFileError(path, f"it has no {', '.join(missing)}", help="fetch the file again")
    return found


@register_problem
class ImageCifar10(_Cifar):
    """CIFAR-10: animals and vehicles in ten classes."""

    classes = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    source = Source(
        "cifar-10-binary.tar.gz",
        tuple(f"{url}/cifar-10-binary.tar.gz" for url in _URLS),
        "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    )
    label_bytes = 1
    members: ClassVar[dict[str, tuple[str, ...]]] = {
        "train": tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
        "test": ("test_batch.bin",),
    }
    names_member = "batches.meta.txt"


@register_problem
class ImageCifar100(_Cifar):
    """CIFAR-100: things and beings in a hundred classes (the fine labels)."""

    classes = tuple(_FINE_CLASSES.split())
    source = Source(
        "cifar-100-binary.tar.gz",
        tuple(f"{url}/cifar-100-binary.tar.gz" for url in _URLS),
        "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
    )
    label_bytes = 2  # coarse, fine
    members: ClassVar[dict[str, tuple[str, ...]]] = {"train": ("train.bin",), "test": ("test.bin",)}
    names_member = "fine_label_names.txt"
