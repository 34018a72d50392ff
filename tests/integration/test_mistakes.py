"""The mistakes of a newcomer at the real command line.

Each ends with exit 2 (the user's) or 1 (the world's), a sentence that names the value and, where there are any, the
valid choices; never with a traceback. The commands run in this process: `main` is the edge that users meet.
"""

from __future__ import annotations

import gzip
import json
import shutil
import socket
from pathlib import Path

import pytest

from t2tdeploy.bundle import FORMAT_VERSION
from tests.integration.conftest import PROBLEM, Command, Fails, Road

USR = """
from t2tdeploy.hparams import HParams
from t2tdeploy.models.model import Model
from t2tdeploy.registry import register_hparams, register_model

class TinyHParams(HParams):
    width: int = 4

@register_model
class TinyCustom(Model):
    hparams_class = TinyHParams

@register_hparams
def tiny_custom_set():
    return TinyHParams()
"""


@pytest.fixture
def bundle(road: Road, tmp_path: Path) -> Path:
    """A copy to be damaged."""
    return Path(shutil.copytree(road.bundle, tmp_path / "bundle"))


def train(road: Road, *more: str | Path, problem: str = PROBLEM) -> list[str | Path]:
    """Later options win over earlier ones."""
    return ["train", "--problem", problem, "--data-dir", road.data, "--output-dir", road.folder / "never", *more]


def datagen_pairs(folder: Path, overrides: str, vocab_kind: str = "bytes") -> list[str | Path]:
    return [
        "datagen", "--problem", "translate_pairs", "--data-dir", folder / "data", "--source-dir", folder,
        "--processes", "1", "--problem-options",
        f"vocab_kind={vocab_kind},held_out_dev=none,held_out_test=none,{overrides}",
    ]  # fmt: skip


def write_pairs(folder: Path, source: bytes, target: bytes) -> None:
    (folder / "a.en").write_bytes(source)
    (folder / "a.de").write_bytes(target)


# Names


def test_unknown_names_show_the_choices_and_the_nearest(road: Road, fails: Fails):
    nearest = f"help: did you mean '{PROBLEM}'?"
    fails(2, train(road, problem="translate_date_ende"), "unknown problem 'translate_date_ende'", nearest)
    fails(2, ["datagen", "--problem", "translate_dates_ened", "--data-dir", road.folder / "never"], nearest)
    fails(2, train(road, "--model", "transfomer"), "unknown model 'transfomer'", "help: did you mean 'transformer'?")
    fails(
        2,
        train(road, "--hparams-set", "transformer_tinny"),
        "unknown hparams set 'transformer_tinny'; valid choices: ",
        ", transformer_base, ",
        "help: did you mean 'transformer_tiny'?",
    )
    assert not (road.folder / "never").exists()


def test_names_are_checked_before_data_are_generated(tmp_path: Path, fails: Fails):
    words = ["train", "--problem", PROBLEM, "--data-dir", tmp_path / "data", "--output-dir", tmp_path / "run"]
    fails(2, [*words, "--generate-data", "--hparams", "dropuot=0.1"], "dropuot")
    fails(2, [*words, "--generate-data", "--model", "transfomer"], "transfomer")
    assert not list(tmp_path.iterdir())


def test_options_and_commands_that_do_not_exist_meet_the_nearest(road: Road, fails: Fails):
    fails(2, ["evalute"], "No such command 'evalute'", "'evaluate'", "help: ")
    fails(2, train(road, "--hparam", "dropout=0"), "No such option '--hparam'", "'--hparams'", "help: ")
    fails(2, ["list", "problem"], "'problem' is not one of 'problems', 'models', 'hparams'")
    fails(2, ["evaluate", "--output-dir", road.run, "--split", "tset"], "'tset' is not one of 'train', 'dev', 'test'")
    fails(2, ["train", "--problem", PROBLEM], "Missing option '--data-dir'")
    fails(2, train(road, "--train-steps", "many"), "'--train-steps'", "'many'")


# Hparams


def test_every_fault_of_the_hparams_is_told_at_once(road: Road, fails: Fails):
    stderr = fails(2, train(road, "--hparams", "dropuot=0.3,batch_size=big,optimizer=adma"), "3 faults in Transf")
    assert "dropuot = '0.3': no such field (did you mean 'dropout'?)" in stderr
    assert "batch_size = 'big': input should be a valid integer" in stderr
    assert "optimizer = 'adma': input should be 'adam'" in stderr
    assert "(did you mean 'adam'?)" in stderr


def test_hparams_that_do_not_fit_together_or_cannot_be_read(road: Road, fails: Fails):
    stderr = fails(2, train(road, "--hparams", "hidden_size=30,num_heads=4"), "does not divide hidden_size = 30")
    assert len(stderr[stderr.index("error:") :].splitlines()) == 2
    fails(2, train(road, "--hparams", "dropout 0.3"), "'dropout 0.3'", "help: write overrides as a=1,b=[2,3]")
    fails(2, train(road, "--hparams", "learning_rate_schedule=constant*warmup"), "(did you mean 'linear_warmup'?)")
    assert not (road.folder / "never").exists()  # else the corrected command would meet other settings there


def test_an_hparams_set_of_another_model(road: Road, fails: Fails, tmp_path: Path):
    (tmp_path / "custom_model.py").write_text(USR)
    words = train(road, "--usr-dir", tmp_path, "--model", "tiny_custom", "--hparams-set", "transformer_tiny")
    fails(
        2, words, "hparams set 'transformer_tiny' is not made for model 'tiny_custom'", "valid choices: tiny_custom_set"
    )
    fails(2, train(road, "--usr-dir", tmp_path, "--hparams-set", "tiny_custom_set"), "valid choices: transformer_base")


def test_a_folder_of_ones_own_that_does_not_import(fails: Fails, tmp_path: Path):
    (tmp_path / "mine.py").write_text("x = 1\ny = x +\n")
    place = f"help: see {tmp_path / 'mine.py'}, line 2"
    fails(2, ["list", "models", "--usr-dir", tmp_path], "SyntaxError", place)
    fails(2, ["list", "models", "--usr-dir", tmp_path / "none"], f"--usr-dir {tmp_path / 'none'} is not a folder")


# Folders


def test_data_that_were_not_generated(road: Road, fails: Fails, tmp_path: Path):
    datagen = f"help: run t2tdeploy datagen --problem {PROBLEM} --data-dir {tmp_path}"
    fails(2, train(road, "--data-dir", tmp_path), f"holds no data of problem '{PROBLEM}'", datagen)
    fails(2, ["evaluate", "--output-dir", road.run, "--data-dir", tmp_path], datagen)


def test_a_folder_that_is_no_run(road: Road, fails: Fails, tmp_path: Path):
    for command in ("evaluate", "decode", "average"):
        fails(2, [command, "--output-dir", tmp_path], f"{tmp_path} is not a run directory", "help: ")
    fails(2, ["export", "--output-dir", tmp_path, "--bundle", tmp_path / "b"], "is not a run directory", "help: ")
    (tmp_path / "thesis.tex").touch()
    fails(2, train(road, "--output-dir", tmp_path), f"{tmp_path} is neither empty nor a run directory", "help: ")
    (tmp_path / "run.json").write_text("{")
    fails(1, ["evaluate", "--output-dir", tmp_path], f"{tmp_path / 'run.json'} is damaged")


def test_a_folder_that_cannot_be_written(road: Road, fails: Fails, tmp_path: Path):
    (tmp_path / "file").touch()
    inside = tmp_path / "file" / "run"
    fails(1, train(road, "--output-dir", inside), str(inside), "help: ")
    fails(2, ["datagen", "--problem", PROBLEM, "--data-dir", inside], str(inside))
    fails(2, train(road, "--output-dir", tmp_path / "file"), "'--output-dir'", "is a file")
    words = ["export", "--output-dir", road.run, "--bundle", inside]
    fails(2, words, f"cannot write {inside}: {tmp_path / 'file'} is not a folder")


# Runs


def test_a_checkpoint_that_does_not_exist_lists_those_that_do(road: Road, fails: Fails):
    for words in (
        ["evaluate", "--output-dir", road.run],
        ["export", "--output-dir", road.run, "--bundle", road.folder / "never"],
    ):
        stderr = fails(2, [*words, "--checkpoint", "7"], f"{road.run} has no checkpoint '7'", "help: choose best, last")
        assert "30, 40" in stderr


def test_a_damaged_checkpoint_and_a_damaged_record(road: Road, fails: Fails, tmp_path: Path):
    damaged = shutil.copytree(road.run, tmp_path / "run")
    weights = damaged / "checkpoints/step-00000040/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    fails(1, ["decode", "--output-dir", damaged, "--checkpoint", "last"], f"{weights} is damaged")


def test_a_damaged_shard(road: Road, fails: Fails, tmp_path: Path):
    data = shutil.copytree(road.data, tmp_path / "data")
    shutil.rmtree(data / ".arrow", ignore_errors=True)
    (shard,) = data.glob(f"{PROBLEM}-dev-*.parquet")
    content = shard.read_bytes()
    shard.write_bytes(content[: len(content) // 2])
    fails(1, ["evaluate", "--output-dir", road.run, "--data-dir", data], f"{shard} is damaged", "help: ")
    shard.unlink()
    again = "help: run t2tdeploy datagen again"
    fails(2, ["evaluate", "--output-dir", road.run, "--data-dir", data], f"there is no shard {shard}", again)


def test_a_warm_start_from_nowhere(road: Road, fails: Fails, tmp_path: Path):
    words = train(road, "--output-dir", tmp_path / "run", "--engine", "torch", "--warm-start", tmp_path / "nothing")
    fails(2, words, str(tmp_path / "nothing"))


# Text


def test_text_that_cannot_be_read(road: Road, fails: Fails, tmp_path: Path):
    (tmp_path / "sentences.en").write_bytes(b"good\nna\xefve\n")
    for words in (["decode", "--output-dir", road.run], ["translate", "--server", "localhost:1"]):
        near = "help: did you mean 'sentences.en'?"
        fails(2, [*words, "--input", tmp_path / "sentence.en"], f"no file {tmp_path / 'sentence.en'}", near)
        fails(2, [*words, "--input", tmp_path / "sentences.en"], "sentences.en, line 2: not UTF-8", "help: convert it")
    fails(2, ["translate", "--server", "localhost:1", "na\udcefve"], "sources[0]", "lone surrogate")


# Bundles and servers


def test_a_bundle_that_is_not_there_or_taken(road: Road, fails: Fails, tmp_path: Path):
    for folder in (tmp_path, tmp_path / "nothing"):
        fails(2, ["serve", "--bundle", folder], f"{folder} is not a bundle: it has no manifest.json", "help: ")
    export = ["export", "--output-dir", road.run, "--bundle"]
    fails(
        2, [*export, road.bundle], f"{road.bundle} already exists", "help: choose another folder, or pass --overwrite"
    )
    (tmp_path / "thesis.tex").touch()
    fails(2, [*export, tmp_path, "--overwrite"], f"{tmp_path} is not a bundle, so it is not overwritten", "help: ")


def test_a_half_copied_bundle(fails: Fails, bundle: Path):
    (bundle / "model.onnx").unlink()
    fails(1, ["serve", "--bundle", bundle], f"{bundle / 'model.onnx'} is damaged: the file is missing", "help: ")
    manifest = bundle / "manifest.json"
    manifest.write_bytes(manifest.read_bytes()[:100])
    fails(1, ["serve", "--bundle", bundle], f"{manifest} is damaged: not JSON", "help: ")


def test_a_flipped_bit(fails: Fails, bundle: Path):
    content = bytearray((bundle / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (bundle / "model.onnx").write_bytes(content)
    fails(
        1, ["serve", "--bundle", bundle], f"{bundle / 'model.onnx'} is damaged: its checksum", "help: copy the bundle"
    )


def test_a_bundle_of_a_newer_version(fails: Fails, bundle: Path):
    manifest = bundle / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format_version": 99}))
    fails(
        2,
        ["serve", "--bundle", bundle],
        "bundle format version 99",
        f"reads up to {FORMAT_VERSION}",
        "help: upgrade t2tdeploy",
    )


def test_a_port_in_use_and_options_of_the_server(road: Road, fails: Fails):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        fails(1, ["serve", "--bundle", road.bundle, "--port", port], f"port {port}", "help: choose another --port")
    words = ["serve", "--bundle", road.bundle, "--options", "max_batch=3"]
    fails(2, words, "--options max_batch = '3': no such option (did you mean 'max_batch_size'?)")
    fails(2, ["serve", "--bundle", road.bundle, "--port", "99999"], "--port = '99999'", "less than or equal to 65535")


def test_no_server_listens(fails: Fails):
    with socket.create_server(("127.0.0.1", 0)) as free:
        server = f"127.0.0.1:{free.getsockname()[1]}"
    words = ["translate", "--server", server, "--timeout", "0.2", "hello"]
    fails(1, words, "UNAVAILABLE", f"help: is the server running at {server}?")


# One's own pairs


def test_pairs_that_are_not_named_or_not_there(fails: Fails, tmp_path: Path):
    write_pairs(tmp_path, b"a\n", b"b\n")
    fails(2, datagen_pairs(tmp_path, ""), "train is not set", "help: set train=")
    fails(
        2, datagen_pairs(tmp_path, "train=[a.en,aa.de]"), f"no file {tmp_path / 'aa.de'}", "help: did you mean 'a.de'?"
    )
    fails(2, datagen_pairs(tmp_path, "train=a.en"), "known suffixes: .tsv", "help: say format=")
    fails(2, datagen_pairs(tmp_path, "tain=a.tsv"), "(did you mean 'train'?)")
    fails(2, datagen_pairs(tmp_path, "format=tvs"), "'tsv', 'csv', 'jsonl' or 'parquet' (did you mean 'tsv'?)")


def test_files_of_unequal_length_give_both_numbers(fails: Fails, tmp_path: Path):
    write_pairs(tmp_path, b"one\ntwo\nthree\n", b"eins\nzwei\n")
    words = datagen_pairs(tmp_path, "train=[a.en,a.de]")
    fails(2, words, "a.en has 3 lines but", "a.de has 2: they cannot be paired", "help: line n")


def test_a_vocabulary_too_small_for_the_text(fails: Fails, tmp_path: Path):
    write_pairs(tmp_path, b"one\ntwo\nthree\n", b"eins\nzwei\ndrei\n")
    words = datagen_pairs(tmp_path, "train=[a.en,a.de],vocab_size=50", vocab_kind="unigram")
    fails(2, words, "vocab_size = 50 is too small", "help: set vocab_size to at least ")


def test_lines_left_out_are_counted_where_the_user_sees_them(run: Command, tmp_path: Path):
    write_pairs(tmp_path, b"one\n\nthr\xffee\nfour\n", b"eins\nzwei\ndrei\nvier\n")
    outcome = run(*datagen_pairs(tmp_path, "train=[a.en,a.de]"))
    assert outcome.status == 0, outcome.stderr
    statistics = tmp_path / "data" / "translate_pairs.statistics.json"
    said = "bad_lines  split train  count 2  share 0.5  reasons 1 empty, 1 not UTF-8"
    assert f"{said}  details {statistics}" in outcome.stderr
    assert json.loads(statistics.read_text())["splits"]["train"]["bad_lines"] == [
        {"file": "a.en", "reason": "empty", "count": 1, "first_lines": [2]},
        {"file": "a.en", "reason": "not UTF-8", "count": 1, "first_lines": [3]},
    ]
    assert json.loads(statistics.read_text())["splits"]["train"]["examples"] == 2


def test_a_file_of_nothing_but_bad_lines(fails: Fails, tmp_path: Path):
    write_pairs(tmp_path, b"\n\xff\n", b"eins\nzwei\n")
    fails(2, datagen_pairs(tmp_path, "train=[a.en,a.de]"), "has no examples", "help: look at its source files")


def test_a_file_of_nothing_at_all(fails: Fails, tmp_path: Path):
    write_pairs(tmp_path, b"", b"")
    fails(2, datagen_pairs(tmp_path, "train=[a.en,a.de]"), "has no examples", "help: the files that it reads, in ")


def test_a_cut_off_gzip_is_an_error(fails: Fails, tmp_path: Path):
    whole = gzip.compress("".join(f"{number}\t{number * number}\n" for number in range(5000)).encode())
    (tmp_path / "a.tsv.gz").write_bytes(whole[: len(whole) // 2])
    fails(1, datagen_pairs(tmp_path, "train=a.tsv.gz"), f"{tmp_path / 'a.tsv.gz'} is damaged", "help: fetch the file")
    assert not (tmp_path / "data" / "translate_pairs.json").exists()


# Programs


def test_programs_get_the_error_as_json(run: Command, road: Road, tmp_path: Path):
    outcomes = {
        2: run("evaluate", "--output-dir", tmp_path, "--json"),
        1: run("translate", "--server", "127.0.0.1:1", "--timeout", "0.2", "hello", "--json"),
    }
    for status, outcome in outcomes.items():
        assert outcome.status == status
        assert outcome.stdout == ""
        (line,) = outcome.stderr.splitlines()
        assert set(json.loads(line)) == {"error", "help"}
    unknown = run("evaluate", "--outputdir", road.run, "--json")
    assert "'--output-dir'" in json.loads(unknown.stderr)["error"]


def test_a_refused_vocabulary_leaves_the_data_that_were_there(road: Road, tmp_path: Path, run: Command, fails: Fails):
    data = tmp_path / "data"
    shutil.copytree(road.data, data)
    words = ["datagen", "--problem", PROBLEM, "--data-dir", data, "--problem-options"]
    fails(2, [*words, "train_examples=800,dev_examples=40,test_examples=40,vocab_size=300"], "vocab_size = 300")
    assert run("evaluate", "--output-dir", road.run, "--data-dir", data, "--sentences", "2").status == 0


def test_sentences_and_a_file_at_once(fails: Fails, tmp_path: Path):
    fails(2, ["translate", "--server", "localhost:1", "a", "--input", tmp_path / "in"], "choose one")


def test_list_explains_every_field_of_a_set_and_of_a_problem(run: Command, fails: Fails):
    assert "hidden_size" in run("list", "hparams", "transformer_tiny").stdout
    assert "inputs_column" in run("list", "problems", "translate_pairs").stdout
    assert "dropout" in run("list", "models", "transformer").stdout
    fails(2, ["list", "hparams", "transformer_tny"], "did you mean 'transformer_tiny'?")
