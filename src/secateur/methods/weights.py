"""Setting single weights to zero, and letting those that stay take over what they gave."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import numpy as np

from secateur.errors import InputError
from secateur.methods.base import Amount, Method, RoundReport

if TYPE_CHECKING:
    import keras

    from secateur.budgets import Budget

Importance = Literal["obs", "magnitude", "wanda", "taylor"]
Allocation = Literal["global", "lamp", "erk", "uniform"]
Compensate = Literal["least_squares", "bias", "none"]


_CORRECTIONS = 4


@dataclass(frozen=True, eq=False)
class _ModelCells:
    """What the kernels of a model could lose: cells that leave as one, and what each costs.

    Attributes:
        mixing: the layers that own the kernels.
        living: per layer, bools of its kernel's shape: what is alive.
        sizes: per layer and map, (cells of the inputs, cells of the outputs) entries alive.
        scores: the same: what leaving costs.
    """

    mixing: list[Any]
    living: list[np.ndarray]
    sizes: list[list[np.ndarray]]
    scores: list[list[np.ndarray]]


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
        return self._cut(model, sample, self._cells(model, sample), float(self.keep or 1))

    def shrink_within(
        self, model: keras.Model, sample: np.ndarray, budget: Budget
    ) -> tuple[keras.Model, RoundReport] | None:
        """See `Method.shrink_within`: the scores, which take longest, are counted once.

        Only costs that zeros alone decide are kept so: what a repair changes is measured after it.
        """
        from secateur.masks import kernels
        from secateur.sparsity import Pattern

        if budget.cost != "nonzeros" or Pattern.parse(self.pattern).stay is not None:
            return None
        alive = sum(int(np.count_nonzero(one)) for one in kernels(model).values())
        cells = self._cells(model, sample)
        entries = sum(int(size.sum()) for sizes in cells.sizes for size in sizes)
        # Biases are not cut; one that was zero may become none by the repair.
        spare = int(budget.before) - alive
        for _ in range(_CORRECTIONS):
            count = max(0, int(budget.limit) - spare - (alive - entries))
            cut, report = self._cut(model, sample, cells, (count + 0.25) / entries)
            excess = int(budget.measure(cut) - budget.limit)
            if excess <= 0 or count == 0:
                break
            spare += excess
        return cut, report

    def _cut(
        self, model: keras.Model, sample: np.ndarray, cells: _ModelCells, keep: float
    ) -> tuple[keras.Model, RoundReport]:
        from secateur.masks import apply_masks, kernels
        from secateur.saving import copy_model

        names = {id(kernel): path for path, kernel in kernels(model).items()}
        mixing = cells.mixing
        masks = self._masks(cells, keep)
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

    def _cells(self, model: keras.Model, sample: np.ndarray) -> _ModelCells:
        """What the model's kernels could lose, and what that would cost."""
        from secateur.masks import alive, kernels
        from secateur.mixing import mixing_layers
        from secateur.sparsity import Pattern

        pattern = Pattern.parse(self.pattern)
        known = {id(kernel) for kernel in kernels(model).values()}
        mixing = [layer for layer in mixing_layers(model, means=True) if id(layer.kernel) in known]
        living = [alive(layer.kernel) for layer in mixing]
        sizes = [
            [pattern.summed(mask.ravel()[one.elements]) for one in layer.maps]
            for layer, mask in zip(mixing, living, strict=True)
        ]
        scores = [
            [pattern.guarded(one, size) for one, size in zip(*both, strict=True)]
            for both in zip(self._scores(model, mixing, sample, pattern), sizes, strict=True)
        ]
        return _ModelCells(mixing, living, sizes, scores)

    def _masks(self, cells: _ModelCells, keep: float) -> list[np.ndarray]:
        """Per mixing layer, bools of its kernel's shape: what stays alive."""
        from secateur.sparsity import Pattern

        pattern = Pattern.parse(self.pattern)
        if pattern.stay is None:
            left = self._left(cells, keep)
        else:
            left = [
                [(size > 0) & np.isinf(score) for size, score in zip(*both, strict=True)]
                for both in zip(cells.sizes, cells.scores, strict=True)
            ]
        masks = []
        for layer, mask, parts in zip(cells.mixing, cells.living, left, strict=True):
            stays = mask.copy().ravel()
            for one, stay in zip(layer.maps, parts, strict=True):
                stays[one.elements] &= pattern.spread(stay, one.elements.shape)
            masks.append(stays.reshape(mask.shape))
        return masks

    def _left(self, cells: _ModelCells, keep: float) -> list[list[np.ndarray]]:
        """Per mixing layer and map, bools: which cells a budget leaves."""
        from secateur.sparsity import Cells, budget_of, leaving

        flat = [
            Cells(
                np.concatenate([one.ravel() for one in scores]),
                np.concatenate([one.ravel() for one in sizes]),
                tuple(layer.kernel.shape),
            )
            for layer, scores, sizes in zip(cells.mixing, cells.scores, cells.sizes, strict=True)
        ]
        budget = budget_of(keep, sum(int(one.sizes.sum()) for one in flat))
        left = []
        for sizes, gone in zip(cells.sizes, leaving(flat, budget, self.allocation), strict=True):
            parts = np.split(~gone, np.cumsum([one.size for one in sizes])[:-1])
            left.append([p.reshape(one.shape) for p, one in zip(parts, sizes, strict=True)])
        return left

    def _scores(
        self, model: keras.Model, mixing: list[Any], sample: np.ndarray, pattern: Any
    ) -> list[list[np.ndarray]]:
        """Per mixing layer and map, (cells of the inputs, cells of the outputs)."""
        from secateur.importance_of_weights import squared_gradients
        from secateur.masks import ridge_of
        from secateur.mixing import moments_of
        from secateur.surgeon import leaving_costs

        gradients: list[Any] = [None] * len(mixing)
        if self.importance in ("taylor", "obs"):
            gradients = squared_gradients(
                model,
                sample,
                [layer.kernel for layer in mixing],
                of_loss=self.importance == "taylor",
                seed=self.seed,
            )
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
                        leaving_costs(
                            covariance,
                            weights * np.sqrt(sensitivity),
                            pattern,
                            ridge_of(one.inputs, moments[number].rows),
                        )
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
        from secateur.masks import kernels, masked_least_squares, ridge_of
        from secateur.mixing import Remembered, mixing_layers, moments_of

        def known(one: keras.Model) -> list[Any]:
            ids = {id(kernel) for kernel in kernels(one).values()}
            return [layer for layer in mixing_layers(one, means=True) if id(layer.kernel) in ids]

        begun, original = False, Remembered(model, sample)
        for layer, before, mask in zip(known(repaired), known(model), masks, strict=True):
            begun = begun or layer.path == first
            if not begun:
                continue  # nothing up to here has changed
            found = moments_of(layer.maps, layer.places, repaired, sample, original)
            for one, old, moments in zip(layer.maps, before.maps, found, strict=True):
                allowed = mask.ravel()[one.elements]
                matrix, wanted = one.matrix(), old.matrix()
                if one.bias is not None:
                    matrix[-1] += moments.cross[-1] @ wanted - moments.now[-1] @ matrix
                if self.compensate == "least_squares":
                    if one.bias is not None:
                        allowed = np.vstack([allowed, np.ones((1, one.outputs), bool)])
                    target = moments.cross @ wanted
                    ridge = ridge_of(one.inputs, moments.rows)
                    matrix = masked_least_squares(moments.now, target, allowed, matrix, ridge)
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
