"""What setting single weights to zero promises."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from secateur import recover, shrink
from secateur.costs import count_nonzeros
from secateur.errors import InputError
from secateur.masks import apply_masks, kernels, load_masks, masks_of, save_masks
from secateur.methods import make_method
from secateur.metrics import mean_squared_error
from secateur.saving import copy_model
from secateur.sparsity import Pattern
from secateur.surgeon import leaving_costs

SHAPES = [(64, 32), (32, 16), (16, 8), (8, 16), (16, 32), (32, 64)]
ALL = sum(one * other for one, other in SHAPES)


def nonzeros(model: keras.Model) -> list[int]:
    return [int(np.count_nonzero(kernel)) for kernel in kernels(model).values()]


def kernel_arrays(model: keras.Model) -> list[np.ndarray]:
    return [np.asarray(kernel) for kernel in kernels(model).values()]


def masked(trained: keras.Model, sample: np.ndarray, **options: object) -> list[np.ndarray]:
    """Which entries stay, nothing repaired."""
    model, _ = shrink(trained, sample, "weights", compensate="none", **options)
    return [array != 0 for array in kernel_arrays(model)]


@pytest.mark.parametrize("importance", ["obs", "magnitude", "wanda", "taylor"])
@pytest.mark.parametrize("keep", [0.9, 0.25, 0.05])
def test_exactly_the_asked_number_stays_over_all_layers(importance, keep, trained, train):
    cut, _ = shrink(trained, train[:200], "weights", keep=keep, importance=importance)
    assert sum(nonzeros(cut)) == int(keep * ALL + 0.5)


def test_uniform_leaves_every_layer_the_same_share(trained, train):
    stay = masked(trained, train, keep=0.25, importance="magnitude", allocation="uniform")
    assert [int(one.sum()) for one in stay] == [one * other // 4 for one, other in SHAPES]


def test_erk_leaves_densities_by_the_shapes(trained, train):
    """Kept entries go as the sum of a kernel's axes, up to all of it."""
    stay = masked(trained, train, keep=0.5, importance="magnitude", allocation="erk")
    counts, sums = [int(one.sum()) for one in stay], [sum(shape) for shape in SHAPES]
    assert sum(counts) == ALL // 2
    full = [one.all() for one in stay]
    assert full == [False, False, True, True, False, False]
    scale = (ALL // 2 - 256) / sum(s for s, whole in zip(sums, full, strict=True) if not whole)
    for count, total, whole in zip(counts, sums, full, strict=True):
        assert whole or abs(count - scale * total) <= 1


def test_lamp_scores_are_shares_of_what_is_left(trained, train):
    """Lee et al. 2021, equation 3, written out."""
    squares = [array.ravel() ** 2 for array in kernel_arrays(trained)]
    scores = []
    for one in squares:
        order = np.argsort(one)
        score = np.empty(len(one))
        score[order] = one[order] / np.cumsum(one[order][::-1])[::-1]
        scores.append(score)
    stays = np.sort(np.concatenate(scores))[::-1][: ALL // 2].min()
    expected = [(one >= stays) for one in scores]
    found = masked(trained, train, keep=0.5, importance="magnitude", allocation="lamp")
    assert all(np.array_equal(a, b.ravel()) for a, b in zip(expected, found, strict=True))


def test_global_magnitude_leaves_the_largest(trained, train):
    stay = masked(trained, train, keep=0.3, importance="magnitude")
    sizes = np.concatenate([np.abs(array).ravel() for array in kernel_arrays(trained)])
    threshold = np.sort(sizes)[::-1][int(0.3 * ALL + 0.5) - 1]
    assert np.array_equal(np.concatenate([one.ravel() for one in stay]), sizes >= threshold)


def test_wanda_weighs_magnitudes_by_their_inputs(trained, train):
    stay = masked(trained, train, keep=0.3, importance="wanda", allocation="uniform")
    hidden = keras.Model(trained.input, trained.get_layer("encoder_1").output)(train)
    norms = np.linalg.norm(np.asarray(hidden, np.float64), axis=0)
    scores = np.abs(kernel_arrays(trained)[1]) * norms[:, None]
    count = int(stay[1].sum())
    assert np.array_equal(stay[1], scores >= np.sort(scores.ravel())[::-1][count - 1])


def test_taylor_weighs_weights_by_their_gradients(trained, train):
    """Squares of weight times gradient, summed over batches of 32 rows."""
    rows = train[:320]
    stay = masked(trained, rows, keep=0.3, importance="taylor")
    variables = [kernel.value for kernel in kernels(trained).values()]
    scores = [np.zeros(one.shape) for one in variables]
    for start in range(0, 320, 32):
        batch = tf.constant(rows[start : start + 32])
        with tf.GradientTape() as tape:
            tape.watch(variables)
            loss = tf.reduce_sum(tf.square(trained(batch) - batch))
        for score, gradient, one in zip(
            scores, tape.gradient(loss, variables), variables, strict=True
        ):
            score += (np.asarray(gradient, np.float64) * np.asarray(one)) ** 2
    flat = np.concatenate([one.ravel() for one in scores])
    chosen = np.concatenate([one.ravel() for one in stay])
    # Float32 sums may differ by a hair at the threshold.
    threshold = np.sort(flat)[::-1][int(0.3 * ALL + 0.5) - 1]
    clear = np.abs(flat / threshold - 1) > 1e-3
    assert np.array_equal(chosen[clear], (flat >= threshold)[clear])


@pytest.mark.parametrize(
    ("pattern", "stay", "among"), [("2:4", 2, 4), ("1:4", 1, 4), ("4:8", 4, 8)]
)
def test_of_every_run_of_inputs_so_many_stay(pattern, stay, among, trained, train):
    cut, _ = shrink(trained, train[:200], "weights", pattern=pattern)
    for array in kernel_arrays(cut):
        runs = (array != 0).reshape(-1, among, array.shape[1]).sum(axis=1)
        assert (runs == stay).all()


@pytest.mark.parametrize(("pattern", "rows", "columns"), [("4x1", 4, 1), ("2x8", 2, 8)])
def test_blocks_leave_as_one(pattern, rows, columns, trained, train):
    cut, _ = shrink(trained, train[:200], "weights", keep=0.5, pattern=pattern)
    for array in kernel_arrays(cut):
        tall, wide = array.shape
        blocks = (array != 0).reshape(tall // rows, rows, wide // columns, columns)
        counts = blocks.sum(axis=(1, 3))
        assert set(np.unique(counts)) <= {0, rows * columns}
    assert ALL // 2 - rows * columns < sum(nonzeros(cut)) <= ALL // 2


def test_obs_costs_are_those_of_brute_force():
    """Of each column the cheapest leaves after refitting all others, again and again."""
    draw = np.random.default_rng(0)
    rows = draw.normal(size=(500, 6)) @ (np.eye(6) + 0.3 * draw.normal(size=(6, 6)))
    kernel = draw.normal(size=(6, 3))
    gram = rows.T @ rows / len(rows)
    found = leaving_costs(gram, kernel, Pattern())
    for column in range(3):
        wanted = rows @ kernel[:, column]
        left, expected, before, dearest = list(range(6)), np.zeros(6), 0.0, 0.0
        while left:
            errors = []
            for one in left:
                others = [other for other in left if other != one]
                fitted = np.linalg.lstsq(rows[:, others], wanted)[0] if others else np.zeros(0)
                errors.append(np.mean((rows[:, others] @ fitted - wanted) ** 2))
            cheapest = int(np.argmin(errors))
            dearest = max(dearest, errors[cheapest] - before)
            before, expected[left[cheapest]] = errors[cheapest], dearest
            left.pop(cheapest)
        assert found[:, column] == pytest.approx(expected, rel=1e-3, abs=1e-6)


def test_what_stays_is_the_least_squares_fit_of_its_mask(trained, train):
    """The first layer's, against plain least squares of each column."""
    cut, _ = shrink(trained, train, "weights", keep=0.2)
    kernel, bias = (np.asarray(one, np.float64) for one in trained.get_layer("encoder_1").weights)
    after, shift = (np.asarray(one, np.float64) for one in cut.get_layer("encoder_1").weights)
    wanted = train @ kernel + bias
    for column in range(0, 32, 8):
        alive = np.flatnonzero(after[:, column])
        inputs = np.column_stack([train[:, alive], np.ones(len(train))])
        fitted = inputs @ np.linalg.lstsq(inputs.astype(np.float64), wanted[:, column])[0]
        given = train[:, alive] @ after[alive, column] + shift[column]
        assert np.mean((given - fitted) ** 2) <= 1e-4 * wanted[:, column].var()


def test_each_step_of_repair_helps(trained, train, validation):
    error = {
        compensate: mean_squared_error(
            shrink(trained, train, "weights", keep=0.2, compensate=compensate)[0], validation
        )
        for compensate in ("least_squares", "bias", "none")
    }
    assert error["least_squares"] < 0.75 * error["bias"]
    assert error["bias"] < error["none"]


def test_the_surgeon_beats_the_others(trained, train, validation):
    error = {
        importance: mean_squared_error(
            shrink(trained, train, "weights", keep=0.2, importance=importance)[0], validation
        )
        for importance in ("obs", "magnitude", "wanda", "taylor")
    }
    assert error["obs"] == min(error.values())


def test_zeros_of_earlier_rounds_never_come_back(trained, train, validation):
    first, _ = shrink(trained, train, "weights", keep=0.5)
    trained_on, _ = recover(first, train, validation, epochs=1, batch=32)
    second, _ = shrink(trained_on, train, "weights", keep=0.5)
    assert sum(nonzeros(second)) == ALL // 4
    for before, after in zip(kernel_arrays(first), kernel_arrays(second), strict=True):
        assert not np.any((before == 0) & (after != 0))


def test_units_cut_from_a_sparse_model_leave_its_zeros(trained, train):
    sparse, _ = shrink(trained, train, "weights", keep=0.4)
    small, report = shrink(sparse, train, "units", keep=0.5)
    gone = {one["layer"]: [unit["unit"] for unit in one["removed"]] for one in report.groups}
    kept = np.setdiff1d(np.arange(32), gone["encoder_1"])
    before = np.asarray(sparse.get_layer("encoder_1").kernel)[:, kept]
    after = np.asarray(small.get_layer("encoder_1").kernel)
    assert np.array_equal(before == 0, after == 0)


def test_masks_are_kept_through_recovery_and_as_files(trained, train, validation, tmp_path):
    sparse, _ = shrink(trained, train, "weights", keep=0.3)
    recovered, _ = recover(sparse, train, validation, epochs=1, batch=32)
    save_masks(masks_of(recovered), tmp_path / "masks.npz")
    whole = copy_model(trained)
    apply_masks(whole, load_masks(tmp_path / "masks.npz"))
    for one, other in zip(kernel_arrays(sparse), kernel_arrays(whole), strict=True):
        assert np.array_equal(one != 0, other != 0)


def test_no_kernel_is_emptied(trained, train):
    cut, _ = shrink(trained, train[:200], "weights", keep=1e-6)
    assert nonzeros(cut) == [1] * 6


def test_convolutions_lose_single_weights_too(train):
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 1))
    hidden = keras.layers.Conv2D(6, 3, padding="same", activation="relu", name="down")(image)
    hidden = keras.layers.Conv2DTranspose(4, 3, strides=2, padding="same", name="up")(hidden)
    model = keras.Model(image, keras.layers.Conv2D(1, 2, strides=2, name="out")(hidden))
    rows = train[:100].reshape(-1, 8, 8, 1)
    total = 9 * 6 + 9 * 6 * 4 + 4 * 4
    cut, report = shrink(model, rows, "weights", keep=0.5)
    assert sum(nonzeros(cut)) == total // 2
    assert {entry["layer"] for entry in report.groups} == {"down", "up", "out"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"keep must be in \(0, 1\], got None"),
        ({"keep": 0}, r"keep must be in \(0, 1\], got 0"),
        ({"keep": 1.01}, r"keep must be in \(0, 1\], got 1.01"),
        ({"keep": True}, r"keep must be in \(0, 1\], got True"),
        ({"keep": 0.5, "kepe": 1}, "no option 'kepe'. Known: keep, importance"),
        ({"keep": 0.5, "importance": "size"}, "one of obs, magnitude, wanda, taylor, got 'size'"),
        ({"keep": 0.5, "allocation": "even"}, "one of global, lamp, erk, uniform, got 'even'"),
        ({"keep": 0.5, "compensate": "no"}, "one of least_squares, bias, none, got 'no'"),
        ({"keep": 0.5, "pattern": "2:4"}, "pattern 2:4 says what stays: leave keep out"),
        ({"pattern": "4:2"}, "pattern must be unstructured, N:M with N < M"),
        ({"keep": 0.5, "pattern": "0x4"}, "pattern must be unstructured, N:M with N < M"),
        ({"keep": 0.5, "pattern": 24}, "pattern must be unstructured, N:M with N < M"),
    ],
)
def test_options_that_cannot_be_used_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        make_method("weights", options)


def test_a_target_in_nonzeros_is_met_exactly(trained, train):
    """Biases count too, though none of them leaves."""
    cut, report = shrink(trained, train[:200], "weights", target={"nonzeros": 2000})
    assert count_nonzeros(cut) == 2000
    assert report.budget["reached"] == 2000


def test_a_target_below_what_must_stay_is_told(trained, train):
    """Of every kernel an entry stays, and all biases do."""
    cut, report = shrink(trained, train[:200], "weights", target={"nonzeros": 10})
    assert nonzeros(cut) == [1] * 6
    assert report.budget["reached"] > 10
    assert report.budget["why"]
