"""Statistics against brute force and closed forms, published tables against published aggregates."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from dreamlab import envs
from dreamlab.evals import published, statistics
from dreamlab.evals.protocols import differences, judgement
from dreamlab.evals.statistics import interval, iqm, mean, median, optimality_gap

CHANCE = np.random.default_rng(0)
TASKS = [CHANCE.lognormal(-1, 1, runs) for runs in (5, 5, 5, 5)]


def test_aggregates_are_what_a_loop_over_runs_and_tasks_gives():
    table = [list(task) for task in TASKS]
    pool = sorted(itertools.chain(*table))
    assert mean(TASKS) == pytest.approx(math.fsum(pool) / len(pool))
    means = sorted(math.fsum(row) / len(row) for row in table)
    assert median(TASKS) == pytest.approx((means[1] + means[2]) / 2)
    assert iqm(TASKS) == pytest.approx(math.fsum(pool[5:15]) / 10)
    assert optimality_gap(TASKS) == pytest.approx(1 - math.fsum(min(score, 1.0) for score in pool) / len(pool))


def test_closed_forms():
    ramp = [np.arange(1.0, 101.0)]
    assert iqm(ramp) == median(ramp) == mean(ramp) == 50.5  # symmetric
    outlier = [np.array([0.0, 0.0, 0.0, 1e9])]
    assert (iqm(outlier), median(outlier)) == (0.0, 0.0)
    assert optimality_gap([np.array([0.25, 3.0])]) == 0.375  # what is above 1 makes up for nothing
    assert statistics.normalised(np.array([-20.7, 14.6]), -20.7, 14.6).tolist() == [0.0, 1.0]
    with pytest.raises(ValueError):
        statistics.normalised(np.zeros(1), 3.0, 3.0)


def test_many_samples_at_once_are_each_sample_alone():
    drawn = [CHANCE.normal(size=(7, runs)) for runs in (3, 5, 4)]
    for statistic in statistics.STATISTICS.values():
        alone = [float(statistic([task[i] for task in drawn])) for i in range(7)]
        assert statistic(drawn) == pytest.approx(alone)


def test_the_interval_is_the_one_of_every_resampling_there_is():
    tasks = [np.array([1.0, 2.3, 4.1, 4.9]), np.array([0.0, 8.7, 3.2])]
    everything = [
        (np.mean(first) + np.mean(second)) / 2
        for first in itertools.product(tasks[0], repeat=4)
        for second in itertools.product(tasks[1], repeat=3)  # drawn within each task: stratified
    ]
    exact = np.quantile(everything, (0.1, 0.9))
    assert interval(tasks, mean, repeats=40_000, level=0.8) == pytest.approx(tuple(exact), abs=0.05)


def test_the_interval_of_a_mean_has_the_width_that_theory_gives():
    scores = np.random.default_rng(1).normal(3.0, 2.0, 400)
    low, high = interval([scores], mean)
    width = 2 * 1.96 * scores.std() / math.sqrt(400)
    assert high - low == pytest.approx(width, rel=0.08)
    assert low < scores.mean() < high
    assert (low, high) == interval([scores], mean)  # the same every time


def test_a_single_run_has_no_interval():
    assert all(map(math.isnan, interval([np.ones(1)], iqm)))
    with pytest.raises(ValueError):
        interval([np.zeros(0)], mean)


# -- published -----------------------------------------------------------------------------------------------------


def tables() -> dict:
    return {table["id"]: table for table in published.data()["tables"]}


def columns(table: dict) -> np.ndarray:
    cells = [[cell[0] if isinstance(cell, list) else cell for cell in row] for row in table["rows"].values()]
    return np.array(cells, float)  # (tasks, methods), NaN where there is none


def test_every_row_has_a_cell_for_each_method_and_every_score_a_source():
    for table in published.data()["tables"]:
        assert all(len(row) == len(table["columns"]) for row in table["rows"].values()), table["id"]
        assert table["source"]
    assert not [s for s in published.scores("crafter/reward") if s.verified]
    assert {s.method for s in published.scores("ALE/Pong-v5") if not s.verified} == {"DreamerV3 (2023)"}


def test_the_tables_give_the_aggregates_that_were_published():
    """A slip of the pen in a table moves its mean or its median."""
    scores = columns(tables()["atari-100k"])
    low, high = scores[:, :1], scores[:, 1:2]
    aggregates = {a["title"]: a["rows"] for a in published.data()["aggregates"]}
    for name, title in (("atari-100k", "Atari 100k, human"), ("atari-100k-dreamer-v3", "Atari 100k, DreamerV3")):
        told = next(rows for full, rows in aggregates.items() if full.startswith(title))
        scaled = (columns(tables()[name]) - low) / (high - low)
        assert np.abs(scaled.mean(0) - told["mean"]).max() < 6e-3
        assert np.abs(np.median(scaled, 0) - told["median"]).max() < 5e-3
        if "at or above human" in told:
            assert (scaled >= 1).sum(0)[2:].tolist() == told["at or above human"][2:]
    control = columns(tables()["dmc"])
    told = next(rows for full, rows in aggregates.items() if full.startswith("DeepMind Control"))
    assert np.nanmean(control, 0) == pytest.approx(told["mean"][:5], abs=0.6)
    assert np.nanmedian(control, 0) == pytest.approx(told["median"][:5], abs=0.6)


def test_every_task_of_a_table_is_an_environment_here():
    from dreamlab.envs import atari, dmc

    games = set((atari.CLASSIC + atari.MORE).split())
    tasks = {id.removeprefix("dmc/") for id in dmc.ids()} if dmc.ids() else None
    for table in published.data()["tables"]:
        if table["suite"] == "atari":
            assert set(table["rows"]) <= games, table["id"]
        if table["suite"] == "dmc" and tasks:
            assert set(table["rows"]) <= tasks
    for id in ("ALE/Pong-v5", "PongNoFrameskip-v4"):
        assert {s.method: s.mean for s in published.scores(id)}["IRIS"] == 14.6
    assert {s.method: s.mean for s in published.scores("CarRacing-v3")}["World Models"] == 906
    assert published.scores("VizdoomTakeCover-v1")
    assert published.scores("tiny/Catch") == []
    assert published.scale("ALE/SpaceInvaders-v5") is None  # its human score is in no table
    assert published.scale("dmc/walker_walk").high == 1000


# -- protocols -----------------------------------------------------------------------------------------------------


def protocol(**env) -> dict:
    given = {"id": "ALE/Pong-v5", "repeat": 4, "sticky": 0.25, "size": [64, 64], "workers": True, **env}
    return {"env": given, "episodes": 100, "seed": 0, "policy": "evaluation, actions by sample", "date": "2026-01-01"}


def test_what_has_no_part_in_a_score_is_no_difference():
    a, b = protocol(), {**protocol(workers=False), "date": "2026-02-02", "checkpoint": 3, "precision": "bf16"}
    assert differences({"a": a, "b": b}) == []
    assert "one protocol" in judgement([], 2)


@pytest.mark.parametrize(
    ("other", "kind", "words"),
    [
        (protocol(sticky=0.0), "task", "sticky actions: 0.25 (a), 0 (b)"),
        (protocol(repeat=1), "task", "frames an action lasts: 4 (a), 1 (b)"),
        ({**protocol(), "policy": "evaluation, actions by mode"}, "acting", "chosen: drawn (a), the likeliest (b)"),
        ({**protocol(), "temperature": 0.5}, None, ""),  # a word of its own, which the other does not know
        (protocol(size=[84, 84]), "sight", "size of images: 64x64 (a), 84x84 (b)"),
        ({**protocol(), "episodes": 20}, "sample", "episodes: 100 (a), 20 (b)"),
    ],
)
def test_differences_are_told_in_words_and_judged(other: dict, kind: str | None, words: str):
    found = differences({"a": protocol(), "b": other})
    assert [d.kind for d in found] == ([kind] if kind else [])
    assert all(words in d.words() for d in found)
    assert ("NOT taken under one protocol" in judgement(found, 2)) == (kind == "task")


def test_stored_scores_and_papers_speak_of_the_same_settings():
    """A published setting that no environment has would never be compared."""
    for table in published.data()["tables"]:
        id = {"atari": "PongNoFrameskip-v4", "car_racing": "CarRacing-v3", "take_cover": "VizdoomTakeCover-v1"}
        own = vars(envs.default_config(id[table["suite"]])) if table["suite"] in id else None
        parts = [table, *table["columns"]]
        keys = {key for part in parts for key in part.get("protocol", {}).get("env", {})}
        assert own is None or keys <= set(own), table["id"]
