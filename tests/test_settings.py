from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from secateur.errors import InputError
from secateur.settings import load_settings, parse_settings

ROOT = Path(__file__).parent.parent
SHIPPED = yaml.safe_load((ROOT / "params.yaml").read_text())


def with_change(place: str, value: object) -> dict:
    changed = yaml.safe_load(yaml.safe_dump(SHIPPED))
    *sections, key = place.split(".")
    section = changed
    for name in sections:
        section = section[name]
    section[key] = value
    return changed


def test_the_shipped_settings_are_four_rounds_to_a_quarter_of_the_width():
    settings = load_settings(ROOT / "params.yaml")
    assert settings.rungs == ("baseline", "round_1", "round_2", "round_3", "round_4")
    keeps = [settings.round(name).options["keep"] for name in settings.rungs[1:]]
    product = 1.0
    for keep in keeps:
        product *= keep
    assert product == pytest.approx(0.25, abs=1e-3)
    assert [settings.round(name).parent for name in settings.rungs[1:]] == list(settings.rungs[:-1])


def test_settings_are_frozen():
    settings = parse_settings(SHIPPED)
    with pytest.raises(ValueError, match="frozen"):
        settings.seed = 1


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("sead", 1, "sead: unknown key; known here: seed, data"),
        ("guard.tolerence", 1, "guard.tolerence: unknown key; known here: tolerance, metrics"),
        ("baseline.training.epoch", 1, "baseline.training.epoch: unknown key; known here: epochs"),
        ("rounds.round_2.keep", 1, "rounds.round_2.keep: unknown key; known here: parent, method"),
        (
            "rounds.round_2.recovery.lr",
            1,
            "unknown key; known here: epochs, steps, batch, learning_rate",
        ),
        ("rounds.round_2.parent", "round_9", "allowed is a rung that stands before it"),
        ("rounds.round_2.parent", "round_2", "allowed is a rung that stands before it"),
        ("rounds.round_2.method", "magnitud", r"Unknown method 'magnitud'\. Known: "),
        ("rounds.round_2.options", {"keep": 2}, r"keep must be in \(0, 1\], got 2"),
        ("rounds.baseline", SHIPPED["rounds"]["round_1"], "the name is taken"),
        ("rounds.decisions", SHIPPED["rounds"]["round_1"], "the name is taken"),
        ("seed", -1, "seed: .* got -1"),
        ("seed", "one", "seed: .* got 'one'"),
        ("data.source", "my.csv", "data.source: .*'digits', 'fashion-mnist' or 'file'"),
        ("data.validation", 0.9, "must leave rows to train on: got 0.9"),
        ("data.test", 1.5, "data.test: .* got 1.5"),
        ("baseline.widths", [0], "baseline.widths.0: .* got 0"),
        ("baseline.activation", "reluu", "baseline.activation: .* got 'reluu'"),
        ("guard.confidence", 1, "guard.confidence: .* got 1"),
        ("guard.metrics", {"ause": {"absolute": 0}}, "guard.metrics.ause: .*'mse', 'p99_error'"),
        ("guard.metrics", {"auc": {"abs": 0}}, "auc.abs: unknown key; known here: relative, abs"),
        ("guard.metrics", {"auc": {"absolute": 0.1}}, "auc needs anomalies, and data.label names"),
        (
            "baseline.training",
            {"monitor": "auc"},
            "baseline.training.monitor: auc needs anomalies, and data.label names no labels",
        ),
        ("rounds.round_1.recovery.monitor", "auc", "rounds.round_1.recovery.monitor: auc needs"),
        (
            "guard.metrics",
            {"mse": {"relative": 0.1}},
            r"tolerance \(0.2\) is short for metrics.mse",
        ),
    ],
)
def test_a_mistake_is_named_with_what_is_allowed(place, value, message):
    with pytest.raises(InputError, match=message):
        parse_settings(with_change(place, value), "params.yaml")


def test_all_mistakes_are_named_at_once():
    changed = with_change("seed", -1)
    changed["guard"]["tolerance"] = -2
    with pytest.raises(InputError, match=r"(?s)seed: .*guard.tolerance: "):
        parse_settings(changed)


@pytest.mark.parametrize("content", ["", "- a list\n", "seed: [\n"])
def test_a_file_that_holds_no_settings_is_refused(tmp_path, content):
    path = tmp_path / "params.yaml"
    path.write_text(content)
    with pytest.raises(InputError, match=r"params\.yaml"):
        load_settings(path)


def test_a_missing_file_says_where_to_run(tmp_path):
    with pytest.raises(InputError, match=r"run from a workspace's top folder"):
        load_settings(tmp_path / "params.yaml")


def test_an_unknown_round_is_answered_with_the_known_ones():
    with pytest.raises(InputError, match="there is no round 'round_7'; known: round_1, round_2"):
        parse_settings(SHIPPED).round("round_7")
