"""What people read in Prefect's UI."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("prefect")

from secateur import paths
from tasks.monitoring import Monitor, StageResult, frontier_rows, summary_text

pytestmark = pytest.mark.pipeline

TABLE = """\
name,kind,of,state,champion,parameters,macs,size_bytes,test_mse,auc,int8_bytes
baseline,baseline,,baseline,False,13064,12800,84030,0.01499912345,,23856
round_1,round,,passed_through,True,8406,8198,65398,0.015395,,17688
round_1 from scratch,scratch,round_1,,False,8406,8198,65398,0.016051,,
"""


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    paths.write_json(path, content)


def cut(rung: str, groups: list[dict[str, Any]], skipped: list[dict[str, Any]]) -> None:
    write(paths.rung_folder(rung) / paths.CUT, {"groups": groups, "skipped": skipped})
    write(paths.DECISIONS / rung / paths.VERDICT, {"rung": rung, "state": "accepted"})


def test_frontier_shows_what_fits_a_screen_and_what_there_is():
    first, champion, control = frontier_rows(TABLE)
    assert list(first) == ["rung", "state", "parameters", "MACs", "test MSE", "int8 bytes"]
    assert list(first.values()) == ["baseline", "baseline", 13064, 12800, 0.014999, 23856]
    assert champion["rung"] == "★ round_1"
    assert champion["state"] == "passed through"
    assert (control["state"], control["int8 bytes"]) == ("control", "")


def test_summary_tells_what_every_kind_of_method_did(workspace):
    units = {"layer": "dense", "units_before": 2000, "units_after": 45, "removed": []}
    same = {"units_before": 64, "units_after": 64, "removed": []}
    code = {"layer": "code", "units": 8, "reason": "it is the code"}
    cut("round_1", [units], [code])
    weights = {"layer": "dense", **same, "nonzeros_before": 4096, "nonzeros_after": 99}
    folded = {"layer": "norm", **same, "folded_into": ["dense"]}
    swapped = {"layer": "act", "activation_before": "gelu", "activation_after": "relu"}
    norm = {"layer": "norm_2", "units": 8, "reason": "nothing beside it can take it"}
    cut("round_2", [weights, folded, swapped], [code, norm])
    cut("round_3", [], [code])
    text = summary_text([StageResult("prepare", "Completed", 1.25, 1.0)])
    assert "| round_1 | dense 2,000 → 45 |" in text
    changes = "dense 4,096 → 99 nonzeros; norm folded into dense; act gelu → relu activation"
    assert f"| round_2 | {changes} |" in text
    assert "| round_3 | nothing |" in text
    assert "- code: it is the code\n- norm_2: nothing beside it can take it (round_2)\n" in text
    assert "| prepare | Completed | 1.2 | 1.0 |" in text
    assert text.startswith("**No champion yet.**\n")


def test_server_that_refuses_an_artifact_costs_one_warning(caplog):
    def refuse(**_: Any) -> None:
        raise ConnectionError("no")

    gone = False
    monitor = Monitor(logging.getLogger("here"), lambda: gone)
    gone = True
    assert monitor.make(refuse) is None
    gone = False
    assert monitor.make(lambda: "made again") == "made again"
    assert caplog.messages == []
    monitor.make(refuse)
    monitor.make(refuse)
    assert len(caplog.messages) == 1
