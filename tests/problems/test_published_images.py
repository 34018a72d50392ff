"""MNIST, Fashion-MNIST and CIFAR: small files of the published formats, from a server on this machine."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from t2tdeploy.errors import CorruptFileError, DownloadError, InputError
from t2tdeploy.features import Modality
from t2tdeploy.problems.cifar import ImageCifar10, ImageCifar100
from t2tdeploy.problems.idx_files import read_idx
from t2tdeploy.problems.images import ImageToClass
from t2tdeploy.problems.mnist import ImageFashionMnist, ImageMnist
from t2tdeploy.progress import SilentReporter

from .file_server import serving

NOWHERE = "http://127.0.0.1:1/"
TRAIN, TEST, DEV = 30, 6, 4  # images of the files of each split
PUBLISHED = [ImageMnist, ImageFashionMnist, ImageCifar10, ImageCifar100]
of_all = pytest.mark.parametrize("problem_class", PUBLISHED)


def pixels(problem: type[ImageToClass], examples: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (examples, *problem.shape), dtype=np.uint8)


def labels(problem: type[ImageToClass], examples: int, seed: int) -> np.ndarray:
    return np.random.default_rng([seed]).integers(0, len(problem.classes), examples, dtype=np.uint8)


def idx(array: np.ndarray) -> bytes:
    """As the MNIST page describes it."""
    header = bytes((0, 0, 8, array.ndim)) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    return header + array.tobytes()


def gzipped(content: bytes) -> bytes:
    """Without the time in its header: sessions in parallel collect the same parameters."""
    return gzip.compress(content, mtime=0)


def mnist_files(problem: type[ImageToClass]) -> dict[str, bytes]:
    files = {}
    for stem, examples, seed in (("train", TRAIN, 1), ("t10k", TEST, 2)):
        files[f"{stem}-images-idx3-ubyte.gz"] = gzipped(idx(pixels(problem, examples, seed)[..., 0]))
        files[f"{stem}-labels-idx1-ubyte.gz"] = gzipped(idx(labels(problem, examples, seed)))
    return files


def cifar_records(problem: type[ImageToClass], examples: int, seed: int, coarse: bool) -> bytes:
    """As the CIFAR page describes it: labels, then all red, all green and all blue values."""
    rows = zip(labels(problem, examples, seed), pixels(problem, examples, seed), strict=True)
    return b"".join(bytes([9] * coarse + [int(label)]) + image.transpose(2, 0, 1).tobytes() for label, image in rows)


def cifar_files(problem: Any) -> dict[str, bytes]:
    coarse = problem is ImageCifar100
    train, test = cifar_records(problem, TRAIN, 1, coarse), cifar_records(problem, TEST, 2, coarse)
    names = problem.members["train"]
    size = len(train) // len(names)
    members = {name: train[place * size : (place + 1) * size] for place, name in enumerate(names)}
    members[problem.members["test"][0]] = test
    members[problem.names_member] = "\n".join([*problem.classes, "", ""]).encode()
    return {problem.source.name: archive(members)}


def archive(members: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as tar:
        for name, data in {"readme.html": b"<html>", **members}.items():
            info = tarfile.TarInfo(f"cifar-batches/{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return content.getvalue()


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a folder per problem, whose files are those whose checksums are known."""
    for problem in PUBLISHED:
        folder = tmp_path / "published" / problem.name
        folder.mkdir(parents=True)
        files = mnist_files(problem) if problem in PUBLISHED[:2] else cifar_files(problem)
        for name, content in files.items():
            (folder / name).write_bytes(content)
        sha256 = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
        if problem in PUBLISHED[:2]:
            assert sha256.keys() == problem.sha256.keys()
            monkeypatch.setattr(problem, "sha256", sha256)
        else:
            monkeypatch.setattr(problem, "source", replace(problem.source, sha256=sha256[problem.source.name]))
    with serving(tmp_path / "published") as address:
        yield address


def make(problem_class: Any, address: str, **options: object) -> ImageToClass:
    given = {"mirror": f"{address}{problem_class.name}", "dev_examples": DEV, **options}
    made: ImageToClass = problem_class(problem_class.options_class.create(given))
    return made


def samples(problem: ImageToClass, split: str, folder: Path) -> list[dict[str, Any]]:
    return list(problem.generate_samples(split, folder, SilentReporter()))


@of_all
def test_every_image_and_label_is_read(problem_class: Any, published: str, tmp_path: Path) -> None:
    problem = make(problem_class, published)
    expected = {
        split: (pixels(problem_class, *size)[part], labels(problem_class, *size)[part])
        for split, size, part in (
            ("train", (TRAIN, 1), slice(TRAIN - DEV)),
            ("dev", (TRAIN, 1), slice(TRAIN - DEV, None)),
            ("test", (TEST, 2), slice(None)),
        )
    }
    for split, (images, ids) in expected.items():
        found = samples(problem, split, tmp_path / "source")
        np.testing.assert_array_equal([sample["inputs"] for sample in found], images)
        assert [sample["targets"] for sample in found] == [problem.classes[label] for label in ids]


@of_all
def test_its_features_are_an_image_and_a_class(problem_class: Any) -> None:
    features = problem_class(problem_class.options_class()).features({})
    assert features["inputs"].modality is Modality.IMAGE
    assert features["inputs"].shape == problem_class.shape
    assert len(set(features["targets"].classes)) == {"image_cifar100": 100}.get(problem_class.name, 10)


def test_files_of_the_same_names_do_not_mix(published: str, tmp_path: Path) -> None:
    for problem_class in (ImageMnist, ImageFashionMnist):
        samples(make(problem_class, published), "test", tmp_path)
    assert (tmp_path / "mnist" / "t10k-labels-idx1-ubyte.gz").is_file()
    assert (tmp_path / "fashion_mnist" / "t10k-labels-idx1-ubyte.gz").is_file()


@of_all
def test_a_folder_that_has_the_files_needs_no_network(problem_class: Any, published: str, tmp_path: Path) -> None:
    problem = make(problem_class, NOWHERE)
    found = samples(problem, "test", tmp_path / "published" / problem.name)
    assert len(found) == TEST


def test_decompressed_files_will_do(published: str, tmp_path: Path) -> None:
    for path in (tmp_path / "published" / "image_mnist").glob("t10k*"):
        (tmp_path / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
    assert len(samples(make(ImageMnist, NOWHERE), "test", tmp_path)) == TEST


@of_all
def test_a_mirror_is_held_to_the_checksums(problem_class: Any, published: str, tmp_path: Path) -> None:
    for path in (tmp_path / "published" / problem_class.name).iterdir():
        path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(DownloadError, match="expected"):
        samples(make(problem_class, published), "test", tmp_path / "source")


@of_all
def test_every_published_file_has_addresses_and_a_checksum(problem_class: Any) -> None:
    if problem_class in PUBLISHED[:2]:
        assert len(problem_class.urls) >= 2
        assert {len(sum) for sum in problem_class.sha256.values()} == {64}
    else:
        assert problem_class.source.urls
        assert len(problem_class.source.sha256) == 64


def test_at_most_half_of_the_training_images_are_dev(published: str, tmp_path: Path) -> None:
    problem = make(ImageMnist, published, dev_examples=5000)
    assert len(samples(problem, "train", tmp_path)) == len(samples(problem, "dev", tmp_path)) == TRAIN // 2


def damaged_mnist(**changed: bytes) -> dict[str, bytes]:
    names = {"images": "t10k-images-idx3-ubyte.gz", "labels": "t10k-labels-idx1-ubyte.gz"}
    return {**mnist_files(ImageMnist), **{names[kind]: content for kind, content in changed.items()}}


DAMAGED = {
    "another size": (damaged_mnist(images=gzipped(idx(np.zeros((TEST, 20, 28), np.uint8)))), r"\[20, 28\]"),
    "labels missing": (damaged_mnist(labels=gzipped(idx(np.zeros(TEST - 1, np.uint8)))), "5 labels for 6 images"),
    "label out of range": (damaged_mnist(labels=gzipped(idx(np.full(TEST, 10, np.uint8)))), "label 10"),
    "not gzip": (damaged_mnist(images=b"<html>Not found</html>"), "gzipped"),
}


@pytest.mark.parametrize(("files", "message"), DAMAGED.values(), ids=DAMAGED)
def test_files_that_do_not_fit_are_refused(
    files: dict[str, bytes], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checksums are taken as right, to see what is behind them."""
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    monkeypatch.setattr(ImageMnist, "sha256", sums)
    with pytest.raises(CorruptFileError, match=message):
        samples(make(ImageMnist, NOWHERE), "test", tmp_path)


BROKEN_ARCHIVES = {
    "cut off": (lambda content, _: content[: len(content) // 2], "damaged"),
    "a file is missing": (
        lambda _, members: archive({"test.bin": members["test.bin"]}),
        "it has no fine_label_names.txt, train.bin",
    ),
    "other classes": (
        lambda _, members: archive({**members, "fine_label_names.txt": b"apple\npear\n"}),
        "lists other classes",
    ),
    "half a record": (lambda _, members: archive({**members, "train.bin": b"\0" * 5000}), "not whole records of 3074"),
}


@pytest.mark.parametrize(("change", "message"), BROKEN_ARCHIVES.values(), ids=BROKEN_ARCHIVES)
def test_archives_that_do_not_fit_are_refused(
    change: Any, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = cifar_records(ImageCifar100, TRAIN, 1, True)
    names = "\n".join(ImageCifar100.classes).encode()
    members = {"train.bin": record, "test.bin": record, "fine_label_names.txt": names}
    content = change(archive(members), members)
    (tmp_path / ImageCifar100.source.name).write_bytes(content)
    monkeypatch.setattr(ImageCifar100, "source", replace(ImageCifar100.source, sha256=None))
    with pytest.raises(CorruptFileError, match=message):
        samples(make(ImageCifar100, NOWHERE), "train", tmp_path)


@pytest.mark.parametrize("axes", [1, 3])
def test_an_idx_file_says_what_it_is(axes: int, tmp_path: Path) -> None:
    array = np.arange(24, dtype=np.uint8).reshape((24,) if axes == 1 else (2, 3, 4))
    path = tmp_path / "array"
    path.write_bytes(idx(array))
    np.testing.assert_array_equal(read_idx(path, axes), array)
    with pytest.raises(CorruptFileError, match=f"with {axes + 1} axes"):
        read_idx(path, axes + 1)
    path.write_bytes(idx(array)[:-1])
    with pytest.raises(CorruptFileError, match="23 bytes of data instead of 24"):
        read_idx(path, axes)


def test_a_missing_idx_file_is_the_user_s_fault(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no file"):
        read_idx(tmp_path / "none", 1)
