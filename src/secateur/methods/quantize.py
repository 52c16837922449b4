"""Rounding: weights on the grid of the numbers that a LiteRT file stores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from secateur.errors import InputError
from secateur.methods.base import Method, RoundReport
from secateur.schemes import FLOAT32, SCHEMES

if TYPE_CHECKING:
    import keras

    from secateur.mixing import LinearMap, Moments

Compensate = Literal["least_squares", "bias", "none"]


@dataclass(frozen=True)
class Quantize(Method):
    """Round weights to what a LiteRT file of a scheme stores, and deploy as that.

    The model stays a Keras model, whose kernels hold just what the file will: with 8-bit weights,
    whole multiples of one step for each output. Normalizations are folded first, as `fold` does.
    What rounding one weight changes is taken over by how the others are rounded, and by the bias
    (in the spirit of GPTQ, Frantar et al. 2022). Training afterwards keeps the weights on their
    grid: it computes with rounded weights and moves those behind them (Jacob et al. 2018;
    straight-through estimator, Bengio et al. 2013). The guard judges the LiteRT file. What comes
    behind must keep the grid, so this is the last round but for one of another scheme with the same
    weights.

    Attributes:
        scheme: what the round is deployed as: `int8`, integers throughout; `int16x8`, the same
            with 16 bits for activations; `dynamic_int8`, 8-bit weights, and activations that are
            rounded row by row; `float16`, half the bytes of float32.
        compensate: what takes over what rounding changes: `least_squares`, weights and bias;
            `bias`, the bias alone; `none`. With `float16` there is nothing worth it.
    """

    scheme: str = "int8"
    compensate: Compensate = "least_squares"

    def __post_init__(self) -> None:
        if self.scheme not in SCHEMES or self.scheme == FLOAT32:
            allowed = ", ".join(name for name in SCHEMES if name != FLOAT32)
            raise InputError(f"scheme must be one of {allowed}, got {self.scheme!r}")
        if self.compensate not in get_args(Compensate):
            allowed = ", ".join(get_args(Compensate))
            raise InputError(f"compensate must be one of {allowed}, got {self.compensate!r}")

    @property
    def deploys_as(self) -> str:
        """See `Method.deploys_as`."""
        return self.scheme

    def shrink(self, model: keras.Model, sample: np.ndarray) -> tuple[keras.Model, RoundReport]:
        """See `Method.shrink`."""
        from secateur.graph import layer_at
        from secateur.grids import round_weights
        from secateur.norms import fold_all_norms
        from secateur.saving import copy_model

        folded, into = fold_all_norms(model)
        plain = copy_model(folded)
        round_weights(plain, self.scheme)
        report = RoundReport(uncompensated=plain)
        for norm, layers in into.items():
            units = int(layer_at(model, norm).moving_mean.shape[0])
            report.groups.append(_folded(norm, units, layers))
        if SCHEMES[self.scheme].weights == "float16":
            _report_float16(folded, report)
            return copy_model(plain), report
        on_grid = copy_model(folded)
        self._round_to_int8(on_grid, folded, sample, report)
        return on_grid, report

    def _round_to_int8(
        self, on_grid: keras.Model, model: keras.Model, sample: np.ndarray, report: RoundReport
    ) -> None:
        """Round kernel after kernel, in place, each seeing what those before it have become."""
        from secateur.grids import axes_of, lies_on_grid, stored_layers
        from secateur.masks import kernels
        from secateur.mixing import Remembered, moments_of

        original = Remembered(model, sample)
        stored = {id(layer.kernel): layer for layer in stored_layers(on_grid, self.scheme)}
        known = {id(layer.kernel) for layer in stored.values()}
        for path, kernel in kernels(on_grid).items():
            if id(kernel) not in known:
                report.skipped.append(_left_alone(path, kernel, self.scheme))
        for layer in stored.values():
            units = sum(one.outputs for one in layer.maps)
            if lies_on_grid(layer.kernel, axes_of(layer)):
                reason = "it lies on the grid already"
                report.skipped.append({"layer": layer.path, "units": units, "reason": reason})
                continue
            found = moments_of(layer.maps, layer.places, on_grid, sample, original)
            for one, moments in zip(layer.maps, found, strict=True):
                one.write(self._rounded(one, moments))
            report.groups.append(_what_went(layer.path, units, "int8"))

    def _rounded(self, one: LinearMap, moments: Moments) -> np.ndarray:
        """(inputs [+ 1], outputs): a map on its grid, with the bias that fits."""
        from secateur.grids import rounded, rounded_with_compensation
        from secateur.masks import alive, masked_least_squares, ridge_of, shared_values

        before = one.matrix()
        now, target = moments.now, moments.cross @ before
        # Entries of one value are rounded to one value, and stay together in training.
        is_shared = shared_values(np.asarray(one.kernel)) is not None
        if self.compensate == "least_squares" and not is_shared:
            may_change = np.ones(before.shape, bool)
            may_change[: one.inputs] = alive(one.kernel).ravel()[one.elements]
            fitted = masked_least_squares(
                now, target, may_change, before, ridge_of(one.inputs, moments.rows)
            )
            means = now[: one.inputs, one.inputs :]  # no column where there is no bias
            gram = now[: one.inputs, : one.inputs] - means @ means.T
            kernel = rounded_with_compensation(fitted[: one.inputs], gram)
        else:
            kernel = rounded(before[: one.inputs])
        bias = before[one.inputs :]
        if self.compensate != "none" and one.bias is not None:
            bias = target[-1:] - now[-1:, : one.inputs] @ kernel
        return np.vstack([kernel, bias])


def _report_float16(model: keras.Model, report: RoundReport) -> None:
    from secateur.masks import kernels

    for path, kernel in kernels(model).items():
        units = int(kernel.shape[-1])
        numbers = np.asarray(kernel)
        if np.array_equal(numbers, numbers.astype(np.float16)):
            reason = "it is made of float16 numbers already"
            report.skipped.append({"layer": _layer(path), "units": units, "reason": reason})
        else:
            report.groups.append(_what_went(_layer(path), units, "float16"))


def _what_went(layer: str, units: int, numbers: str) -> dict[str, Any]:
    return {
        "layer": layer,
        "units_before": units,
        "units_after": units,
        "removed": [],
        "numbers_before": "float32",
        "numbers_after": numbers,
    }


def _folded(norm: str, units: int, into: tuple[str, ...]) -> dict[str, Any]:
    """The converter would fold it too, and move the weights off their grid."""
    entry = {"layer": norm, "units_before": units, "units_after": units, "removed": []}
    return {**entry, "folded_into": list(into)}


def _left_alone(path: str, kernel: Any, scheme: str) -> dict[str, Any]:
    from secateur.grids import SMALL, is_small

    reason = SMALL if is_small(kernel, scheme) else "what LiteRT makes of it is not known here"
    return {"layer": _layer(path), "units": int(kernel.shape[-1]), "reason": reason}


def _layer(path: str) -> str:
    return path.rpartition("/")[0]
