"""The report: everything of the ledger is in it, everything it names is there, and it needs nothing else."""

import base64
import csv
import gzip
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from urllib.parse import unquote

import browser
import ledgers
import numpy as np
import pytest
from markupsafe import escape
from PIL import Image

from indattn.claims.ledger import Entry, Point
from indattn.errors import UserError
from indattn.report import numbers
from indattn.report.curves import noise_panels
from indattn.report.strips import strip, ticks
from indattn.statistics import mean_interval

COMMIT = "1" * 40
VIEWER = {"task": ["synthetic"], "model": ["indirect", "cross"], "noise": [0.5], "seed": [0], "example": [0, 2]}
SCORES = {("indirect", 0.0): [0.9, 0.8, 0.94], ("indirect", 0.5): [0.7, 0.75, 0.6], ("cross", 0.0): [0.5]}


def record(model, noise, seed, accuracy, task="speech_text_alignment", **training):
    config = {key: {} for key in ("task", "model", "misalignment")}
    config |= {"noise": noise, "seed": seed, "training": {"lr": 0.01, **training}}
    name = f"{len(model)}{seed}{int(100 * noise)}{len(training)}"
    labels = {"task": task, "model": model, "noise": noise, "seed": seed, "hash": name}
    return {
        "format": 1,
        "path": f"{task}/{model}/noise-{noise:.2f}/seed-{seed}/{name}",
        **labels,
        "kind": "drift",
        "accuracy": accuracy,
        "seconds": 900.0,
        "commit": COMMIT if seed else f"{'2' * 40}-dirty",
        "code": "abcd1234",
        "config": config,
        "result": {
            "metric": "word starts within 50 ms",
            "chance": None,
            "ceiling": 1.0,
            "versions": {"torch": "2.13.0"},
            "hardware": {"device": "cpu", "cores": 2, "threads": 1},
        },
    }


def write_records(results, records):
    (results / "records").mkdir(exist_ok=True)
    for task in {one["task"] for one in records}:
        lines = "".join(json.dumps(one) + "\n" for one in records if one["task"] == task)
        (results / "records" / f"{task}.jsonl.gz").write_bytes(gzip.compress(lines.encode(), mtime=0))


def write_run(results, model, biased):
    """A finished run's folder as far as the report reads it: 2 layers, 2 heads, 3 queries, 5 values, 3 examples."""
    folder = results / "runs" / "synthetic" / model / "noise-0.50" / "seed-0" / f"{len(model):08d}"
    folder.mkdir(parents=True)
    for name in ("config.yaml", "result.json"):
        (folder / name).write_text("{}")
    weights = np.random.default_rng(0).dirichlet(np.ones(5), (2, 3, 2, 3))
    recorded = {"attention": weights.astype(np.float16), "offsets": np.arange(-2, 5)}
    if biased:
        recorded["bias_function"] = np.linspace(-1, 1, 28).reshape(2, 2, 7)
        recorded["centres"] = np.arange(18.0).reshape(2, 3, 3) / 7
    np.savez(folder / "recording.npz", **recorded)
    return folder, weights


def write_tree(results):
    for name in ("figures", "tables", "report"):
        (results / name).mkdir(parents=True)
    (results / "ledger.json").write_text(json.dumps(ledgers.ledger()))
    for number, name in enumerate(ledgers.FIGURES):
        Image.new("RGB", (60 + number, 40), (200, 80 * number, 90)).save(results / "figures" / name)
    for name in ledgers.TABLES:
        with open(results / "tables" / name, "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["model", "mean_score", "holds"])
            writer.writerows([f"m{row % 3}", (7 * row) % 30 / 1000, row % 2 == 0] for row in range(30))
    shutil.copy(results / "tables" / "figure2.csv", results / "tables" / "figure2-paired.csv")
    runs = [
        record(model, noise, seed, score)
        for (model, noise), scores in SCORES.items()
        for seed, score in enumerate(scores)
    ]
    write_records(results, runs)
    (results / "report" / "commits.json").write_text(json.dumps({COMMIT: "2026-11-20"}))
    write_run(results, "indirect", biased=True)
    write_run(results, "cross", biased=False)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A tree with its report; tests leave it as it is."""
    from indattn.report import write_report

    results = tmp_path_factory.mktemp("report") / "results"
    write_tree(results)
    write_report(results, VIEWER)
    return results


@pytest.fixture
def tree(tmp_path):
    """A tree of a test's own, without a report."""
    write_tree(tmp_path / "results")
    return tmp_path / "results"


@pytest.fixture
def report(command, tree):
    return lambda *arguments: command("report", f"results_dir={tree}", *arguments)


class Parsed(HTMLParser):
    """What a page's elements say; scripts of data by their id."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.data, self.text, self.open = [], {}, [], None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.elements.append((tag, found))
        self.open = found.get("id") if tag == "script" else None

    def handle_endtag(self, tag):
        self.open = None

    def handle_data(self, text):
        if self.open:
            self.data[self.open] = json.loads(text)
        self.text.append(text)

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def ids(self):
        return [attributes["id"] for _, attributes in self.elements if "id" in attributes]


@pytest.fixture(scope="module")
def page(written):
    return Parsed((written / "report" / "index.html").read_text())


def article(text, name):
    return re.search(rf'<article id="claim-{name}".*?</article>', text, re.DOTALL)[0]


# The page ----------------------------------------------------------------------------------------------------


def test_every_claim_is_in_the_ledger_and_has_its_part(written, page):
    text = (written / "report" / "index.html").read_text()
    table = re.search(r'<table class="sortable claims".*?</table>', text, re.DOTALL)[0]
    rows = re.findall(r"<tr.*?</tr>", table, re.DOTALL)[1:]
    claims = ledgers.ledger()["claims"]
    assert len(rows) == len(claims)
    for row, claim in zip(rows, claims, strict=True):
        assert f'href="#claim-{claim["name"]}"' in row
        assert f'class="badge {claim["verdict"]}"' in row
        assert re.search(rf"</svg> {claim['verdict']}</span>", row), "a word, not colour alone"
        part = article(text, claim["name"])
        for said in (claim["claim"], claim.get("reading"), claim.get("rule"), claim.get("why"), claim.get("command")):
            assert not said or escape(said) in part
    assert text.index('id="ledger"') < text.index('id="claims"') < text.index('id="curves"') < text.index('id="made"')
    said = " ".join("".join(page.text).split())
    assert "Of 5 claims, 1 holds, 2 fail and 2 are undecided." in said
    assert len(page.ids) == len(set(page.ids))


def test_numbers_of_a_claim(written):
    text = (written / "report" / "index.html").read_text()
    assert "<b>0.0121</b> [0.0031, 0.0211] accuracy" in article(text, "sorting_beats_standard")
    assert "<b>\u22120.579</b> [\u22120.646, \u22120.512] accuracy" in article(text, "retrieval_beats_cross")
    assert "&lt;0.001" in article(text, "retrieval_beats_cross")
    undecided = article(text, "robust_to_noise")
    assert "; 10 would decide, if the effect is as it was found" in undecided
    assert "7 missing runs" in undecided
    assert "indattn train task=synthetic model=indirect noise=0.5 seed=9" in undecided


def test_only_a_rule_changed_after_data_is_warned_of(written):
    text = (written / "report" / "index.html").read_text()
    assert text.count("The rule was changed after data.") == 1
    warning = article(text, "retrieval_beats_cross")
    assert "on 2026-11-29, when 60 of its runs were there already" in warning
    assert "<code>0f12cd34ef56</code>" in warning


def test_every_link_resolves_and_none_leaves_the_tree(written, page):
    links = [a.get("href") or a.get("src") for _, a in page.elements if "href" in a or "src" in a]
    assert len(links) > 30
    for link in links:
        if link.startswith("data:"):
            continue
        assert not re.match(r"[a-z]+:|//|/", link), link
        if link.startswith("#"):
            assert link[1:] in page.ids, link
        else:
            assert (written / "report" / unquote(link)).resolve().is_file(), link
    text = (written / "report" / "index.html").read_text()
    assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)|@import|url\(", text)
    assert str(written.parent) not in text


def test_each_figure_is_in_the_page_once(written, page):
    images = [image for image in page.all("img") if image.get("src") or "data-same" in image]
    sources = [image["src"] for image in images if "src" in image]
    wanted = [(written / "figures" / name).read_bytes() for name in ledgers.FIGURES]
    assert [base64.b64decode(source.partition(",")[2]) for source in sources] == wanted
    same = [image["data-same"] for image in images if "src" not in image]
    assert same == [images[0]["id"]], "figure2.png again"
    assert all(image["alt"] for image in images)
    assert [images[0]["width"], images[0]["height"]] == ["60", "40"]


def test_a_long_table_is_cut_and_says_so(written):
    part = article((written / "report" / "index.html").read_text(), "snr_threshold")
    assert part.count("<tr>") == 1 + 25
    assert "The first 25 of 30 rows" in part
    assert 'href="../tables/figure1-readings.csv"' in part
    assert '<button type="button">mean score</button>' in part
    assert '<td data-sort="True">yes</td>' in part


def test_what_a_text_says_is_no_markup(tree, report):
    ledger = ledgers.ledger()
    ledger["claims"][0]["claim"] = '</script><b>bold</b> & "quoted"'
    (tree / "ledger.json").write_text(json.dumps(ledger))
    write_records(tree, [record("</script>", noise, 0, 0.5, "other") for noise in (0, 0.5)])
    assert report()[0] == 0
    text = (tree / "report" / "index.html").read_text()
    assert "<b>bold" not in text
    assert text.count("</script>") == 3, "panels, viewer, scripts"
    assert "</script>" in {model["name"] for one in Parsed(text).data["panels-data"] for model in one["models"]}


def test_the_same_tree_gives_the_same_bytes(tree, report, tmp_path, written):
    assert report("viewer.model=[indirect,cross]", "viewer.example=[0,2]")[0] == 0
    names = ["index.html", "report.md", "recordings.json", "commits.json"]
    first = [(tree / "report" / name).read_bytes() for name in names]
    assert first == [(written / "report" / name).read_bytes() for name in names], "wherever it lies"
    shutil.rmtree(tree / "runs")
    assert report("viewer.model=[indirect,cross]", "viewer.example=[0,2]") == (
        0,
        f"{tree}/report/index.html\n{tree}/report/report.md\n",
        "",
    )
    assert first == [(tree / "report" / name).read_bytes() for name in names], "without folders of runs"


def test_how_it_was_made(page):
    said = " ".join(" ".join(page.text).split())
    assert "7 recorded runs, 1.8 hours of training, the newest by the code of 2026-11-20." in said
    assert "1111111111 2026-11-20 4" in said
    assert "2222222222 with changes unknown 3" in said
    assert "cpu, 2 cores, 1 thread 7" in said
    assert "torch 2.13.0 7" in said


def test_a_tree_with_a_ledger_alone(tmp_path, command):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "ledger.json").write_text(json.dumps(ledgers.ledger()))
    code, out, err = command("report")
    assert code == 0
    assert out == "results/report/index.html\nresults/report/report.md\n"
    assert err.startswith("not there, and left out: figures/figure2.png, figures/noise-synthetic.png, ")
    text = (tmp_path / "results" / "report" / "index.html").read_text()
    assert "<code>figures/figure2.png</code> is not drawn yet" in text
    assert "indattn train -m task=synthetic model=indirect,standard,cross noise=0.5 seed=0" in text
    links = [attributes["href"] for attributes in Parsed(text).all("a") if not attributes["href"].startswith("#")]
    assert links == ["report.md"]


def test_an_empty_ledger(tree, report):
    (tree / "ledger.json").write_text('{"format": 2, "profile": "full", "claims": [], "history": {}}')
    assert report()[0] == 0
    assert "The ledger has no claims." in (tree / "report" / "index.html").read_text()


def test_no_torch_and_quick(tree):
    code = "import sys; from indattn.cli import main\ntry:\n    main()\nfinally:\n    assert 'torch' not in sys.modules"
    words = [sys.executable, "-c", code, "report", f"results_dir={tree}"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


# Text --------------------------------------------------------------------------------------------------------


def test_the_text_has_the_same_in_the_same_order(written):
    text = (written / "report" / "report.md").read_text()
    claims = ledgers.ledger()["claims"]
    assert re.findall(r"^### (.*)$", text, re.MULTILINE) == [claim["name"] for claim in claims]
    rows = re.findall(r"^\| [✓✗○] (\w+) \| \[(.*?)\]\(#(\w+)\)", text, re.MULTILINE)
    assert [(verdict, anchor) for verdict, _, anchor in rows] == [(c["verdict"], c["name"]) for c in claims]
    for claim in claims:
        assert f"```sh\n{claim['command']}\n```" in text if claim.get("command") else True
    links = re.findall(r"\]\(([^)#]+)\)", text)
    assert len(links) > 8
    for link in links:
        assert (written / "report" / unquote(link)).is_file(), link
    assert r"\<shift\>, indirect attention loses less than σ\* \| predicts" in text
    assert "\n\n\n" not in text
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        columns = [len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()]
        assert len(set(columns)) == 1, table


# Parts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "low", "high", "said"),
    [
        (0.0121, 0.0031, 0.0211, "0.0121 [0.0031, 0.0211]"),
        (-0.57912, -0.6456, -0.5124, "\u22120.579 [\u22120.646, \u22120.512]"),
        (12.34, 1.0, 41.0, "12 [1, 41]"),
        (0.25, None, None, "0.25"),
        (0.0, 0.0, 0.0, "0 [0, 0]"),
        (-0.00001, -0.1, 0.1, "0.00 [\u22120.10, 0.10]"),
        (None, None, None, "\u2013"),
    ],
)
def test_an_effect_has_the_digits_that_its_interval_is_worth(value, low, high, said):
    assert numbers.with_unit(Entry("c", "c", "holds", effect=value, low=low, high=high)) == said


def test_p_values():
    assert [numbers.p_value(p) for p in (0.00001, 0.001, 0.0449, 1.0, None)] == [
        "<0.001",
        "0.001",
        "0.045",
        "1",
        "\u2013",
    ]


def test_ticks_are_round_and_inside():
    assert ticks(-0.07, 0.93) == [0.0, 0.2, 0.4, 0.6, 0.8]
    for low, high in ((0.0031, 0.0211), (-650.0, 3.0), (1e-6, 2e-6)):
        marks = ticks(low, high)
        assert 2 <= len(marks) <= 6
        assert low <= marks[0] <= marks[-1] <= high


def test_a_strip_has_a_dot_a_seed_where_its_value_is():
    values = [0.2, 0.2, 0.5, -0.1]
    points = [Point(f"seed {seed}", value) for seed, value in enumerate(values)]
    drawn = strip(Entry("c", "c", "holds", effect=0.2, low=0.0, high=0.4, margin=0.1, unit="<x>", points=points))
    dots = [(float(x), float(y)) for x, y in re.findall(r'class="seed" cx="([\d.]+)" cy="([\d.]+)"', drawn)]
    across = np.array([x for x, _ in dots])
    slope = (across[2] - across[0]) / 0.3
    np.testing.assert_allclose(across, across[0] + slope * (np.array(values) - 0.2), atol=0.2)
    assert dots[0] != dots[1], "equal values lie beside each other"
    (margin,) = re.findall(r'class="margin" x1="([\d.]+)"', drawn)
    assert float(margin) == pytest.approx(across[0] - 0.1 * slope, abs=0.2)
    low, high = re.findall(r'class="interval" x1="([\d.]+)" x2="([\d.]+)"', drawn)[0]
    assert float(high) - float(low) == pytest.approx(0.4 * slope, abs=0.2)
    assert "<title>seed 2: 0.5 &lt;x&gt;</title>" in drawn


@pytest.mark.parametrize("effect", [0.0, 3.0, 1e-9])
def test_a_strip_of_one_number(effect):
    drawn = strip(Entry("c", "c", "holds", effect=effect))
    assert 'class="effect"' in drawn
    assert "nan" not in drawn
    assert strip(Entry("c", "c", "holds")) == ""


def test_a_panel_has_means_and_intervals_over_seeds(tree):
    (panel,) = noise_panels(tree)
    assert (panel["title"], panel["metric"]) == ("speech text alignment", "word starts within 50 ms")
    assert panel["noise"] == [0.0, 0.5]
    assert (panel["chance"], panel["ceiling"]) == ([None, None], [1.0, 1.0])
    assert [model["name"] for model in panel["models"]] == ["indirect", "cross"], "as in figures"
    indirect, cross = panel["models"]
    first = indirect["points"][0]
    interval = mean_interval(SCORES["indirect", 0.0])
    assert first["mean"] == pytest.approx(interval.mean, abs=1e-5)
    assert first["low"] == pytest.approx(interval.low, abs=1e-5)
    assert first["high"] == 1.0 < interval.high
    assert first["seeds"] == [[0, 0.9], [1, 0.8], [2, 0.94]]
    assert [(point["noise"], point["low"]) for point in cross["points"]] == [(0.0, None)]


def test_variants_have_panels_of_their_own(tree):
    runs = [record("indirect", noise, 0, 0.5, lr=lr) for noise in (0.0, 0.5) for lr in (0.1, 0.2)]
    for number, run in enumerate(runs):
        run["path"] += str(number)
    write_records(tree, runs)
    assert [panel["subtitle"] for panel in noise_panels(tree)] == ["kind drift, lr=0.1", "kind drift, lr=0.2"]


def test_tables_stand_in_for_tasks_that_the_record_lacks(tree):
    columns = "task,model,noise,seed,kind,accuracy,chance,ceiling"
    for task in ("speech_text_alignment", "synthetic"):
        rows = [f"{task},indirect,{noise},{seed},shift,0.{seed}5,0.1," for noise in (0, 1) for seed in (1, 2)]
        (tree / "tables" / f"noise-{task}-runs.csv").write_text("\n".join([columns, *rows]))
    recorded, tabled = noise_panels(tree)
    assert (recorded["title"], recorded["subtitle"]) == ("speech text alignment", "kind drift")
    assert (tabled["title"], tabled["subtitle"], tabled["metric"]) == ("synthetic", "kind shift", "accuracy")
    assert (tabled["chance"], tabled["ceiling"]) == ([0.1, 0.1], [None, None])
    assert tabled["models"][0]["points"][1]["mean"] == 0.2


def test_recordings_are_rounded(tree, report):
    shutil.rmtree(tree / "runs")
    folder, weights = write_run(tree, "indirect", biased=True)
    assert report("viewer.model=indirect", "viewer.example=[2,7]")[0] == 0
    (run,) = json.loads((tree / "report" / "recordings.json").read_text())["runs"]
    assert (run["model"], run["noise"], run["seed"], run["hash"]) == ("indirect", 0.5, 0, folder.name)
    (example,) = run["examples"]
    assert example["example"] == 2
    np.testing.assert_allclose(np.array(example["weights"]) / 1000, weights[:, 2], atol=1e-3)
    assert example["centres"] == [[0.86, 1.0, 1.14], [2.14, 2.29, 2.43]]
    assert np.shape(run["bias"]) == (2, 2, len(run["offsets"]))


def test_kept_recordings_are_those_of_the_chosen_runs(tree, report):
    assert report("viewer.model=[cross,indirect]")[0] == 0
    kept = tree / "report" / "recordings.json"
    assert [run["model"] for run in json.loads(kept.read_text())["runs"]] == ["cross", "indirect"]
    shutil.rmtree(tree / "runs" / "synthetic" / "indirect")
    assert report("viewer.model=[indirect,cross]")[0] == 0
    assert [run["model"] for run in json.loads(kept.read_text())["runs"]] == ["indirect", "cross"]
    assert report("viewer.model=standard")[0] == 0
    page = Parsed((tree / "report" / "index.html").read_text())
    assert "viewer-data" not in page.data
    assert len(json.loads(kept.read_text())["runs"]) == 2, "nothing is thrown away for a choice without runs"


# Errors ------------------------------------------------------------------------------------------------------


def damage(key, value):
    def change(ledger):
        ledger["claims"][1][key] = value

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda ledger: ledger.update(format=3), "has format 3, this version reads 2"),
        (lambda ledger: ledger.pop("claims"), "is damaged ('claims')"),
        (lambda ledger: ledger.update(claims=3), "is damaged"),
        (damage("verdict", "hold"), "claim 2.verdict=hold: there is none of that name; did you mean 'holds'"),
        (damage("effect", "large"), "claim 2.effect=large: must be of type float | None"),
        (damage("figures", 1), "claim 2.figures=1: must be of type list[str]"),
        (damage("points", [{"value": 1}]), "claim 2"),
    ],
)
def test_a_ledger_that_is_wrong(tree, report, change, said):
    ledger = ledgers.ledger()
    change(ledger)
    (tree / "ledger.json").write_text(json.dumps(ledger))
    code, out, err = report()
    assert (code, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1
    assert not (tree / "report" / "index.html").exists()


def test_a_ledger_that_is_missing_or_no_json(tree, report):
    (tree / "ledger.json").write_text("{")
    assert "ledger.json is damaged" in report()[2]
    (tree / "ledger.json").unlink()
    code, _, err = report()
    assert code == 2
    assert err == f"indattn: {tree}/ledger.json: there is none; `indattn claims` writes it\n"


@pytest.mark.parametrize("name", ["figures/figure2.png", "report/recordings.json", "report/commits.json"])
def test_a_damaged_file_is_named(tree, report, name):
    (tree / name).write_text("no")
    code, _, err = report()
    assert code == 2
    assert f"{tree / name} is " in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "wrong", ["viewer.task=[a,b]", "viewer.model=null", "viewer.noise=much", "viewer.example=[-1]", "viewer.seed=true"]
)
def test_a_wrong_choice_of_runs(report, wrong):
    code, _, err = report(wrong)
    assert code == 2
    assert err.startswith(f"indattn: {wrong.partition('=')[0]}=")
    assert "must be" in err
    assert err.count("\n") == 1


def test_a_damaged_table_of_runs(tree):
    (tree / "tables" / "noise-synthetic-runs.csv").write_text("task,model\nsynthetic,indirect\n")
    with pytest.raises(UserError, match=r"noise-synthetic-runs\.csv is damaged .*indattn plot noise"):
        noise_panels(tree)


# In a browser ------------------------------------------------------------------------------------------------


CHOOSE = """((id, value) => {
  const input = document.getElementById(`viewer-${id}`);
  input.value = value;
  input.dispatchEvent(new Event("input"));
})"""
WIDTHS = """Promise.all([...document.querySelectorAll(".drawn img")].map(async (image) => {
  await image.decode();
  return image.naturalWidth;
}))"""
LOST = """[...document.querySelectorAll("a, use")].map((a) => a.getAttribute("href"))
  .filter((href) => href.startsWith("#") && !document.getElementById(href.slice(1)))"""
BY_EFFECT = """[...document.querySelectorAll(".claims th button")]
  .find((button) => button.textContent.startsWith("Effect")).click()"""
NAMES = """[...document.querySelectorAll(".claims tbody code")].map((code) => code.textContent)"""
VIEWS = """[...document.querySelectorAll(".views svg")].map((svg) => svg.outerHTML).join("")"""
ARROW = """document.querySelector(".panel svg[tabindex]")
  .dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowRight"}))"""


@pytest.mark.skipif(browser.find() is None, reason="no Chromium on PATH (Debian: apt-get install chromium)")
def test_the_page_in_a_browser(written, tmp_path):
    effects = {claim["name"]: claim.get("effect") for claim in ledgers.ledger()["claims"]}
    with browser.page(tmp_path) as page:
        page.open((written / "report" / "index.html").as_uri())
        assert page.run(WIDTHS) == [60, 60, 61, 62]
        assert page.run(LOST) == []

        # The ledger by effect, up and then down; claims without one stay last.
        page.run(BY_EFFECT)
        rising = sorted((name for name in effects if effects[name] is not None), key=effects.get)
        assert page.run(NAMES) == [*rising, "detection"]
        page.run(BY_EFFECT)
        assert page.run(NAMES) == [*reversed(rising), "detection"]
        assert page.run("document.querySelector('.claims th[aria-sort]').getAttribute('aria-sort')") == "descending"

        # Another layer has other weights and centres; a model without a bias has no centres.
        before = page.run(VIEWS)
        page.run(f"{CHOOSE}('layer', 1)")
        after = page.run(VIEWS)
        assert "layer 2, 3 queries by 5 values" in after
        for drawn in ("heat", "centre"):
            assert re.findall(f'class="{drawn}"[^>]*', before) != re.findall(f'class="{drawn}"[^>]*', after)
        assert page.run("document.querySelector('#viewer-layer').labels[0].textContent").startswith("layer 2 of 2")
        page.run(f"{CHOOSE}('run', 1)")
        assert 'class="centre"' not in page.run(VIEWS)
        assert "cross has no bias" in page.run("document.querySelector('.views').textContent")

        # Curves: values at the arrow keys, lines by their names.
        page.run(ARROW)
        said = page.run("document.querySelector('.tip').textContent")
        assert said.startswith("noise 0, 1 to 3 seeds")
        assert "indirect0.880[" in said
        page.run("document.querySelector('.legend button').click()")
        assert page.run("document.querySelectorAll('.panel .line').length") == 1
        assert "indirect" not in page.run("document.querySelector('.tip').textContent")

        page.run("document.querySelector('.zoom').click()")
        assert page.run("document.querySelector('dialog[open] img').naturalWidth") == 60
        page.call("Emulation.setDeviceMetricsOverride", width=360, height=700, deviceScaleFactor=1, mobile=True)
        assert page.run("document.documentElement.scrollWidth") <= 360
        assert page.complaints == []
