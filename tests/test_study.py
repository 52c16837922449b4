"""Studies: which ladders run, where each trial lives, and which of them is the best."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

from secateur.errors import InputError
from tasks import study as studies
from tasks.study import Space, lay_out, parse_vary, write_tables

ROOT = Path(__file__).parent.parent
QUICK = {"epochs": 3, "batch": 64, "learning_rate": 0.003}
PARAMS = {
    "data": {"source": "digits", "path": "data/raw"},
    "baseline": {"widths": [16], "code": 4, "training": QUICK},
    "rounds": {
        "round_1": {"parent": "baseline", "options": {"keep": 0.75}, "recovery": QUICK},
        "round_2": {"parent": "round_1", "options": {"keep": 0.75}, "recovery": QUICK},
    },
    "guard": {"tolerance": 5.0},
}
KEEP = "rounds.*.options.keep"


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(PARAMS))
    (tmp_path / "data/raw").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_grid_is_every_combination():
    space = Space({"seed": [1, 2], KEEP: [0.5, 0.6, 0.7]})
    assert len(space.grid()) == 6
    assert space.grid()[1] == {"seed": 1, KEEP: 0.6}


@pytest.mark.parametrize(
    "values", [[], 3, "0.5", {"low": 1}, {"low": 2, "high": 1}, {"low": 0, "high": 1, "lgo": True}]
)
def test_what_is_neither_values_nor_a_range_is_refused(values):
    with pytest.raises(
        InputError, match=r"keep varies over .*allowed: a list of values, or a range"
    ):
        Space({"keep": values})


def test_a_range_needs_trials():
    with pytest.raises(InputError, match=f"{KEEP[:6]}.*needs a number of trials"):
        Space({KEEP: {"low": 0.4, "high": 0.9}}).grid()


def test_a_sampler_stays_within_the_space():
    optuna = pytest.importorskip("optuna")
    space = Space({KEEP: {"low": 0.4, "high": 0.9}, "baseline.widths": [[8], [16, 8]]})
    search = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0))
    found = [space.suggest(search.ask()) for _ in range(20)]
    assert all(0.4 <= one[KEEP] <= 0.9 for one in found)
    assert {json.dumps(one["baseline.widths"]) for one in found} == {"[8]", "[16, 8]"}


def test_words_become_what_varies():
    assert parse_vary(["a.b=[1, 2]", "c={low: 0.1, high: 0.2}"]) == {
        "a.b": [1, 2], "c": {"low": 0.1, "high": 0.2},
    }  # fmt: skip
    with pytest.raises(InputError, match=r"given as section\.key"):
        parse_vary(["keep"])


def test_a_trial_has_the_settings_that_were_chosen_in_every_round(workspace):
    folder = lay_out({KEEP: 0.5}, seed=7)
    settings = yaml.safe_load((folder / "params.yaml").read_text())
    assert settings["seed"] == 7
    assert [one["options"]["keep"] for one in settings["rounds"].values()] == [0.5, 0.5]
    assert yaml.safe_load((workspace / "params.yaml").read_text()) == PARAMS


def test_trials_of_equal_settings_live_in_one_place_and_of_equal_baselines_share_it(workspace):
    one, same, other = lay_out({KEEP: 0.5}, 0), lay_out({KEEP: 0.5}, 0), lay_out({KEEP: 0.6}, 0)
    seeded = lay_out({KEEP: 0.5}, 1)
    assert one == same
    assert len({one, other, seeded}) == 3
    assert (one / "base").resolve() == (other / "base").resolve()
    assert (one / "base").resolve() != (seeded / "base").resolve()


def test_a_trial_on_other_data_is_another(workspace):
    before = lay_out({KEEP: 0.5}, 0)
    (workspace / "data/raw/rows.csv").write_text("a\n1\n")
    assert lay_out({KEEP: 0.5}, 0) != before


def test_a_trial_sees_the_data_that_its_settings_name(workspace):
    (workspace / "data/more").mkdir()
    folder = lay_out({"data.path": "data/more"}, 0)
    assert (folder / "base/data/more").resolve() == (workspace / "data/more").resolve()


def test_settings_that_do_not_exist_are_refused(workspace):
    with pytest.raises(InputError, match=r"guard\.tolerence: unknown key"):
        lay_out({"guard.tolerence": 0.1}, 0)


def test_ladders_are_ranked_by_their_mean_and_failed_ones_come_last(workspace):
    def row(ladder, seed, share, mse, state="completed"):
        found = {"share": share, "mse_to_baseline": mse}
        return {"ladder": ladder, "seed": seed, KEEP: ladder / 10, "state": state, **found}

    rows = [
        row(0, 0, 0.5, 1.0), row(0, 1, 0.7, 1.0), row(1, 0, 0.2, 1.2), row(1, 1, 0.4, 1.0),
        row(2, 0, 0.1, 1.0), row(2, 1, None, None, "failed"), row(3, 0, 0.3, 1.0),
        row(3, 1, 0.3, 1.0),
    ]  # fmt: skip
    ladders = write_tables(rows)
    assert ladders["ladder"].tolist() == [3, 1, 0, 2]
    assert ladders["share"].tolist()[:3] == pytest.approx([0.3, 0.3, 0.6])
    assert ladders["share_deviation"].tolist()[:3] == pytest.approx([0, 0.02**0.5, 0.02**0.5])
    assert ladders["failed"].tolist() == [0, 0, 0, 1]
    assert len(pd.read_csv("reports/study/trials.csv")) == 8
    assert pd.read_csv("reports/study/ladders.csv")[KEEP].tolist() == [0.3, 0.1, 0.0, 0.2]


def run_study(
    folder: Path, prefect: dict[str, str], *words: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "flows.study", *words],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": f"{ROOT}/src:{ROOT}",
            **prefect,
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.mark.pipeline
def test_a_study_runs_on_threads_and_on_dask_and_writes_the_best(workspace, prefect_server):
    one_round = {"round_1": PARAMS["rounds"]["round_1"]}
    (workspace / "params.yaml").write_text(yaml.safe_dump({**PARAMS, "rounds": one_round}))
    words = ("-V", f"{KEEP}=[0.75, 0.5]")
    first = run_study(workspace, prefect_server, *words)
    assert first.returncode == 0, first.stderr
    assert "The best of 2 ladders" in first.stdout
    ladders = pd.read_csv("reports/study/ladders.csv")
    assert ladders[KEEP].tolist() == [0.5, 0.75]
    assert ladders["failed"].tolist() == [0, 0]
    outcomes = [json.loads(p.read_text()) for p in studies.STUDIES.glob("trials/*/trial.json")]
    assert [one["accepted"] for one in outcomes] == [1, 1]
    assert len(list(studies.STUDIES.glob("bases/*"))) == 1

    # The two that are done are not done again; Optuna can only choose among them.
    again = run_study(
        workspace, prefect_server, *words, "--trials=2", "--engine=dask", "--write-best"
    )
    assert again.returncode == 0, again.stderr
    assert (again.stdout + again.stderr).count("Done before") == 2
    assert len(list(studies.STUDIES.glob("trials/*"))) == 2
    best = pd.read_csv("reports/study/ladders.csv")[KEEP].iloc[0]
    settings = yaml.safe_load((workspace / "params.yaml").read_text())
    assert settings["rounds"]["round_1"]["options"]["keep"] == best


@pytest.mark.pipeline
def test_a_mistake_in_a_study_ends_with_one_message_and_code_2(workspace, prefect_server):
    done = run_study(workspace, prefect_server, "-V", "guard.tolerance={low: 0.1, high: 0.2}")
    assert done.returncode == 2
    assert "guard.tolerance: a range needs a number of trials" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.pipeline
def test_a_study_runs_on_ray(workspace, prefect_server):
    pytest.importorskip("prefect_ray", reason="Ray is not installed; `make ray` brings it")
    pytest.importorskip("ray", reason="Ray is not installed; `make ray` brings it")
    for keep, share in ((0.75, 0.8), (0.5, 0.6)):  # done before, so that only Ray takes its time
        found = {"share": share, "mse_to_baseline": 1.0, "rungs": []}
        (lay_out({KEEP: keep}, 0) / studies.OUTCOME).write_text(json.dumps(found))
    done = run_study(workspace, prefect_server, "-V", f"{KEEP}=[0.75, 0.5]", "--engine=ray")
    assert done.returncode == 0, done.stderr
    assert "leaves 60.0% of the baseline's parameters" in done.stdout
    assert (done.stdout + done.stderr).count("Done before") == 2


@pytest.mark.pipeline
@pytest.mark.parametrize(
    ("engine", "address", "message"),
    [
        ("slurm", None, "Unknown engine 'slurm'. Known: threads, processes, dask, ray"),
        ("processes", "a:1", "engine 'processes' takes no address; dask and ray do"),
        ("dask", "scheduler", "the address 'scheduler' cannot be used; allowed: host:port"),
        ("ray", "ray://head:port", "cannot be used"),
        ("dask", "tcp://127.0.0.1:1", "nothing answers at tcp://127.0.0.1:1 .* start the cluster"),
    ],
)
def test_engines_and_addresses_that_cannot_be_used_are_refused(engine, address, message):
    from flows.study import task_runner

    with pytest.raises(InputError, match=message):
        task_runner(engine, 2, address)
