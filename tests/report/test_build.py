"""The report of a run: one file, made from files alone, and an old one is never lost to bad input."""

import base64
import io
import json
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from PIL import Image

from yopo_train.cli import main
from yopo_train.errors import UserError
from yopo_train.plan import ModelDims, PruningPlan
from yopo_train.report.build import write_report
from yopo_train.run_folder import RunFolder

FIGURES = {
    "costs",
    "training",
    "frontier",
    "heads",
    "cross-modal",
    "distance",
    "channels",
    "depth",
    "radius",
    "heads-ratio",
    "channels-ratio",
    "stability",
}
OF_SCORES = {"heads", "cross-modal", "distance", "channels"}


class Reader(HTMLParser):
    """What a browser would make of the page."""

    VOID = ("meta", "img", "br", "link")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.links, self.pictures, self.sections, self.missing = set(), [], {}, [], {}
        self.words, self._open = [], []
        self.feed(text)
        self.close()
        assert not self._open, f"unclosed: {self._open}"

    def handle_starttag(self, tag: str, attributes: list) -> None:
        found = dict(attributes)
        self.tags.add(tag)
        if tag == "section":
            self.sections.append(found["id"])
        self.links += [found[name] for name in ("src", "href", "data", "action") if name in found]
        if tag == "img":
            self.pictures[self.sections[-1]] = found["src"]
        if tag not in self.VOID:
            self._open.append((tag, found.get("class")))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        if ("p", "missing") in self._open:
            self.missing[self.sections[-1]] = self.missing.get(self.sections[-1], "") + data

    @property
    def text(self) -> str:
        return " ".join(self.words)


def read(run: RunFolder) -> Reader:
    return Reader((run.path / "report.html").read_text("utf-8"))


def change(path, **sections) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | sections))


@pytest.fixture(scope="module")
def reported(make_run, tmp_path_factory) -> RunFolder:
    """A whole run with its report: for tests that only look at it."""
    run = make_run(tmp_path_factory.mktemp("reported") / "run")
    assert write_report(run.path) == run.path / "report.html"
    return run


def test_a_whole_run_has_every_figure(reported):
    page = read(reported)
    assert set(page.pictures) == FIGURES
    assert {path.stem for path in (reported.path / "plots").iterdir()} == FIGURES
    assert not page.missing
    assert set(page.sections) == FIGURES | {"layers"}


def test_the_page_needs_nothing_else(reported):
    page = read(reported)
    assert not {"script", "link", "iframe", "object"} & page.tags
    assert page.links
    for link in page.links:
        assert link.startswith("data:image/png;base64,") or link.removeprefix("#") in page.sections, link[:80]
    text = (reported.path / "report.html").read_text()
    assert "@import" not in text and "url(" not in text


def test_the_pictures_are_the_plots(reported):
    for name, link in read(reported).pictures.items():
        content = (reported.path / "plots" / f"{name}.png").read_bytes()
        assert base64.b64decode(link.partition(",")[2], validate=True) == content
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            assert image.format == "PNG" and min(image.size) > 150
            low, high = image.convert("L").getextrema()
            assert low < 100 and high == 255


def test_the_page_says_what_the_run_found(reported):
    text, plan = read(reported).text, PruningPlan.load(reported.plan)
    facts = (plan.id, "org/model", "questions f00", "94.0 %", "61.0 %", "a toaster", "yopo-train fit --config <x>.yaml")
    for fact in facts:
        assert fact in text, fact


def test_the_command_makes_the_same_report_of_the_same_files(reported, capsys):
    first = (reported.path / "report.html").read_bytes()
    shutil.rmtree(reported.path / "plots")
    assert main(["report", str(reported.path)]) == 0
    assert capsys.readouterr().out.splitlines() == [str(reported.path / "report.html")]
    assert (reported.path / "report.html").read_bytes() == first


def test_what_is_missing_is_one_line_with_the_command_that_makes_it(run):
    (run.path / "plots").mkdir()
    (run.path / "plots" / "depth.png").write_bytes(b"of an earlier report")
    for name in ("curves.json", "search.json", "stability.json", "results.json", "plan.safetensors"):
        (run.path / name).unlink()
    shutil.rmtree(run.logs)
    write_report(run.path)
    page = read(run)
    assert set(page.pictures) == OF_SCORES == {path.stem for path in (run.path / "plots").iterdir()}
    assert set(page.missing) == (FIGURES | {"layers"}) - OF_SCORES
    for line in page.missing.values():
        assert "yopo-train " in line and str(run.config) in line and "\n" not in line


def test_half_measured_curves(run):
    curves = json.loads((run.path / "curves.json").read_text())
    (run.path / "curves.json").write_text(json.dumps({"heads": {"score": curves["heads"]["score"], "random": []}}))
    (run.path / "plots").mkdir()
    (run.path / "plots" / "mine.png").write_bytes(b"mine")
    write_report(run.path)
    page = read(run)
    assert "heads-ratio" in page.pictures and {"depth", "radius", "channels-ratio"} <= set(page.missing)
    # other files beside the plots stay
    assert (run.path / "plots" / "mine.png").read_bytes() == b"mine"
    assert not [path for path in run.path.rglob("*") if path.name.endswith(".tmp")]


def test_names_are_escaped(make_run, tmp_path):
    run = make_run(tmp_path / "<script>alert('x')&amp;")
    plan = PruningPlan.load(run.plan)
    plan.base_model = "</dd><img src='http://evil'>\x1b[31m"
    plan.made_by = {"preset": "<b>", "$x^": [None, {"y": "\"'"}]}
    plan.save(run.plan)
    results = json.loads(run.results_file.read_text())
    results["test"]["base"]["kinds"]["<i>"] = 0.5
    results["environment"]["hardware"] = "<u>"
    run.results_file.write_text(json.dumps(results))
    write_report(run.path)
    page = read(run)
    assert set(page.pictures) == FIGURES
    assert not {"script", "i", "u"} & page.tags and all("evil" not in link for link in page.links)
    assert "</dd><img src='http://evil'>?[31m" in page.text and "alert('x')&amp;" in page.text


def test_a_model_that_a_plan_breaks(run):
    """json writes NaN and Infinity, and reads them."""
    change(run.path / "curves.json", depth=[{"value": 0, "kl": float("nan"), "agreement": 0.0}])
    search = json.loads((run.path / "search.json").read_text())
    search["trace"][0]["kl"] = float("inf")
    search["chosen"] = "000000000000"
    (run.path / "search.json").write_text(json.dumps(search))
    write_report(run.path)
    page = read(run)
    assert set(page.pictures) == FIGURES
    assert "The search chose 000000000000" in page.text


# -- bad input --------------------------------------------------------------------------------------------------------
DAMAGE = {
    "scores.safetensors": b"\x00\x01",
    "plan.safetensors": b"no safetensors",
    "results.json": b'{"test": ',
    "curves.json": b"[1, 2]",
    "search.json": b"\xff\xfe",
    "stability.json": b'{"sizes": 3}',
}
WRONG = {
    "curves.json": [
        ({"depth": [{"value": 1, "kl": "low", "agreement": 1.0}]}, "depth[0].kl"),
        ({"depth": [{"value": None, "kl": 0.1, "agreement": 1.0}]}, "depth[0].value"),
        ({"radius": [{"value": 1, "kl": 0.1}]}, "radius[0] has no agreement"),
        ({"heads": [1]}, "section heads"),
        ({"heads": {"score": {"value": 1}}}, "heads.score"),
    ],
    "search.json": [
        ({"trace": [{"plan": 3}]}, "trace[0].plan"),
        ({"budget": 10**400}, "search.budget"),
        ({"trace": [7]}, "trace[0] is int"),
    ],
    "stability.json": [
        ({"sizes": [{"samples": 0}]}, "sizes[0].samples"),
        ({"enough": "many"}, "enough is 'many'"),
    ],
    "results.json": [
        ({"cost": {"base": {"visual_flops": -1}}}, "cost.base.visual_flops"),
        ({"cost": {"pruned": {"visual_flops": 1, "prefill_flops": 1, "kv_cache_bytes": 1}}}, "no entry base"),
        ({"test": {"base": {"accuracy": 94}}}, "test.base.accuracy"),
        ({"test": {"base": None}}, "test.base is NoneType"),
        ({"bench": {"base": {"prefill": 1.0}}}, "bench.pruned"),
        ({"environment": "here"}, "section environment"),
    ],
}


def refused(run, capsys) -> str:
    """The one line with which the command ends; an old report stays as it was."""
    old = {name: b"old " + name.encode() for name in ("report.html", "plots/heads.png")}
    (run.path / "plots").mkdir(exist_ok=True)
    for name, content in old.items():
        (run.path / name).write_bytes(content)
    assert main(["report", str(run.path)]) == 2
    assert {name: (run.path / name).read_bytes() for name in old} == old
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1 and error[0].startswith("error: "), error
    return error[0]


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_file_leaves_the_old_report(name, run, capsys):
    (run.path / name).write_bytes(DAMAGE[name])
    assert name in refused(run, capsys)


@pytest.mark.parametrize(
    ("name", "sections", "culprit"), [(name, *case) for name, cases in WRONG.items() for case in cases]
)
def test_a_wrong_field_is_named(name, sections, culprit, run, capsys):
    change(run.path / name, **sections)
    error = refused(run, capsys)
    assert name in error and culprit in error


def test_a_plan_of_another_model(run, capsys):
    PruningPlan.dense(ModelDims(layers=3, hidden=8, intermediate=16, heads=2, kv_heads=2, head_dim=4)).save(run.plan)
    error = refused(run, capsys)
    assert "scores.safetensors" in error and "layers = 3" in error


def test_a_run_without_scores(run, capsys):
    run.scores.unlink()
    assert "holds no scores.safetensors" in refused(run, capsys)


def test_what_is_no_run_folder(tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("years of work")
    for path in (tmp_path, tmp_path / "none", tmp_path / "thesis.tex"):
        with pytest.raises(UserError, match="expected the folder of a run"):
            write_report(path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    assert main(["report"]) == 2
    assert "run" in capsys.readouterr().err


def test_only_a_report_loads_matplotlib():
    code = "import sys, yopo_train, yopo_train.report.show, yopo_train.report.facts; print('matplotlib' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "False", result.stderr
