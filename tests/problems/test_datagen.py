"""datagen: whole files only, restartable, the same result for any number of processes and shards."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet
import pytest

from t2tdeploy.errors import DownloadError, InputError
from t2tdeploy.problems.datagen import generate
from t2tdeploy.problems.dataset import open_problem, read_record
from t2tdeploy.problems.problem import get_problem
from t2tdeploy.problems.records import shard_paths
from t2tdeploy.registry import import_usr_dir

SCRIPT = """
import sys
from pathlib import Path
from t2tdeploy.problems.datagen import generate
from t2tdeploy.problems.problem import get_problem
from t2tdeploy.registry import import_usr_dir
root, name, processes = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
import_usr_dir(root / "usr")
found = get_problem(name)
problem = found(found.options_class(vocab_kind="bytes"))
generate(
    problem, data_dir=root / "data", source_dir=root / "source", processes=processes, num_shards=2,
    usr_dirs=[root / "usr"],
)
"""


def contents(folder, name="toy_pairs"):
    """split -> all rows in order, whatever the sharding."""
    record = read_record(name, folder)
    rows = {}
    for split, size in record.splits.items():
        tables = [pyarrow.parquet.read_table(path) for path in shard_paths(folder, name, split, size.shards)]
        rows[split] = pyarrow.concat_tables(tables).sort_by("index").to_pylist()
    return rows


def stamps(folder, pattern):
    return {path.name: path.stat().st_mtime_ns for path in folder.glob(pattern)}


@pytest.fixture
def run(tmp_path, make_problem):
    """Generates toy_pairs (or another) into tmp_path/data."""

    def call(name="toy_pairs", folder="data", options=None, **arguments):
        problem = make_problem(name, **(options or {}))
        return generate(problem, data_dir=tmp_path / folder, source_dir=tmp_path, **arguments)

    return call


def test_shards_are_round_robin(run, tmp_path):
    record = run(num_shards=3)
    assert record.splits["train"].shards == 3
    for shard, path in enumerate(shard_paths(tmp_path / "data", "toy_pairs", "train", 3)):
        table = pyarrow.parquet.read_table(path)
        assert table["index"].to_pylist() == list(range(shard, 300, 3))


def test_a_split_has_no_more_shards_than_examples(run):
    assert {split: size.shards for split, size in run(num_shards=20).splits.items()} == {
        "train": 20,
        "dev": 20,
        "test": 7,
    }


def test_processes_and_shards_do_not_change_the_data(run, tmp_path, usr_dir):
    """Nor does what the problem prepares, which workers are given."""
    one = run("toy_prepared", folder="one", options={"vocab_kind": "unigram", "vocab_size": 300})
    two = run(
        "toy_prepared",
        folder="two",
        options={"vocab_kind": "unigram", "vocab_size": 300},
        processes=2,
        num_shards=4,
        usr_dirs=[usr_dir],
    )
    assert contents(tmp_path / "one", "toy_prepared") == contents(tmp_path / "two", "toy_prepared")
    assert one.hash == two.hash
    vocabularies = [tmp_path / folder / "toy_prepared.shared.vocab" for folder in ("one", "two")]
    assert vocabularies[0].read_bytes() == vocabularies[1].read_bytes()


def test_the_reversed_problem_has_its_own_files(run, tmp_path):
    run(options={"joint_vocabulary": False})
    run("toy_pairs_rev", options={"joint_vocabulary": False})
    forward = open_problem("toy_pairs", tmp_path / "data").split("dev")
    backward = open_problem("toy_pairs_rev", tmp_path / "data").split("dev")
    assert forward.texts("inputs") == backward.texts("targets")
    assert forward.texts("targets") == backward.texts("inputs")
    assert (tmp_path / "data/toy_pairs_rev.targets.vocab").exists()


def test_a_rerun_writes_nothing(run, tmp_path):
    first = run()
    before = stamps(tmp_path / "data", "**/*")
    assert run() == first
    assert stamps(tmp_path / "data", "**/*") == before


def test_a_rerun_makes_only_what_is_missing_or_damaged(run, tmp_path):
    run(num_shards=4)
    data = tmp_path / "data"
    rows, before = contents(data), stamps(data, "*.parquet")
    missing, damaged = shard_paths(data, "toy_pairs", "train", 4)[1:3]
    missing.unlink()
    damaged.write_bytes(damaged.read_bytes()[:-30])
    run(num_shards=4)
    after = stamps(data, "*.parquet")
    assert {name for name in after if after[name] != before[name]} == {missing.name, damaged.name}
    assert contents(data) == rows


def test_other_options_make_everything_anew_and_leave_nothing_behind(run, tmp_path):
    first = run(num_shards=4)
    second = run(num_shards=2, options={"vocab_kind": "unigram", "vocab_size": 300})
    assert first.hash != second.hash
    assert len(list((tmp_path / "data").glob("*-train-*.parquet"))) == 2
    assert len(list((tmp_path / "data/.arrow").glob("*.arrow"))) == 3
    assert open_problem("toy_pairs", tmp_path / "data").tokenizers["inputs"].vocab_size != 259


def test_the_normalization_of_the_options_is_the_vocabularys(run, tmp_path):
    texts = {}
    for normalization in ("nmt_nfkc", "identity"):
        run(options={"vocab_kind": "unigram", "vocab_size": 300, "normalization": normalization})
        tokenizer = open_problem("toy_pairs", tmp_path / "data").tokenizers["inputs"]
        texts[normalization] = tokenizer.decode(tokenizer.encode("word 1 …"))
    assert texts == {"nmt_nfkc": "word 1 ...", "identity": "word 1 …"}


def test_a_damaged_vocabulary_is_made_anew(run, tmp_path):
    options = {"vocab_kind": "unigram", "vocab_size": 300}
    record = run(options=options)
    vocabulary = tmp_path / "data/toy_pairs.shared.vocab"
    vocabulary.write_bytes(b"damaged")
    assert run(options=options) == record
    open_problem("toy_pairs", tmp_path / "data")


def _heed_interrupts() -> None:
    """A shell's background jobs, this test perhaps among them, are started deaf to Ctrl-C."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def start(tmp_path, processes: int) -> subprocess.Popen[str]:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "slow").touch()
    command = [sys.executable, "-c", SCRIPT, str(tmp_path), "toy_slow_dev", str(processes)]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=_heed_interrupts
    )
    deadline = time.monotonic() + 60
    while len(list((tmp_path / "data").glob("*-train-*.parquet"))) < 2 or not partials(tmp_path):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return process


def partials(tmp_path):
    return list((tmp_path / "data").rglob("*.partial"))


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize("processes", [1, 2])
def test_stopped_and_started_again(tmp_path, usr_dir, processes, how):
    """Ctrl-C (the whole group gets it) leaves only whole files; a kill too, but for partial ones the rerun removes."""
    process = start(tmp_path, processes)
    if how == signal.SIGINT:
        os.killpg(process.pid, how)
    else:
        process.kill()
    process.communicate(timeout=60)
    assert process.returncode != 0
    data = tmp_path / "data"
    assert not (data / "toy_slow_dev.json").exists()
    if how == signal.SIGINT:
        assert partials(tmp_path) == []
    before = stamps(data, "*-train-*.parquet")
    (tmp_path / "source" / "slow").unlink()
    import_usr_dir(usr_dir)
    found = get_problem("toy_slow_dev")
    problem = found(found.options_class(vocab_kind="bytes"))
    generate(problem, data_dir=data, source_dir=tmp_path / "source", num_shards=2)
    assert stamps(data, "*-train-*.parquet") == before
    generate(problem, data_dir=tmp_path / "whole", source_dir=tmp_path / "source", num_shards=2)
    assert contents(data, "toy_slow_dev") == contents(tmp_path / "whole", "toy_slow_dev")
    assert partials(tmp_path) == []


def test_an_empty_train_split_is_refused(run):
    with pytest.raises(InputError, match="train split of problem 'toy_empty_train'"):
        run("toy_empty_train")


def test_samples_that_change_from_pass_to_pass_are_refused(run, tmp_path):
    with pytest.raises(InputError, match="same train samples"):
        run("toy_unsteady")
    assert list((tmp_path / "data").glob("*.parquet")) == []


@pytest.mark.parametrize("name", ["toy_broken", "toy_broken_prepare"])
def test_a_fault_in_a_problem_names_the_place(run, name):
    with pytest.raises(InputError, match="KeyError") as caught:
        run(name)
    assert Path(caught.value.path).name == "toys.py"
    assert "raise KeyError" in Path(caught.value.path).read_text().splitlines()[caught.value.line - 1]


def test_a_wrong_sample_is_shown(run):
    with pytest.raises(InputError, match=r"sample 1 of split train.*source"):
        run("toy_wrong_sample")


def test_an_error_of_a_worker_arrives_as_it_was(run, usr_dir):
    with pytest.raises(DownloadError) as caught:
        run("toy_download_fails_in_worker", processes=2, num_shards=2, usr_dirs=[usr_dir])
    assert (caught.value.url, caught.value.reason, caught.value.help) == ("http://there", "gone", "try later")


@pytest.mark.parametrize("arguments", [{"processes": 0}, {"num_shards": 0}])
def test_numbers_below_one_are_refused(run, arguments):
    with pytest.raises(InputError, match="at least 1"):
        run(**arguments)


LOCK = """
import sys
from pathlib import Path
from t2tdeploy.files import lock_file
lock = lock_file(Path(sys.argv[1]))
print("locked", flush=True)
sys.stdin.read()
"""


def test_a_second_run_of_the_same_problem_in_the_same_folder_is_refused(run, tmp_path):
    run()
    path = tmp_path / "data" / ".toy_pairs.lock"
    before = stamps(tmp_path / "data", "**/*")
    with subprocess.Popen(
        [sys.executable, "-c", LOCK, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(InputError, match="another datagen is generating 'toy_pairs'") as caught:
            run(num_shards=5)
        assert "wait" in caught.value.help
        assert stamps(tmp_path / "data", "**/*") == before
        run("toy_pairs_rev")
        other.communicate()
    assert run(num_shards=5).splits["train"].shards == 5


def test_a_data_dir_that_is_a_file_is_an_input_error(run, tmp_path):
    (tmp_path / "data").touch()
    with pytest.raises(InputError, match="data"):
        run()
