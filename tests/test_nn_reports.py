"""Values against what came, by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from dreamlab.nn import reports

GAMMA, STEPS = 0.9, 6


def found(terminal: bool, worth: float) -> dict[str, float]:
    """Of one whole episode whose every step brings 1, by a critic that says ``worth`` of all."""
    episodes = SimpleNamespace(
        start=np.array([0]), stop=np.array([STEPS]), stream=np.array([0]), whole=np.array([True])
    )
    ends = torch.zeros(1, STEPS, dtype=torch.bool)
    ends[0, -1] = terminal
    batch = SimpleNamespace(rew=torch.ones(1, STEPS), is_terminal=ends)
    model: Any = SimpleNamespace(observe=lambda rows: SimpleNamespace(feat=torch.zeros(1, STEPS, 2)))
    index = SimpleNamespace(episodes=lambda: episodes, streams=1)
    experience: Any = SimpleNamespace(index=index, gather=lambda rows: batch)
    measured = reports.values(model, experience, lambda feat: torch.full(feat.shape[:2], worth), GAMMA)
    return {name: float(value) for name, value in measured.items()}


def test_what_an_episode_that_was_cut_off_lacks_is_the_critic_s_to_say():
    """Rewards of 1 for ever are worth 1 / (1 - gamma): a critic that knows is right wherever the episode is cut."""
    assert found(terminal=False, worth=1 / (1 - GAMMA))["value_mae"] == pytest.approx(0, abs=1e-5)
    assert found(terminal=False, worth=0.0)["value_mae"] > 1


def test_after_an_end_nothing_comes():
    came = [sum(GAMMA**k for k in range(n)) for n in range(STEPS - 1, 0, -1)]
    measured = found(terminal=True, worth=2.0)
    assert measured["real_return"] == pytest.approx(np.mean(came))
    assert measured["value_bias"] == pytest.approx(2 - np.mean(came))
    assert measured["value_mae"] == pytest.approx(np.mean(np.abs(2 - np.array(came))))
