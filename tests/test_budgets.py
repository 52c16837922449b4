"""Targets: what a round may cost, met where it can be, and told where it cannot."""

from __future__ import annotations

import logging
import re

import numpy as np
import pytest

from secateur import shrink
from secateur.budgets import COSTS, Budget, check_target
from secateur.costs import costs, count_macs, count_nonzeros
from secateur.errors import InputError
from secateur.settings import RoundSettings


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ({}, "exactly one of parameters, nonzeros, macs"),
        ({"macs": 0.5, "parameters": 0.5}, "exactly one of"),
        ("macs", "exactly one of"),
        ({"mac": 0.5}, "one of parameters, .*, got 'mac'"),
        ({"macs": 0.0}, r"fraction in \(0, 1\] .* whole numbers from 1, got 0.0"),
        ({"macs": 0}, "got 0"),
        ({"macs": 1.5}, "got 1.5"),
        ({"macs": True}, "got True"),
        ({"macs": "half"}, "got 'half'"),
        ({"latency_us": float("inf")}, "got inf"),
    ],
)
def test_a_target_that_cannot_be_is_refused(target, message, trained, train):
    with pytest.raises(InputError, match=message):
        shrink(trained, train, "units", target)


def test_microseconds_need_not_be_whole():
    assert check_target({"latency_us": 3.5}) == ("latency_us", 3.5)


def test_settings_take_a_target_and_refuse_one_that_cannot_be():
    assert RoundSettings(parent="baseline", target={"macs": 0.5}).target == {"macs": 0.5}
    for mistake in (
        {"target": {"macs": 0.5}, "options": {"keep": 0.5}},
        {"target": {"mac": 0.5}},
        {"target": {"macs": 0.5}, "method": "fold"},
    ):
        with pytest.raises(ValueError, match=r"target|one of"):
            RoundSettings(parent="baseline", **mistake)


def test_single_weights_are_met_exactly(trained, train):
    cut, report = shrink(trained, train[:300], "weights", {"nonzeros": 3001})
    assert count_nonzeros(cut) == report.budget["reached"] == 3001


def test_a_target_above_what_the_model_has_cuts_nothing(trained, train, caplog):
    with caplog.at_level(logging.WARNING):
        same, report = shrink(trained, train, "units", {"macs": 10**9})
    before = count_macs(trained)[0]
    assert all(map(np.array_equal, same.get_weights(), trained.get_weights()))
    assert report.budget["reached"] == report.budget["before"] == before
    assert f"the model has {before:,} as it is" in report.budget["why"]
    assert report.budget["why"] in caplog.text


@pytest.mark.parametrize(
    ("method", "target", "why"),
    [
        ("units", {"parameters": 50}, "all has left that may; these stay whole: .*it is the code"),
        ("weights", {"macs": 0.5}, "the method cannot lower macs here"),
    ],
)
def test_a_target_out_of_reach_is_told(method, target, why, trained, train, caplog):
    with caplog.at_level(logging.WARNING):
        cut, report = shrink(trained, train[:100], method, target)
    budget = report.budget
    assert budget["reached"] == getattr(costs(cut), budget["cost"]) > budget["asked"]
    assert re.search(why, budget["why"])
    assert budget["why"] in caplog.text


def test_a_fraction_is_of_what_the_model_has(trained, train):
    for cost in ("parameters", "nonzeros", "macs", "nonzero_macs", "peak_activation_bytes"):
        before = getattr(costs(trained), cost)
        budget = Budget.of({cost: 0.3}, trained, train)
        assert (budget.before, budget.limit) == (before, int(before * 0.3))


def test_the_int8_file_keeps_to_its_bytes(trained, train, tmp_path):
    from secateur.export import export_int8

    asked = int(0.7 * COSTS["int8_bytes"].measure(trained, train))
    cut, report = shrink(trained, train, "units", {"int8_bytes": asked})
    export_int8(cut, tmp_path / "int8.tflite", train[:200])
    size = (tmp_path / "int8.tflite").stat().st_size
    assert size == report.budget["reached"]
    assert 0.9 * asked < size <= asked
