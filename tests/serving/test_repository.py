"""Models come, change and go while the server serves, and a faulty one changes nothing."""

import asyncio
import dataclasses
import json
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from t2tdeploy.bundle import Bundle, load_bundle
from t2tdeploy.decoding import TranslateOptions
from t2tdeploy.errors import CorruptFileError, InputError, RequestError, UnknownNameError
from t2tdeploy.serving.bundle_source import BundleFolders, RepositoryFolder
from t2tdeploy.serving.client import Client, ClientOptions
from t2tdeploy.serving.options import ServerOptions
from t2tdeploy.serving.repository import ModelRepository
from t2tdeploy.serving.scheduler import UnavailableError
from t2tdeploy.serving.served_model import LoadedModel, ServedModel, load_model
from t2tdeploy.serving.v1 import translation_pb2 as pb
from t2tdeploy.serving.v1.translation_pb2_grpc import TranslationServiceStub
from tests.serving.repositories import Labels, Listening, labels, put, with_repository
from tests.serving.running import running
from tests.serving.toy_bundle import write_toy_bundle
from tests.unprivileged import as_nobody, folder_for_all


@pytest.fixture(scope="module")
def contents(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Bundles of different contents."""
    root = tmp_path_factory.mktemp("contents")
    for number in range(3):
        write_toy_bundle(root / str(number), max_source_length=200 + number)
    return [root / str(number) for number in range(3)]


@pytest.fixture
def root(tmp_path: Path, contents: list[Path]) -> Path:
    """A repository with versions 1 and 2 of the model "ende"."""
    for number in (1, 2):
        put(contents[number - 1], tmp_path / "models" / "ende" / str(number))
    return tmp_path / "models"


@pytest.mark.parametrize(
    ("versions", "served"),
    [("latest", ["ende:2"]), ("latest:2", ["ende:1", "ende:2"]), ("all", ["ende:1", "ende:2"]), ("1", ["ende:1"])],
)
def test_the_policy_chooses_what_is_served(root: Path, versions: str, served: Labels) -> None:
    async def work(repository: ModelRepository) -> None:
        assert labels(repository) == served
        assert repository.find("").label == served[-1]

    with_repository(RepositoryFolder(root), work, versions=versions)


def test_a_model_is_found_by_name_alias_number_and_content(root: Path, contents: list[Path]) -> None:
    put(contents[0], root / "deen")

    async def work(repository: ModelRepository) -> None:
        first = repository.find("ende", "1")
        assert first.label == "ende:1"
        assert repository.find("ende").label == "ende:2"
        assert repository.find("ende", first.bundle.version) is first
        assert repository.find("stable") is first
        assert repository.find("stable", "2").label == "ende:2"
        assert repository.find("newest").label == "ende:2"
        with pytest.raises(UnknownNameError, match="deen, ende, newest, stable") as unknown:
            repository.find("endd")
        assert unknown.value.nearest == "ende"
        with pytest.raises(UnknownNameError, match="unknown version of model 'ende' '7'; valid choices: 1, 2"):
            repository.find("ende", "7")
        with pytest.raises(RequestError, match="model: the server has several: deen, ende"):
            repository.find("")

    with_repository(RepositoryFolder(root), work, versions="all", aliases=["stable=ende:1", "newest=ende"])


def damage_checksum(place: Path) -> None:
    content = (place / "model.onnx").read_bytes()
    (place / "model.onnx").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def remove_file(place: Path) -> None:
    (place / "shared.vocab").unlink()


def make_newer(place: Path) -> None:
    manifest = json.loads((place / "manifest.json").read_text())
    (place / "manifest.json").write_text(json.dumps({**manifest, "format_version": 99}))


def make_warm_up_fail(place: Path) -> None:
    shutil.rmtree(place)
    write_toy_bundle(place, known_ids=1)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (damage_checksum, "its checksum does not match"),
        (remove_file, "the file is missing"),
        (make_newer, "format version 99"),
        (make_warm_up_fail, "onnxruntime failed to run the graph"),
    ],
)
@pytest.mark.parametrize("when", ["at the start", "as a new version", "in place"])
def test_a_broken_bundle_changes_nothing_but_the_report(
    root: Path, contents: list[Path], when: str, damage: Callable[[Path], None], reason: str
) -> None:
    number = 2 if when == "in place" else 3

    def spoil() -> None:
        put(contents[2], root / "ende" / str(number))
        damage(root / "ende" / str(number))

    async def work(repository: ModelRepository) -> None:
        before = repository.find("ende")
        if when != "at the start":
            spoil()
            await repository.poll()
        assert repository.find("ende") is before
        assert before.label == "ende:2"
        entry = next(one for one in repository.entries() if one.number == number)
        assert entry.state == ("READY" if when == "in place" else "UNAVAILABLE")
        assert reason in entry.reason
        with pytest.raises(UnavailableError, match=reason):
            await repository.load("ende")
        put(contents[2], root / "ende" / str(number))
        await repository.poll()
        assert repository.find("ende").label == f"ende:{number}"
        assert repository.find("ende").bundle.manifest.decode.max_source_length == 202
        assert [one.reason for one in repository.entries() if one.state == "READY"] == [""]

    if when == "at the start":
        spoil()
    with_repository(RepositoryFolder(root), work)


def test_a_broken_bundle_is_not_read_again_until_it_changes(
    root: Path, contents: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    put(contents[2], root / "ende" / "3")
    damage_checksum(root / "ende" / "3")
    read: list[Path] = []

    def load(directory: Path) -> Bundle:
        read.append(directory)
        return load_bundle(directory)

    monkeypatch.setattr("t2tdeploy.serving.repository.load_bundle", load)
    listening = Listening()

    async def work(repository: ModelRepository) -> None:
        for _ in range(3):
            await repository.poll()
        assert (len(listening.broken), read.count(root / "ende" / "3")) == (1, 1)
        remove_file(root / "ende" / "3")
        await repository.poll()
        assert (len(listening.broken), read.count(root / "ende" / "3")) == (2, 2)

    with_repository(RepositoryFolder(root), work, reporter=listening)


@pytest.mark.parametrize("closed", ["a file", "the folder of a version", "the folder of the model"])
def test_what_may_not_be_read_is_reported_once_and_tried_at_every_look(contents: list[Path], closed: str) -> None:
    """Whoever gives the right to read changes no file. Meanwhile what served goes on, and other models come."""
    listening = Listening()
    with folder_for_all() as root:
        put(contents[0], root / "ende" / "2")

        async def work(repository: ModelRepository) -> None:
            put(contents[1], root / "ende" / "3")
            put(contents[2], root / "deen" / "1")
            path, mode = root / "ende" / "3" / "model.onnx", 0
            if closed != "a file":
                path, mode = root / "ende" / ("3" if closed == "the folder of a version" else "."), 0o444
            before = path.stat().st_mode
            path.chmod(mode)
            with as_nobody():
                for _ in range(3):
                    await repository.poll()
                assert labels(repository) == ["deen:1", "ende:2"]
                assert len(listening.broken) == 1
                assert "cannot be read: Permission denied" in listening.broken[0]
                assert listening.broken[0] in [one.reason for one in repository.entries() if one.state == "UNAVAILABLE"]
                label = "ende" if closed == "the folder of the model" else "ende:3"
                with pytest.raises(UnavailableError, match=f"{label} cannot be loaded: .* cannot be read: Permission"):
                    await repository.load("ende")
            path.chmod(before)
            await repository.poll()
            assert labels(repository) == ["deen:1", "ende:3"]
            assert [one.reason for one in repository.entries() if one.state != "UNLOADING"] == ["", ""]

        with_repository(RepositoryFolder(root), work, reporter=listening)


def test_what_is_known_of_a_broken_version_outlives_a_closed_folder(contents: list[Path]) -> None:
    listening = Listening()
    with folder_for_all() as root:
        put(contents[0], root / "ende" / "2")

        async def work(repository: ModelRepository) -> None:
            put(contents[1], root / "ende" / "3")
            damage_checksum(root / "ende" / "3")
            for mode in (0o755, 0o444, 0o755):
                (root / "ende").chmod(mode)
                with as_nobody():
                    await repository.poll()
            assert ["damaged" in reason for reason in listening.broken] == [True, False]

        with_repository(RepositoryFolder(root), work, reporter=listening)


def test_a_folder_that_is_gone_once_may_be_on_its_way_to_be_replaced(root: Path) -> None:
    async def work(repository: ModelRepository) -> None:
        (root / "ende" / "2").rename(root / "ende" / ".2")
        await repository.poll()
        assert repository.find("ende").label == "ende:2"
        (root / "ende" / ".2").rename(root / "ende" / "2")
        await repository.poll()
        shutil.rmtree(root / "ende")
        await repository.poll()
        assert repository.find("ende").label == "ende:2"
        await repository.poll()
        assert labels(repository) == []
        with pytest.raises(UnavailableError, match="no model now"):
            repository.find("")

    with_repository(RepositoryFolder(root), work)


@pytest.mark.parametrize("on_cpus", [True, False])
def test_models_wait_for_those_on_the_same_kind_of_device_only(
    root: Path, monkeypatch: pytest.MonkeyPatch, on_cpus: bool
) -> None:
    """Whoever holds all CPUs does not keep a model on a GPU from answering, nor the other way round."""

    def load(bundle: Bundle, options: ServerOptions) -> LoadedModel:
        return dataclasses.replace(load_model(bundle, options), on_cpus=on_cpus)

    monkeypatch.setattr("t2tdeploy.serving.repository.load_model", load)

    async def translate(model: ServedModel) -> None:
        key = model.translator.search_key(TranslateOptions())
        await model.scheduler.answer(model.translator.encode(["a"]), key, deadline=None)

    async def work(repository: ModelRepository) -> None:
        same, other = repository._cpus, repository._gpus
        if not on_cpus:
            same, other = other, same
        async with other.slot("another", other.count):
            await asyncio.wait_for(translate(repository.find("ende")), timeout=20)
        async with same.slot("another", same.count):
            asked = asyncio.create_task(translate(repository.find("ende")))
            await asyncio.wait([asked], timeout=0.2)
            assert not asked.done()
        await asked

    with_repository(RepositoryFolder(root), work)


def test_unload_holds_until_load(root: Path) -> None:
    async def work(repository: ModelRepository) -> None:
        await repository.unload("ende")
        await repository.poll()
        with pytest.raises(UnavailableError, match="'ende' is not served now"):
            repository.find("ende")
        with pytest.raises(UnknownNameError):
            await repository.unload("deen")
        await repository.load("ende")
        assert repository.find("ende").label == "ende:2"
        with pytest.raises(UnknownNameError, match="valid choices: ende"):
            await repository.load("deen")

    with_repository(RepositoryFolder(root), work)


def test_a_model_that_leaves_is_listed_once(root: Path) -> None:
    def listed(repository: ModelRepository) -> list[tuple[str, int, str]]:
        return [(entry.name, entry.number, entry.state) for entry in repository.entries()]

    async def work(repository: ModelRepository) -> None:
        with repository.find("ende").used():
            await repository.unload("ende")
            assert listed(repository) == [("ende", 2, "UNLOADING")]
        while listed(repository) != [("ende", 0, "UNAVAILABLE")]:
            await asyncio.sleep(0.001)

    with_repository(RepositoryFolder(root), work)


def test_what_cannot_start_says_why(root: Path, contents: list[Path], tmp_path: Path) -> None:
    async def nothing(repository: ModelRepository) -> None:
        raise AssertionError("it started")

    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no bundle to serve"):
        with_repository(RepositoryFolder(tmp_path / "empty"), nothing)
    with pytest.raises(InputError, match="versions = 7 takes none of what is there: ende:1, ende:2"):
        with_repository(RepositoryFolder(root), nothing, versions="7")
    with pytest.raises(UnknownNameError, match="model of the alias 'a' 'end'"):
        with_repository(RepositoryFolder(root), nothing, aliases=["a=end"])
    with pytest.raises(InputError, match="the alias 'ende' is the name of a model"):
        with_repository(RepositoryFolder(root), nothing, aliases=["ende=ende"])
    for number in (1, 2):
        damage_checksum(root / "ende" / str(number))
    with pytest.raises(CorruptFileError, match="checksum"):
        with_repository(RepositoryFolder(root), nothing)
    bundle = tmp_path / "alone"
    shutil.copytree(contents[0], bundle)
    source = BundleFolders([bundle])
    damage_checksum(bundle)
    with pytest.raises(CorruptFileError, match="checksum"):
        with_repository(source, nothing)


def test_reload_under_load_fails_no_request(root: Path, contents: list[Path]) -> None:
    with running(RepositoryFolder(root), poll_seconds=0.05) as server:
        over = threading.Event()
        numbers: set[int] = set()

        def ask(client: int) -> int:
            with grpc.insecure_channel(f"127.0.0.1:{server.port}", [("client", client)]) as channel:
                stub, asked = TranslationServiceStub(channel), 0
                while not over.is_set():
                    answer = stub.Translate(pb.TranslateRequest(model="ende", sources=["A house."]), timeout=20)
                    assert answer.translations[0].hypotheses[0].text == "A house."
                    numbers.add(answer.model_number)
                    asked += 1
                return asked

        with ThreadPoolExecutor(4) as pool:
            calls = [pool.submit(ask, client) for client in range(4)]
            try:
                for number in range(3, 7):
                    put(contents[number % 3], root / "ende" / str(number))
                    wait_until(lambda number=number: number in numbers)
                put(contents[1], root / "ende" / "6")  # the same version, other content
            finally:
                over.set()
            assert all(call.result(30) for call in calls)
        assert set(server.answers) == {"OK"}
        assert 0 < server.batches <= server.answers["OK"]
        wait_until(lambda: [one.state for one in server.repository.entries()] == ["READY"])
        assert server.batches > 4  # those of the versions that left are counted


def test_health_is_known_of_every_model_and_version(root: Path, contents: list[Path]) -> None:
    put(contents[2], root / "ende" / "3")
    damage_checksum(root / "ende" / "3")
    with running(RepositoryFolder(root)) as server, grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)

        def of(name: str) -> str:
            status = stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=10).status
            return str(health_pb2.HealthCheckResponse.ServingStatus.Name(status))

        assert {name: of(name) for name in ("", "ende", "ende:2", "ende:3")} == {
            "": "SERVING",
            "ende": "SERVING",
            "ende:2": "SERVING",
            "ende:3": "NOT_SERVING",
        }


def test_a_client_asks_for_a_model_and_a_version(root: Path) -> None:
    with running(RepositoryFolder(root), versions="all", aliases=["stable=ende:1"]) as server:
        with Client(f"localhost:{server.port}", ClientOptions(model="stable")) as client:
            assert [(model.name, model.number) for model in client.models()] == [("ende", 1), ("ende", 2)]
            assert client.translate(["A house."])[0][0].text == "A house."
        with (
            Client(f"localhost:{server.port}", ClientOptions(model="ende", model_version="3")) as client,
            pytest.raises(Exception, match="NOT_FOUND: unknown version of model 'ende' '3'; valid choices: 1, 2"),
        ):
            client.translate(["A house."])


def wait_until(condition: Callable[[], bool]) -> None:
    for _ in range(2000):
        if condition():
            return
        threading.Event().wait(0.01)
    raise AssertionError("it did not happen within 20 s")
