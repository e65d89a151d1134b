"""``dreamlab ls`` says how far each run is, survives whatever lies there, and reads little."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path

import pytest

from dreamlab.cli import ls, session
from dreamlab.cli.main import main
from dreamlab.core.config import write_yaml

TRAIN = ["train", "random", "--env", "tiny/Catch", "--steps", "100", "--env.no-workers", "--eval-episodes", "2"]


def write_run(folder: Path, step: int = 1250, mean: float | None = 812.3, final: int = -1, age: float = 0) -> Path:
    """A run of two phases, 1000 environment steps and 500 rounds, at a step."""
    (folder / "checkpoints" / "1000").mkdir(parents=True)
    write_yaml(folder / "config.yaml", {"agent": "world-models", "env": {"id": "CarRacing-v3"}})
    run = {"phases": [["collect", 1000, 0], ["vision", 0, 500]], "clocks": {"final": final}}
    (folder / "checkpoints" / "1000" / "state.json").write_text(json.dumps({"step": 1000, "parts": {"run": run}}))
    lines = [{"step": 50, "collect/ret": -3.0}, {"step": step, "vision/loss": 61.0}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if mean is not None:
        (folder / "evaluations").mkdir()
        score = {"mean": mean, "std": 41.2, "returns": [0.0] * 100}
        (folder / "evaluations" / "1000.json").write_text(json.dumps(score))
    for path in (*folder.rglob("*"), folder):
        os.utime(path, (time.time() - age,) * 2)
    return folder


def listed(capsys: pytest.CaptureFixture[str], folder: Path) -> dict[str, dict]:
    capsys.readouterr()
    assert main(["ls", str(folder), "--json"]) == 0
    return {row["run"]: row for row in json.loads(capsys.readouterr().out)}


def test_phase_progress_and_score(tmp_path, capsys):
    write_run(tmp_path / "a", step=1250, age=30)
    write_run(tmp_path / "sweep" / "b", step=250, mean=None, age=7200)
    rows = listed(capsys, tmp_path)
    assert list(rows) == ["a", "sweep/b"]  # newest first
    assert (rows["a"]["phase"], rows["a"]["done"], rows["a"]["step"]) == ("vision", 0.5, 1250)
    assert (rows["sweep/b"]["step"], rows["sweep/b"]["last_return"], rows["sweep/b"]["mean"]) == (1000, -3.0, None)
    assert (rows["a"]["mean"], rows["a"]["std"], rows["a"]["episodes"]) == (812.3, 41.2, 100)
    assert main(["ls", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert re.search(r"^a +world-models +CarRacing-v3 +stopped +vision 50% +1,250 +812 ± 41 \(100\) +now", said, re.M)
    assert re.search(r"^sweep/b .* -3.0 training +2h", said, re.M)
    assert "\x1b" not in said


def test_standard_names_fit_one_line_of_a_narrow_terminal(tmp_path, capsys):
    for seed in range(3):
        write_run(tmp_path / f"world-models-CarRacing-v3-s{seed}", step=10_400_000)
    main(["ls", str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert max(len(line.rstrip()) for line in lines) < 100


def test_a_run_is_running_while_it_is_held_then_finished_or_stopped_or_failed(tmp_path, capsys, monkeypatch):
    run = write_run(tmp_path / "run", step=1000)
    with session.locked(run):
        assert listed(capsys, tmp_path)["run"]["state"] == "running"
        assert session.is_training(run)  # looking did not let go of it
    assert listed(capsys, tmp_path)["run"]["state"] == "stopped"
    assert main([*TRAIN, "--run", str(tmp_path / "whole")]) == 0
    row = listed(capsys, tmp_path)["whole"]
    assert (row["state"], row["phase"], row["done"], row["step"], row["episodes"]) == ("finished", "collect", 1, 100, 2)
    assert main([*TRAIN, "--run", str(tmp_path / "whole"), "--steps", "400", "--threads", "-1"]) == 2
    assert listed(capsys, tmp_path)["whole"]["state"] == "finished"  # a mistyped option is no failure of the run

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("dreamlab.run.checkpoint.save_file", full)
        assert main([*TRAIN, "--run", str(tmp_path / "full")]) == 1
    row = listed(capsys, tmp_path)["full"]
    assert (row["state"], "disk is full" in row["problem"]) == ("failed", True)
    assert main([*TRAIN, "--run", str(tmp_path / "full")]) == 0
    assert listed(capsys, tmp_path)["full"]["state"] == "finished"


BREAKS = {
    "config.yaml": [None, "agent: [", "- 1", "agent: 3\nenv: 4\n"],
    "metrics.jsonl": ["\udcff\n", '{"step": "x"}\n[1]\n{"step"'],
    "checkpoints/1000/state.json": ["", "[]", "{}", '{"step": 1, "parts": {"run": {"phases": [3]}}}'],
    "evaluations/1000.json": ["nonsense", '{"mean": NaN, "std": 1, "returns": []}', '{"mean": "high"}'],
}


@pytest.mark.parametrize(("file", "text"), [(f, t) for f, texts in BREAKS.items() for t in texts])
def test_what_is_broken_is_named_and_the_rest_is_listed(file, text, tmp_path, capsys):
    write_run(tmp_path / "good")
    path = write_run(tmp_path / "bad") / file
    path.unlink()
    if text is not None:
        path.write_text(text, encoding="utf-8", errors="surrogateescape")
    rows = listed(capsys, tmp_path)
    assert rows["good"]["problem"] is None
    assert set(rows) == {"good", "bad"}
    assert bool(rows["bad"]["problem"]) == (file != "metrics.jsonl" and "mean" not in str(text))
    assert main(["ls", str(tmp_path)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3 + bool(rows["bad"]["problem"])


def test_foreign_empty_and_missing_folders(tmp_path, capsys):
    assert main(["ls", str(tmp_path)]) == 0
    assert "no runs in" in capsys.readouterr().out
    assert listed(capsys, tmp_path) == {}
    assert main(["ls", str(tmp_path / "nowhere")]) == 2
    assert "does not exist" in capsys.readouterr().err
    (tmp_path / "photos" / "2024").mkdir(parents=True)
    (tmp_path / "loop").symlink_to(tmp_path)
    run = write_run(tmp_path / "run")
    (run / "evaluations" / "dangling.json").symlink_to("nowhere")
    assert main(["ls", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "no runs in: photos" in said
    assert "FileNotFoundError" in said
    assert len(listed(capsys, tmp_path)) == 1  # the link leads to the same run
    assert list(listed(capsys, run)) == ["run"]  # a run itself is listed alone


def test_hundreds_of_long_runs_are_listed_in_no_time(tmp_path):
    line = json.dumps({"step": 1250, **{f"vision/{i}": 1.0 for i in range(20)}}) + "\n"
    for i in range(100):
        run = write_run(tmp_path / f"run-{i}")
        if i < 3:
            (run / "metrics.jsonl").write_text(line * 40_000)
    places, _ = ls.find(tmp_path)
    began = time.process_time()
    rows = [ls.look(place, tmp_path) for place in places]
    assert len(rows) == 100
    assert time.process_time() - began < 1.5
