"""The library by its public names: a whole ladder in memory."""

from __future__ import annotations

import numpy as np
import pytest

import secateur

pytestmark = pytest.mark.usefixtures("_without_xla")

QUICK = {"epochs": 3, "batch": 32, "learning_rate": 0.003}


def rounds(*keeps: float) -> list[dict]:
    return [{"options": {"keep": keep}, "recovery": QUICK} for keep in keeps]


def test_every_public_name_is_there():
    assert all(getattr(secateur, name) is not None for name in secateur.__all__)
    assert set(secateur.__all__) <= set(dir(secateur))


def test_a_name_that_is_not_there_is_named():
    with pytest.raises(AttributeError, match="has no attribute 'prune'"):
        _ = secateur.prune


def test_a_ladder_climbs_until_the_guard_says_stop(trained, train, validation):
    ladder = secateur.compress(
        trained, train, validation, rounds(0.75, 0.1, 0.5), guard={"tolerance": 0.5}
    )
    assert [rung.verdict.accepted for rung in ladder.rungs] == [True, False]
    assert ladder.champion is ladder.rungs[0].model
    assert ladder.champion.get_layer("encoder_1").units == 24


def test_rounds_build_on_each_other(trained, train, validation):
    ladder = secateur.compress(
        trained, train, validation, rounds(0.5, 0.5), guard={"tolerance": 1000}
    )
    assert [rung.model.get_layer("encoder_1").units for rung in ladder.rungs] == [16, 8]
    assert [rung.costs.parameters for rung in ladder.rungs] == sorted(
        (rung.costs.parameters for rung in ladder.rungs), reverse=True
    )
    assert ladder.champion is ladder.rungs[1].model


def test_without_an_accepted_rung_the_baseline_stays_champion(trained, train, validation):
    before = trained.get_weights()
    ladder = secateur.compress(trained, train, validation, rounds(0.1), guard={"tolerance": 0})
    assert ladder.champion is trained
    assert all(map(np.array_equal, trained.get_weights(), before))


@pytest.mark.parametrize(
    ("bad_rounds", "guard", "message"),
    [
        ([{"options": {"kepe": 0.5}}], {}, "no option 'kepe'"),
        ([{"options": {"keep": 0.5}, "recover": {}}], {}, "recover"),
        (rounds(0.5), {"tolerence": 1}, "tolerence"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(
    trained, train, validation, bad_rounds, guard, message
):
    with pytest.raises(secateur.InputError, match=message):
        secateur.compress(trained, train, validation, bad_rounds, guard)
