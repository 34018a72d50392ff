"""MNIST (LeCun et al. 1998) and Fashion-MNIST (Xiao et al. 2017): grey pictures of 28 × 28 pixels in ten classes.

60 000 are published for training and 10 000 as test; dev is the last 5 000 of the former. Both come as four files of
the same names, so in `--source-dir` they lie, or are downloaded to, in folders of their own, `mnist/` and
`fashion_mnist/`; a folder that holds them itself will do as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from t2tdeploy.errors import CorruptFileError
from t2tdeploy.problems.augmentation import Augmentation
from t2tdeploy.problems.idx_files import read_idx
from t2tdeploy.problems.images import ImageToClass, PublishedImagesOptions, labelled
from t2tdeploy.problems.sources import Source, fetch
from t2tdeploy.progress import Reporter
from t2tdeploy.registry import register_problem

_FILES = {"train": "train", "dev": "train", "test": "t10k"}


class _IdxImages(ImageToClass):
    """Ten classes, in the four files of MNIST."""

    options_class = PublishedImagesOptions
    options: PublishedImagesOptions
    shape = (28, 28, 1)
    folder: ClassVar[str]
    urls: ClassVar[tuple[str, ...]]
    sha256: ClassVar[dict[str, str]]

    def generate_samples(self, split: str, source_dir: Path, reporter: Reporter) -> Iterator[dict[str, Any]]:
        stem = _FILES[split]
        images_path = self._fetch(f"{stem}-images-idx3-ubyte.gz", source_dir, reporter)
        labels_path = self._fetch(f"{stem}-labels-idx1-ubyte.gz", source_dir, reporter)
        images, labels = read_idx(images_path, 3), read_idx(labels_path, 1)
        if images.shape[1:] != self.shape[:2]:
            raise CorruptFileError(images_path, f"its images are {list(images.shape[1:])}, not {list(self.shape[:2])}")
        if len(images) != len(labels):
            raise CorruptFileError(labels_path, f"it has {len(labels)} labels for {len(images)} images")
        part = self.options.part(split, len(images))
        yield from labelled(images[part, :, :, None], labels[part], self.classes, labels_path)

    def _fetch(self, name: str, source_dir: Path, reporter: Reporter) -> Path:
        folder = source_dir / self.folder
        if any((source_dir / file).is_file() for file in (name, name.removesuffix(".gz"))):
            folder = source_dir
        urls = (self.options.mirror.rstrip("/"),) if self.options.mirror else self.urls
        source = Source(name, tuple(f"{url}/{name}" for url in urls), self.sha256[name])
        return fetch(source, folder, reporter=reporter)


@register_problem
class ImageMnist(_IdxImages):
    """MNIST: handwritten digits."""

    augmentation = Augmentation(crop_padding=2)
    classes = tuple("0123456789")
    folder = "mnist"
    urls = (
        "https://ossci-datasets.s3.amazonaws.com/mnist",
        "https://storage.googleapis.com/cvdf-datasets/mnist",
    )
    sha256: ClassVar[dict[str, str]] = {
        "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    }


@register_problem
class ImageFashionMnist(_IdxImages):
    """Fashion-MNIST: articles of a shop, as photographs of 28 × 28 pixels."""

    augmentation = Augmentation(crop_padding=2, flip=True)
    classes = (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    )
    folder = "fashion_mnist"
    urls = (
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion",
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
    )
    sha256: ClassVar[dict[str, str]] = {
        "train-images-idx3-ubyte.gz": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        "train-labels-idx1-ubyte.gz": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        "t10k-images-idx3-ubyte.gz": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        "t10k-labels-idx1-ubyte.gz": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    }
