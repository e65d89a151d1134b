"""IRIS learns: each test is a preset by its command, up to half an hour on one core (pytest -m slow)."""

from __future__ import annotations

import json

import pytest
from test_dreamers_learning import trained

from dreamlab.cli.main import main


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", ["lstm", "transformer"])
def test_pixels_of_a_known_optimum(kind, tmp_path):
    """The best return of Catch is exactly 1, that of chance -0.75."""
    run = tmp_path / "run"
    assert trained(run, "iris", "--preset", "small", "--env", "tiny/Catch", "--agent.actor-critic.kind", kind) > 0.95


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_reconstructions_of_pong_keep_ball_and_paddles(tmp_path):
    """Of what differs from the background more than half stays, where a mean over the frame would hide it."""
    pytest.importorskip("ale_py")
    run = tmp_path / "run"
    argv = ["train", "iris", "--env", "ALE/Pong-v5", "--preset", "pong-tokenizer", "--run", str(run)]
    assert main(argv) == 0
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["train/moving_kept"] for line in lines if "train/moving_kept" in line][-1] > 0.5
