"""The settings of a run: `params.yaml`, validated and frozen."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from secateur import paths
from secateur.errors import InputError

Fraction = Annotated[float, Field(gt=0, lt=1)]
RungName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")]
Activation = Literal[
    "relu", "relu6", "leaky_relu", "elu", "selu", "gelu", "silu", "mish", "softplus",
    "hard_swish", "tanh", "sigmoid", "linear",
]  # fmt: skip

GuardedMetric = Literal["mse", "p99_error", "auc", "partial_auc", "spearman", "decisions"]
CountedCost = Literal[
    "parameters", "nonzeros", "macs", "nonzero_macs", "peak_activation_bytes", "gzip_bytes",
    "int8_bytes",
]  # fmt: skip
"""What is the same on every machine."""
SmallCost = Literal[
    "parameters", "nonzeros", "macs", "nonzero_macs", "peak_activation_bytes", "gzip_bytes",
    "int8_bytes", "latency",
]  # fmt: skip
LimitedCost = Literal[
    "parameters", "nonzeros", "macs", "nonzero_macs", "peak_activation_bytes", "gzip_bytes",
    "int8_bytes", "latency_us",
]  # fmt: skip
LABELLED_METRICS = ("auc", "partial_auc")
LEAST_ANOMALIES = 20  # fewer say next to nothing of those they are drawn from

BASELINE = "baseline"
PRETRAINED = "pretrained"
# Folders beside the rungs' own in models/.
_TAKEN = {
    folder.name
    for folder in (
        paths.DECISIONS,
        paths.EXPORTS,
        paths.CONTROLS,
        paths.ELECTION,
        paths.CHAMPION,
        paths.PLAN.parent,
    )
}


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DataSettings(_Section):
    """Where the rows come from and how they are split and scaled."""

    source: Literal["digits", "fashion-mnist", "file"] = "digits"
    path: Path = Path("data/raw")
    """For `file`: an .npy, .npz, .csv or .parquet file, or a folder of them. For `fashion-mnist`:
    the folder to look in first. Whatever lies here is a dependency of the pipeline: change it and
    `prepare` reruns."""
    label: str | None = None
    """The label column of a .csv or .parquet, or the label array of an .npz: 1 = anomaly."""
    validation: Fraction = 0.15
    test: Fraction = 0.15
    scaling: Literal["minmax", "standard", "none"] = "minmax"

    @model_validator(mode="after")
    def _leave_rows_to_train_on(self) -> DataSettings:
        if self.validation + self.test >= 1:
            raise ValueError(
                f"validation + test must leave rows to train on: got {self.validation} + "
                f"{self.test}, allowed: a sum below 1"
            )
        return self


Schedule = Literal["cosine", "rewind", "fine_tune", "restarts"]
Match = Literal["outputs", "code", "features"]
Monitor = Literal["loss", "auc"]


class TrainingSettings(_Section):
    """How a model is trained: until validation stops improving, or a budget ends."""

    epochs: int = Field(30, ge=0)
    """At most; none leaves a model as it is."""
    steps: int | None = Field(None, ge=1)
    """At most, if this is less than `epochs` come to."""
    batch: int = Field(128, ge=1)
    learning_rate: float = Field(1e-3, gt=0, lt=1)
    patience: int = Field(10, ge=1)
    """Epochs without a better one, see `monitor`, before training stops."""
    monitor: Monitor = "loss"
    """What tells which epoch is the best: the validation `loss`, or the `auc` of validation rows'
    errors against validation anomalies', and among epochs of one AUC the loss."""
    schedule: Schedule = "cosine"
    """What becomes of the learning rate: `cosine`, down to zero at the end of the budget; `rewind`,
    the last part of the cosine that the original training went through (Renda et al. 2020);
    `fine_tune`, nothing, so give a low one; `restarts`, cosines one after the other (Loshchilov &
    Hutter 2017)."""
    cycles: int = Field(3, ge=1, le=20)
    """Of `restarts`, each twice as long as the one before it, in all as long as the budget."""
    original_epochs: int | None = Field(None, ge=1)
    """Of the training that `rewind` goes back to; in the pipeline, the baseline's unless given."""
    clip: float | None = Field(None, gt=0)
    """The gradients' largest global norm."""
    attempts: int = Field(4, ge=1)
    """How often training may go badly before it is given up, each at a tenth of the rate before."""
    devices: int = Field(1, ge=1)
    """Of a machine, such as GPUs, that share every batch; see docs/scale.md."""
    hosts: int = Field(1, ge=1)
    """That share every batch, as TF_CONFIG names them; each runs the same stage."""

    def check_anomalies(self, validation_anomalies: int) -> None:
        """See whether there are the anomalies that tell the best epoch.

        Raises:
            InputError: there are not.
        """
        if self.monitor == "auc" and validation_anomalies < LEAST_ANOMALIES:
            raise InputError(
                f"training cannot monitor auc on {validation_anomalies} validation anomalies; "
                f"allowed: at least {LEAST_ANOMALIES}, or monitor: loss, which needs none"
            )

    @model_validator(mode="after")
    def _shares_are_equal(self) -> TrainingSettings:
        count = self.devices * self.hosts
        if self.batch % count:
            raise ValueError(
                f"a batch of {self.batch} rows cannot be shared by {count} devices in equal parts; "
                f"allowed: a multiple of {count}"
            )
        return self


class TeachingSettings(_Section):
    """What a teacher adds to a recovery."""

    distillation: float = Field(0.5, ge=0, le=1)
    """The teacher's share of the loss."""
    match: Match = "outputs"
    """Of what the distance to the teacher is taken: the outputs (Hinton et al. 2015), the code, or
    what every layer reads (FitNets, Romero et al. 2015)."""


class RecoverySettings(TeachingSettings, TrainingSettings):
    """How a round recovers."""

    epochs: int = Field(3, ge=0)
    teacher: Literal["none", "baseline", "parent"] = "none"
    """Whom the round's model should match too: the baseline, or the model that it was cut from."""


class BaselineSettings(_Section):
    """The autoencoder that is to be shrunk."""

    architecture: Literal["dense", "conv", "pretrained"] = "dense"
    """`pretrained`: the one model in `data/pretrained/`, as it is; then `training` is for networks
    from scratch alone, and what follows here up to it for nothing."""
    shape: tuple[Annotated[int, Field(ge=1)], ...] | None = None
    """`conv`: of a row, (steps, channels) or (height, width, channels)."""
    widths: tuple[Annotated[int, Field(ge=1)], ...] = (64, 32)
    """Units or filters of the encoder's hidden layers; the decoder mirrors them."""
    code: int = Field(16, ge=1)
    activation: Activation = "relu"
    code_activation: Activation = "linear"
    output_activation: Activation = "linear"
    training: TrainingSettings = TrainingSettings()

    @model_validator(mode="after")
    def _has_its_shape(self) -> BaselineSettings:
        if self.architecture == "conv" and len(self.shape or ()) not in (2, 3):
            raise ValueError(
                "conv needs the shape of a row: [steps, channels] or [height, width, channels], "
                f"got {self.shape and list(self.shape)}"
            )
        if self.architecture != "conv" and self.shape is not None:
            raise ValueError(f"shape is for conv, not for {self.architecture}")
        return self

    @field_validator("training")
    @classmethod
    def _is_trained(cls, training: TrainingSettings) -> TrainingSettings:
        if training.epochs < 1:
            raise ValueError(
                f"a baseline is trained: epochs must be at least 1, got {training.epochs}"
            )
        return training

    @field_validator("training")
    @classmethod
    def _has_nothing_to_rewind(cls, training: TrainingSettings) -> TrainingSettings:
        if training.schedule == "rewind" and training.original_epochs is None:
            raise ValueError(
                "a baseline has no training before it that `rewind` could repeat; allowed are the "
                "other schedules, or original_epochs beside it"
            )
        return training


class RoundSettings(_Section):
    """One round: what it cuts, from which parent, and how it recovers."""

    parent: RungName
    method: str = "units"
    options: dict[str, Any] = Field(default_factory=dict)
    """The method's own knobs, see `secateur.METHODS`."""
    target: dict[str, Any] | None = None
    """What the result may cost, such as `{macs: 0.5}`, see `secateur.shrink`; in place of the knob
    that says how much goes."""
    calibration_rows: int = Field(8192, ge=1)
    """Training rows that the cut and its compensation look at, at most."""
    recovery: RecoverySettings = RecoverySettings()

    @model_validator(mode="after")
    def _method_accepts_options(self) -> RoundSettings:
        from secateur.methods import make_method

        if not self.follows_goal:
            make_method(self.method, self.options, self.target)
        return self

    @property
    def deploys_as(self) -> str | None:
        """See `secateur.methods.base.Method.deploys_as`."""
        from secateur.methods import make_method

        if self.follows_goal:  # so does no method that deploys in a way of its own
            return None
        return make_method(self.method, self.options, self.target).deploys_as

    @property
    def follows_goal(self) -> bool:
        """Whether all that its method lacks is the knob that says how much goes."""
        from secateur.methods import METHODS, make_method

        amount = METHODS[self.method].amount if self.method in METHODS else None
        if self.target is not None or amount is None or amount.knob in self.options:
            return False
        try:
            make_method(self.method, {**self.options, amount.knob: amount.most})
        except InputError:
            return False
        try:
            make_method(self.method, self.options)
        except InputError:
            return True
        return False


def _as_fraction(value: object) -> object:
    """`2%` as 0.02; anything else as it is."""
    if isinstance(value, str) and value.strip().endswith("%"):
        try:
            return float(value.strip().removesuffix("%")) / 100
        except ValueError:
            return value
    return value


class GoalSettings(_Section):
    """What the ladder is for: as small as the guard allows, or within a limit."""

    within: Annotated[float, BeforeValidator(_as_fraction), Field(ge=0, lt=1)] | None = None
    """Largest relative rise of the mean squared error over the baseline's, 0.02 or 2%; takes the
    place of the guard's tolerance."""
    minimise: SmallCost | None = None
    """What is to be as small as possible, parameters unless said otherwise. Latency is measured, so
    that two runs may cut differently."""
    fit: dict[LimitedCost, Annotated[float, Field(gt=0)]] | None = None
    """What the model may cost at most: one cost and an absolute amount, or a fraction below 1 of
    what the baseline has."""
    step: Fraction = 0.5
    """Of that cost, what a round keeps; after a rejection the step is halved."""

    @model_validator(mode="after")
    def _is_one_of_two(self) -> GoalSettings:
        if self.fit is None and self.within is None and self.minimise is None:
            raise ValueError("a goal names within, minimise or fit")
        if self.fit is not None and (self.minimise is not None or len(self.fit) != 1):
            raise ValueError(
                "fit names exactly one cost, and stands in the place of minimise: got "
                f"fit {self.fit}, minimise {self.minimise}"
            )
        return self

    @property
    def cost(self) -> str:
        """What is to fall, a name in `secateur.budgets.COSTS`."""
        if self.fit is not None:
            return next(iter(self.fit))
        return "latency_us" if self.minimise == "latency" else self.minimise or "parameters"

    @property
    def limit(self) -> float | None:
        """Where it has fallen enough, if the goal says so."""
        return None if self.fit is None else next(iter(self.fit.values()))


class Tolerance(_Section):
    """The largest loss of a metric that is accepted: one of the two."""

    relative: float | None = Field(None, ge=0)
    """As a fraction of the baseline's; of `decisions`, of the share of rows that raise an alarm."""
    absolute: float | None = Field(None, ge=0)

    @model_validator(mode="after")
    def _is_one_of_two(self) -> Tolerance:
        if (self.relative is None) == (self.absolute is None):
            raise ValueError(
                f"exactly one of relative and absolute is allowed, got relative {self.relative} "
                f"and absolute {self.absolute}"
            )
        return self

    @property
    def is_relative(self) -> bool:
        """Whether the loss is a fraction of the baseline's."""
        return self.relative is not None

    @property
    def amount(self) -> float:
        """The largest loss accepted."""
        amount = self.absolute if self.relative is None else self.relative
        assert amount is not None
        return amount


class GuardSettings(_Section):
    """When a round counts as having kept its quality: every metric must hold."""

    tolerance: float | None = Field(None, ge=0)
    """Largest relative rise of the mean squared error over the baseline's that is accepted, 0.1
    where no metric is named: short for `metrics: {mse: {relative: …}}`."""
    metrics: dict[GuardedMetric, Tolerance] = Field(default_factory=dict)
    """What is guarded, and the largest loss of it, see `secateur.judge`."""
    confidence: float = Field(0.95, ge=0.5, lt=1)
    """Confidence of the upper bounds that are held against the tolerances."""
    resamples: int = Field(2000, ge=100)

    @model_validator(mode="after")
    def _says_once_what_mse_may_be(self) -> GuardSettings:
        if self.tolerance is not None and "mse" in self.metrics:
            raise ValueError(
                f"tolerance ({self.tolerance}) is short for metrics.mse; allowed: one of them"
            )
        return self

    def tolerances_for(self, goal: GoalSettings | None) -> dict[GuardedMetric, Tolerance]:
        """What is guarded, and the largest loss of it: of the error, what the goal says."""
        if goal is None or goal.within is None:
            return self.tolerances
        return {"mse": Tolerance(relative=goal.within), **self.metrics}

    @property
    def tolerances(self) -> dict[GuardedMetric, Tolerance]:
        """What is guarded, and the largest loss of it."""
        if self.tolerance is None and self.metrics:
            return self.metrics
        relative = 0.1 if self.tolerance is None else self.tolerance
        return {"mse": Tolerance(relative=relative), **self.metrics}

    @property
    def labelled(self) -> list[GuardedMetric]:
        """Those of the guarded metrics that need anomalies."""
        return [name for name in self.tolerances if name in LABELLED_METRICS]

    def check_anomalies(self, validation_anomalies: int) -> None:
        """See whether there are the anomalies that the guarded metrics need.

        Raises:
            InputError: there are not.
        """
        if self.labelled and validation_anomalies < LEAST_ANOMALIES:
            raise InputError(
                f"the guard cannot judge {' and '.join(self.labelled)} on {validation_anomalies} "
                f"validation anomalies; allowed: at least {LEAST_ANOMALIES}, or metrics that need "
                "none"
            )


class ExportSettings(_Section):
    """How rungs are exported to LiteRT."""

    calibration_rows: int = Field(512, ge=1)
    """Training rows that set the int8 ranges, at most."""


class ControlSettings(_Section):
    """What the rungs are compared with."""

    from_scratch: bool = True
    """Train every rung's architecture from scratch, as long as the baseline."""


class ChampionSettings(_Section):
    """Which of the rungs that the guard let through is the champion."""

    minimise: CountedCost | Literal["deployed_bytes"] | None = None
    """None is what the goal makes small, and parameters without a goal. `deployed_bytes` are those
    of the LiteRT file that a round of `quantize` is deployed as, and of the float32 file of other
    rungs; among rungs that are equally cheap, fewer of them win."""

    def minimised_for(self, goal: GoalSettings | None) -> str:
        """The cost that the champion has least of.

        Of a goal of latency these are the MACs: every accepted round is cut from the one accepted
        before, so that their order is the same, and the champion does not depend on a clock.
        """
        if self.minimise is not None:
            return self.minimise
        cost = "parameters" if goal is None else goal.cost
        return "macs" if cost == "latency_us" else cost


class DetectionSettings(_Section):
    """When a row counts as an anomaly."""

    quantile: Fraction = 0.99
    """Share of normal validation rows whose reconstruction error lies within the threshold."""


class DriftSettings(_Section):
    """When new data is worth a new ladder."""

    significance: Fraction = Field(
        0.01, description="Share of the features called moved that may be called so by chance"
    )
    effect: float = Field(
        0.1, ge=0, le=1,
        description="Least Kolmogorov-Smirnov distance from the training rows that counts as moved",
    )  # fmt: skip
    growth: float = Field(
        0.1, ge=0, description="Share of rows more or less that counts even if nothing moved"
    )


class LatencySettings(_Section):
    """How latency is measured."""

    runs: int = Field(1000, ge=1)
    warm_up: int = Field(100, ge=0)


class Settings(_Section):
    """Everything in `params.yaml`."""

    seed: int = Field(0, ge=0, lt=2**32)
    data: DataSettings = DataSettings()
    baseline: BaselineSettings = BaselineSettings()
    rounds: dict[RungName, RoundSettings]
    goal: GoalSettings | None = None
    guard: GuardSettings = GuardSettings()
    export: ExportSettings = ExportSettings()
    controls: ControlSettings = ControlSettings()
    champion: ChampionSettings = ChampionSettings()
    detection: DetectionSettings = DetectionSettings()
    latency: LatencySettings = LatencySettings()

    @field_validator("rounds")
    @classmethod
    def _parents_come_first(cls, rounds: dict[str, RoundSettings]) -> dict[str, RoundSettings]:
        known = [BASELINE]
        for name, settings in rounds.items():
            if name in known or name in _TAKEN:
                raise ValueError(f"a round cannot be called {name!r}: the name is taken")
            if settings.parent not in known:
                raise ValueError(
                    f"the parent of {name} is {settings.parent!r}; "
                    f"allowed is a rung that stands before it: {', '.join(known)}"
                )
            known.append(name)
        return rounds

    @field_validator("rounds")
    @classmethod
    def _none_undoes_another(cls, rounds: dict[str, RoundSettings]) -> dict[str, RoundSettings]:
        from secateur.methods import check_order

        for name, settings in rounds.items():
            parent = rounds.get(settings.parent)
            words = f"{name} ({settings.method}) cannot stand behind {settings.parent}"
            before = parent.deploys_as if parent else None
            check_order(before, settings.deploys_as, words)
        return rounds

    @model_validator(mode="after")
    def _labels_are_there_where_needed(self) -> Settings:
        if self.guard.labelled and self.data.label is None:
            raise ValueError(
                f"guard.metrics: {' and '.join(self.guard.labelled)} needs anomalies, and "
                "data.label names no labels; allowed: a data.label, or metrics that need none"
            )
        monitoring = [place for place, one in self._trainings.items() if one.monitor == "auc"]
        if monitoring and self.data.label is None:
            raise ValueError(
                f"{monitoring[0]}.monitor: auc needs anomalies, and data.label names no labels; "
                "allowed: a data.label, or monitor: loss"
            )
        return self

    @property
    def _trainings(self) -> dict[str, TrainingSettings]:
        """All of them, by where they stand in `params.yaml`."""
        recoveries = {f"rounds.{name}.recovery": one.recovery for name, one in self.rounds.items()}
        return {"baseline.training": self.baseline.training, **recoveries}

    def check_anomalies(self, validation_anomalies: int) -> None:
        """See whether there are the anomalies that the guard and all trainings need.

        Raises:
            InputError: there are not.
        """
        self.guard.check_anomalies(validation_anomalies)
        for training in self._trainings.values():
            training.check_anomalies(validation_anomalies)

    @model_validator(mode="after")
    def _goal_and_rounds_belong_together(self) -> Settings:
        following = [name for name, settings in self.rounds.items() if settings.follows_goal]
        if self.goal is None and following:
            raise ValueError(
                f"{', '.join(following)}: nothing says how much goes; allowed: the method's own "
                "option (such as keep), a target, or a goal for the whole ladder"
            )
        if self.goal is not None and self.rounds and not following:
            raise ValueError(
                "goal: no round follows it, all say themselves how much goes; leave out options "
                "such as keep and target, or let `python -m tasks.propose` write the rounds"
            )
        if self.goal is not None and self.goal.within is not None and "mse" in self.guard.metrics:
            raise ValueError(
                f"goal.within ({self.goal.within}) and guard.metrics.mse both say what the error "
                "may be; allowed: one of them"
            )
        return self

    @property
    def rungs(self) -> tuple[str, ...]:
        """The baseline and the rounds, in order."""
        return (BASELINE, *self.rounds)

    def round(self, name: str) -> RoundSettings:
        """One round's settings.

        Raises:
            InputError: there is no round of that name.
        """
        if name not in self.rounds:
            raise InputError(f"there is no round {name!r}; known: {', '.join(self.rounds)}")
        return self.rounds[name]


def load_settings(path: Path = Path("params.yaml")) -> Settings:
    """The settings in a YAML file.

    Raises:
        InputError: the file is missing, is not YAML, or holds a key or value that is not allowed.
    """
    try:
        values = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise InputError(
            f"{path} is not here; run from a workspace's top folder, the one that holds dvc.yaml"
        ) from None
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not valid YAML: {error}") from None
    return parse_settings(values, path)


def parse_settings(values: object, origin: object = "settings") -> Settings:
    """Plain values, validated.

    Raises:
        InputError: naming every key that is unknown and every value that is not allowed.
    """
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        problems = "\n".join(f"  {_describe(problem)}" for problem in error.errors())
        raise InputError(f"{origin} cannot be used:\n{problems}") from None


def goal_settings(values: Mapping[str, Any]) -> GoalSettings:
    """The settings of a goal that is used without a workspace.

    Raises:
        InputError: naming every value that is not allowed.
    """
    try:
        return GoalSettings.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(_describe(problem, GoalSettings) for problem in error.errors())
        raise InputError(f"the goal cannot be used so: {problems}") from None


def guard_settings(**values: Any) -> GuardSettings:
    """The settings of a guard that is used without a workspace.

    Raises:
        InputError: naming every value that is not allowed.
    """
    given = {name: value for name, value in values.items() if value is not None}
    try:
        return GuardSettings.model_validate(given)
    except ValidationError as error:
        problems = "; ".join(_describe(problem, GuardSettings) for problem in error.errors())
        raise InputError(f"the guard cannot be used so: {problems}") from None


def _describe(problem: Any, section: type[BaseModel] = Settings) -> str:
    place = ".".join(str(part) for part in problem["loc"]) or "the whole file"
    if problem["type"] == "extra_forbidden":
        known = ", ".join(_known_keys(problem["loc"], section))
        return f"{place}: unknown key; known here: {known}"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] in ("missing", "value_error"):
        return f"{place}: {message}"
    return f"{place.removesuffix('.[key]')}: {message}, got {problem['input']!r}"


def _known_keys(location: tuple[str | int, ...], section: type[BaseModel]) -> list[str]:
    """The keys allowed beside the one at `location`."""
    place: Any = section
    for part in location[:-1]:
        if get_origin(place) is dict:
            place = get_args(place)[1]
            continue
        annotation = place.model_fields[part].annotation
        inner = [one for one in get_args(annotation) if one is not type(None)]
        # An optional section's annotation is a union with None.
        is_optional = type(None) in get_args(annotation)
        place = inner[0] if is_optional else annotation
    return list(place.model_fields)
