"""A ladder follows its goal: by what the guard said, and by nothing else."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import secateur
from secateur import ladder as ladder_module
from secateur import paths
from secateur.errors import InputError
from secateur.planner import FINEST_STEP, Aim, Course, proposed_rounds
from secateur.settings import (
    GoalSettings,
    RoundSettings,
    goal_settings,
    load_settings,
    parse_settings,
)
from tasks import baseline, judge, plan, prepare, propose, shrink

DOWN = Aim("macs", None, 0.5)
TO_A_TENTH = Aim("macs", 0.1, 0.5)
GOES_ON = {"reached": False, "lowered": True}

pytestmark = pytest.mark.usefixtures("_without_xla")

QUICK = {"epochs": 4, "batch": 32, "learning_rate": 0.003}


def test_an_accepted_round_goes_on_with_the_same_step():
    assert Course(0.5).after(DOWN, True, **GOES_ON) == Course(0.5)


def test_a_rejected_round_halves_the_step_and_recovers_longer():
    after = Course(0.5).after(DOWN, False, **GOES_ON)
    assert after.step**2 == pytest.approx(0.5)
    assert (after.recovery, after.searching, after.stopped) == (2, True, False)


def test_without_a_limit_every_round_behind_a_rejection_halves_the_step():
    rejected = Course(0.5).after(DOWN, False, **GOES_ON)
    accepted = rejected.after(DOWN, True, **GOES_ON)
    assert accepted.step**4 == pytest.approx(0.5)
    assert accepted.recovery == rejected.recovery
    assert rejected.after(TO_A_TENTH, True, **GOES_ON) == rejected  # its limit is still to come


def test_steps_become_too_fine_after_four_halvings():
    course = Course(0.5)
    steps = 0
    while not course.stopped:
        course = course.after(DOWN, False, **GOES_ON)
        steps += 1
    assert steps == 4
    assert course.step > FINEST_STEP
    assert course.recovery == 4  # no longer, however often


def test_a_limit_that_is_reached_ends_the_ladder_if_the_guard_agrees():
    reached = {"reached": True, "lowered": True}
    assert Course(0.5).after(TO_A_TENTH, True, **reached).stopped
    assert not Course(0.5).after(TO_A_TENTH, False, **reached).stopped


def test_a_method_that_lowers_nothing_ends_the_ladder():
    assert Course(0.5).after(DOWN, True, reached=False, lowered=False).stopped


def test_a_ladder_to_a_limit_has_the_rounds_it_needs_and_three_more():
    goal = GoalSettings.model_validate({"fit": {"parameters": 0.1}})
    assert [one["method"] for one in proposed_rounds(goal, 0.1)] == ["units"] * 7
    zeros = GoalSettings.model_validate({"minimise": "nonzeros"})
    methods = [one["method"] for one in proposed_rounds(zeros, norms=True)]
    assert methods == ["fold"] + ["weights"] * 8


@pytest.mark.parametrize(
    ("goal", "cost", "limit"),
    [
        ({"within": "2%", "minimise": "macs"}, "macs", None),
        ({"within": 0.02}, "parameters", None),
        ({"minimise": "latency"}, "latency_us", None),
        ({"fit": {"int8_bytes": 65536}}, "int8_bytes", 65536),
    ],
)
def test_goals_as_people_write_them(goal, cost, limit):
    settings = goal_settings(goal)
    assert (settings.cost, settings.limit) == (cost, limit)
    assert settings.within in (None, 0.02)


@pytest.mark.parametrize(
    ("goal", "message"),
    [
        ({}, "names within, minimise or fit"),
        ({"within": 5}, "less than 1, got 5"),
        ({"within": "two%"}, "got 'two%'"),
        ({"minimise": "mac"}, "'parameters', 'nonzeros', 'macs'"),
        ({"fit": {"bytes": 5}}, "fit.bytes: .*'int8_bytes'"),
        ({"fit": {"macs": 0.5}, "minimise": "macs"}, "in the place of minimise"),
        ({"fit": {"macs": 5, "parameters": 5}}, "exactly one cost"),
        ({"witin": 0.1}, "unknown key; known here: within, minimise, fit, step"),
    ],
)
def test_goals_that_cannot_be_used_are_refused(goal, message):
    with pytest.raises(InputError, match=message):
        goal_settings(goal)


@pytest.mark.parametrize(
    ("settings", "follows"),
    [
        ({"method": "units"}, True),
        ({"method": "units", "options": {"importance": "magnitude"}}, True),
        ({"method": "units", "options": {"keep": 0.5}}, False),
        ({"method": "units", "target": {"macs": 0.5}}, False),
        ({"method": "weights"}, True),
        ({"method": "fold"}, False),
    ],
)
def test_a_round_that_says_not_how_much_goes_follows_the_goal(settings, follows):
    assert RoundSettings(parent="baseline", **settings).follows_goal == follows


FIXED = {"round_1": {"parent": "baseline", "options": {"keep": 0.5}}}
OPEN = {"round_1": {"parent": "baseline"}}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rounds": OPEN}, "round_1: nothing says how much goes"),
        ({"rounds": FIXED, "goal": {"within": 0.1}}, "no round follows it"),
        (
            {
                "rounds": OPEN,
                "goal": {"within": 0.1},
                "guard": {"metrics": {"mse": {"relative": 0.2}}},
            },
            "guard.metrics.mse both say",
        ),
    ],
)
def test_goal_rounds_and_guard_must_belong_together(settings, message):
    with pytest.raises(InputError, match=message):
        parse_settings(settings)


def test_a_goal_says_what_the_error_may_be_and_what_the_champion_has_least_of():
    settings = parse_settings(
        {
            "rounds": OPEN,
            "goal": {"within": "3%", "minimise": "macs"},
            "guard": {"tolerance": 0.5, "metrics": {"spearman": {"absolute": 0.1}}},
        }
    )
    allowed = settings.guard.tolerances_for(settings.goal)
    assert {name: one.amount for name, one in allowed.items()} == {"mse": 0.03, "spearman": 0.1}
    assert settings.champion.minimised_for(settings.goal) == "macs"
    assert settings.champion.minimised_for(None) == "parameters"


def cut_at_once(model, sample, method, target=None, **options):
    """Every hidden layer to the asked share of its width: no search for what just fits."""
    ((cost, amount),) = target.items()
    before = vars(secateur.costs(model))[cost]
    keep = max(amount if amount < 1 else amount / before, 0.01)
    cut, report = secateur.shrink(
        model, sample, method, keep=keep, importance="obs_layer", **options
    )
    reached = vars(secateur.costs(cut))[cost]
    return cut, replace(report, budget={"cost": cost, "before": before, "reached": reached})


@pytest.fixture
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ladder_module, "shrink", cut_at_once)


@pytest.mark.usefixtures("_at_once")
def test_a_ladder_in_memory_closes_in_on_its_goal(trained, train, validation):
    rounds = [{"recovery": QUICK}] * 4
    ladder = secateur.compress(
        trained, train, validation, rounds, goal={"within": 0.4, "minimise": "macs", "step": 0.3}
    )
    said = [rung.verdict.accepted for rung in ladder.rungs]
    assert False in said
    first = said.index(False)
    macs = [rung.costs.macs for rung in ladder.rungs]
    assert macs[first] < macs[first + 1]  # it starts again from the last good model
    accepted = [cost for cost, held in zip(macs, said, strict=True) if held]
    assert all(one > other for one, other in pairwise(accepted))
    assert secateur.costs(ladder.champion).macs == min([*accepted, secateur.costs(trained).macs])


@pytest.mark.usefixtures("_at_once")
def test_a_ladder_in_memory_ends_where_it_fits(trained, train, validation):
    ladder = secateur.compress(
        trained, train, validation, [{"recovery": QUICK}] * 5,
        guard={"tolerance": 100}, goal={"fit": {"parameters": 0.4}, "step": 0.6},
    )  # fmt: skip
    whole = secateur.costs(trained).parameters
    shares = [rung.costs.parameters / whole for rung in ladder.rungs]
    assert len(shares) < 5
    assert shares[-1] <= 0.4 < shares[-2]
    assert ladder.champion is ladder.rungs[-1].model


PARAMS: dict[str, Any] = {
    "baseline": {"widths": [32, 16], "code": 6, "training": {**QUICK, "epochs": 30}},
    "rounds": {
        f"round_{k}": {
            "parent": f"round_{k - 1}" if k > 1 else "baseline",
            "recovery": {**QUICK, "epochs": 1},
        }
        for k in (1, 2, 3, 4)
    },
    "goal": {"within": 0.3, "minimise": "macs", "step": 0.5},
}  # fmt: skip
ROUNDS = list(PARAMS["rounds"])


def set_tolerance(within: float) -> None:
    content = {**PARAMS, "goal": {**PARAMS["goal"], "within": within}}
    paths.SETTINGS.write_text(yaml.safe_dump(content, sort_keys=False))


def go_by() -> dict[str, bytes]:
    """All that rounds depend on beside models and their own settings, see dvc.yaml."""
    decided = {rung: (paths.DECISIONS / rung / paths.DECISION).read_bytes() for rung in ROUNDS}
    return {"plan": paths.PLAN.read_bytes(), **decided}


def judge_again(within: float) -> dict[str, bytes]:
    set_tolerance(within)
    plan.run()
    for rung in ROUNDS:
        judge.run(rung)
    return go_by()


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory, _without_xla):
    """A workspace whose ladder was climbed by the stages' own bodies."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("secateur.shrinking.shrink", cut_at_once)
        patch.chdir(tmp_path_factory.mktemp("pipeline"))
        set_tolerance(0.3)
        prepare.run()
        baseline.run()
        plan.run()
        for rung in ROUNDS:
            shrink.run(rung)
            judge.run(rung)
        yield Path.cwd()


def metrics_of(rung: str) -> dict[str, Any]:
    return paths.read_json(paths.rung_folder(rung) / paths.METRICS)


def test_rounds_of_the_pipeline_start_from_the_last_good_model(pipeline):
    good, baseline_macs = "baseline", metrics_of("baseline")["costs"]["macs"]
    macs = {"baseline": baseline_macs}
    for rung in ROUNDS:
        decision = json.loads((paths.DECISIONS / rung / paths.DECISION).read_text())
        metrics = metrics_of(rung)
        assert metrics["cut_from"] == good
        kept = (paths.rung_folder(rung) / paths.START / paths.MODEL).read_bytes()
        assert kept == (paths.rung_folder(good) / paths.MODEL).read_bytes()
        macs[rung] = metrics["costs"]["macs"]
        if metrics["state"] == "shrunk":
            assert macs[rung] < macs[good]
        if decision["accepted"]:
            good = rung
        assert decision["cut_from"] == good
    states = [paths.read_json(paths.DECISIONS / rung / paths.VERDICT)["state"] for rung in ROUNDS]
    assert {"accepted", "rejected"} <= set(states)


def test_a_tolerance_that_comes_to_the_same_only_judges_again(pipeline):
    before = go_by()
    assert judge_again(0.2999) == before
    assert judge_again(0.3) == before


def test_a_wider_tolerance_reruns_only_the_rounds_behind_the_first_rejection(pipeline):
    before = go_by()
    states = [json.loads(before[rung])["accepted"] for rung in ROUNDS]
    stop = states.index(False)
    after = judge_again(0.99)
    judge_again(0.3)
    same = ["plan", *ROUNDS[:stop]]
    assert {name: after[name] for name in same} == {name: before[name] for name in same}
    assert after[ROUNDS[stop]] != before[ROUNDS[stop]]


def test_a_stricter_tolerance_leaves_all_rounds_up_to_its_rejection(pipeline):
    before = go_by()
    after = judge_again(0.0)
    judge_again(0.3)
    assert after["plan"] == before["plan"]
    assert not json.loads(after["round_1"])["accepted"]


def test_no_round_depends_on_the_tolerance_or_on_the_number_of_rounds():
    stages = yaml.safe_load((Path(__file__).parents[1] / "dvc.yaml").read_text())["stages"]
    assert not {"goal", "guard", "rounds"} & set(stages["shrink"]["do"]["params"])
    assert "rounds" not in stages["judge"]["do"]["params"]
    assert stages["plan"]["params"] == ["goal"]


def test_a_goal_is_written_with_rounds_that_follow_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shipped = (Path(__file__).parents[1] / "params.yaml").read_text()
    paths.SETTINGS.write_text(shipped)
    assert propose.main(["--within", "5%", "--minimise", "macs", "--rounds", "3"]) == 0
    settings = load_settings()
    assert settings.goal is not None
    assert settings.goal.within == 0.05
    assert settings.rungs == ("baseline", "round_1", "round_2", "round_3")
    assert all(one.follows_goal for one in settings.rounds.values())
    assert settings.round("round_3").recovery.epochs == 120
    assert "# Every number that shapes a run" in paths.SETTINGS.read_text()
    text = paths.SETTINGS.read_text()
    assert propose.main(["--within", "5"]) == 2
    assert "less than 1" in capsys.readouterr().err
    assert paths.SETTINGS.read_text() == text


@pytest.mark.usefixtures("_at_once")
def test_errors_of_anomalies_reach_the_guard(trained, train, validation):
    noise = np.random.default_rng(0).random((40, 64), dtype=np.float32)
    ladder = secateur.compress(
        trained, train, validation, [{"recovery": QUICK}],
        guard={"metrics": {"auc": {"absolute": 0.5}}}, goal={"minimise": "macs"}, anomalies=noise,
    )  # fmt: skip
    assert list(ladder.rungs[0].verdict.metrics) == ["auc"]
    with pytest.raises(InputError, match="auc on 0 validation anomalies"):
        secateur.compress(
            trained, train, validation, 1,
            guard={"metrics": {"auc": {"absolute": 0.5}}}, goal={"minimise": "macs"},
        )  # fmt: skip
