"""Setting single weights to zero, and letting those that stay take over what they gave."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import numpy as np

from secateur.errors import InputError
from secateur.methods.base import Amount, Method, RoundReport

if TYPE_CHECKING:
    import keras

Importance = Literal["obs", "magnitude", "wanda", "taylor"]
Allocation = Literal["global", "lamp", "erk", "uniform"]
Compensate = Literal["least_squares", "bias", "none"]


@dataclass(frozen=True)
class Weights(Method):
    """Set single weights of kernels to zero and refit the others in closed form.

    Zeros alone make a model smaller only where it is compressed, and faster only on hardware that
    skips them. Biases stay.

    Attributes:
        keep: the fraction of the kernels' weights that stay, of those that are not zero yet, in
            (0, 1]; to be left out with an N:M pattern, which says it.
        importance: what says which weight leaves: `obs`, the model's mean squared change after the
            best repair of the weight's own output (Frantar & Alistarh 2022), with the outputs
            weighed by how strongly the model answers to them; `magnitude`; `wanda`, magnitude times
            the norm of its input (Sun et al. 2024); `taylor`, weight times gradient of the loss
            (Molchanov et al. 2019).
        allocation: how the budget is spread over kernels: `global`, by comparing all scores;
            `lamp`, by scores as shares of what is left of their kernel (Lee et al. 2021); `erk`, by
            the kernels' shapes (Evci et al. 2020); `uniform`, the same fraction everywhere.
        pattern: `unstructured`; N:M such as `2:4`, of M consecutive inputs of an output at most N
            stay; or blocks of inputs x outputs such as `4x1` that leave as one.
        compensate: what takes over: `least_squares`, the weights that stay and the bias; `bias`,
            the bias alone; `none`.
        seed: of the signs that the sensitivity of `obs` is sampled with.
    """

    amount: ClassVar[Amount | None] = Amount()

    keep: float | None = None
    importance: Importance = "obs"
    allocation: Allocation = "global"
    pattern: str = "unstructured"
    compensate: Compensate = "least_squares"
    seed: int = 0

    def __post_init__(self) -> None:
        from secateur.sparsity import Pattern

        knobs = (
            ("importance", Importance),
            ("allocation", Allocation),
            ("compensate", Compensate),
        )
        for knob, kind in knobs:
            if getattr(self, knob) not in get_args(kind):
                allowed = ", ".join(get_args(kind))
                raise InputError(f"{knob} must be one of {allowed}, got {getattr(self, knob)!r}")
        if Pattern.parse(self.pattern).stay is not None:
            if self.keep is not None:
                raise InputError(f"pattern {self.pattern} says what stays: leave keep out")
            return
        number = isinstance(self.keep, int | float) and not isinstance(self.keep, bool)
        if not number or not 0 < float(self.keep or 0) <= 1:
            raise InputError(f"keep must be in (0, 1], got {self.keep!r}")

    def shrink(self, model: keras.Model, sample: np.ndarray) -> tuple[keras.Model, RoundReport]:
        """See `Method.shrink`."""
        from secateur.masks import apply_masks, kernels
        from secateur.mixing import mixing_layers
        from secateur.saving import copy_model

        names = {id(kernel): path for path, kernel in kernels(model).items()}
        mixing = [layer for layer in mixing_layers(model) if id(layer.kernel) in names]
        masks = self._masks(model, mixing, sample)
        groups = []
        for layer, mask in zip(mixing, masks, strict=True):
            before = int(np.count_nonzero(np.asarray(layer.kernel)))
            after = int(np.count_nonzero(np.asarray(layer.kernel) * mask))
            outputs = sum(one.outputs for one in layer.maps)
            if after < before:
                groups.append(_what_went(layer.path, outputs, before, after))
        cut = [entry["layer"] for entry in groups]
        report = RoundReport(groups, _what_stayed(model, mixing, cut))
        bare = copy_model(model)
        if not groups:
            return bare, replace(report, uncompensated=bare)
        named = {names[id(layer.kernel)]: mask for layer, mask in zip(mixing, masks, strict=True)}
        apply_masks(bare, named)
        repaired = copy_model(bare)
        if self.compensate != "none":
            self._repair(repaired, model, sample, masks, cut[0])
        return repaired, replace(report, uncompensated=bare)

    def _masks(self, model: keras.Model, mixing: list[Any], sample: np.ndarray) -> list[np.ndarray]:
        """Per mixing layer, bools of its kernel's shape: what stays alive."""
        from secateur.masks import alive
        from secateur.sparsity import Cells, Pattern, budget_of, leaving

        pattern = Pattern.parse(self.pattern)
        living = [alive(layer.kernel) for layer in mixing]
        scored, sizes = [], []
        for layer, mask, scores in zip(
            mixing, living, self._scores(model, mixing, sample, pattern), strict=True
        ):
            sizes.append([pattern.summed(mask.ravel()[one.elements]) for one in layer.maps])
            scored.append(
                [pattern.guarded(one, size) for one, size in zip(scores, sizes[-1], strict=True)]
            )
        if pattern.stay is not None:
            left = [[(one > 0) & np.isinf(s) for one, s in zip(*both, strict=True)]
                    for both in zip(sizes, scored, strict=True)]  # fmt: skip
        else:
            flat = [
                Cells(
                    np.concatenate([one.ravel() for one in scores]),
                    np.concatenate([one.ravel() for one in size]),
                    tuple(layer.kernel.shape),
                )
                for layer, scores, size in zip(mixing, scored, sizes, strict=True)
            ]
            budget = budget_of(float(self.keep or 1), sum(int(one.sizes.sum()) for one in flat))
            gone = leaving(flat, budget, self.allocation)
            left = []
            for size, leaves in zip(sizes, gone, strict=True):
                ends = np.cumsum([one.size for one in size])[:-1]
                parts = np.split(~leaves, ends)
                left.append([p.reshape(one.shape) for p, one in zip(parts, size, strict=True)])
        masks = []
        for layer, mask, cells in zip(mixing, living, left, strict=True):
            stays = mask.copy().ravel()
            for one, stay in zip(layer.maps, cells, strict=True):
                stays[one.elements] &= pattern.spread(stay, one.elements.shape)
            masks.append(stays.reshape(mask.shape))
        return masks

    def _scores(
        self, model: keras.Model, mixing: list[Any], sample: np.ndarray, pattern: Any
    ) -> list[list[np.ndarray]]:
        """Per mixing layer and map, (cells of the inputs, cells of the outputs)."""
        from secateur.importance_of_weights import squared_gradients
        from secateur.mixing import moments_of
        from secateur.surgeon import leaving_costs

        gradients: list[Any] = [None] * len(mixing)
        if self.importance in ("taylor", "obs"):
            gradients = squared_gradients(
                model, sample, [layer.kernel for layer in mixing],
                of_loss=self.importance == "taylor", seed=self.seed,
            )  # fmt: skip
        found = []
        for layer, gradient in zip(mixing, gradients, strict=True):
            needed = self.importance in ("wanda", "obs")
            moments = moments_of(layer.maps, layer.places, model, sample) if needed else ()
            scores = []
            for number, one in enumerate(layer.maps):
                weights = one.matrix()[: one.inputs]
                if self.importance == "obs":
                    now = moments[number].now
                    power = np.trace(now[: one.inputs, : one.inputs]) or 1.0
                    sensitivity = gradient.ravel()[one.elements].sum(axis=0) / power
                    covariance = now[: one.inputs, : one.inputs]
                    if one.bias is not None:
                        means = now[: one.inputs, one.inputs]
                        covariance = covariance - np.outer(means, means)
                    scores.append(
                        leaving_costs(covariance, weights * np.sqrt(sensitivity), pattern)
                    )
                    continue
                squares = weights**2
                if self.importance == "wanda":
                    squares = squares * np.diagonal(moments[number].now)[: one.inputs, None]
                elif self.importance == "taylor":
                    squares = squares * gradient.ravel()[one.elements]
                scores.append(pattern.summed(squares))
            found.append(scores)
        return found

    def _repair(
        self,
        repaired: keras.Model,
        model: keras.Model,
        sample: np.ndarray,
        masks: list[np.ndarray],
        first: str,
    ) -> None:
        """Refit layer after layer to what the original's gave, in place."""
        from secateur.masks import kernels, masked_least_squares
        from secateur.mixing import mixing_layers, moments_of

        def known(one: keras.Model) -> list[Any]:
            ids = {id(kernel) for kernel in kernels(one).values()}
            return [layer for layer in mixing_layers(one) if id(layer.kernel) in ids]

        begun = False
        for layer, before, mask in zip(known(repaired), known(model), masks, strict=True):
            begun = begun or layer.path == first
            if not begun:
                continue  # nothing up to here has changed
            found = moments_of(layer.maps, layer.places, repaired, sample, model)
            for one, old, moments in zip(layer.maps, before.maps, found, strict=True):
                allowed = mask.ravel()[one.elements]
                matrix, wanted = one.matrix(), old.matrix()
                if self.compensate == "least_squares":
                    if one.bias is not None:
                        allowed = np.vstack([allowed, np.ones((1, one.outputs), bool)])
                    target = moments.cross @ wanted
                    matrix = masked_least_squares(moments.now, target, allowed, matrix)
                elif one.bias is not None:
                    matrix[-1] += moments.cross[-1] @ wanted - moments.now[-1] @ matrix
                one.write(matrix)


def _what_went(layer: str, outputs: int, before: int, after: int) -> dict[str, Any]:
    return {
        "layer": layer,
        "units_before": outputs,
        "units_after": outputs,
        "removed": [],
        "nonzeros_before": before,
        "nonzeros_after": after,
    }


def _what_stayed(model: keras.Model, mixing: list[Any], cut: list[str]) -> list[dict[str, Any]]:
    """Kernels that gave nothing, and why."""
    from secateur.masks import kernels

    known = {id(layer.kernel): layer.path for layer in mixing}
    skipped = []
    for path, kernel in kernels(model).items():
        layer = known.get(id(kernel), path.rpartition("/")[0])
        if layer not in cut:
            reason = (
                "the budget takes none of its weights"
                if id(kernel) in known
                else f"{path} is no linear map that is known"
            )
            skipped.append({"layer": layer, "units": int(kernel.shape[-1]), "reason": reason})
    return skipped
