"""Tables, plots, README and comparison, from a recorded fixture of made-up figures; and that no
fixture passes for a result.
"""

from __future__ import annotations

import copy
import json
import math
import re
import sys
from pathlib import Path

import pytest

from benchmarks import compare, gpu, plots, record, report
from tilus.errors import TilusError

REPOSITORY = Path(__file__).parents[2]
FIXTURE = Path(__file__).parent / "data" / "recorded.json"
MARK = "Fixture"  # in the names of its device and model


@pytest.fixture
def log():
    return record.read(FIXTURE, allow_fixture=True)


@pytest.fixture
def real(log):
    """The log of a run, as far as anyone can tell; it never leaves the test."""
    log = copy.deepcopy(log)
    del log["fixture"]
    return log


def cells_of(table):
    """By the first three cells of each line, the others."""
    lines = [re.split(r"  +", line.strip()) for line in table.splitlines()]
    return {tuple(cells[:3]): cells[3:] for cells in lines if len(cells) > 3}


# ---- no fixture is a result ----------------------------------------------------------------------


def test_the_fixture_says_what_it_is():
    content = json.loads(FIXTURE.read_text())
    assert "fixture" == next(iter(content)) and content["fixture"] is True
    assert MARK in content["device"] and all(MARK in row["model"] for row in content["rows"])


def test_a_fixture_is_refused_everywhere(log, tmp_path):
    (tmp_path / "fixture").mkdir()
    (tmp_path / "fixture" / record.NAME).write_text(FIXTURE.read_text())
    for attempt in (
        lambda: record.read(FIXTURE),
        lambda: report.tables(log),
        lambda: report.section({"fixture": log}),
        lambda: report.committed_logs(tmp_path),
        lambda: plots.write_plots(log, tmp_path),
        lambda: compare.read(FIXTURE),
        lambda: record.write(record.RESULTS / "fixture" / record.NAME, log),
        lambda: gpu.write_readme(tmp_path / "README.md", tmp_path),
    ):
        with pytest.raises(TilusError, match="a fixture is no result"):
            attempt()
    assert not (record.RESULTS / "fixture").exists()
    assert 2 == compare.main([str(FIXTURE), str(FIXTURE)])


def test_a_finished_fixture_has_no_plots(log, tmp_path, capsys):
    gpu.finish(log, tmp_path)
    assert "a fixture is no result" in capsys.readouterr().err
    assert [record.NAME] == [path.name for path in tmp_path.iterdir()]


def test_no_fixture_reached_the_results_or_the_readme():
    made_up = {json.dumps(row, sort_keys=True) for row in json.loads(FIXTURE.read_text())["rows"]}
    places = [path for path in record.RESULTS.rglob("*") if path.is_file()]
    for path in (*places, REPOSITORY / "README.md"):
        text = path.read_text()
        assert MARK + " GPU" not in text and MARK + "-1B" not in text, path
        assert report.FIXTURE not in text, path
        if path.suffix == ".json":
            content = json.loads(text)
            rows = content if isinstance(content, list) else content.get("rows", [])
            assert isinstance(content, list) or not content.get("fixture"), path
            assert not made_up & {json.dumps(row, sort_keys=True) for row in rows}, path


def test_what_is_allowed_says_what_it_is(log, tmp_path):
    assert report.tables(log, allow_fixture=True).startswith(report.FIXTURE)
    assert report.section({"f": log}, allow_fixture=True).startswith(report.FIXTURE)
    for name in plots.write_plots(log, tmp_path, allow_fixture=True):
        assert report.FIXTURE in (tmp_path / name).read_text()


# ---- reading and writing -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda log: log.update(schema=2), "schema 1"),
        (lambda log: log.update(rows={}), "`rows` is no list"),
        (lambda log: log["rows"][3].pop("floor_us"), r"rows\[3\] does not say floor_us"),
        (lambda log: log["rows"].append(7), "does not say activation"),
    ],
)
def test_damaged_logs(real, tmp_path, change, text):
    change(real)
    path = tmp_path / record.NAME
    path.write_text(json.dumps(real))
    with pytest.raises(TilusError, match="damaged") as caught:
        record.read(path)
    assert re.search(text, str(caught.value.found))


def test_a_log_that_is_not_there(tmp_path):
    with pytest.raises(TilusError, match="no results of a GPU"):
        record.read(tmp_path / "gpu.json")


def test_a_log_is_written_whole_or_not_at_all(real, tmp_path):
    path = tmp_path / "deep" / record.NAME
    record.write(path, real)
    assert real == record.read(path)
    with pytest.raises(ValueError, match="JSON"):
        record.write(path, {**real, "elapsed_s": math.nan})
    assert real == record.read(path) and [path] == list(path.parent.iterdir())


def test_a_log_takes_its_place_by_renaming(real, tmp_path, monkeypatch):
    path = tmp_path / record.NAME
    record.write(path, real)

    def interrupted(self, target):
        assert target == path and json.loads(self.read_text())["elapsed_s"] == 7
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        record.write(path, {**real, "elapsed_s": 7})
    assert real == record.read(path) and [path] == list(tmp_path.iterdir())


def test_folders():
    assert "nvidia-geforce-rtx-4090" == record.folder_of("NVIDIA GeForce RTX 4090")


# ---- figures -------------------------------------------------------------------------------------


def test_ratios_are_those_of_the_same_item(log):
    ratios = report.ratios_of(log)
    assert {"cublas": 4.0, "marlin": 2.0} == ratios["u4", 1, 1000, 1000]
    assert {"cublas": 8.0} == ratios["u2", 1, 1000, 1000]
    assert {"cublas": 4.0, "marlin": 2.0} == ratios["u4", 1, 2000, 5000]  # the decoder step


def test_the_error_of_the_cost_model(log):
    found = report.model_error(log)
    # 6 rows each are off by 10%, 20% and 20%; the decoder step is not.
    assert (pytest.approx(0.2), 19) == (found["median_absolute_error"], found["rows"])
    assert log["model_error"]["rows"] == found["rows"]
    assert {"median_absolute_error": None, "rows": 0} == report.model_error({"rows": []})


def test_the_table_of_rows(log):
    cells = cells_of(report.row_table(log, report.ours(log)))
    line = cells["Fixture-1B o 1000x1000", "u4", "16"]
    assert ["200.0", "199.0..201.0", "50%", "160.0", "2.00x", "2.00x"] == line
    line = cells["Fixture-1B down 1000x4000", "u2", "1"]
    assert ["200.0", "199.0..201.0", "50%", "220.0", "8.00x", "-"] == line
    assert ("Fixture-1B decoder step", "u4", "1") in cells
    assert 19 == len(report.ours(log)) == len(cells) - 1 - 1  # headings, rule


def test_the_table_of_means(log):
    cells = cells_of(report.mean_table(log))
    rows = {key[:2]: (key[2], *rest) for key, rest in cells.items()}
    # cuBLAS takes 4 and 2 times as long for 1 and 16 tokens: the geometric mean is the root of 8.
    assert ("50% (4)", "2.83x (4)", "2.00x (4)") == rows["u4", "M <= 16"]
    assert ("50% (4)", "5.66x (4)", "-") == rows["u2", "M <= 16"]
    assert ("50% (2)", "2.00x (2)", "2.00x (2)") == rows["u4", "16 < M <= 256"]
    assert ("50% (1)", "4.00x (1)", "2.00x (1)") == rows["all", "decoder steps"]


def test_all_tables(log):
    text = report.tables(log, allow_fixture=True)
    assert "The cost model is off by 20% (median, absolute, of 19 rows)." in text
    assert "humming is missing: a fixture has no packages" in text
    assert "failed: 1" in text and "not reached: 1" in text


def test_nothing_was_timed(real):
    real["rows"] = []
    assert "Nothing of ours was timed." in report.tables(real)
    assert "predicted nothing" in report.tables(real)


# ---- plots ---------------------------------------------------------------------------------------


def lines_of(path):
    return re.findall(r'id="line ([^"]*)"', path.read_text())


def test_plots_have_a_line_for_each(log, tmp_path):
    names = plots.write_plots(log, tmp_path, allow_fixture=True)
    assert ["speedup.svg", "bandwidth.svg", "roofline.svg"] == names
    assert ["u4", "u2", "u8"] == lines_of(tmp_path / "speedup.svg")
    assert ["cublas", "tilus", "marlin"] == lines_of(tmp_path / "bandwidth.svg")
    points = ["points cublas", "points u4", "points u2", "points u8"]
    assert ["roof", *points] == lines_of(tmp_path / "roofline.svg")


def test_plots_are_the_same_bytes(log, tmp_path):
    for folder in ("one", "other"):
        plots.write_plots(log, tmp_path / folder, allow_fixture=True)
    for name in plots.PLOTS:
        one, other = ((tmp_path / folder / name).read_bytes() for folder in ("one", "other"))
        assert one == other and b"<dc:date>" not in one


def test_what_plots_show(log):
    assert [(1, pytest.approx(4.0)), (16, pytest.approx(2.0)), (256, pytest.approx(2.0))] == (
        sorted(plots.speedups(log)["u4"])
    )
    # 500 KB in 100 us, and 2 MB in 400: 5 GB/s of 100.
    assert (4, pytest.approx(0.05)) in plots.bandwidths(log)["tilus"]
    assert {2, 4, 8} == {bits for bits, _ in plots.bandwidths(log)["tilus"]}
    points = plots.roofline(log)["points u4"]
    assert (pytest.approx(4.0), pytest.approx(2e6 / 100e-6 / 1e12)) in points
    assert (pytest.approx(100.0), pytest.approx(10.0)) in plots.roofline(log)["roof"]


def test_no_rates_no_roof(log, tmp_path):
    log["rates"] = None
    assert ["speedup.svg"] == plots.write_plots(log, tmp_path, allow_fixture=True)


def test_without_matplotlib(log, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(TilusError, match="plots need matplotlib"):
        plots.write_plots(log, tmp_path, allow_fixture=True)


# ---- comparison ----------------------------------------------------------------------------------


def test_logs_are_compared(real, tmp_path, capsys):
    slower = copy.deepcopy(real)
    row = next(row for row in slower["rows"] if row["kernel"] == "tilus")
    for key in ("median_us", "q1_us", "q3_us"):
        row[key] *= 2
    paths = [str(tmp_path / name) for name in ("old.json", "new.json")]
    for path, content in zip(paths, (real, slower), strict=True):
        record.write(Path(path), content)
    assert 1 == compare.main(paths)
    assert "tilus, u4, m = 1, n = 1000, k = 1000" in capsys.readouterr().out
    assert 0 == compare.main([paths[0], paths[0]])


def test_a_fixture_can_be_compared_in_tests():
    found = compare.read(FIXTURE, allow_fixture=True)
    assert {"Fixture GPU"} == found.devices and [] == compare.compare(found, found)


# ---- the README ----------------------------------------------------------------------------------


def test_the_section(real):
    text = report.section({"nvidia-x": real})
    assert re.search(r"\| *Fixture-1B o 1000x1000 \|", text) and "`no command: a fixture`" in text
    assert "[all figures](benchmarks/results/nvidia-x/gpu.json)" in text
    assert "u2" not in report.row_table(real, [r for r in report.ours(real) if report.is_shown(r)])
    real["plots"] = ["speedup.svg"]
    assert "(benchmarks/results/nvidia-x/speedup.svg)" in report.section({"nvidia-x": real})


def test_the_readme_is_written_between_its_markers(real, tmp_path):
    readme, results = tmp_path / "README.md", tmp_path / "results"
    readme.write_text("# A\n\ntext\n\n## Reading on\n\nmore\n")
    gpu.write_readme(readme, results)
    before, _, rest = readme.read_text().partition(report.SECTION.begin)
    assert before.startswith("# A\n\ntext\n") and rest.endswith("## Reading on\n\nmore\n")
    assert "Nothing has been measured on a GPU yet" in rest
    record.write(results / "nvidia-x" / record.NAME, real)
    gpu.write_readme(readme, results)
    text = readme.read_text()
    assert "Nothing has been measured" not in text and "Fixture GPU" in text
    gpu.write_readme(readme, results)
    assert text == readme.read_text() and 1 == text.count(report.SECTION.begin)


def test_one_marker():
    with pytest.raises(TilusError, match="one of two markers"):
        report.SECTION.filled(f"a {report.SECTION.begin} b", "text")


def test_the_readme_is_up_to_date():
    text = (REPOSITORY / "README.md").read_text()
    section = report.section(report.committed_logs())
    assert f"{report.SECTION.begin}\n{section}\n{report.SECTION.end}" in text
