"""The world model of IRIS: the paper's sizes, what reads what, labels, and that imagining keeps the context's rules."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from dreamlab.agents.iris import dynamics as parts
from dreamlab.agents.iris.config import DynamicsConfig
from dreamlab.agents.iris.dynamics import IGNORED, Dynamics, Memory, Said, Step, decay_groups, draw, labels_of
from dreamlab.core.errors import UserError
from dreamlab.core.imagination import pick, tree_map

K, V, A = 3, 11, 4


def small(tokens: int = K, blocks: int = 5, sharp: float = 0.3, **options) -> Dynamics:
    torch.manual_seed(0)
    net = Dynamics(tokens, V, A, DynamicsConfig(blocks=blocks, layers=2, heads=2, width=16, **options))
    with torch.no_grad():
        for p in net.parameters():
            p.add_(sharp * torch.randn_like(p))  # so that attention and draws are not even
    return net.eval()


def data(b: int, t: int, tokens: int = K, v: int = V) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    rew = torch.randint(-2, 3, (b, t), generator=g) * 1.5
    end = torch.zeros(b, t, dtype=torch.bool)
    end[0, -1] = True
    frames = torch.randint(v, (b, t, tokens), generator=g)
    return frames, torch.randint(A, (b, t), generator=g), rew, end, torch.ones(b, t, dtype=torch.bool)


def listen(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The logits of every draw from now on."""
    heard: list[Tensor] = []

    def listening(logits: Tensor, temperature: float = 1.0) -> Tensor:
        heard.append(logits)
        return draw(logits, temperature)

    monkeypatch.setattr(parts, "draw", listening)
    return heard


# -- the paper's numbers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("actions", [4, 18])
def test_the_papers_parameter_counts(actions: int):
    with torch.device("meta"):
        net = Dynamics(16, 512, actions, DynamicsConfig())
    assert sum(p.numel() for p in net.parameters()) == 8_446_469 + 256 * actions
    assert sum(p.numel() for p in net.transformer.parameters()) == 7_898_112
    assert net.positions == 340


@torch.no_grad()
def test_outputs_and_initial_losses_at_the_papers_shapes():
    torch.manual_seed(0)
    net = Dynamics(16, 512, A, DynamicsConfig(layers=1)).eval()
    tokens, act, rew, end, mask = data(2, 20, 16, 512)
    said = net(tokens, act)
    assert said.obs.flatten(1, 2).shape == (2, 320, 512)
    assert said.rew.shape == (2, 20, 3)
    assert said.end.shape == (2, 20, 2)
    assert labels_of(tokens, rew, end, mask)[0].shape == (2, 319)
    total, metrics = net.losses(tokens, act, rew, end, mask)
    for name, classes in (("obs", 512), ("rew", 3), ("end", 2)):
        assert metrics[f"loss/{name}"].item() == pytest.approx(math.log(classes), abs=0.05)
    assert total.item() == pytest.approx(sum(metrics[f"loss/{n}"].item() for n in ("obs", "rew", "end")), rel=1e-5)


# -- what reads what -----------------------------------------------------------------------------------------


def changed(one: Said, two: Said) -> tuple[Tensor, Tensor]:
    """(T, K) and (T,): which logits of tokens, and of rewards and ends, are not the same."""
    obs, rew, end = (((a - b).abs() > 1e-6).any(-1).any(0) for a, b in zip(one, two, strict=True))
    assert torch.equal(rew, end)
    return obs, rew


@torch.no_grad()
@pytest.mark.parametrize(("step", "k"), [(0, 0), (2, 0), (2, 1), (2, 2), (3, 1)])
def test_a_token_is_seen_from_its_place_on(step: int, k: int):
    """The logits at place k of a block have seen tokens up to k, but the last: those have seen the action too."""
    net = small()
    tokens, act, *_ = data(2, 4)
    before = net(tokens, act)
    tokens[:, step, k] = (tokens[:, step, k] + 1) % V
    obs, rew = changed(before, net(tokens, act))
    assert torch.equal(obs.flatten(), torch.arange(4 * K) >= step * K + k)
    assert torch.equal(rew, torch.arange(4) >= step)


@torch.no_grad()
def test_reward_and_end_have_seen_the_action_and_no_later_frame():
    net = small()
    tokens, act, *_ = data(2, 4)
    before = net(tokens, act)
    act[:, 1] = (act[:, 1] + 1) % A
    obs, rew = changed(before, net(tokens, act))
    assert rew.tolist() == [False, True, True, True]
    assert torch.equal(obs.flatten(), torch.arange(4 * K) >= 2 * K - 1)


@torch.no_grad()
@pytest.mark.parametrize("cut", [1, 4, 7, 10])
def test_a_partial_sequence_after_a_cache_gives_the_same_rows(cut: int):
    """Whatever the cut: the same slots are read, and say the same as in the whole sequence."""
    net = small()
    tokens, act, *_ = data(2, 3)
    said = net(tokens, act)
    x = torch.cat([net.embed_obs(tokens), net.embed_act(act)[:, :, None]], 2).flatten(1, 2)
    _, cache = net._extend(x[:, :cut], net.transformer.cache(2, net.positions), 0)
    y, _ = net._extend(x[:, cut:], cache, cut)
    places = torch.arange(cut, 3 * (K + 1))
    inside = places % (K + 1)
    rows = ((torch.arange(3 * K) // K) * (K + 1) + torch.tensor([*range(K - 1), K]).repeat(3)) >= cut
    torch.testing.assert_close(net.obs(y[:, inside != K - 1]), said.obs.flatten(1, 2)[:, rows], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(net.rew(y[:, inside == K]), said.rew[:, -(inside == K).sum() :], atol=1e-5, rtol=1e-5)


def test_a_sequence_longer_than_the_positions_is_refused():
    with pytest.raises(UserError, match=r"a sequence of 6 steps, but dynamics\.blocks is 5"):
        small()(*data(1, 6)[:2])


# -- losses --------------------------------------------------------------------------------------------------


def test_labels():
    tokens = torch.arange(2 * 3 * K).view(2, 3, K)
    rew = torch.tensor([[-7.0, 0.0, 0.5], [1.0, -0.1, 9.0]])
    end = torch.tensor([[False, False, True], [False, True, False]])
    mask = torch.tensor([[True, True, True], [True, True, False]])
    obs, signs, ends = labels_of(tokens, rew, end, mask)
    assert obs[0].tolist() == list(range(1, 9))  # all but the first
    assert obs[1].tolist() == [10, 11, 12, 13, 14] + [IGNORED] * 3
    assert signs.tolist() == [[0, 1, 2], [2, 0, IGNORED]]
    assert ends.tolist() == [[0, 0, 1], [0, 1, IGNORED]]


def test_logits_meet_the_labels_of_what_comes_next():
    """Losses are those of a loop over places that is written out."""
    net = small()
    tokens, act, rew, end, mask = data(2, 4)
    mask[1, 2:] = False
    said = net(tokens, act)
    nats: dict[str, list[Tensor]] = {"obs": [], "rew": [], "end": []}
    for b in range(2):
        for t in range(int(mask[b].sum())):
            nats["rew"].append(-said.rew[b, t].log_softmax(-1)[int(rew[b, t].sign()) + 1])
            nats["end"].append(-said.end[b, t].log_softmax(-1)[int(end[b, t])])
            nats["obs"] += [-said.obs[b, t, k].log_softmax(-1)[tokens[b, t, k + 1]] for k in range(K - 1)]
            if t + 1 < int(mask[b].sum()):
                nats["obs"].append(-said.obs[b, t, K - 1].log_softmax(-1)[tokens[b, t + 1, 0]])
    _, metrics = net.losses(tokens, act, rew, end, mask)
    for name, each in nats.items():
        torch.testing.assert_close(metrics[f"loss/{name}"], torch.stack(each).mean().detach())


def test_padding_changes_nothing():
    net = small()
    tokens, act, rew, end, mask = data(3, 5)
    mask[1, 3:], mask[2, 1:] = False, False
    before, metrics = net.losses(tokens, act, rew, end, mask)
    tokens[1, 3:], act[1, 3:], rew[1, 3:], end[1, 3:] = 0, 0, 5.0, True
    tokens[2, 1:], act[2, 1:], rew[2, 1:] = V - 1, A - 1, -5.0
    after, again = net.losses(tokens, act, rew, end, mask)
    assert torch.equal(before, after)
    assert all(torch.equal(metrics[name], again[name]) for name in metrics)


def test_where_nothing_is_there_nothing_is_lost():
    net = small(dropout=0.5).train()
    tokens, act, rew, end, mask = data(2, 4)
    assert net.losses(tokens, act, rew, end, mask & False)[0].item() == 0


def test_a_single_token_is_no_pair():
    net = small(tokens=1)
    total, metrics = net.losses(*data(1, 1, tokens=1))
    assert metrics["loss/obs"].item() == 0
    assert math.isfinite(total.item())


def test_only_weights_of_linear_layers_decay():
    net = small()
    decayed, spared = decay_groups(net, 0.01)
    names = {id(p): name for name, p in net.named_parameters()}
    inside = {names[id(p)] for p in decayed["params"]}
    assert decayed["weight_decay"] == 0.01
    assert spared["weight_decay"] == 0
    assert len(inside) + len(spared["params"]) == len(names)
    assert all(name.endswith("weight") and "embed" not in name and "norm" not in name for name in inside)
    assert inside >= {"obs.0.weight", "end.2.weight", "transformer.layers.1.qkv.weight"}
    assert len(inside) == 2 * 4 + 3 * 2


def test_it_learns_a_batch_by_heart():
    torch.manual_seed(0)
    net = Dynamics(K, V, A, DynamicsConfig(blocks=4, layers=2, heads=2, width=32, dropout=0.0))
    optimizer = torch.optim.AdamW(decay_groups(net, 0.01), 3e-3)
    batch = data(2, 4)
    batch[0][1, 0, 0] = batch[0][0, 0, 0]  # nothing foresees the first token: from here on the actions tell rows apart
    batch[0][1, 0, 1], batch[0][0, 0, 1] = 3, 3
    batch[0][1, 0, 2], batch[0][0, 0, 2] = 5, 5
    batch[1][:, 0] = torch.tensor([0, 1])
    for _ in range(150):
        total, metrics = net.losses(*batch)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    assert total.item() < 0.1
    assert metrics["token_accuracy"].item() == 1


# -- imagining -----------------------------------------------------------------------------------------------


def dream(net: Dynamics, memory: Memory, acts: Tensor, stepping: str = "step") -> tuple[Memory, list[Step]]:
    torch.manual_seed(7)
    steps = []
    for act in acts:
        memory, step = getattr(net, stepping)(memory, act)
        steps.append(step)
    return memory, steps


@torch.no_grad()
@pytest.mark.parametrize("tokens", [1, K])
def test_imagined_logits_are_those_of_the_sequence(tokens: int, monkeypatch: pytest.MonkeyPatch):
    """Cached equals uncached, the pass of two equals two passes, and all forms draw the same, in one order."""
    net, heard = small(tokens), listen(monkeypatch)
    start, acts = data(4, 1, tokens)[0][:, 0], torch.randint(A, (4, 4))
    found = []
    for stepping in ("step", "advance", "plain_step"):  # numbers, places as tensors, one token at a time
        heard.clear()
        memory, steps = dream(net, net.begin(start), acts, stepping)
        assert memory.cache.size.tolist() == [tokens - 1 + 4 * (tokens + 1)] * 4
        found.append((steps, list(heard)))
    for steps, logits in found[1:]:
        assert all(
            torch.equal(a, b) for s, r in zip(steps, found[0][0], strict=True) for a, b in zip(s, r, strict=True)
        )
        torch.testing.assert_close(logits, found[0][1], atol=1e-5, rtol=1e-5)
    steps, logits = found[0]
    frames = torch.stack([start, *(s.tokens for s in steps[:-1])], 1)  # (N, T, K)
    said = net(frames, acts.T)
    for t in range(4):
        rew, end, *obs = logits[t * (tokens + 2) :][: tokens + 2]
        torch.testing.assert_close(rew, said.rew[:, t], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(end, said.end[:, t], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(obs[0], said.obs[:, t, -1], atol=1e-5, rtol=1e-5)
        for k in range(1, tokens if t < 3 else 1):
            torch.testing.assert_close(obs[k], said.obs[:, t + 1, k - 1], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_papers_horizon_fills_the_cache_and_forgets_nothing():
    net = Dynamics(16, V, A, DynamicsConfig(layers=1, heads=1, width=4)).eval()
    memory = net.begin(torch.zeros(2, 16, dtype=torch.int64))
    sizes = [int(memory.cache.size[0]) + 1]  # with the one that is pending
    for k in range(20):
        memory, step = net.step(memory, torch.zeros(2, dtype=torch.int64), frame=k < 19)
        sizes.append(int(memory.cache.size[0]) + (k < 19))
    assert sizes[:20] == [16 + 17 * k for k in range(20)]
    assert sizes[20] == net.positions == 340
    assert step.tokens is memory.tokens


@torch.no_grad()
@pytest.mark.parametrize("stepping", ["step", "plain_step"])
def test_after_an_overflow_the_context_is_the_current_frame(stepping: str, monkeypatch: pytest.MonkeyPatch):
    net, heard = small(), listen(monkeypatch)  # 20 slots: four steps from the first frame's three
    acts = torch.randint(A, (6, 2))
    memory, _ = dream(net, net.begin(data(2, 1)[0][:, 0]), acts[:4])
    assert memory.cache.size.tolist() == [18, 18]
    fresh = net.begin(memory.tokens)
    found = []
    for start in (memory, fresh):
        heard.clear()
        after, steps = dream(net, start, acts[4:], stepping)
        assert after.cache.size.tolist() == [K - 1 + 2 * (K + 1)] * 2
        found.append((list(heard), [s.tokens for s in steps]))
    torch.testing.assert_close(found[0], found[1])


@torch.no_grad()
def test_a_last_step_without_its_frame_fits_where_a_whole_one_does_not():
    net = small()
    memory, _ = dream(net, net.begin(data(2, 1)[0][:, 0]), torch.randint(A, (4, 2)))
    act = torch.zeros(2, dtype=torch.int64)
    assert net.step(tree_map(torch.clone, memory), act, frame=False)[0].cache.size.tolist() == [20, 20]
    assert net.step(memory, act)[0].cache.size.tolist() == [K - 1 + K + 1] * 2


@torch.no_grad()
def test_rows_that_began_at_different_times_go_on_as_if_alone(monkeypatch: pytest.MonkeyPatch):
    """Row 0 overflows on the way, row 1 does not."""
    net, heard = small(), listen(monkeypatch)
    start, acts = data(2, 1)[0][:, 0], torch.randint(A, (7, 2))
    old, _ = dream(net, net.begin(start), acts[:3])
    memory = pick(torch.tensor([True, False]), old, net.begin(start))
    assert memory.cache.size.tolist() == [14, 2]
    alone = [tree_map(lambda x, row=row: x[row : row + 1].clone(), memory) for row in range(2)]
    for act in acts[3:]:
        heard.clear()
        memory, step = net.step(memory, act, temperature=0)
        together = list(heard)
        for row in range(2):
            heard.clear()
            alone[row], own = net.step(alone[row], act[row : row + 1], temperature=0)
            torch.testing.assert_close([x[row : row + 1] for x in together], list(heard), atol=1e-5, rtol=1e-5)
            assert torch.equal(own.tokens[0], step.tokens[row])
    assert memory.cache.size.tolist() == [14, 18]


@torch.no_grad()
def test_a_known_place_is_the_place_asked_for():
    net = small()
    acts, at = torch.randint(A, (4, 2)), K - 1
    start = data(2, 1)[0][:, 0]
    _, steps = dream(net, net.begin(start), acts)
    torch.manual_seed(7)
    memory = net.begin(start)
    for k, act in enumerate(acts):
        memory, step = net.step(memory, act, at=at + k * (K + 1))
        assert torch.equal(step.tokens, steps[k].tokens)


@torch.no_grad()
def test_what_a_step_draws():
    memory, step = (net := small()).step(net.begin(data(50, 1)[0][:, 0]), torch.randint(A, (50,)))
    assert torch.equal(memory.tokens, step.tokens)
    assert step.tokens.shape == (50, K)
    assert step.tokens.dtype == torch.int64
    assert set(step.rew.tolist()) <= {-1.0, 0.0, 1.0}
    assert step.end.dtype == torch.bool


@torch.no_grad()
def test_draws_follow_the_softmax_at_a_temperature():
    torch.manual_seed(0)
    logits = torch.tensor([0.0, 1.0, -1.0, 2.0]).expand(40_000, 4)
    for temperature in (0.5, 1.0, 3.0):
        shares = torch.bincount(draw(logits, temperature), minlength=4) / 40_000
        torch.testing.assert_close(shares, (logits[0] / temperature).softmax(-1), atol=0.012, rtol=0)
    assert (draw(logits, 0) == 3).all()
    assert (draw(logits, 1e-30) == 3).all()


@torch.no_grad()
def test_imagining_in_bf16():
    net = small()
    with torch.autocast("cpu", torch.bfloat16):
        memory, _ = dream(net, net.begin(data(2, 1)[0][:, 0]), torch.randint(A, (6, 2)))
        assert {part.dtype for part in memory.cache.keys} == {torch.bfloat16}
        said = net(*data(2, 4)[:2])
    assert {logits.dtype for logits in said} == {torch.float32}
