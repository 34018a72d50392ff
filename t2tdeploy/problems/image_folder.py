"""Your own pictures: a folder with a folder per class, or with train, dev and test folders that have those."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from t2tdeploy.errors import InputError
from t2tdeploy.hparams import Share
from t2tdeploy.images import FORMATS_IN_WORDS, read_image
from t2tdeploy.problems.images import AugmentedImagesOptions, ImageToClass
from t2tdeploy.progress import Reporter
from t2tdeploy.registry import register_problem

_SPLIT_FOLDERS = {
    "train": ("train", "training"),
    "dev": ("dev", "val", "valid", "validation", "eval", "evaluation"),
    "test": ("test", "testing"),
}
_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm"}
)
_SHOWN_FAULTS = 20
_ONE_FOLDER_PER_CLASS = "give every class a folder of its own: pictures/cat/1.jpg, pictures/dog/7.png"


class ImageFolderOptions(AugmentedImagesOptions):
    """Where the pictures are, and what becomes of them."""

    folder: str | None = Field(None, description="with a folder per class, or train, dev and test folders of those")
    height: int = Field(32, ge=4, le=4096, description="pixels that every picture is resized to")
    width: int = Field(32, ge=4, le=4096, description="pixels that every picture is resized to")
    channels: Literal[1, 3] = Field(3, description="1: grey; 3: red, green, blue")
    held_out_dev: Share = Field(0.1, description="share of each class that is dev where there is no folder for it")
    held_out_test: Share = Field(0.1, description="share of each class that is test where there is no folder for it")

    @model_validator(mode="after")
    def _something_is_left(self) -> Self:
        if self.held_out_dev + self.held_out_test >= 1:
            raise ValueError(
                f"held_out_dev + held_out_test = {self.held_out_dev + self.held_out_test:g} leaves no train"
            )
        return self


@dataclass(frozen=True)
class _Found:
    """What lies in the folder: names of the classes, and for each split (file, class id) in the order of paths."""

    root: Path
    classes: tuple[str, ...]
    files: dict[str, list[tuple[str, int]]]


@register_problem
class ImageFolder(ImageToClass):
    """Your own pictures: a folder per class, PNG, JPEG and other formats.

    Without folders for dev or test, the pictures of a class whose names have the smallest hashes are held out: the same
    ones on every run. Where the class grows, so do dev and test, and pictures near their ends move between the splits.
    """

    options_class = ImageFolderOptions
    options: ImageFolderOptions
    prepared: _Found | None

    def __init__(self, options: ImageFolderOptions) -> None:
        super().__init__(options)
        self.shape = (options.height, options.width, options.channels)
        self.augmentation = options.augmentation()

    @property
    def classes(self) -> tuple[str, ...]:  # type: ignore[override]  # known when the folder has been read
        return self.prepared.classes if self.prepared else ()

    def prepare(self, source_dir: Path, reporter: Reporter) -> _Found:
        """Finds the classes and files, and divides them."""
        if self.options.folder is None:
            raise InputError(
                f"problem '{self.name}' needs its data: folder is not set",
                help="set folder=pictures, a path or one within --source-dir",
            )
        root = source_dir / self.options.folder
        if not root.is_dir():
            raise InputError(
                f"there is no folder {root}",
                path=root,
                help="give folder as a whole path, or as one within --source-dir, which is DATA_DIR/raw unless given",
            )
        splits = _split_folders(root)
        classes = _class_names(splits.get("train", root))
        files: dict[str, list[tuple[str, int]]] = {split: [] for split in self.splits}
        for split, folder in splits.items() or {"train": root}.items():
            _check_classes(folder, classes)
            if loose := _loose_images(folder):
                reporter.message(f"{self.name}: {loose} images in {folder} lie in no class's folder and are left out")
            for class_id, name in enumerate(classes):
                self._divide(split, _files_of(folder, name, root), class_id, splits, files)
        for found in files.values():
            found.sort()
        reporter.message(f"{self.name}: {len(classes)} classes in {root}: {_shown(classes)}")
        return _Found(root, classes, files)

    def _divide(
        self,
        split: str,
        paths: Sequence[str],
        class_id: int,
        splits: dict[str, Path],
        files: dict[str, list[tuple[str, int]]],
    ) -> None:
        """Adds the files of one class of one folder to `files`; those of train are also held out."""
        rest = sorted(paths, key=lambda path: hashlib.sha256(path.encode()).digest())
        if split == "train":
            for held_out, share in (("dev", self.options.held_out_dev), ("test", self.options.held_out_test)):
                if held_out not in splits:
                    count = round(len(paths) * share)
                    files[held_out] += [(path, class_id) for path in rest[:count]]
                    rest = rest[count:]
        files[split] += [(path, class_id) for path in rest]

    def generate_samples(self, split: str, source_dir: Path, reporter: Reporter) -> Iterator[dict[str, Any]]:
        if self.prepared is None:
            self.prepared = self.prepare(source_dir, reporter)
        found, faults = self.prepared, 0
        left = dict.fromkeys(range(len(found.classes)), 0)
        for path, class_id in found.files[split]:
            try:
                if PurePosixPath(path).suffix.lower() not in _SUFFIXES:
                    raise InputError(f"by its name it is no {FORMATS_IN_WORDS}")
                image = read_image(found.root / path, self.shape)
            except InputError as error:
                self.bad_lines.add(path, 1, error.message)
                faults += 1
                if faults <= _SHOWN_FAULTS:
                    reporter.message(f"{self.name}: {path} is left out: {error.message}")
                continue
            left[class_id] += 1
            yield {"inputs": image, "targets": found.classes[class_id]}
        if faults > _SHOWN_FAULTS:
            reporter.message(f"{self.name}: {faults - _SHOWN_FAULTS} more files of {split} are left out")
        if split == "train":
            self._check_every_class_has_images(left)

    def _check_every_class_has_images(self, images: dict[int, int]) -> None:
        empty = [name for name, count in zip(self.classes, images.values(), strict=True) if not count]
        if empty:
            raise InputError(
                f"no image of class '{empty[0]}' can be trained on"
                + (f" (nor of {_shown(empty[1:])})" * (len(empty) > 1)),
                path=self.prepared.root if self.prepared else None,
                help="put images into its folder, or remove the folder",
            )


def _split_folders(root: Path) -> dict[str, Path]:
    """Split -> its folder; none if the folders of `root` are classes, one of which may well be called `train`."""
    folders = {folder.name.lower(): folder for folder in _folders(root)}
    found: dict[str, Path] = {}
    for split, names in _SPLIT_FOLDERS.items():
        present = [folders[name] for name in names if name in folders]
        if len(present) > 1:
            raise InputError(f"{root} has two folders for {split}: {present[0].name} and {present[1].name}", path=root)
        if present:
            found[split] = present[0]
    if "train" not in found or not _folders(found["train"]):
        return {}
    strangers = [folder for folder in folders.values() if folder not in found.values()]
    stranger = next(filter(_folders, strangers), None)
    if stranger and _are_splits(found, strangers):
        known = ", ".join(name for names in _SPLIT_FOLDERS.values() for name in names)
        raise InputError(
            f"{root} has the splits {', '.join(one.name for one in found.values())} and a folder that is none: "
            f"{stranger.name}",
            path=root,
            help=f"call it one of {known}, or move it elsewhere; if they are classes, give that of train another name",
        )
    return {} if strangers else found


def _are_splits(known: Mapping[str, Path], strangers: Sequence[Path]) -> bool:
    """Whether folders of folders are splits rather than classes, of which one is called `train`.

    They are if another split is there by its name, or if there are two folders, of the same classes.
    """
    if len(known) > 1:
        return True
    names = {folder.name for folder in _folders(known["train"])}
    return len(strangers) == 1 and not names.isdisjoint(folder.name for folder in _folders(strangers[0]))


def _folders(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _class_names(folder: Path) -> tuple[str, ...]:
    names = tuple(entry.name for entry in _folders(folder))
    if len(names) < 2:
        count = f"one class, '{names[0]}'" if names else "no folders"
        raise InputError(f"{folder} has {count}: there must be at least two", path=folder, help=_ONE_FOLDER_PER_CLASS)
    return names


def _check_classes(folder: Path, classes: tuple[str, ...]) -> None:
    for entry in _folders(folder):
        if entry.name not in classes:
            raise InputError(
                f"{entry} is a class that train does not have; its classes are {_shown(classes)}", path=entry
            )


def _loose_images(folder: Path) -> int:
    """How many images lie beside the folders of the classes.

    Raises:
        InputError: there are no such folders.
    """
    count = sum(entry.is_file() and entry.suffix.lower() in _SUFFIXES for entry in folder.iterdir())
    if count and not _folders(folder):
        raise InputError(
            f"{folder} has {count} images and no folder of a class, so nothing tells what they show",
            path=folder,
            help="sort them into a folder per class, or move them out: t2tdeploy classify --image asks about them",
        )
    return count


def _files_of(folder: Path, name: str, root: Path) -> list[str]:
    """The files of a class, at any depth, as paths within `root`; hidden ones are none."""
    own = folder / name
    if not own.is_dir():
        return []
    found = (path for path in own.rglob("*") if path.is_file())
    return [
        path.relative_to(root).as_posix()
        for path in found
        if not any(part.startswith(".") for part in path.relative_to(own).parts)
    ]


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (", …" if len(names) > 10 else "")
