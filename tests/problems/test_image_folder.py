"""A user's folder: what is found, how it is divided, and what is said of what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from t2tdeploy.errors import InputError, SettingsError
from t2tdeploy.problems.image_folder import ImageFolder
from t2tdeploy.progress import SilentReporter

Samples = dict[str, list[dict[str, Any]]]


class Messages(SilentReporter):
    def __init__(self) -> None:
        self.all: list[str] = []

    def message(self, text: str) -> None:
        self.all.append(text)


def picture(path: Path, shade: int, mode: str = "RGB", size: tuple[int, int] = (8, 8)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (shade, shade, shade)).convert(mode).save(path)


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Twenty cats, ten dogs, in files of several kinds; the shade of a picture tells which it is."""
    for number in range(30):
        suffix = (".png", ".jpg", ".bmp", ".PNG")[number % 4]
        name = "cat" if number < 20 else "dog"
        picture(tmp_path / "pets" / name / f"{number}{suffix}", 8 * number, size=(8 + number, 8))
    return tmp_path


def make(folder: str | None = "pets", **options: object) -> ImageFolder:
    return ImageFolder(ImageFolder.options_class.create({"folder": folder, "height": 8, "width": 8, **options}))


def read(problem: ImageFolder, source_dir: Path, reporter: SilentReporter | None = None) -> Samples:
    reporter = reporter or SilentReporter()
    problem.prepared = problem.prepare(source_dir, reporter)
    return {split: list(problem.generate_samples(split, source_dir, reporter)) for split in problem.splits}


def shades(samples: list[dict[str, Any]]) -> set[int]:
    return {round(float(sample["inputs"].mean()) / 8) for sample in samples}


def test_a_folder_of_classes_is_divided(pets: Path) -> None:
    problem = make()
    found = read(problem, pets)
    assert problem.features({})["targets"].classes == ("cat", "dog")
    assert {split: len(samples) for split, samples in found.items()} == {"train": 24, "dev": 3, "test": 3}
    assert set.union(*map(shades, found.values())) == set(range(30))
    for samples in found.values():
        assert {sample["targets"] for sample in samples} == {"cat", "dog"}
        for sample in samples:
            assert sample["inputs"].shape == (8, 8, 3)
            assert sample["targets"] == ("cat" if shades([sample]) < {*range(20)} else "dog")


def test_the_division_depends_on_names_alone(pets: Path) -> None:
    before = read(make(), pets)
    for path in sorted((pets / "pets").rglob("*.*"), reverse=True):  # written anew, in another order
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content)
    again = read(make(), pets)
    assert {split: shades(samples) for split, samples in again.items()} == {
        split: shades(samples) for split, samples in before.items()
    }


def test_held_out_shares_are_options(pets: Path) -> None:
    found = read(make(held_out_dev=0, held_out_test=0.5), pets)
    assert [len(found[split]) for split in ("train", "dev", "test")] == [15, 0, 15]


@pytest.mark.parametrize("dev", ["dev", "val", "Validation"])
def test_folders_for_the_splits_are_taken_as_they_are(dev: str, tmp_path: Path) -> None:
    for place, split in enumerate(("train", dev, "test")):
        for number in range(4):
            picture(tmp_path / "in" / split / "ab"[number % 2] / f"{number}.png", 16 * (4 * place + number))
    found = read(make("in"), tmp_path)
    assert {split: {shade // 2 for shade in shades(samples)} for split, samples in found.items()} == {
        "train": {0, 1, 2, 3},
        "dev": {4, 5, 6, 7},
        "test": {8, 9, 10, 11},
    }


def test_what_has_no_folder_is_held_out_of_train(tmp_path: Path) -> None:
    for split, count in (("train", 20), ("test", 4)):
        for number in range(count):
            picture(tmp_path / "in" / split / "ab"[number % 2] / f"{number}.png", number)
    found = read(make("in"), tmp_path)
    assert {split: len(samples) for split, samples in found.items()} == {"train": 18, "dev": 2, "test": 4}


@pytest.mark.parametrize("dev", ["eval", "evaluation"])
def test_a_folder_for_evaluation_is_dev(dev: str, tmp_path: Path) -> None:
    for split, count in (("train", 6), (dev, 4), ("test", 2)):
        for number in range(count):
            picture(tmp_path / "in" / split / "ab"[number % 2] / f"{number}.png", number)
    problem = make("in")
    assert {split: len(samples) for split, samples in read(problem, tmp_path).items()} == {
        "train": 6,
        "dev": 4,
        "test": 2,
    }
    assert problem.classes == ("a", "b")


def test_a_folder_beside_the_splits_that_is_none_is_no_class(tmp_path: Path) -> None:
    for split in ("train", "test", "extra"):
        for number in range(4):
            picture(tmp_path / "in" / split / "ab"[number % 2] / f"{number}.png", number)
    (tmp_path / "in" / "docs").mkdir()  # has no folders, as a class may not
    with pytest.raises(InputError, match="has the splits train, test and a folder that is none: extra"):
        read(make("in"), tmp_path)


def test_a_folder_of_the_same_classes_beside_train_is_no_class(tmp_path: Path) -> None:
    for split in ("train", "holdout"):
        for name in ("cat", "dog"):
            picture(tmp_path / "in" / split / name / "1.png", 1)
    with pytest.raises(InputError, match="has the splits train and a folder that is none: holdout") as caught:
        read(make("in"), tmp_path)
    assert "give that of train another name" in (caught.value.help or "")


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    for name in ("train", "car"):
        for number in range(10):
            picture(tmp_path / "vehicles" / name / f"{number}.png", number)
    problem = make("vehicles")
    assert len(read(problem, tmp_path)["train"]) == 16
    assert problem.classes == ("car", "train")


def test_classes_of_which_one_is_called_train_may_have_folders(tmp_path: Path) -> None:
    for name in ("bus", "car", "train"):
        for number in range(10):
            picture(tmp_path / "in" / name / ("day", "night")[number % 2] / f"{number}.png", number)
    problem = make("in")
    assert len(read(problem, tmp_path)["train"]) == 24
    assert problem.classes == ("bus", "car", "train")


@pytest.mark.parametrize("channels", [1, 3])
def test_modes_and_sizes_become_one(channels: int, tmp_path: Path) -> None:
    for number, mode in enumerate(("L", "LA", "P", "RGB", "RGBA", "1", "I;16")):
        for name in ("a", "b"):
            picture(tmp_path / "in" / name / f"{number}.png", 255, "L" if mode == "I;16" else mode, size=(5, 70))
    Image.fromarray(np.full((9, 9), 65535, np.uint16)).save(tmp_path / "in" / "a" / "6.png")
    found = read(make("in", channels=channels), tmp_path)
    images = np.stack([sample["inputs"] for samples in found.values() for sample in samples])
    assert images.shape == (14, 8, 8, channels)
    assert (images == 255).all()


def test_files_that_are_no_images_are_named_and_counted(pets: Path) -> None:
    (pets / "pets" / "cat" / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 and then nothing")
    (pets / "pets" / "dog" / "notes.txt").write_text("good boys")
    (pets / "pets" / "dog" / ".hidden").write_text("of the system")
    problem, reporter, counted = make(held_out_dev=0, held_out_test=0), Messages(), 0
    found = read(problem, pets, reporter)
    counted = problem.bad_lines.count
    assert len(found["train"]) == 30
    assert counted == 2
    assert [entry["file"] for entry in problem.bad_lines.to_json()] == ["broken.jpg", "notes.txt"]
    assert any("cat/broken.jpg is left out: " in message for message in reporter.all)
    assert any("dog/notes.txt is left out: by its name it is no PNG, JPEG" in message for message in reporter.all)
    assert not any("hidden" in message for message in reporter.all)


def test_images_outside_of_the_folders_of_classes_are_told_of(pets: Path) -> None:
    picture(pets / "pets" / "loose.png", 3)
    (pets / "pets" / "README.md").write_text("Pets.")
    reporter = Messages()
    read(make(), pets, reporter)
    assert any("1 images in" in text and "no class's folder" in text for text in reporter.all)


def test_a_split_without_folders_of_classes_is_refused(tmp_path: Path) -> None:
    for name in ("train/cat", "train/dog", "test"):
        picture(tmp_path / "pets" / name / "a.png", 3)
    with pytest.raises(InputError, match=r"test has 1 images and no folder of a class"):
        read(make(), tmp_path)


def test_many_broken_files_do_not_fill_the_screen(pets: Path) -> None:
    for number in range(50):
        (pets / "pets" / "cat" / f"broken{number}.png").write_bytes(b"")
    problem, reporter = make(held_out_dev=0, held_out_test=0), Messages()
    read(problem, pets, reporter)
    assert problem.bad_lines.count == 50
    assert sum("is left out" in message for message in reporter.all) == 20
    assert any(message.endswith("30 more files of train are left out") for message in reporter.all)


def no_folder(root: Path) -> None:
    del root


def one_class(root: Path) -> None:
    picture(root / "in" / "only" / "1.png", 1)


def no_classes(root: Path) -> None:
    picture(root / "in" / "1.png", 1)


def empty_class(root: Path) -> None:
    picture(root / "in" / "full" / "1.png", 1)
    (root / "in" / "bare").mkdir()


def unknown_class(root: Path) -> None:
    for name in ("a", "b"):
        picture(root / "in" / "train" / name / "1.png", 1)
    picture(root / "in" / "test" / "c" / "1.png", 1)


def two_devs(root: Path) -> None:
    for split in ("train", "dev", "val"):
        picture(root / "in" / split / "a" / "1.png", 1)


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (no_folder, "there is no folder .*in"),
        (one_class, "has one class, 'only': there must be at least two"),
        (no_classes, "has no folders: there must be at least two"),
        (empty_class, "no image of class 'bare' can be trained on"),
        (unknown_class, "c is a class that train does not have; its classes are a, b"),
        (two_devs, "has two folders for dev: dev and val"),
    ],
)
def test_a_folder_of_another_kind_is_explained(mistake: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    mistake(tmp_path)
    with pytest.raises(InputError, match=message):
        read(make("in"), tmp_path)


def test_the_folder_must_be_given(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="folder is not set"):
        read(make(None), tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"channels": 4}, "channels"), ({"held_out_dev": 0.5, "held_out_test": 0.5}, "leaves no train")],
)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        make(**options)


def test_augmentation_is_an_option() -> None:
    augmentation = make(crop_padding=2, flip=True, colour_jitter=0.1).augmentation
    assert (augmentation.crop_padding, augmentation.flip, augmentation.colour_jitter) == (2, True, 0.1)
