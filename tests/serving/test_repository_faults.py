"""What cannot be read for a moment takes nothing else with it, and is tried again."""

import asyncio
import errno
import os
from contextlib import ExitStack
from pathlib import Path

import pytest

from t2tdeploy.bundle import Bundle, load_bundle, write_bundle
from t2tdeploy.errors import UnreadableError
from t2tdeploy.serving.bundle_source import BundleFolders, RepositoryFolder, fingerprint_of
from t2tdeploy.serving.options import ServerOptions
from t2tdeploy.serving.repository import ModelRepository
from t2tdeploy.serving.scheduler import UnavailableError
from t2tdeploy.serving.served_model import LoadedModel
from tests.serving.repositories import Listening, fails, labels, when_listed, with_repository
from tests.serving.toy_bundle import toy_files, toy_manifest, write_toy_bundle
from tests.unprivileged import as_nobody, folder_for_all


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository with version 1 of the model "ende"."""
    write_toy_bundle(tmp_path / "models" / "ende" / "1")
    return tmp_path / "models"


def test_a_version_that_goes_at_every_look_unloads_no_other(root: Path) -> None:
    version = root / "ende" / "2"

    async def work(repository: ModelRepository) -> None:
        before = repository.models()
        for look in (repository.poll, repository.poll, lambda: repository.load("ende")):
            version.mkdir()
            with when_listed(version, version.rmdir):
                await look()
            assert not version.exists()
            assert repository.models() == before

    with_repository(RepositoryFolder(root), work)


def test_a_server_starts_beside_a_version_that_cannot_be_listed(root: Path) -> None:
    write_toy_bundle(root / "ende" / "2")
    with ExitStack() as fault:
        fault.enter_context(when_listed(root / "ende" / "2", fails(errno.EIO)))

        async def work(repository: ModelRepository) -> None:
            assert [(one.number, one.state) for one in repository.entries()] == [(1, "READY"), (2, "UNAVAILABLE")]
            with pytest.raises(UnavailableError, match=r"ende:2 cannot be loaded: .* cannot be read: Input/output"):
                await repository.load("ende")
            fault.close()
            await repository.poll()
            assert labels(repository) == ["ende:2"]

        with_repository(RepositoryFolder(root), work)


def test_what_serves_goes_on_as_it_is_while_it_cannot_be_listed(root: Path) -> None:
    """Reported once, if it is a version that is wanted."""
    write_toy_bundle(root / "ende" / "2")
    listening = Listening()

    async def work(repository: ModelRepository) -> None:
        before = repository.models()
        for number in (1, 2):
            with when_listed(root / "ende" / str(number), fails(errno.ESTALE)):
                for _ in range(3):
                    await repository.poll()
        assert listening.broken == [f"{root / 'ende' / '2'} cannot be read: {os.strerror(errno.ESTALE)}"]
        await repository.poll()
        assert repository.models() == before
        assert [one.reason for one in repository.entries()] == [""]

    with_repository(RepositoryFolder(root), work, reporter=listening)


def test_a_version_that_is_gone_is_unloaded_though_another_cannot_be_listed(root: Path, tmp_path: Path) -> None:
    write_toy_bundle(root / "ende" / "2")

    async def work(repository: ModelRepository) -> None:
        (root / "ende" / "1").rename(tmp_path / "gone")
        with when_listed(root / "ende" / "2", fails(errno.EIO)):
            await repository.poll()
            assert labels(repository) == ["ende:1", "ende:2"]
            await repository.poll()
        assert labels(repository) == ["ende:2"]

    with_repository(RepositoryFolder(root), work, versions="all")


def test_what_is_known_of_a_broken_version_outlives_a_look_that_fails(root: Path) -> None:
    version, listening = root / "ende" / "2", Listening()

    async def work(repository: ModelRepository) -> None:
        write_toy_bundle(version)
        (version / "shared.vocab").unlink()
        await repository.poll()
        with when_listed(version, fails(errno.EIO)):
            await repository.poll()
        await repository.poll()
        assert listening.broken == [f"{version / 'shared.vocab'} is damaged: the file is missing"]

    with_repository(RepositoryFolder(root), work, reporter=listening)


def test_a_version_that_may_not_be_listed_but_read_is_served() -> None:
    with folder_for_all() as root:
        write_toy_bundle(root / "ende" / "1")

        async def work(repository: ModelRepository) -> None:
            write_toy_bundle(root / "ende" / "2").directory.chmod(0o711)
            with as_nobody():
                await repository.poll()
            assert labels(repository) == ["ende:2"]
            changed = toy_manifest("ende", max_source_length=99)
            write_bundle(root / "ende" / "2", changed, toy_files(), overwrite=True).directory.chmod(0o711)
            with as_nobody():
                await repository.poll()
            assert repository.find("ende").bundle.decode.max_source_length == 99

        with_repository(RepositoryFolder(root), work)


def test_of_bundles_given_one_by_one_one_that_cannot_be_listed_leaves_the_others_alone(tmp_path: Path) -> None:
    one, other = (write_bundle(tmp_path / name, toy_manifest(name), toy_files()).directory for name in ("one", "other"))
    source = BundleFolders([one, other])

    async def work(repository: ModelRepository) -> None:
        before = repository.find("one")
        write_bundle(other, toy_manifest("other", max_source_length=99), toy_files(), overwrite=True)
        with when_listed(one, fails(errno.EMFILE)):
            await repository.poll()
            assert repository.find("other").bundle.decode.max_source_length == 99
            with pytest.raises(
                UnavailableError, match=r"one:1 cannot be loaded: .* cannot be read: Too many open files"
            ):
                await repository.load("one")
        assert repository.find("one") is before

    with_repository(source, work)
    with when_listed(one, fails(errno.EMFILE)), pytest.raises(UnreadableError, match="one cannot be read"):
        with_repository(source, work)


@pytest.mark.parametrize("file", ["model.onnx", "shared.vocab"])
def test_a_file_that_cannot_be_read_when_the_bundle_is_loaded_is_tried_again(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    """After its checksum was found right. The same files are loaded as soon as they can be read."""
    place, listening = root / "ende" / "2", Listening()

    def load(directory: Path) -> Bundle:
        bundle = load_bundle(directory)
        (directory / file).rename(tmp_path / file)
        (directory / file).symlink_to(file)
        return bundle

    async def work(repository: ModelRepository) -> None:
        write_toy_bundle(place)
        before = fingerprint_of(place)
        with monkeypatch.context() as patch:
            patch.setattr("t2tdeploy.serving.repository.load_bundle", load)
            await repository.poll()
        assert labels(repository) == ["ende:1"]
        assert listening.broken == [f"{place / file} cannot be read: {os.strerror(errno.ELOOP)}"]
        (tmp_path / file).replace(place / file)
        assert fingerprint_of(place) == before
        await repository.poll()
        assert labels(repository) == ["ende:2"]

    with_repository(RepositoryFolder(root), work, reporter=listening)


def test_whatever_the_system_refuses_while_a_bundle_is_loaded_is_tried_again(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As to open what a module imports."""

    def load(bundle: Bundle, options: ServerOptions) -> LoadedModel:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    async def work(repository: ModelRepository) -> None:
        write_toy_bundle(root / "ende" / "2")
        with monkeypatch.context() as patch:
            patch.setattr("t2tdeploy.serving.repository.load_model", load)
            await repository.poll()
        assert labels(repository) == ["ende:1"]
        await repository.poll()
        assert labels(repository) == ["ende:2"]

    with_repository(RepositoryFolder(root), work)


def test_a_repository_that_goes_is_one_line_at_each_look(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def work(repository: ModelRepository) -> None:
        root.rename(root.parent / "away")
        looking = asyncio.create_task(repository.poll_forever(0.01))
        while len(caplog.records) < 2:
            await asyncio.sleep(0.01)
        looking.cancel()
        assert labels(repository) == ["ende:1"]

    with_repository(RepositoryFolder(root), work)
    said = f"the bundles on disk could not be looked at: {root} cannot be read: No such file or directory"
    assert {record.getMessage() for record in caplog.records} == {said}
    assert not any(record.exc_info for record in caplog.records)


def test_a_repository_that_may_not_be_listed_starts_no_server_and_unloads_nothing() -> None:
    with folder_for_all() as place:
        root = place / "models"
        write_toy_bundle(root / "ende" / "1")
        source = RepositoryFolder(root)

        async def work(repository: ModelRepository) -> None:
            before = repository.models()
            root.chmod(0o711)
            with as_nobody():
                for _ in range(3):
                    with pytest.raises(UnreadableError, match="models cannot be read: Permission denied"):
                        await repository.poll()
                with pytest.raises(UnavailableError, match=r"ende cannot be loaded: .*models cannot be read"):
                    await repository.load("ende")
            assert repository.models() == before

        with_repository(source, work)
        with as_nobody(), pytest.raises(UnreadableError, match="models cannot be read: Permission denied"):
            with_repository(source, work)
        root.chmod(0o755)


def test_only_what_should_serve_counts_as_not_loaded(root: Path) -> None:
    """Not what a newer version has replaced, nor a model that was unloaded."""

    async def work(repository: ModelRepository) -> None:
        assert repository.not_loaded() == {"ende": 0}
        for version in ("ende/2", "deen/1"):
            write_toy_bundle(root / version)
            (root / version / "manifest.json").write_text("{")
        await repository.poll()
        assert repository.not_loaded() == {"ende": 1, "deen": 1}
        write_toy_bundle(root / "ende" / "3")
        await repository.poll()
        assert repository.not_loaded() == {"ende": 0, "deen": 1}
        (root / "ende" / "3" / "manifest.json").write_text("{")
        await repository.poll()
        assert repository.not_loaded()["ende"] == 1  # its newer content
        await repository.unload("ende")
        assert repository.not_loaded() == {"deen": 1}

    with_repository(RepositoryFolder(root), work)
