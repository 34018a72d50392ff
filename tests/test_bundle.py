import errno
import json
from pathlib import Path

import pytest

from t2tdeploy.bundle import FORMAT_VERSION, MANIFEST, _manifest_digest, load_bundle, write_bundle
from t2tdeploy.errors import CorruptFileError, InputError, UnknownNameError, UnreadableError
from tests.serving.toy_bundle import toy_files, toy_manifest, write_toy_bundle
from tests.unprivileged import as_nobody, folder_for_all


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return write_toy_bundle(tmp_path / "bundle").directory


def rewrite(directory: Path, **changes: object) -> None:
    path = directory / MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_bundle_reads_as_it_was_written(directory: Path) -> None:
    bundle = load_bundle(directory)
    written = toy_manifest().model_dump(exclude={"checksums"})
    assert bundle.manifest.model_dump(exclude={"checksums"}) == written
    assert set(bundle.manifest.checksums) == {MANIFEST, "model.onnx", "shared.vocab"}
    assert bundle.path().read_bytes() == toy_files()["model.onnx"]
    assert bundle.path() == bundle.path("cpu-float32")


def test_features_that_share_a_vocabulary_share_the_tokenizer(directory: Path) -> None:
    bundle = load_bundle(directory)
    assert bundle.tokenizer("inputs") is bundle.tokenizer("targets")
    assert bundle.tokenizer("inputs").decode(bundle.tokenizer("inputs").encode("Käse")) == "Käse"


def test_the_version_tells_contents_apart(tmp_path: Path) -> None:
    one = write_toy_bundle(tmp_path / "one")
    same = write_toy_bundle(tmp_path / "same")
    other = write_toy_bundle(tmp_path / "other", steps=1)
    assert one.version == same.version != other.version


def test_unknown_names_show_the_choices(directory: Path) -> None:
    bundle = load_bundle(directory)
    with pytest.raises(UnknownNameError, match="cpu-float32"):
        bundle.path("cpu-float16")
    with pytest.raises(UnknownNameError, match="inputs, targets"):
        bundle.tokenizer("input")


@pytest.mark.parametrize("file", [MANIFEST, "model.onnx", "shared.vocab"])
def test_every_flipped_bit_is_found_and_its_file_named(directory: Path, file: str) -> None:
    path = directory / file
    intact = path.read_bytes()
    blanks = b" \n"  # white space between the manifest's values may change
    positions = [index for index in range(0, len(intact), 1 + len(intact) // 40) if intact[index] not in blanks]
    assert positions
    for position in positions:
        path.write_bytes(intact[:position] + bytes([intact[position] ^ 1]) + intact[position + 1 :])
        with pytest.raises((CorruptFileError, InputError), match=file):
            load_bundle(directory)
    path.write_bytes(intact)
    load_bundle(directory)


@pytest.mark.parametrize("file", ["model.onnx", "shared.vocab"])
def test_a_missing_or_cut_file_is_named(directory: Path, file: str) -> None:
    path = directory / file
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CorruptFileError, match=f"{file} is damaged"):
        load_bundle(directory)
    path.unlink()
    with pytest.raises(CorruptFileError, match=f"{file} is damaged: the file is missing"):
        load_bundle(directory)


@pytest.mark.parametrize("closed", ["graph", "manifest", "folder"])
def test_what_may_not_be_read_is_not_called_damaged(closed: str) -> None:
    """Files without the right to read, as a copy may have them, and a folder without the right to look into."""
    with folder_for_all() as place:
        write_toy_bundle(place / "bundle")
        path = place / "bundle" / {"graph": "model.onnx", "manifest": MANIFEST, "folder": "."}[closed]
        path.chmod(0o444 if path.is_dir() else 0)
        with as_nobody(), pytest.raises(UnreadableError, match="cannot be read: Permission denied") as caught:
            load_bundle(place / "bundle")
    assert "let the user" in str(caught.value.help)


def test_a_disk_that_fails_is_not_called_damage(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(path: Path) -> str:
        raise OSError(errno.EIO, "Input/output error", str(path))

    monkeypatch.setattr("t2tdeploy.bundle.sha256_of", fails)
    with pytest.raises(UnreadableError, match="cannot be read: Input/output error") as caught:
        load_bundle(directory)
    assert "disk" in str(caught.value.help)


@pytest.mark.parametrize("reader", ["t2tdeploy.bundle.sha256_of", "pathlib.Path.read_bytes"])
def test_a_file_that_goes_while_it_is_read_is_named(
    directory: Path, monkeypatch: pytest.MonkeyPatch, reader: str
) -> None:
    """A graph, or the manifest. What came of the bundle is not known, so it is not called damaged."""

    def gone(path: Path) -> bytes:
        raise FileNotFoundError(2, "No such file or directory", str(path))

    monkeypatch.setattr(reader, gone)
    with pytest.raises(UnreadableError, match=f"({MANIFEST}|model.onnx) cannot be read: No such file or directory"):
        load_bundle(directory)


def test_a_folder_in_the_place_of_a_file_is_no_file(directory: Path) -> None:
    for file, error in (("shared.vocab", CorruptFileError), (MANIFEST, InputError)):
        (directory / file).unlink()
        (directory / file).mkdir()
        with pytest.raises(error, match=file):
            load_bundle(directory)


def test_a_folder_without_a_manifest_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=MANIFEST):
        load_bundle(tmp_path)


def test_a_newer_format_is_refused_with_the_reason(directory: Path) -> None:
    rewrite(directory, format_version=FORMAT_VERSION + 1, a_field_of_the_future=1)
    with pytest.raises(InputError, match=f"format version {FORMAT_VERSION + 1}.*up to {FORMAT_VERSION}") as caught:
        load_bundle(directory)
    assert "upgrade" in str(caught.value.help)


def test_a_bundle_of_the_first_format_is_read(directory: Path) -> None:
    """As it was written when there was one variant, of which nothing was measured."""
    record = json.loads((directory / MANIFEST).read_text())
    del record["variants"]["cpu-float32"]["measured"]
    record["format_version"] = 1
    record["checksums"][MANIFEST] = _manifest_digest(record)
    rewrite(directory, **record)
    bundle = load_bundle(directory)
    assert bundle.manifest.format_version == 1
    assert bundle.variant().measured is None
    assert bundle.variant() == bundle.variant("cpu-float32")


def test_a_bundle_from_before_there_were_classes_is_read(directory: Path) -> None:
    record = json.loads((directory / MANIFEST).read_text())
    for name in ("features", "classes", "multi_label", "temperature"):
        del record[name]
    record["format_version"] = 3
    record["checksums"][MANIFEST] = _manifest_digest(record)
    (directory / MANIFEST).write_text(json.dumps(record))
    assert load_bundle(directory).decode.beam_size == 4


TEXT = {"kind": "text", "graph_input": "inputs_ids", "dtype": "int64", "max_length": 9}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"decode": None}, "`decode` is there if the task is to translate"),
        ({"features": {"inputs": TEXT}}, "`features` are there unless"),
        ({"task": "classify"}, "`decode` is there"),
        ({"task": "classify", "decode": None, "features": {"inputs": TEXT}}, "`classes` are there if"),
        ({"task": "regress", "decode": None, "features": {"other": TEXT}}, "the text 'other' has no tokenizer"),
        ({"task": "regress", "decode": None, "features": {"inputs": TEXT | {"max_length": None}}}, "has a max_length"),
        ({"classes": ["a"]}, "`classes` are there if"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(directory: Path, changes: dict, words: str) -> None:
    rewrite(directory, **changes)
    with pytest.raises(CorruptFileError, match=words):
        load_bundle(directory)


def test_what_is_measured_of_a_variant_is_kept(tmp_path: Path) -> None:
    manifest = toy_manifest()
    variant = manifest.variants["cpu-float32"].model_copy(update={"measured": {"agreement": {"identical": 0.5}}})
    changed = manifest.model_copy(update={"variants": {"cpu-float32": variant}, "format_version": 1})
    written = write_bundle(tmp_path / "bundle", changed, toy_files())
    assert written.manifest.variants == {"cpu-float32": variant}
    assert written.manifest.format_version == FORMAT_VERSION  # of who wrote it


def test_an_edited_manifest_is_refused(directory: Path) -> None:
    decode = json.loads((directory / MANIFEST).read_text())["decode"]
    rewrite(directory, decode={**decode, "beam_size": 5})
    with pytest.raises(CorruptFileError, match="checksum"):
        load_bundle(directory)


def test_a_manifest_that_points_outside_is_refused(directory: Path) -> None:
    rewrite(directory, tokenizers={"inputs": "../secret", "targets": "shared.vocab"})
    with pytest.raises(CorruptFileError, match="a path inside it"):
        load_bundle(directory)


def test_a_taken_folder_is_left_alone_unless_told(directory: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="already exists"):
        write_toy_bundle(directory)
    write_bundle(directory, toy_manifest("second"), toy_files(), overwrite=True)
    assert load_bundle(directory).manifest.name == "second"

    other = tmp_path / "photos"
    other.mkdir()
    (other / "beach.jpg").write_bytes(b"x")
    with pytest.raises(InputError, match="is not a bundle"):
        write_bundle(other, toy_manifest(), toy_files(), overwrite=True)
    assert (other / "beach.jpg").exists()


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"model\.onnx"):
        write_bundle(tmp_path / "bundle", toy_manifest(), {"shared.vocab": b""})
    files = {**toy_files(), "model.onnx": tmp_path / "does-not-exist.onnx"}
    with pytest.raises(Exception, match="does-not-exist"):
        write_bundle(tmp_path / "bundle", toy_manifest(), files)
    assert list(tmp_path.iterdir()) == []
