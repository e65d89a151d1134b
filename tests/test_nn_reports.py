"""Values against what came, by hand."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from dreamlab.nn import reports
from dreamlab.nn.rssm import State

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


N, T = 3, reports.CONTEXT + 40


class Echo:
    """A model whose h is the last row's code and action, as they are; z is ``luck``; its heads read h alone, or z."""

    def __init__(self, luck: float = 0.0) -> None:
        self.luck = luck
        self.learned: Learned = torch.clone
        self.actions: Any = SimpleNamespace(seen=lambda act: act)
        self.dynamics: Any = SimpleNamespace(
            stepper=lambda: lambda before, act: State(before.stoch + act, before.stoch),
            prior=lambda deter: torch.zeros_like(deter),
            latents=SimpleNamespace(
                noise=lambda n, device: torch.randn(n, 1), draw=lambda raw, noise: raw + luck * noise
            ),
        )
        self.reward: Any = lambda feat: feat.sum(-1, keepdim=True)
        self.continuation: Any = lambda feat: -feat.sum(-1, keepdim=True)
        self.reading: Any = SimpleNamespace(
            rew=lambda out: out.squeeze(-1), con=lambda out: (out.squeeze(-1) >= -1.5).float()
        )

    def observe(self, batch: Any) -> State:
        """h: this row's reward less its code; z: the code, to which the next row's reward adds the action."""
        return State((self.learned(batch.rew) - batch.obs["code"]).unsqueeze(-1), batch.obs["code"].unsqueeze(-1))


def rows(scale: float = 1.0) -> SimpleNamespace:
    """Each reward is the code and the action of the row before, 0 to 2; an episode ends where it is 2."""
    code, act = torch.randint(2, (N, T)).float(), torch.randint(2, (N, T, 1)).float()
    rew = torch.cat([torch.zeros(N, 1), (code + act[..., 0])[:, :-1]], 1) * scale
    first = torch.zeros(N, T, dtype=torch.bool)
    first[:, 0] = True
    return SimpleNamespace(
        obs={"code": code}, act=act, rew=rew, is_first=first, is_terminal=rew > 1.5, mask=torch.ones_like(first)
    )


Learned = Callable[[torch.Tensor], torch.Tensor]


def foreseen(
    model: Any, batch: Any, monkeypatch: pytest.MonkeyPatch, reward: Learned = torch.clone
) -> dict[str, float]:
    monkeypatch.setattr(reports, "StreamWindows", lambda seed: lambda index, n, length: np.zeros((N, T), int))
    experience: Any = SimpleNamespace(index=SimpleNamespace(start=0, stop=T), gather=lambda ids: batch)
    return {name: float(value) for name, value in reports.foresight(model, experience, reward).items()}


def test_what_follows_from_state_and_action_is_foreseen(monkeypatch: pytest.MonkeyPatch):
    """A row too early or too late, or another action, and next to nothing would be."""
    torch.manual_seed(0)
    measured = foreseen(Echo(), rows(), monkeypatch)
    assert measured == pytest.approx(dict.fromkeys(("reward_told", "reward_foreseen", "end_told", "end_foreseen"), 1))


def test_what_is_told_by_chance_is_seen_and_not_foreseen(monkeypatch: pytest.MonkeyPatch):
    torch.manual_seed(0)
    batch = rows()
    measured = foreseen(Echo(luck=3.0), batch, monkeypatch)
    assert measured["reward_told"] == pytest.approx(1)
    assert measured["end_foreseen"] < 0.5 < measured["end_told"]


@pytest.mark.parametrize("luck", [1.0, 3.0])
def test_that_draws_are_few_costs_nothing_on_the_mean(luck: float, monkeypatch: pytest.MonkeyPatch):
    """The mean of all draws foresees everything here; that of eight is off by luck^2 / 8."""
    torch.manual_seed(0)
    monkeypatch.setattr(reports, "AT_ONCE", reports.FORESEEN)
    shares = [foreseen(Echo(luck), rows(), monkeypatch)["reward_foreseen"] for _ in range(200)]
    assert np.mean(shares) == pytest.approx(1, abs=4 * np.std(shares) / 200**0.5)
    assert np.std(shares) < luck**2 / reports.DRAWS  # so that it would be seen


def test_rewards_are_compared_as_they_are_learned(monkeypatch: pytest.MonkeyPatch):
    """A head that is off by a hundredth in its own units is off by far more where these are stretched again."""
    torch.manual_seed(0)
    model, batch = Echo(), rows()
    variance = float(batch.rew[:, reports.CONTEXT :].var(correction=0))
    model.learned = lambda rew: rew ** (1 / 3)
    model.reading.rew = lambda out: (out.squeeze(-1) + 0.01) ** 3
    batch.rew = batch.rew**3
    measured = foreseen(model, batch, monkeypatch, reward=model.learned)
    assert measured["reward_told"] == pytest.approx(1 - 0.01**2 / variance, rel=1e-5)


def test_ends_are_looked_at_as_often_as_they_come(monkeypatch: pytest.MonkeyPatch):
    """Of episodes of 400 steps windows inside one show the last row in one of 350."""
    looked: list[np.ndarray] = []
    monkeypatch.setattr(reports, "foretold", lambda model, ids, reward: looked.append(ids[:, reports.CONTEXT :]) or {})
    experience: Any = SimpleNamespace(index=SimpleNamespace(start=0, stop=8000, streams=1), gather=lambda ids: ids)
    assert reports.foresight(Echo(), experience) == {}  # type: ignore[arg-type]
    rows = np.concatenate(looked)
    assert (rows % 400 == 399).mean() == pytest.approx(1 / 400, rel=0.5)


def test_what_never_varies_and_what_is_not_there_is_left_out(monkeypatch: pytest.MonkeyPatch):
    model = Echo()
    for constant in (0.0, 0.1):  # 0.1 is no number of float32's: its mean is another
        batch = rows(scale=0.0)
        batch.rew += constant
        assert foreseen(model, batch, monkeypatch) == {}
    model.continuation = None
    assert set(foreseen(model, rows(), monkeypatch)) == {"reward_told", "reward_foreseen"}


def test_rows_that_are_padding_or_begin_an_episode_do_not_count(monkeypatch: pytest.MonkeyPatch):
    torch.manual_seed(0)
    batch = rows()
    batch.is_first[:, 20] = True
    batch.mask[:, 30:] = False
    want = foreseen(Echo(), batch, monkeypatch)
    for wrong in (20, *range(31, T)):
        batch.rew[:, wrong] = 50.0
    assert want == foreseen(Echo(), batch, monkeypatch) == pytest.approx(dict.fromkeys(want, 1))
