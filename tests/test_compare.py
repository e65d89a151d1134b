"""A comparison tells what was scored, groups what belongs together, and survives what is broken."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import dreamlab
from dreamlab.cli.compare import compare as command
from dreamlab.cli.main import main
from dreamlab.core.config import write_yaml
from dreamlab.core.errors import RunError, UserError
from dreamlab.evals import comparison, comparison_page, comparison_plots, plots
from dreamlab.evals.learning import efficiency, lines
from dreamlab.evals.published import Published
from dreamlab.evals.scored import read

HOSTILE = "<img src=x onerror=alert(1)>|$x$"


def write_run(
    run: Path, agent="iris", env="ALE/Pong-v5", seed=0, ret=0.0, config=None, protocol=None, rate=10.0, episodes=8
) -> Path:
    """A small run folder: returns around ``ret``, 100 lines of metrics at ``rate`` steps a second."""
    (run / "evaluations").mkdir(parents=True)
    settings = {"id": env, "sticky": 0.0, "repeat": 4}
    write_yaml(
        run / "config.yaml",
        {"agent": agent, "env": settings, "run": {"seed": seed, "threads": seed}, "config": config or {"lr": 1e-3}},
    )
    chance = np.random.default_rng(seed)
    write_score(run, agent, env, chance.normal(ret, 1.0, episodes), step=1000, **(protocol or {}))
    with (run / "metrics.jsonl").open("w") as file:
        for step in range(10, 1001, 10):
            counters = {"run/env_steps": step, "run/updates": 0, "run/steps_per_second": rate}
            line = {"step": step, **counters, "run/updates_per_second": 0, "train/ret": ret * step / 1000}
            file.write(json.dumps(line) + "\n")
    return run


def write_score(run: Path, agent: str, env: str, returns, step: int, name: str = "", **protocol) -> None:
    told = {"env": {"id": env, "sticky": 0.0, "repeat": 4}, "episodes": len(returns), "seed": 0, "checkpoint": step}
    score = {"agent": agent, "env": env, "mean": 99.0, "std": 9.0, "returns": list(map(float, returns))}
    score["protocol"] = {**told, "policy": "evaluation", **protocol}
    (run / "evaluations" / f"{name or step}.json").write_text(json.dumps(score))


# -- what is compared ------------------------------------------------------------------------------------------------


def test_seeds_of_one_agent_are_grouped_and_nothing_else_is(tmp_path: Path):
    runs = [write_run(tmp_path / f"a{seed}", seed=seed) for seed in range(3)]
    runs += [write_run(tmp_path / "b", seed=0, config={"lr": 1e-2}), write_run(tmp_path / "c", agent="dqn")]
    runs += [write_run(tmp_path / "twin", seed=1)]  # a second run of a seed is no further seed
    (panel,) = comparison.compare([*runs, runs[0]]).panels
    assert [(g.label, len(g.runs)) for g in panel.groups] == [
        ("iris (a)", 3),
        ("iris (twin)", 1),
        ("iris (lr 0.01)", 1),
        ("dqn", 1),
    ]
    first = panel.groups[0]
    assert first.mean == pytest.approx(np.mean([run.returns.mean() for run in first.runs]))
    assert first.std == pytest.approx(np.concatenate([run.returns for run in first.runs]).std())


def test_the_latest_checkpoint_and_of_its_scores_the_one_of_most_episodes_counts(tmp_path: Path):
    run = write_run(tmp_path / "run")
    write_score(run, "iris", "ALE/Pong-v5", [1.0] * 100, step=500)
    write_score(run, "iris", "ALE/Pong-v5", [2.0] * 20, step=1000, name="1000-more")
    write_score(run, "iris", "ALE/Pong-v5", [3.0] * 50, step=2000, name="explored", policy="exploring")
    write_score(run, "random", "ALE/Pong-v5", [4.0] * 500, step=9000, name="another-agent")
    write_score(run, "iris", "tiny/Catch", [5.0], step=10, name="elsewhere")
    scored, said = read(run)
    assert {s.env: s.returns.tolist() for s in scored} == {"ALE/Pong-v5": [2.0] * 20, "tiny/Catch": [5.0]}
    assert not said
    assert {s.env: s.curve is None for s in scored} == {"ALE/Pong-v5": False, "tiny/Catch": True}


def test_wall_time_is_recovered_from_speeds(tmp_path: Path):
    run = write_run(tmp_path / "run", rate=4.0)
    (scored,), _ = read(run)
    assert scored.seconds == pytest.approx(250.0)
    assert scored.curve.seconds == pytest.approx(scored.curve.steps / 4.0)
    assert scored.frames == 4000


def test_intervals_are_over_runs_only_where_every_agent_has_several(tmp_path: Path):
    games = ("ALE/Pong-v5", "ALE/Breakout-v5")
    runs = [
        write_run(tmp_path / f"{agent}{env[4:]}{seed}", agent, env, seed, ret=5.0)
        for agent in ("iris", "dqn")
        for env in games
        for seed in range(3)
    ]
    found = comparison.compare(runs)
    (aggregate,) = found.aggregates
    assert (aggregate.over, aggregate.unit) == ("runs", "human-normalised")
    scores = [s for s in found.runs if s.agent == "iris"]
    scales = {panel.env: panel.scale for panel in found.panels}
    scaled = [(s.mean - scales[s.env].low) / (scales[s.env].high - scales[s.env].low) for s in scores]
    value, low, high = aggregate.values["iris"]["mean"]
    assert low < value < high
    assert value == pytest.approx(np.mean(scaled))
    unit, curves = efficiency(found.panels)
    assert unit == "human-normalised"
    assert all(line.low is not None for line in curves)
    (alone,) = comparison.compare([*runs[:3], write_run(tmp_path / "ppo", "ppo")]).aggregates
    assert alone.over == "episodes"


def test_a_groups_curve_is_the_mean_of_its_seeds_between_the_lowest_and_the_highest(tmp_path: Path):
    runs = [write_run(tmp_path / f"{seed}", seed=seed, ret=10.0 * (seed + 1)) for seed in range(3)]
    (panel,) = comparison.compare(runs).panels
    (line,) = lines(panel, "steps")
    assert line.y == pytest.approx(line.x * 20 / 1000)
    assert line.low == pytest.approx(line.x * 10 / 1000)
    assert line.high == pytest.approx(line.x * 30 / 1000)


def test_a_paper_is_held_against_the_runs_by_what_it_tells(tmp_path: Path):
    (panel,) = comparison.compare(
        [write_run(tmp_path / "run", protocol={"policy": "evaluation, actions by mode"})]
    ).panels
    paper = {s.method: s for s in panel.published}
    assert comparison_page.differs_in(paper["SPR"], panel) == ""
    assert comparison_page.differs_in(paper["IRIS"], panel) == "how actions are chosen drawn, here the likeliest"
    assert comparison_page.differs_in(paper["DreamerV3 at 200M"], panel).startswith("sticky actions 0.25, here 0")
    assert {"random", "human", "IRIS"} <= {s.method for s in panel.drawn()}
    assert "DreamerV3 at 200M" not in {s.method for s in panel.drawn()}  # 4,000 frames are nearer to 400k
    assert Published("m", 1.0, None, "A & B 2020 (C), arXiv:1", "t").short == "A & B 2020"


# -- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A comparison of good, broken, half-written and hostile runs, and what was said."""
    place, said = tmp_path_factory.mktemp("runs"), []
    runs = [write_run(place / f"a{seed}", seed=seed, ret=-3.0) for seed in range(2)]
    runs += [write_run(place / HOSTILE.replace("/", "_"), agent="dqn", protocol={"seed": 7}), place / "nowhere"]
    runs += [write_run(place / name) for name in ("cut", "odd", "list", "none", "lines", "config")]
    (place / "cut/evaluations/1000.json").write_text('{"agent": "iris", "returns": [1.0, ')
    (place / "odd/evaluations/1000.json").write_text(
        '{"agent": "iris", "env": "x", "returns": [1, NaN], "protocol": {}}'
    )
    (place / "list/evaluations/1000.json").write_text("[1]")
    shutil.rmtree(place / "none/evaluations")
    (place / "lines/metrics.jsonl").write_text('{"step": 1, "run/env_steps": 4}\n{"st')
    (place / "config/config.yaml").write_text("a: [1\n")
    command([*runs, place / "a0"], place / "out", say=said.append)
    return place / "out", "\n".join(said)


def test_broken_runs_are_told_and_harm_no_other(written: tuple[Path, str]):
    out, said = written
    results = json.loads((out / "results.json").read_text())
    (pong,) = results["environments"]
    assert [len(group["runs"]) for group in pong["groups"]] == [2, 1, 1]
    assert pong["groups"][1]["runs"][0]["env_steps"] == 4  # what its metrics still say
    left = "\n".join(results["left out"])
    for name in ("nowhere: is no folder", "cut/evaluations", "odd: evaluations", "list: evaluations", "config.yaml"):
        assert name.replace("cut/evaluations", "cut: evaluations") in left
    assert re.search(r"none: has no evaluation; type: dreamlab evaluate \S+/none", left)
    assert re.search(r"lines/?: metrics.jsonl: 1 lines are broken", left)
    assert all(line in said for line in results["left out"])


def test_what_was_found_is_told_in_every_form(written: tuple[Path, str]):
    out, said = written
    results, page = json.loads((out / "results.json").read_text()), (out / "report.html").read_text()
    summary = (out / "summary.md").read_text()
    (pong,) = results["environments"]
    assert pong["judgement"] in said
    assert pong["judgement"] in page
    assert pong["judgement"] in summary
    assert {d["setting"] for d in pong["differences"]} == {"seed"}
    assert {s["method"] for s in pong["published"]} >= {"random", "human", "SimPLe", "CURL", "DrQ(ε)", "SPR", "IRIS"}
    for text in (page, summary):
        assert "Micheli, Alonso" in text
        assert "unverified" in text
    assert {path.stem for path in out.glob("*.png")} >= {"scores", "episodes", "steps", "time", "aggregates"}


def test_text_of_runs_is_never_html_or_a_table(written: tuple[Path, str]):
    out, _ = written
    page, summary = (out / "report.html").read_text(), (out / "summary.md").read_text()
    assert "<img src=x" not in page
    assert "&lt;img src=x" in page
    assert "<img" not in summary.replace("\\<", "")
    heads = [line for line in summary.splitlines() if line.startswith("| agent | mean ± std")]
    assert len(heads) == 1
    assert not re.search(r"""(?:src|href)=["'](?!data:|#)""", page)


def test_without_any_score_it_ends_with_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    write_run(tmp_path / "none")
    shutil.rmtree(tmp_path / "none/evaluations")
    with pytest.raises(RunError, match="dreamlab evaluate"):
        comparison.compare([tmp_path / "none"])
    assert main(["compare", str(tmp_path / "none"), str(tmp_path / "nowhere")]) == 1
    assert "is no folder" in capsys.readouterr().err
    assert main(["compare"]) == 2
    (tmp_path / "file").touch()
    assert main(["compare", str(tmp_path / "none"), "--out", str(tmp_path / "file")]) == 2


def test_a_folder_of_runs_is_all_of_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for name in ("a", "b"):
        write_run(tmp_path / "runs" / name, agent=f"iris-{name}")
    assert main(["compare", str(tmp_path / "runs")]) == 0
    assert {"iris-a", "iris-b"} <= set(capsys.readouterr().out.split())


def test_groups_keep_their_look_and_differ_without_colour(tmp_path: Path):
    runs = [write_run(tmp_path / f"{i}", agent=f"agent-{i}") for i in range(6)]
    found = comparison.compare(runs)
    looks = [comparison_plots.look(found.labels, label) for label in found.labels]
    assert len({str(look["linestyle"]) for look in looks}) == len({look["marker"] for look in looks}) == 6
    assert len(set(comparison_plots.HATCHES)) == 6
    figure = comparison_plots.scores(found.panels, found.labels)
    assert {t.get_text() for t in figure.axes[0].get_yticklabels()} >= {*found.labels, "IRIS", "random", "human"}
    assert plots.svg(figure).count("<text") > 12  # text stays text


# -- in a browser ----------------------------------------------------------------------------------------------------

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUIET = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run")
QUIET += ("--disable-component-update", "--disable-sync", "--host-resolver-rules=MAP * ~NOTFOUND")
ITS_OWN = r"https?://[\w.]*google[\w.]*/"
PROBE = """<iframe id=narrow src="{page}" width=360 height=700></iframe>
<iframe id=wide src="{page}" width=1280 height=700></iframe>
<script>onload = () => document.title = ["narrow", "wide"].map(name => {{
  const page = document.getElementById(name).contentDocument, root = page.documentElement
  return [root.scrollWidth - root.clientWidth, page.querySelectorAll("svg").length,
    getComputedStyle(page.body).backgroundColor].join(";")
}}).join("|")</script>"""


def opened(page: Path, place: Path, *options: str) -> tuple[str, list[str], list[str]]:
    """A page as Chromium shows it from the disk: its elements, what the console said, and what it asked for."""
    argv = [CHROMIUM, *QUIET, *options, f"--user-data-dir={place / 'profile'}", f"--log-net-log={place / 'net.json'}"]
    argv += ["--enable-logging=stderr", "--virtual-time-budget=2000", "--dump-dom", page.as_uri()]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True)
    said = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    urls = set(re.findall(r'"url":"(https?:[^"]*)', (place / "net.json").read_text()))
    return done.stdout, said, sorted(url for url in urls if not re.match(ITS_OWN, url))


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_pages_open_from_the_disk_without_errors_or_requests_on_any_width(written: tuple[Path, str], tmp_path: Path):
    from test_report import write_run as write_whole_run

    from dreamlab.evals.report import write_report

    run = write_whole_run(tmp_path / "run")
    pages = [written[0] / "report.html", write_report(run)]
    for page, theme, ground in ((pages[0], "1", "rgb(246, 247, 249)"), (pages[1], "0", "rgb(20, 22, 28)")):
        probe = tmp_path / "probe.html"
        probe.write_text(PROBE.format(page=page.as_uri()))
        options = ("--allow-file-access-from-files", f"--blink-settings=preferredColorScheme={theme}")
        seen, said, asked = opened(probe, tmp_path, *options)
        assert (said, asked) == ([], [])
        for width in re.search("<title>(.*)</title>", seen)[1].split("|"):
            over, pictures, colour = width.split(";")
            assert int(over) <= 0  # nothing is cut off, and nothing scrolls sideways
            assert int(pictures) >= 5
            assert colour == ground
    bad = tmp_path / "bad.html"
    bad.write_text('<img src="http://example.invalid/a.png"><script>missing()</script>')
    _, said, asked = opened(bad, tmp_path)
    assert said  # the check can fail
    assert asked == ["http://example.invalid/a.png"]


def test_report_writes_one_page_and_says_where(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = write_run(tmp_path / "run")
    assert main(["report", str(run)]) == 0
    page = (run / "report.html").read_text()
    assert "report.html" in capsys.readouterr().out
    for text in ("Score in ALE/Pong-v5", "DreamerV3 (2024)", "actions", "checkpoint 1,000", "Learning by wall time"):
        assert text in page
    assert main(["report", str(run), "--out", str(tmp_path / "x" / "page.html")]) == 0
    assert (tmp_path / "x" / "page.html").exists()
    assert main(["report", str(tmp_path / "nowhere")]) == 2
    assert main(["report", str(run), "--out", str(tmp_path)]) == 2


def test_a_page_has_room_for_so_much_and_names_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from dreamlab.evals import run_folder
    from dreamlab.evals.report import write_report

    monkeypatch.setattr(run_folder, "ROOM", 1000)
    run = write_run(tmp_path / "run")
    (run / "videos").mkdir()
    for name, size in (("large", 900), ("larger", 901)):
        (run / "videos" / f"{name}.mp4").write_bytes(bytes(size))
    page = write_report(run).read_text()
    assert page.count("<video") == 1
    assert re.search(r"Not embedded.*videos/larger?\.mp4", page)


def test_python_takes_a_run_a_folder_or_a_list(tmp_path):
    with pytest.raises(UserError, match="name at least one run"):
        dreamlab.compare([])
    with pytest.raises(RunError):
        dreamlab.compare(tmp_path / "nothing")
