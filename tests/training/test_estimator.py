"""Estimators obey the laws of runs, and say what is wrong with examples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas
import polars
import pyarrow
import pytest
import torch
from torch import Tensor

import t2tdeploy
from t2tdeploy.columns.declare import numeric, vocabulary
from t2tdeploy.errors import InputError, RunConflictError, SettingsError, UserError
from t2tdeploy.training.checkpoints import MODEL, CheckpointStore, read_tensors
from t2tdeploy.training.engine import StepMetrics
from t2tdeploy.training.estimator import Estimator
from t2tdeploy.training.estimator_bundle import require_own_run
from t2tdeploy.training.estimator_model import SOURCE
from t2tdeploy.training.hooks import Hook
from t2tdeploy.training.run_directory import RunDirectory
from t2tdeploy.training.summaries import read_metrics
from tests.training.flowers import HPARAMS, PARAMS, TORCH, TinyFc, flowers, held_out, input_fn, make, tiny_fn


def parameters(estimator: Estimator) -> dict[str, Tensor]:
    path = estimator.latest_checkpoint()
    assert path is not None
    return read_tensors(path, MODEL)


@pytest.fixture(scope="module", params=[TinyFc, tiny_fn], ids=["class", "function"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Estimator:
    return make(tmp_path_factory.mktemp("runs") / "run", request.param).train(input_fn, steps=60)


def test_two_calls_are_one(trained: Estimator, tmp_path: Path) -> None:
    model = tiny_fn if trained.name == "tiny_fn" else TinyFc
    make(tmp_path, model).train(input_fn, steps=25)
    twice = make(tmp_path, model).train(input_fn, steps=35)
    one, two = parameters(trained), parameters(twice)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_max_steps_counts_from_the_start(trained: Estimator) -> None:
    before = trained.latest_checkpoint()
    trained.train(input_fn, max_steps=60)
    assert trained.latest_checkpoint() == before


def test_predictions_have_the_accuracy_of_the_evaluation(trained: Estimator) -> None:
    scores = trained.evaluate(held_out)
    found = list(trained.predict(held_out))
    labels = held_out()[1]
    assert (
        np.mean([one["class_ids"][0] == label for one, label in zip(found, labels, strict=True)]) == scores["accuracy"]
    )
    assert scores["accuracy"] > 0.85
    assert scores["global_step"] == 60
    for one in found:
        assert one["classes"][0] == str(one["class_ids"][0])
        np.testing.assert_allclose(one["probabilities"], torch.tensor(one["logits"]).softmax(-1), rtol=1e-4)
    if trained.name == "tiny_fn":
        assert scores["share_right"] == scores["accuracy"]
        assert found[0]["hidden"].shape == (8,)


def test_another_program_reads_the_run(trained: Estimator) -> None:
    again = make(trained.model_dir, tiny_fn if trained.name == "tiny_fn" else TinyFc)
    assert again.evaluate(held_out) == trained.evaluate(held_out)
    assert "class TinyFc" in (trained.model_dir / SOURCE).read_text(encoding="utf-8")


def test_the_bundle_answers_raw_rows_as_predict_does(tmp_path: Path) -> None:
    trained = make(tmp_path / "run", tiny_fn).train(input_fn, steps=40)
    trained.export_bundle(tmp_path / "bundle", calibrate=held_out)
    columns, _ = held_out()
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    answers = t2tdeploy.load(tmp_path / "bundle", warm_up=False).classify(rows)
    for answer, one in zip(answers, trained.predict(held_out), strict=True):
        assert answer.labels[0].class_id == one["class_ids"][0]
        assert answer.labels[0].logit == pytest.approx(one["logits"].max(), abs=1e-3)


def test_the_engines_agree(tmp_path: Path) -> None:
    losses = []
    for engine in ("torch", "ort"):
        estimator = make(
            tmp_path / engine, tiny_fn, config=TORCH.replace(engine=engine), params={**PARAMS, "dropout": 0}
        )
        estimator.train(input_fn, steps=20)
        losses.append([line["loss"] for line in read_metrics(estimator.model_dir) if line["group"] == "train"])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)


def test_numbers_are_predicted(tmp_path: Path) -> None:
    def line() -> tuple[np.ndarray, np.ndarray]:
        x = np.random.default_rng(0).normal(size=(80, 2))
        return x, x @ [3.0, -1.0] + 2.0

    estimator = make(tmp_path / "run", hparams={**HPARAMS, "learning_rate_constant": 0.05}).train(line, steps=200)
    scores = estimator.evaluate(line)
    errors = [one["predictions"][0] - label for one, label in zip(estimator.predict(line), line()[1], strict=True)]
    assert scores["rmse"] == pytest.approx(np.sqrt(np.mean(np.square(errors))), rel=1e-4)
    assert scores["r2"] > 0.9


def test_the_best_is_exported_and_training_stops_early(tmp_path: Path) -> None:
    estimator = make(tmp_path / "run")
    spec = t2tdeploy.EvalSpec(
        held_out, every_steps=20, early_stopping_evals=2, metric="accuracy", export_to=tmp_path / "bundle"
    )
    scores = estimator.train_and_evaluate(t2tdeploy.TrainSpec(input_fn, max_steps=2000), spec)
    newest = estimator.latest_checkpoint()
    assert newest is not None
    assert int(newest.name.removeprefix("step-")) < 2000
    curve = [line["accuracy"] for line in read_metrics(estimator.model_dir) if line["group"] == "evaluation"]
    assert scores["accuracy"] == pytest.approx(max(curve))
    assert t2tdeploy.load(tmp_path / "bundle").bundle.manifest.metrics["accuracy"] == scores["accuracy"]


class Counter(Hook):
    """Ends training after some steps."""

    def __init__(self, last: int) -> None:
        self.last, self.seen, self.told = last, [], []

    def begin(self, step: int) -> None:
        self.told.append(("begin", step))

    def before_step(self, step: int) -> None:
        self.seen.append(step)

    def after_step(self, step: int, metrics: StepMetrics) -> bool:
        assert np.isfinite(metrics.loss)
        return step == self.last

    def end(self, step: int) -> None:
        self.told.append(("end", step))


def test_a_hook_sees_every_step_and_ends_training(tmp_path: Path) -> None:
    hook, other = Counter(7), Counter(10**6)
    estimator = make(tmp_path).train(input_fn, [hook, other], steps=50)
    assert hook.seen == other.seen == [1, 2, 3, 4, 5, 6, 7]
    assert hook.told == [("begin", 0), ("end", 7)]
    assert estimator.evaluate(held_out)["global_step"] == 7


def test_a_warm_start_begins_with_the_parameters_of_a_run(tmp_path: Path) -> None:
    first = make(tmp_path / "first").train(input_fn, steps=40)
    warm = make(tmp_path / "warm", warm_start_from=first.model_dir, hparams={**HPARAMS, "learning_rate_constant": 1e-9})
    warm.train(input_fn, steps=1)
    for name, values in parameters(first).items():
        torch.testing.assert_close(parameters(warm)[name], values, atol=1e-6, rtol=0)


def test_other_hyperparameters_or_columns_are_another_run(tmp_path: Path) -> None:
    make(tmp_path).train(input_fn, steps=1)
    with pytest.raises(RunConflictError, match="hidden_size"):
        make(tmp_path, hparams={**HPARAMS, "hidden_size": 9}).train(input_fn, steps=1)
    with pytest.raises(RunConflictError, match="data"):
        make(tmp_path, columns=[numeric("size")]).train(input_fn, steps=1)


def test_the_run_of_another_model_or_problem_is_told_before_its_columns_are_read(trained: Estimator) -> None:
    other = tiny_fn if isinstance(trained._code, type) else TinyFc
    for call in (lambda one: one.train(input_fn, max_steps=1), lambda one: one.evaluate(input_fn)):
        with pytest.raises(
            RunConflictError, match=f"model: '{trained.name}' in the run directory, '.*' asked"
        ) as caught:
            call(make(trained.model_dir, other))
        assert "another model_dir" in (caught.value.help or "")
    run = trained._open()
    run.record = run.record.replace(problem="iris")
    with pytest.raises(RunConflictError, match="problem: 'iris' in the run directory, 'estimator' asked"):
        require_own_run(run, trained.name)


def test_commands_say_that_a_run_is_of_an_estimator(trained: Estimator) -> None:
    with pytest.raises(UserError, match="examples of an Estimator") as caught:
        RunDirectory.open(trained.model_dir)
    assert "evaluate, predict, export_bundle" in (caught.value.help or "")


def with_value(column: str, row: int, value: Any) -> Any:
    def changed() -> tuple[dict[str, Any], Any]:
        columns, kinds = flowers()
        table = {**columns, "kinds": kinds}
        values = table[column].astype(object)
        values[row] = value
        table[column] = values
        return table, table.pop("kinds")

    return changed


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (with_value("size", 3, "wide"), "column 'size', example 3 .*'wide' is not a number"),
        (with_value("size", 3, object()), "column 'size', example 3 .*not a number"),
        (with_value("colour", 5, b"red"), "column 'colour', example 5"),
        (with_value("kinds", 2, None), "labels, example 2 .*missing"),
        (with_value("kinds", 2, float("nan")), "labels, example 2 .*missing"),
        (with_value("kinds", 4, 3), "labels, example 4 .*'3' is no class.*classes: 0, 1, 2"),
        (with_value("kinds", 4, -1), "labels, example 4 .*'-1' is no class"),
        (lambda: ({}, np.zeros(0)), "gave no examples"),
        (lambda: (np.zeros((0, 4)), np.zeros(0, int)), "gave no examples"),
        (lambda: iter(()), "gave no examples"),
        (lambda: None, "returned None"),
        (lambda: flowers()[0], "gave no labels"),
        (lambda: (flowers()[0], flowers(10)[1]), "different numbers of values: size 90.*labels 10"),
        (lambda: ({"size": np.zeros(4)}, np.arange(4) % 3), "no column 'petal width"),
        (lambda: ({**flowers()[0], "smell": np.zeros(90)}, flowers()[1]), "knows no column 'smell'"),
        (lambda: ({"size": np.zeros((4, 2))}, [0, 1, 2, 0]), "no column|shape"),
    ],
)
def test_what_is_wrong_with_examples_is_named(trained: Estimator, function: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        trained.evaluate(function)


def test_missing_numbers_count_as_the_mean(trained: Estimator) -> None:
    def one(size: float) -> Any:
        return lambda: {"size": [size], "petal width (cm)": [0.0], "colour": ["red"]}

    columns, _ = flowers()
    missing, mean = (next(trained.predict(one(x)))["logits"] for x in (float("nan"), columns["size"].mean()))
    np.testing.assert_allclose(missing, mean, atol=1e-5)


@pytest.mark.parametrize(
    ("function", "options", "message"),
    [
        (input_fn, {"columns": [numeric("sise")]}, "no column 'sise'"),
        (input_fn, {"columns": [numeric("colour")]}, "column 'colour', example 0 .*not a number"),
        (input_fn, {"classes": 2}, "labels, example .* '2' is no class; classes: 0, 1"),
        (lambda: (np.zeros((4, 2)), np.zeros(4, int)), {}, "all 4 examples have the same class, '0'"),
        (lambda: (np.zeros((4, 2)), np.eye(4)[:, :3]), {"labels": "classify"}, r"argmax|shape \[4, 3\]"),
        (lambda: (np.array(["2020-01-01"] * 4, "datetime64[D]"), [0, 1, 0, 1]), {}, "datetime64"),
        (lambda: (np.zeros((4, 2)), [0.5, 1.0, np.nan, 2.0]), {}, "labels, example 2"),
        (lambda: ([f"review {i}" for i in range(40)], np.arange(40) % 2), {}, "40 different texts in 40 examples"),
        (lambda: ({"x": [[1, 2], [3]]}, [0, 1]), {}, "not all of one shape"),
    ],
)
def test_what_cannot_be_trained_on_is_named(
    function: Any, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        make(tmp_path / "run", **options).train(function, steps=1)
    assert not (tmp_path / "run" / "run.json").exists()


def test_what_is_wrong_with_the_call_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no model"):
        Estimator(3)  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="hidden_sise"):
        make(tmp_path, hparams={"hidden_sise": 3})
    with pytest.raises(UserError, match="params are for model functions"):
        make(tmp_path, params={"units": 3})
    with pytest.raises(InputError, match="cannot be called"):
        make(tmp_path).train(flowers(), steps=1)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no trained model"):
        make(tmp_path).evaluate(input_fn)
    with pytest.raises(UserError, match="both given"):
        make(tmp_path).train(input_fn, steps=1, max_steps=2)
    with pytest.raises(InputError, match="classes: 'a' is there twice"):
        make(tmp_path, classes=["a", "b", "a"]).train(input_fn, steps=1)
    with pytest.raises(UserError, match="steps = 0"):
        make(tmp_path).train(input_fn, steps=0)


def test_pictures_with_several_labels_are_predicted(tmp_path: Path) -> None:
    def pictures() -> tuple[dict[str, np.ndarray], np.ndarray]:
        random = np.random.default_rng(0)
        tags = random.integers(0, 2, (64, 2))
        pixels = random.integers(0, 100, (64, 4, 4, 3))
        pixels[..., :2] += 150 * tags[:, None, None]
        return {"pixels": pixels.astype(np.uint8)}, tags

    estimator = make(tmp_path, labels="multi_label", classes=["warm", "green"]).train(pictures, steps=60)
    scores, labels = estimator.evaluate(pictures), pictures()[1]
    assert scores["accuracy"] > 0.9
    right = [
        set(one["classes"]) == {name for name, tag in zip(("warm", "green"), tags, strict=True) if tag}
        for one, tags in zip(estimator.predict(pictures), labels, strict=True)
    ]
    assert np.mean(right) == scores["accuracy"]


@pytest.mark.parametrize("channels", [2, 4])
def test_images_of_other_channels_are_refused_but_as_numbers(tmp_path: Path, channels: int) -> None:
    kinds = np.arange(40) % 2
    pixels = np.broadcast_to(60 * kinds[:, None, None, None], (40, 4, 4, channels))
    with pytest.raises(InputError, match=f"images have 1 or 3 channels, not {channels}") as caught:
        make(tmp_path).train(lambda: (pixels.astype(np.uint8), kinds), steps=1)
    assert "astype('float32')" in (caught.value.help or "")
    make(tmp_path).train(lambda: (pixels.astype(np.float32), kinds), steps=30).export_bundle(tmp_path / "bundle")
    (answer,) = t2tdeploy.load(tmp_path / "bundle").classify([pixels[1]], top_k=1)
    assert answer.labels[0].name == "1"


@pytest.mark.parametrize("name", ["logits", "probabilities", ""])
def test_a_name_that_no_graph_can_have_is_refused_before_training(tmp_path: Path, name: str) -> None:
    columns, kinds = flowers()
    given = {name: columns["size"], "colour": columns["colour"]}
    for declared in (None, [numeric(name), vocabulary("colour")]):
        with pytest.raises(InputError, match="the name of an output of the graph" if name else "has no name"):
            make(tmp_path, columns=declared).train(lambda: (given, kinds), steps=1)


def test_checkpoints_come_by_steps_or_by_the_clock(tmp_path: Path) -> None:
    by_steps = TORCH.replace(save_checkpoints_steps=2, save_checkpoints_secs=None, keep_checkpoint_max=2)
    by_clock = TORCH.replace(save_checkpoints_secs=1e-9)
    for name, config, steps in (("steps", by_steps, [4, 5]), ("clock", by_clock, [1, 2, 3, 4, 5])):
        make(tmp_path / name, config=config).train(input_fn, steps=5)
        assert CheckpointStore(tmp_path / name / "checkpoints").steps() == steps


def test_progress_goes_to_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="t2tdeploy"):
        make(tmp_path).train(input_fn, steps=2)
    assert any(line.startswith("training step=2 loss=") for line in caplog.messages)


def test_columns_choose_among_those_given(tmp_path: Path) -> None:
    estimator = make(tmp_path, columns=[vocabulary("colour")]).train(input_fn, steps=2)
    assert len(list(estimator.predict(held_out))) == 40


def test_classes_may_be_an_array_of_names(tmp_path: Path) -> None:
    estimator = make(tmp_path, classes=np.array(["0", "1", "2"])).train(input_fn, steps=1)
    assert {str(np.ravel(one["classes"])[0]) for one in estimator.predict(held_out)} <= {"0", "1", "2"}


FRAMES = {
    "pandas": pandas.DataFrame,
    "pandas, nullable": lambda columns: pandas.DataFrame(columns).convert_dtypes(),
    "pandas, categories": lambda columns: pandas.DataFrame(columns).astype({"colour": "category"}),
    "polars": polars.DataFrame,
    "polars, lazy": polars.LazyFrame,
    "polars, categories": lambda columns: polars.DataFrame(columns).with_columns(
        polars.col("colour").cast(polars.Categorical)
    ),
    "arrow": pyarrow.table,
}


@pytest.mark.parametrize("scale", [1, 0.5], ids=["classes", "quantities"])
def test_frames_give_what_arrays_give(tmp_path: Path, scale: float) -> None:
    columns, kinds = flowers()
    others, _ = held_out()

    def run(name: str, frame: Any) -> tuple[dict[str, Tensor], list[dict[str, np.ndarray]]]:
        rows = t2tdeploy.input_fn(frame({**columns, "kind": kinds * scale}), target="kind")
        estimator = make(tmp_path / name).train(rows, steps=5)
        return parameters(estimator), list(estimator.predict(t2tdeploy.input_fn(frame(others))))

    weights, predictions = run("arrays", dict)
    assert ("classes" in predictions[0]) == (scale == 1)
    for name, frame in FRAMES.items():
        found, answers = run(name, frame)
        assert all(torch.equal(found[key], values) for key, values in weights.items()), name
        for answer, wanted in zip(answers, predictions, strict=True):
            assert answer.keys() == wanted.keys(), name
            assert all(np.array_equal(answer[key], value) for key, value in wanted.items()), name
