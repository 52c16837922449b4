"""What recovery can be told, what it survives, and that it goes on where it was killed."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
import yaml

from secateur import ladder, paths
from secateur.autoencoders import dense
from secateur.errors import InputError
from secateur.graph import inputs_at, with_code
from secateur.metrics import mean_squared_error
from secateur.recovery import recover
from secateur.saving import copy_model, save
from secateur.settings import TrainingSettings
from secateur.shrinking import shrink
from secateur.training import checkpoint as checkpoints
from secateur.training import rows as feeding
from secateur.training import trainer
from secateur.training.checkpoint import Checkpoint, digest
from secateur.training.history import History
from secateur.training.schedules import schedule_of
from secateur.training.stability import Epoch, Watch
from secateur.training.teaching import Lesson
from tasks import baseline, control
from tasks import shrink as shrink_stage

pytestmark = pytest.mark.usefixtures("_without_xla")


@pytest.fixture
def untrained() -> keras.Model:
    keras.utils.set_random_seed(0)
    return dense(64, widths=(16,), code=8)


@pytest.fixture(scope="module")
def cut(trained, train) -> keras.Model:
    return shrink(trained, train, "units", keep=0.5)[0]


def rates(steps: int = 100, **options) -> np.ndarray:
    schedule = schedule_of(TrainingSettings(learning_rate=0.01, **options), 10, steps)
    return np.array([float(schedule(step)) for step in range(steps)])


# Schedules and budgets


def test_fine_tuning_keeps_its_rate():
    assert rates(schedule="fine_tune") == pytest.approx(0.01)


def test_rewinding_repeats_the_end_of_the_original_schedule():
    original = rates(steps=300)
    again = rates(schedule="rewind", original_epochs=30)
    assert again == pytest.approx(original[200:], rel=1e-5)
    assert rates(schedule="rewind", original_epochs=10) == pytest.approx(rates())


def test_cosine_restarts_end_with_the_budget():
    """Cycles of 15, 30 and 60 steps; no fourth begins."""
    found = rates(schedule="restarts", cycles=3)
    assert list(np.flatnonzero(found == found.max())) == [0, 15, 45]
    assert found[-1] < 0.001


def test_a_budget_of_steps_ends_training_within_an_epoch(untrained, train, validation):
    _, history = recover(untrained, train, validation, epochs=9, steps=100, batch=30)
    assert history.epochs == 3  # 40, 40 and 20 steps
    rate = history.table["learning_rate"][3]
    assert rate == pytest.approx(1e-3 * (1 + np.cos(np.pi * 0.8)) / 2)


def test_clipped_gradients_move_nothing_if_the_clip_is_tiny(untrained, train, validation):
    """Adam divides scale out, but for what is small beside its epsilon."""
    _, history = recover(untrained, train, validation, epochs=1, batch=32, clip=1e-12)
    before, after = history.table["validation_loss"]
    assert after == pytest.approx(before, rel=1e-3)
    assert history.table["largest_gradient_norm"][1] > 0.1


def test_rewinding_to_nothing_is_refused_before_any_cut(trained, train, validation):
    rounds = [{"options": {"keep": 0.5}, "recovery": {"schedule": "rewind"}}]
    with pytest.raises(InputError, match="rewind needs original_epochs"):
        ladder.compress(trained, train, validation, rounds)


# Lessons


def code_distance(model, teacher, rows) -> float:
    codes = [np.asarray(with_code(one)(rows)[1]) for one in (model, teacher)]
    return float(np.square(codes[0] - codes[1]).mean())


def features_distance(model, teacher, rows) -> float:
    """What the decoder's layers read, after the best linear map from the student's."""
    place = (("output", 0),)
    ours, theirs = (np.asarray(inputs_at(one, [place])(rows)[0]) for one in (model, teacher))
    ours = np.hstack([ours, np.ones((len(ours), 1))])
    return float(np.square(ours @ np.linalg.lstsq(ours, theirs)[0] - theirs).mean())


QUICK = {"epochs": 4, "batch": 32, "learning_rate": 3e-3}


@pytest.fixture(scope="module")
def alone(cut, train, validation) -> keras.Model:
    return recover(cut, train, validation, **QUICK)[0]


@pytest.mark.parametrize(
    ("match", "distance"), [("code", code_distance), ("features", features_distance)]
)
def test_a_student_comes_closer_to_what_it_is_to_match(
    match, distance, cut, alone, trained, train, validation
):
    taught, _ = recover(cut, train, validation, trained, match=match, distillation=0.9, **QUICK)
    assert distance(taught, trained, validation) < 0.9 * distance(alone, trained, validation)


def test_equal_models_have_nothing_to_learn(trained, train):
    """Of every kind of match: no distance at all, and no map where widths are equal."""
    for match in ("outputs", "code", "features"):
        _, distance = Lesson(trained, trained, 0.5, match, train).taught(train[:100])
        assert float(distance) == 0


def test_features_are_matched_across_nested_models(train):
    keras.utils.set_random_seed(0)
    models = []
    for width in (24, 12):
        row, code = keras.Input((64,)), keras.Input((8,))
        hidden = keras.layers.Dense(width, "relu", name="hidden")(row)
        encoder = keras.Model(row, keras.layers.Dense(8, name="code")(hidden), name="encoder")
        decoder = keras.Model(code, keras.layers.Dense(64, name="output")(code), name="decoder")
        models.append(keras.Model(row, decoder(encoder(row))))
    lesson = Lesson(models[1], models[0], 0.5, "features", train)
    assert len(lesson._pairs) == 2  # what `code` and `output` read; `hidden` reads the rows
    assert [pair.matrix is None for pair in lesson._pairs] == [False, True]


def test_a_teacher_of_another_shape_is_refused(untrained, train, validation):
    with pytest.raises(InputError, match=r"input_shape must be the model's \(64,\), got \(63,\)"):
        recover(untrained, train, validation, dense(63, (16,), 8))


def test_rounds_learn_from_whom_they_name(trained, train, validation, monkeypatch):
    teachers = []

    def noted(model, train, validation, teacher, **options):
        teachers.append((teacher, options["match"]))
        return model, History(pd.DataFrame({"epoch": [0]}), 0)

    monkeypatch.setattr(ladder, "recover", noted)
    rounds = [
        {"options": {"keep": 0.9}, "recovery": {"teacher": who, "match": "code"}}
        for who in ("none", "parent", "baseline")
    ]
    made = ladder.compress(trained, train, validation, rounds, {"tolerance": 10})
    assert teachers == [(None, "code"), (made.rungs[0].model, "code"), (trained, "code")]


# Stability


def test_a_hostile_rate_is_lowered_until_training_goes_well(untrained, train, validation, caplog):
    model, history = recover(untrained, train, validation, epochs=4, batch=32, learning_rate=0.9)
    first, second, *_ = history.setbacks
    assert (first.attempt, first.epoch, first.learning_rate) == (1, 1, pytest.approx(0.9))
    assert (second.attempt, second.epoch, second.learning_rate) == (2, 1, pytest.approx(0.09))
    assert not history.gave_up
    assert list(history.table["epoch"]) == [0, 1, 2, 3, 4]
    assert history.table["attempt"].is_monotonic_increasing
    assert history.table["attempt"][1] == 3
    assert history.validation_loss < 0.3 * history.table["validation_loss"][0]
    assert np.isfinite(model(validation)).all()
    assert "attempt 1, epoch 1, learning rate 0.9: the error rose to" in caplog.text


def test_dead_units_are_seen_when_most_of_a_layer_died(trained, validation):
    fine = Epoch(0.01, 0.01, 0.1, 0.1, True, 0.01)
    model = copy_model(trained)
    watch = Watch(model, validation, lambda: 0.01)
    assert watch.trouble(fine, start_loss=0.01) is None
    bias = model.get_layer("encoder_1").bias  # of 32 units
    lived = int(watch._lived[0].sum())
    bias.assign(np.where(np.cumsum(watch._lived[0]) <= 0.75 * lived, -1000, bias))
    assert watch.trouble(fine, start_loss=0.01) is None
    bias.assign(np.where(np.cumsum(watch._lived[0]) <= 0.75 * lived + 1, -1000, bias))
    trouble = watch.trouble(fine, start_loss=0.01)
    assert trouble == (f"{3 * lived // 4 + 1} of {lived} units of encoder_1/bias died", False)


def test_the_last_good_weights_return_and_the_epoch_is_repeated(untrained, train, validation):
    """From the second epoch on, training rows hold what no float32 can square."""
    poisoned = PoisonedLater(train)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "Blocks", poisoned.blocks)
        model, history = recover(untrained, train, validation, epochs=5, batch=32, attempts=2)
    assert history.gave_up
    assert history.best_epoch == history.epochs == 1
    assert [(one.attempt, one.epoch) for one in history.setbacks] == [(1, 2), (2, 2)]
    assert {one.reason for one in history.setbacks} == {"loss or gradients were not finite"}
    assert mean_squared_error(model, validation) == pytest.approx(history.validation_loss)


class PoisonedLater:
    """Rows that are fine in the first epoch, and hold a value of 1e30 in every later one."""

    def __init__(self, rows: np.ndarray) -> None:
        self.clean, self.poisoned = rows, rows.copy()
        self.poisoned[:, 0] = 1e30
        self.epochs = 0

    def blocks(self, rows, batch):
        made = feeding.Blocks(rows, batch)
        feed = made.feed

        def counted(starts):
            self.epochs += 1
            for block in feed(starts):
                yield block if self.epochs == 1 else self.poisoned

        made.feed = counted
        return made


def test_rows_with_extreme_values_do_not_count_as_a_runaway(untrained, train, validation):
    """A hundred rows of a thousand times the rest: the error is large from the start on."""
    extreme = train.copy()
    extreme[::12] *= 1000
    model, history = recover(untrained, extreme, validation, epochs=2, batch=32, learning_rate=1e-3)
    assert history.setbacks == ()
    assert np.isfinite(model(validation)).all()


def test_when_all_attempts_fail_the_model_comes_back_as_it_came(trained, train, validation, caplog):
    overflowing = train.copy()
    overflowing[:, 5] = 1e25  # its square is more than float32 can hold
    model, history = recover(trained, overflowing, validation, epochs=3, attempts=2)
    assert history.gave_up
    assert (history.epochs, history.best_epoch, len(history.setbacks)) == (0, 0, 2)
    assert np.array_equal(model(validation), trained(validation))
    assert "gave up after 2 attempts, with the model of epoch 0" in caplog.text
    assert history.summary()["setbacks"][0] == dataclasses.asdict(history.setbacks[0])


# Going on after a kill


def restless(patch: pytest.MonkeyPatch, train: np.ndarray) -> None:
    """Streamed blocks, a step a call, and a checkpoint after every one of them."""
    patch.setattr(checkpoints, "SECONDS_BETWEEN", 0.0)
    patch.setattr(checkpoints, "WRITING_TO_TRAINING", np.inf)
    patch.setattr(trainer, "_SECONDS_A_CALL", 0.0)
    patch.setattr(feeding, "DEVICE_BYTES", 1)
    patch.setattr(feeding, "BLOCK_BYTES", 400 * train.nbytes // len(train))


def restless_model() -> keras.Model:
    """With statistics of its own, and random numbers that no seed but recovery's decides."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((64,), name="row"), layers.BatchNormalization(name="norm"),
            layers.Dense(16, "relu", name="hidden"), layers.Dropout(0.1, name="dropout"),
            layers.Dense(64, name="output"),
        ],
        name="restless",
    )  # fmt: skip
    keras.utils.set_random_seed(next(SEEDS))
    return model


SEEDS = itertools.count()
OPTIONS = {  # its first attempt fails
    "epochs": 3, "batch": 100, "learning_rate": 0.9, "seed": 5, "monitor": "auc",
    "anomalies": np.random.default_rng(0).random((20, 64), dtype=np.float32),
}  # fmt: skip


@pytest.fixture(scope="module")
def uninterrupted(train, validation, _without_xla):
    with pytest.MonkeyPatch.context() as patch:
        restless(patch, train)
        return recover(restless_model(), train, validation, **OPTIONS)


@pytest.mark.parametrize("writes", [14, 25])
def test_an_interrupted_training_ends_as_if_it_had_not_been(
    writes, uninterrupted, train, validation, tmp_path, monkeypatch
):
    """Interrupted in the middle of a block, after a setback, and in a later epoch."""
    restless(monkeypatch, train)
    expected, whole = uninterrupted
    file = tmp_path / "training.npz"
    interrupt_after(writes, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        recover(restless_model(), train, validation, checkpoint=file, **OPTIONS)
    monkeypatch.setattr(checkpoints.Checkpoint, "write", lambda *_: None)
    model, history = recover(restless_model(), train, validation, checkpoint=file, **OPTIONS)
    assert history.table.equals(whole.table)
    assert history.table["validation_auc"].notna().all()
    assert history.setbacks == whole.setbacks != ()
    for name, one in (("expected", expected), ("resumed", model)):
        save(one, tmp_path / f"{name}.keras")
    assert (tmp_path / "resumed.keras").read_bytes() == (tmp_path / "expected.keras").read_bytes()


def interrupt_after(writes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    write, done = checkpoints.Checkpoint.write, []

    def counted(self, facts, arrays):
        write(self, facts, arrays)
        done.append(1)
        if len(done) == writes:
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints.Checkpoint, "write", counted)


def test_a_killed_process_is_continued_by_another(train, validation, tmp_path):
    """SIGKILL in the middle of an epoch; the model's file is the same to the byte."""
    np.savez(tmp_path / "rows.npz", train=train, validation=validation)
    code = textwrap.dedent("""
        import os, signal, keras, numpy as np
        from secateur.autoencoders import dense
        from secateur.recovery import recover
        from secateur.training import checkpoint, loop, trainer
        loop.convolves = lambda model: True
        rows = np.load("rows.npz")
        checkpoint.SECONDS_BETWEEN, checkpoint.WRITING_TO_TRAINING = 0.0, float("inf")
        trainer._SECONDS_A_CALL = 0.0
        write, done = checkpoint.Checkpoint.write, []
        def deadly(self, facts, arrays):
            write(self, facts, arrays)
            done.append(1)
            if len(done) == 20:
                os.kill(os.getpid(), signal.SIGKILL)
        checkpoint.Checkpoint.write = deadly
        keras.utils.set_random_seed(0)
        recover(dense(64, (16,), 8), rows["train"], rows["validation"], epochs=3, batch=100,
                checkpoint="training.npz")
    """)
    killed = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False)
    assert killed.returncode == -signal.SIGKILL
    digests = []
    for file in (tmp_path / "training.npz", None):
        keras.utils.set_random_seed(0)
        model, history = recover(
            dense(64, (16,), 8), train, validation, epochs=3, batch=100, checkpoint=file
        )
        save(model, tmp_path / "model.keras")
        digests.append(hashlib.md5((tmp_path / "model.keras").read_bytes()).hexdigest())
        assert history.epochs == 3
    assert digests[0] == digests[1]


def make_workspace(folder: Path, train: np.ndarray, validation: np.ndarray, **training) -> Path:
    """Prepared rows and settings, all that trainings need; a round is trained as the baseline."""
    for name, rows in ((paths.TRAIN, train), (paths.VALIDATION, validation)):
        (folder / name).mkdir(parents=True)
        np.save(folder / name / paths.ROWS, rows)
    np.save(folder / paths.VALIDATION / paths.ANOMALIES, OPTIONS["anomalies"])
    settings = {
        "data": {"label": "anomaly"},
        "baseline": {"widths": [16], "code": 8, "training": training},
        "rounds": {
            "round_1": {"parent": "baseline", "options": {"keep": 0.5}, "recovery": training}
        },
    }
    (folder / paths.SETTINGS).write_text(yaml.safe_dump(settings))
    return folder


def test_a_killed_stage_goes_on_and_publishes_the_same_bytes(
    train, validation, tmp_path, monkeypatch
):
    restless(monkeypatch, train)
    digests = []
    for name in ("whole", "killed"):
        folder = make_workspace(
            tmp_path / name, train, validation, epochs=2, batch=100, monitor="auc"
        )
        monkeypatch.chdir(folder)
        if name == "killed":
            with monkeypatch.context() as patch:
                interrupt_after(12, patch)
                with pytest.raises(KeyboardInterrupt):
                    baseline.run()
            assert paths.checkpoint("baseline").exists()
            assert not (paths.rung_folder("baseline") / paths.MODEL).exists()
        baseline.run()
        assert not paths.checkpoint("baseline").exists()
        digests.append(
            {
                str(file): hashlib.md5(file.read_bytes()).hexdigest()
                for file in sorted(paths.MODELS.rglob("*"))
                if file.is_file()
            }
        )
    assert digests[0] == digests[1]
    assert len(digests[0]) > 7


def test_every_stage_that_trains_monitors_what_it_is_told_to(
    train, validation, tmp_path, monkeypatch
):
    """Bright rows, on which training errs less and less: the AUC falls as the loss does."""
    bright = 1.5 * train.mean(axis=0) * np.linspace(0.9, 1.1, 20, dtype=np.float32)[:, None]
    monkeypatch.chdir(
        make_workspace(
            tmp_path, train, validation, epochs=3, batch=32, learning_rate=0.006, monitor="auc"
        )
    )
    np.save(paths.VALIDATION / paths.ANOMALIES, bright)
    baseline.run()
    shrink_stage.run("round_1")
    control.run("round_1")
    for folder in (*map(paths.rung_folder, ("baseline", "round_1")), paths.CONTROLS / "round_1"):
        history = pd.read_csv(folder / paths.HISTORY)
        assert len(history) == 4
        best = history.sort_values(["validation_auc", "validation_loss"], ascending=[False, True])
        assert best["epoch"].iloc[0] < history["validation_loss"].argmin() == 3
        assert paths.read_json(folder / paths.METRICS)["best_epoch"] == best["epoch"].iloc[0]


def test_a_baseline_that_was_best_untrained_is_told_of(
    train, validation, tmp_path, monkeypatch, caplog
):
    """Bright rows, on which an untrained network errs most, are what training makes easy first."""
    monkeypatch.chdir(
        make_workspace(
            tmp_path, train, validation, epochs=2, batch=32, learning_rate=0.006, monitor="auc"
        )
    )
    bright = np.repeat(1.5 * train.mean(axis=0, keepdims=True), 20, axis=0)
    np.save(paths.VALIDATION / paths.ANOMALIES, bright)
    baseline.run()
    assert "of 2 epochs none was better by auc than the network untrained" in caplog.text


def test_too_few_anomalies_to_monitor_are_refused_before_training(
    train, validation, tmp_path, monkeypatch
):
    monkeypatch.chdir(make_workspace(tmp_path, train, validation, epochs=3, monitor="auc"))
    np.save(paths.VALIDATION / paths.ANOMALIES, OPTIONS["anomalies"][:19])
    with pytest.raises(InputError, match="cannot monitor auc on 19 validation anomalies"):
        baseline.run()
    assert not paths.MODELS.exists()


def test_a_baseline_that_cannot_be_trained_is_a_mistake_of_the_settings_or_data(
    train, validation, tmp_path, monkeypatch
):
    overflowing = train.copy()
    overflowing[:, 5] = 1e25
    monkeypatch.chdir(make_workspace(tmp_path, overflowing, validation, epochs=2, attempts=2))
    with pytest.raises(InputError, match="in all 2 attempts"):
        baseline.run()


def test_a_checkpoint_of_another_training_is_not_used(tmp_path, caplog):
    file = tmp_path / "deep" / "training.npz"
    Checkpoint(file, lambda: "a").write({"epoch": 3}, {"model": [np.arange(3), np.ones(())]})
    facts, arrays = Checkpoint(file, lambda: "a").read()
    assert facts == {"epoch": 3}
    assert [one.tolist() for one in arrays["model"]] == [[0, 1, 2], 1]
    assert Checkpoint(file, lambda: "b").read() is None
    assert [one.name for one in file.parent.iterdir()] == ["training.npz"]
    file.write_bytes(file.read_bytes()[:-50])
    assert Checkpoint(file, lambda: "a").read() is None
    assert "is no checkpoint" in caplog.text


def test_the_key_tells_trainings_apart(train):
    other = train.copy()
    other[-1, -1] += 1e-6
    keys = [digest([0], [train]), digest([1], [train]), digest([0], [other])]
    assert len(set(keys)) == 3
    assert digest([0], [train.copy()]) == keys[0]
