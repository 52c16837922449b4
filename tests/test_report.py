"""The report tells everything, asks the network for nothing, and bears what is missing."""

from __future__ import annotations

import functools
import html
import html.parser
import itertools
import json
import re

import numpy as np
import pytest

from secateur import paths
from secateur.report import build_page, frontier_picture, frontier_table, reconstructions_picture
from secateur.report.formats import count, kilobytes, percent, significant, times
from tasks import report as task

CLOSENESS = {
    "output_distance": 0.00123, "code_distance": 0.0456, "code_share": 0.0789,
    "weight_distance": None, "weight_share": None, "weights_compared": 0,
}  # fmt: skip
PNG = b"\x89PNG\r\n\x1a\n"


def widths_to_costs(features, first, second, code=16):
    sizes = [features, first, second, code, second, first, features]
    macs = sum(a * b for a, b in itertools.pairwise(sizes))
    return macs + sum(sizes[1:]), macs


def guard_of(mse, state):
    """What the guard says of two metrics, one relative, one absolute."""
    held = state == "accepted"
    return {
        "mse": {
            "accepted": held, "baseline": 0.0116, "candidate": 0.98 * mse,
            "loss": 0.98 * mse / 0.0116 - 1, "upper_bound": 0.99 * mse / 0.0116 - 1,
            "tolerance": 0.1, "relative": True, "false_rejection": 0.0,
        },
        "spearman": {
            "accepted": True, "baseline": 1.0, "candidate": 0.97, "loss": 0.03,
            "upper_bound": 0.0412, "tolerance": 0.05, "relative": False, "false_rejection": 0.31,
        },
    }  # fmt: skip


def rung_row(name, kind, of, state, costs, mse, base, validation, labels, int8=True):
    parameters, macs = costs
    size = 4 * parameters + 21_000
    return {
        "name": name, "kind": kind, "of": of, "state": state, "champion": False,
        "deployed": None if kind in ("pca", "scratch") else "float32",
        "parameters": parameters, "macs": macs, "nonzeros": parameters - 7,
        "size_bytes": size, "gzip_bytes": int(0.92 * size),
        "compression_ratio": base[0] / parameters, "theoretical_speedup": base[1] / macs,
        "validation_mse": validation, "closeness": CLOSENESS if kind == "round" else None,
        "test_mse": mse, "test_mse_ratio": mse / 0.0118,
        "psnr_db": -10 * float(np.log10(mse)), "p99_error": 3.1 * mse,
        "auc": 0.912 - 2 * mse if labels else None,
        "partial_auc": 0.812 - 2 * mse if labels else None,
        "guard": None if state not in ("accepted", "rejected") else guard_of(mse, state),
        "float32": None if kind in ("pca", "scratch") else
        {"test_mse": mse, "largest_deviation": 4.2e-7, "bytes": 4 * parameters + 3_100},
        "int8": None if kind in ("pca", "scratch") or not int8 else
        {"test_mse": 1.02 * mse, "largest_deviation": 0.0312, "bytes": parameters + 6_400},
    }  # fmt: skip


def example(
    rounds=4, features=64, image_shape=(8, 8), labels=False, controls=True, names=None,
    states=("accepted", "accepted", "rejected", "passed_through"), latency=True,
):  # fmt: skip
    """The arguments of `build_page`, as `evaluate` and `latency` write them."""
    base = widths_to_costs(features, 64, 32)
    kept = [(45, 23), (32, 16), (23, 11), (23, 11)][:rounds]
    errors = [0.0119, 0.01264, 0.0141, 0.0141][:rounds]
    rungs = [
        rung_row(
            "baseline", "baseline", None, "baseline", base, 0.0118, base,
            {"after_recovery": 0.0116}, labels,
        )
    ]  # fmt: skip
    cuts = {"baseline": {"groups": [], "skipped": []}}
    settings = {"rounds": {}}
    before = 0.0116
    for index, (widths, mse) in enumerate(zip(kept, errors, strict=True)):
        name, state = f"round_{index + 1}", states[index]
        steps = {
            "before_cut": before, "after_cut": 9 * mse, "after_compensation": 1.6 * mse,
            "after_recovery": 0.98 * mse,
        }  # fmt: skip
        before = 0.98 * mse
        rungs.append(
            rung_row(
                name, "round", None, state, widths_to_costs(features, *widths), mse, base,
                steps, labels, int8=name != "round_2",
            )
        )  # fmt: skip
        parents = [(64, 32), *kept]
        groups = [
            {
                "layer": f"{side}_{which + 1}", "units_before": parents[index][which],
                "units_after": widths[which],
                "removed": [
                    {"unit": 2 * unit, "cost": 1e-5 * 1.3**unit}
                    for unit in range(parents[index][which] - widths[which])
                ],
            }
            for side in ("encoder", "decoder") for which in (0, 1)
        ]  # fmt: skip
        cuts[name] = {
            "groups": [] if state == "passed_through" else groups,
            "skipped": [] if state == "passed_through" else
            [{"layer": "code", "units": 16, "reason": "the code keeps its size unless asked"}],
        }  # fmt: skip
        settings["rounds"][name] = {
            "parent": f"round_{index}" if index else "baseline", "method": "units",
            "options": {"keep": 0.7071}, "calibration_rows": 8192,
            "recovery": {"epochs": 60, "batch": 32, "learning_rate": 0.001, "patience": 15},
        }  # fmt: skip
    accepted = [row for row in rungs if row["state"] == "accepted"]
    (accepted or rungs)[-1 if accepted else 0]["champion"] = True
    if controls:
        for index, widths in enumerate(kept):
            rungs.append(
                rung_row(
                    f"round_{index + 1} from scratch", "scratch", f"round_{index + 1}", None,
                    widths_to_costs(features, *widths), 1.09 * errors[index], base,
                    {"after_recovery": 1.07 * errors[index]}, labels,
                )
            )  # fmt: skip
    pca = (features * 17, 2 * features * 16)
    rungs.append(rung_row("PCA 16", "pca", "baseline", None, pca, 0.0204, base, None, labels))
    rng = np.random.default_rng(0)
    wave = np.sin(np.linspace(0, 12, features)) * 0.4 + 0.5
    originals = np.clip(wave + rng.normal(0, 0.15, (12, features)), 0, 1)
    off = rng.normal(0, 0.06, (2, 12, features))
    reconstructions = np.stack([originals, originals + off[0], originals + 1.3 * off[1]])
    settings |= {
        "seed": 0,
        "data": {"source": "digits", "path": "data/raw", "label": None, "scaling": "minmax"},
        "baseline": {
            "architecture": "dense", "widths": [64, 32], "code": 16, "activation": "relu",
            "code_activation": "linear", "output_activation": "linear",
            "training": {"epochs": 200, "batch": 32, "learning_rate": 0.003, "patience": 30},
        },
        "guard": {"tolerance": 0.1, "confidence": 0.95, "resamples": 2000},
        "export": {"calibration_rows": 512},
        "controls": {"from_scratch": controls},
        "champion": {"minimise": "parameters"},
        "latency": {"runs": 1000, "warm_up": 100},
    }  # fmt: skip
    timed = {
        row["name"]: {
            precision: {"median_us": us, "q1_us": 0.94 * us, "q3_us": 1.11 * us}
            for precision, us in (
                ("float32", row["macs"] / 2400 + 1.1), ("int8", row["macs"] / 6100 + 0.9)
            )
            if row[precision]
        }
        for row in rungs if row["kind"] in ("baseline", "round")
    }  # fmt: skip
    return {
        "rungs": rungs,
        "cuts": cuts,
        "schema": {
            "source": "digits", "path": None, "source_md5": "0f1d1a7c1f4f4b0c8a5b5dd2f3a4f0aa",
            "features": features, "feature_names": names,
            "image_shape": list(image_shape) if image_shape else None, "scaling": "minmax",
            "scaled_range": [0.0, 1.0],
            "rows": {"train": 1259, "validation": 269, "test": 269},
            "anomalies": {"validation": 40 * labels, "test": 41 * labels},
            "constant_columns": ["pixel_0_0", "pixel_4_0"],
        },
        "context": {
            "seeds": [0],
            "versions": {
                "tensorflow": "2.21.0", "keras": "3.15.1", "numpy": "2.4.1",
                "scikit-learn": "1.8.0", "secateur": "0.1.0", "python": "3.11.7",
            },
            "settings": settings,
        },
        "latency": {
            "runtime": "ai-edge-litert 2.1.0", "threads": 1, "runs": 1000, "warm_up": 100,
            "machine": {"processor": "x86_64", "cpus": 2, "system": "Linux"},
            "rungs": timed if latency else {},
        },
        "reconstructions": reconstructions.astype(np.float32),
    }  # fmt: skip


CASES = {
    "full": {},
    "one round": {"rounds": 1},
    "nothing accepted": {"rounds": 1, "states": ("rejected",)},
    "labels": {"labels": True},
    "sensor rows": {
        "features": 12, "image_shape": None,
        "names": [f"sensor {n} <b>$\\alpha_{n}" for n in range(12)],
    },
    "two features": {"features": 2, "image_shape": None, "names": ["温度", "pressure"]},
    "many features": {"features": 2000, "image_shape": None},
    "pictures in colour": {"features": 48, "image_shape": (4, 4, 3)},
    "no controls": {"controls": False},
    "no latency": {"latency": False},
}  # fmt: skip


@pytest.fixture(params=CASES)
def case(request):
    return request.param


@functools.cache
def page_of(case):
    return build_page(**example(**CASES[case]))


class Outline(html.parser.HTMLParser):
    """Ids, images and open tags of a page."""

    EMPTY = frozenset({"meta", "img", "br"})

    def __init__(self, page):
        super().__init__()
        self.ids, self.images, self.tags, self.open, self.unbalanced = [], [], [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        if "id" in attributes:
            self.ids.append(attributes["id"])
        if tag == "img" or attributes.get("role") == "img":
            self.images.append(attributes)
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.EMPTY:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.unbalanced.append(tag)


def test_page_asks_the_network_for_nothing(case):
    page = page_of(case)
    assert "http" not in page
    assert not re.search(r"<(script|link|iframe|object)\b|@import|@font-face", page)
    targets = re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([^"')\s>]+)""", page)
    assert {target[:1] for target in targets} - {"#"} <= {"d"}
    assert all(target.startswith(("#", "data:image/png;base64,")) for target in targets)


def test_page_is_well_formed_and_tells_images_in_words(case):
    outline = Outline(page_of(case))
    assert outline.unbalanced == []
    assert outline.open == []
    assert len(outline.ids) == len(set(outline.ids))
    assert all(image.get("alt") or image.get("aria-label") for image in outline.images)
    assert all("scope" in attributes for tag, attributes in outline.tags if tag == "th")


@pytest.mark.parametrize("case", ["full", "sensor rows"])
def test_equal_inputs_give_equal_bytes(case):
    arguments = example(**CASES[case])
    assert build_page(**arguments) == page_of(case)
    frontier = [arguments["rungs"], arguments["latency"], arguments["context"]["settings"]]
    assert frontier_picture(*frontier) == frontier_picture(*frontier)


@pytest.mark.parametrize("case", ["full", "two features", "no latency"])
def test_pictures_are_png(case):
    arguments = example(**CASES[case])
    settings = arguments["context"]["settings"]
    assert frontier_picture(arguments["rungs"], arguments["latency"], settings).startswith(PNG)
    picture = reconstructions_picture(arguments["reconstructions"], arguments["schema"])
    assert picture.startswith(PNG)


def test_every_rung_and_control_is_named(case):
    page = page_of(case)
    for row in example(**CASES[case])["rungs"]:
        assert f"{row['name']}</th>" in page


def headline(case):
    return html.unescape(re.search(r"<h1>(.*?)</h1>", page_of(case))[1])


def test_verdict_names_champion_size_quality_and_speed():
    assert headline("full") == (
        "round_2 is 2.34 times smaller than the baseline and the guard accepted it; "
        "test MSE 0.0126, 1.07 times the baseline's; 1.93 times faster (float32)."
    )


def test_verdict_prefers_the_int8_file():
    assert headline("one round") == (
        "round_1 is 1.55 times smaller than the baseline and the guard accepted it; test MSE "
        "0.0119, 1.01 times the baseline's; 15.2 KB as int8; 1.34 times faster (int8)."
    )


def test_verdict_says_when_nothing_passed():
    assert headline("nothing accepted") == (
        "baseline stays the champion, as nothing smaller passed the guard; test MSE 0.0118; "
        "20.0 KB as int8."
    )


def test_states_are_words_not_colours_alone():
    page = page_of("full")
    for word in ("accepted", "rejected", "passed through", "baseline"):
        assert re.search(rf'aria-hidden="true">.</span> {word}</span>', page)


def test_steps_of_a_rung_that_was_passed_through_are_not_told_twice():
    after_cut = significant(9 * 0.0141)  # of round_3, and repeated in the row of round_4
    assert page_of("full").count(f"<td>{after_cut}</td>") == 1


def test_a_linear_method_that_does_better_is_pointed_out():
    arguments = example(rounds=1)
    arguments["rungs"][-1]["test_mse"] = 0.0111
    advice = "the champion's error is 7.2% higher. A longer training"
    assert advice in html.unescape(build_page(**arguments))
    assert "A longer training" not in page_of("one round")


def test_auc_is_a_column_only_with_labels():
    assert ">AUC<" not in page_of("full")
    assert '<th scope="col">AUC</th>' in page_of("labels")


def test_names_are_escaped():
    arguments = example(**CASES["sensor rows"])
    arguments["cuts"]["round_1"]["skipped"] = [
        {"layer": "<script>alert(1)</script>", "units": 3, "reason": "a & b"}
    ]
    page = build_page(**arguments)
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "a &amp; b" in page
    assert "sensor 0 &lt;b&gt;$" in page


def test_what_the_guard_said_is_told_with_every_metric():
    page = page_of("full")
    assert page.count('<td class="text">MSE</td>') == 3  # two accepted rounds, one rejected
    assert page.count('<td class="text">rank agreement</td>') == 3
    assert '<td>+0.0300</td><td class="main">+0.0412</td>\n<td>0.0500</td>' in page
    remarks = html.unescape(page)
    assert "round_3 was rejected for its validation MSE: it lost +19%" in remarks
    assert "few for this tolerance of rank agreement" in remarks
    assert "was rejected for its validation rank" not in remarks


def test_every_removed_unit_is_listed_with_its_cost():
    arguments, page = example(), page_of("full")
    removed = [
        unit
        for cut in arguments["cuts"].values()
        for group in cut["groups"]
        for unit in group["removed"]
    ]
    assert page.count("<li>") - page.count("<li>\n") >= len(removed)
    assert f"{removed[0]['unit']} <span>({significant(removed[0]['cost'])})</span>" in page


def test_distances_from_the_baseline_stand_in_page_and_table():
    arguments, page = example(), page_of("full")
    assert "Squared distance from the baseline" in page
    assert page.count(f"<td>{significant(CLOSENESS['code_distance'])}</td>") == 4  # one a round
    table = frontier_table(arguments["rungs"], arguments["latency"])
    assert list(table.loc[table["kind"] == "round", "output_distance"]) == [0.00123] * 4
    assert table.loc[table["kind"] != "round", "code_share"].isna().all()


def test_frontier_table_has_a_row_each_and_empty_cells_where_nothing_is(case):
    arguments = example(**CASES[case])
    table = frontier_table(arguments["rungs"], arguments["latency"])
    assert list(table["name"]) == [row["name"] for row in arguments["rungs"]]
    assert list(table["parameters"]) == [row["parameters"] for row in arguments["rungs"]]
    assert table.loc[table["kind"] == "pca", "int8_bytes"].isna().all()
    assert table.loc[table["kind"] == "pca", "validation_mse_after_recovery"].isna().all()
    assert list(table.columns) == list(frontier_table(**_only_rungs(example())).columns)


def _only_rungs(arguments):
    return {name: arguments[name] for name in ("rungs", "latency")}


def test_frontier_table_holds_measured_medians():
    arguments = example()
    table = frontier_table(**_only_rungs(arguments)).set_index("name")
    timed = arguments["latency"]["rungs"]["round_1"]
    assert table.loc["round_1", "int8_median_us"] == timed["int8"]["median_us"]
    assert table.loc["round_1", "float32_q3_us"] == timed["float32"]["q3_us"]
    assert np.isnan(table.loc["round_2", "int8_median_us"])


def test_task_writes_page_table_and_pictures(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = example()
    paths.EVALUATION.mkdir(parents=True)
    paths.SETTINGS.write_text("rounds: {}")
    for name in ("rungs", "cuts", "schema", "context"):
        (paths.EVALUATION / f"{name}.json").write_text(json.dumps(arguments[name]))
    np.save(paths.EVALUATION / "reconstructions.npy", arguments["reconstructions"])
    paths.LATENCY.write_text(json.dumps(arguments["latency"]))
    paths.SENSITIVITY.write_text("[]")
    task.run()
    written = {str(path) for path in paths.REPORTS.rglob("*") if path.is_file()}
    assert written == {
        "reports/index.html", "reports/frontier.csv", "reports/pictures/frontier.png",
        "reports/pictures/reconstructions.png", "reports/latency.json",
        "reports/sensitivity.json", "reports/evaluation/rungs.json", "reports/evaluation/cuts.json",
        "reports/evaluation/schema.json", "reports/evaluation/context.json",
        "reports/evaluation/reconstructions.npy",
    }  # fmt: skip
    assert paths.PAGE.read_text() == page_of("full")
    lines = paths.FRONTIER.read_bytes().decode().split("\n")
    assert len(lines) == 1 + len(arguments["rungs"]) + 1
    assert lines[1].startswith("baseline,baseline,,baseline,False,")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.008749, "0.00875"), (1.0, "1.00"), (99.96, "100"), (123.4, "123"), (0, "0"),
        (12345.6, "12,346"), (4.21e-6, "4.21e-6"), (1e-5, "1e-5"), (-0.5, "-0.500"), (None, "–"),
    ],
)  # fmt: skip
def test_significant_digits(value, text):
    assert significant(value) == text


def test_other_numbers():
    assert count(1234567) == "1,234,567"
    assert times(2.0512) == "2.05×"
    assert kilobytes(15_712) == "15.7"
    assert [percent(value) for value in (0.0812, -0.03, 0.1, 1.5)] == [
        "+8.1%",
        "−3%",
        "+10%",
        "+150%",
    ]
    assert [function(None) for function in (count, times, kilobytes, percent)] == ["–"] * 4


def test_a_pretrained_baseline_is_told_without_shapes_that_it_does_not_have():
    arguments = example()
    arguments["context"]["settings"]["baseline"]["architecture"] = "pretrained"
    page = build_page(**arguments)
    assert "pretrained autoencoder</p>" in page
    assert "the model that was given, as it came" in page
    assert "64-32-<b>16</b>" not in page
