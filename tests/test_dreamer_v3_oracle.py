"""DreamerV3 in PyTorch against its definitions in NumPy (``dreamer_v3_numpy``), with the same weights and samples."""

from __future__ import annotations

import dreamer_v3_numpy as net
import dreamer_v3_numpy_losses as oracle
import numpy as np
import pytest
import torch
from dreamer_v3_tiny import TINY, Table, before, build, shaken

from dreamlab.agents import dreamer_v3
from dreamlab.nn import distributions, optim
from dreamlab.nn.rssm import State

K, S, G = TINY.classes, TINY.groups, dreamer_v3.BLOCKS
GAMMA, LAMBDA = oracle.GAMMA, TINY.trace


def close(found, want, rtol=2e-5, atol=2e-5):
    found = found.detach().numpy() if isinstance(found, torch.Tensor) else found
    assert found.shape == np.shape(want)
    np.testing.assert_allclose(found, want, rtol, atol)


def f64(x: torch.Tensor) -> np.ndarray:
    return x.detach().double().numpy()


# ---- weights, in the other's form


def layer(linear, scale=None):
    found = {"w": f64(linear.weight).T, "b": f64(linear.bias)}
    return found if scale is None else found | {"scale": f64(scale)}


def block_layer(linear):
    return {"w": f64(linear.weight), "b": f64(linear.bias)}


def mlp(module):
    parts = list(module.hidden)
    hidden = [layer(parts[i], parts[i + 1].scale) for i in range(0, len(parts), 2)]
    return hidden, None if module.out is None else layer(module.out)


def conv(module, norm=None):
    found = {"w": f64(module.weight).transpose(2, 3, 1, 0), "b": f64(module.bias)}
    return found if norm is None else found | {"scale": f64(norm.scale)}


def core(dynamics):
    """The cell's matrix as the original has it: each block's own share above its columns of the one for all blocks."""
    cell = dynamics.cell
    shared = np.split(f64(cell.shared.weight).T, G, -1)
    whole = np.stack([np.concatenate([own, part]) for own, part in zip(f64(cell.state.weight), shared, strict=True)])
    inputs = {f"dynin{i}": layer(cell.inputs[i], cell.scales[i]) for i in range(3)}
    hid = {"w": whole, "b": f64(cell.shared.bias), "scale": f64(cell.norm.scale)}
    (prior0, prior1), priorlogit = mlp(dynamics.prior)
    return inputs | {
        "dynhid0": hid,
        "dyngru": block_layer(cell.gates),
        "obs0": layer(dynamics.posterior, dynamics.posterior_after.scale),
        "obslogit": layer(dynamics.posterior_out),
        "prior0": prior0,
        "prior1": prior1,
        "priorlogit": priorlogit,
    }


def image_decoder(grown):
    return {
        "sp0": block_layer(grown.from_deter),
        "sp1": layer(grown.from_stoch, grown.stoch_norm.scale),
        "sp2": layer(grown.stoch_out),
        "spnorm": {"scale": f64(grown.norm.scale)},
        "stages": [conv(c, n) for c, n in zip(grown.convs[:-1], grown.norms, strict=True)],
        "imgout": conv(grown.convs[-1]),
    }


def vector_decoder(module, deter):
    """Its first layer takes [stoch, deter] in the original, and [deter, stoch] here."""
    hidden, out = mlp(module)
    first = hidden[0] | {"w": np.concatenate([hidden[0]["w"][deter:], hidden[0]["w"][:deter]])}
    return [first, *hidden[1:]], {"vector": out}


class Twin:
    """The whole agent in NumPy."""

    def __init__(self, agent):
        model = agent.model
        self.core = core(model.dynamics)
        image, vector = model.encoder.image, model.encoder.vector
        self.see = [conv(c, n) for c, n in zip(image.convs, image.norms, strict=True)], mlp(vector)[0]
        self.draw = image_decoder(model.decoder.image)
        self.tell = vector_decoder(model.decoder.vector, model.dynamics.cell.size)
        self.heads = {name: mlp(agent.parts[name]) for name in HEADS}

    def embed(self, image, vector):
        """(N, c, h, w) and (N, V)."""
        seen = net.encode_image(self.see[0], image.numpy().transpose(0, 2, 3, 1))
        return np.concatenate([net.mlp(self.see[1], net.vector_input({"vector": f64(vector)}, {})), seen], -1)

    def head(self, name, feat):
        return net.head(*self.heads[name], feat)

    def value(self, name, feat):
        return net.two_hot_prediction(self.head(name, feat))


HEADS = ("reward", "continuation", "actor", "critic", "slow_critic")


def grouped(flat):
    return f64(flat).reshape(*flat.shape[:-1], S, K)


@pytest.fixture(scope="module")
def agent():
    return shaken(build())


@pytest.fixture(scope="module")
def twin(agent):
    return Twin(agent)


@pytest.fixture(scope="module")
def batch():
    found = Table().window()
    assert found.is_first[:, 1:].any()
    assert found.is_terminal[:, :-1].any()
    assert (found.is_last & ~found.is_terminal)[:, :-1].any()
    return found


# ---- networks


def test_encoders(agent, twin, batch):
    want = twin.embed(batch.obs["image"].flatten(0, 1), batch.obs["vector"].flatten(0, 1))
    close(agent.model.encoder(batch.obs).flatten(0, 1), want)


@pytest.mark.parametrize("act", ["discrete", "continuous"])
def test_a_step_of_the_cell(act):
    agent = shaken(build(act))
    batch = Table(act).window()
    _, state = before(agent, batch)
    chosen = 3 * torch.randn(2, agent.model.actions.size)  # also beyond [-1, 1]
    found = agent.model.dynamics.stepper()(state, chosen).deter
    weights = core(agent.model.dynamics)
    close(found, net.core_step(weights, f64(state.deter), grouped(state.stoch), f64(chosen), np.zeros(2)))


def test_observing_through_a_reset(agent, twin, batch):
    act, start = before(agent, batch)
    dynamics = agent.model.dynamics
    embed = agent.model.encoder(batch.obs)
    states, raw = dynamics.observe(embed, act, batch.is_first, start)
    deter, post, prior = net.observe(
        twin.core,
        f64(start.deter),
        grouped(start.stoch),
        f64(embed),
        f64(act),
        batch.is_first.numpy(),
        grouped(states.stoch),
    )
    close(states.deter, deter)
    close(grouped(raw), post)
    close(grouped(dynamics.prior(states.deter)), prior)


def test_decoders_and_what_they_cost(agent, twin, batch):
    _, state = before(agent, batch)
    feat = torch.stack([state.feat] * batch.rew.shape[1], 1)  # (B, T, F)
    said = agent.model.decoder(state.feat)
    image = net.decode_image(twin.draw, f64(state.deter), grouped(state.stoch), 2, 2)
    vector = net.decode_vectors(*twin.tell, f64(state.deter), grouped(state.stoch))["vector"]
    close(said["image"].sigmoid(), image.transpose(0, 3, 1, 2))
    close(said["vector"], vector)
    losses = dreamer_v3.reconstruction_losses(agent.model, batch.obs, feat, distributions.squared_sigmoid_loss)
    true = batch.obs["image"].numpy().transpose(0, 1, 3, 4, 2)
    close(losses["image"], oracle.image_loss(image[:, None], true))
    close(losses["vector"], oracle.vector_loss(vector[:, None], f64(batch.obs["vector"])))


def test_two_hot():
    bins, rng = distributions.TwoHot(), np.random.default_rng(0)
    logit, target = 4 * rng.normal(size=(40, 255)), net.symexp(rng.uniform(-19, 19, size=40))
    logit[:20, :100], logit[:20, 155:] = -60, -60  # as trained heads are: nothing at the far ends
    logit32, target32 = (torch.tensor(x, dtype=torch.float32) for x in (logit, target))
    close(bins.loss(logit32, target32), net.two_hot_loss(f64(logit32), f64(target32)), rtol=1e-4, atol=1e-3)
    close(bins.mean(logit32)[:20], net.two_hot_prediction(logit)[:20], rtol=1e-4, atol=1e-3)
    close(bins.mean(logit32)[20:], net.two_hot_prediction(logit)[20:], rtol=1e-4, atol=10)


def test_kl_and_continuation():
    rng = np.random.default_rng(0)
    post, prior = rng.normal(size=(2, 50, S, K)) * np.linspace(0, 3, 50)[:, None, None]
    z = build().model.dynamics.latents
    stats = [z.stats(torch.tensor(x, dtype=torch.float32).flatten(-2)) for x in (post, prior)]
    want = oracle.kl_loss(post, prior)
    assert (want == 1).any()
    assert (want > 1).any()
    for found in dreamer_v3.kl_losses(z, *stats, 1.0).values():
        close(found, want)
    logit, over = rng.normal(size=(20, 1)), rng.integers(2, size=20).astype(bool)
    found = dreamer_v3.continuation_loss(torch.tensor(logit).float(), torch.tensor(over), GAMMA)
    close(found, oracle.binary_loss(logit[:, 0], oracle.con_target(over)))


# ---- behaviour


def test_the_range_of_returns_over_several_updates():
    rng, low, high = np.random.default_rng(0), 0.0, 0.0
    scale = dreamer_v3.ReturnRange(torch.device("cpu"))
    for k in range(8):
        ret = rng.normal(size=(4, 9)) * 10.0**k
        low, high, want = oracle.update_return_scale(low, high, ret)
        close(scale(torch.tensor(ret, dtype=torch.float32)), np.asarray(want), rtol=1e-4)


def test_the_actor_s_loss_of_continuous_actions():
    agent, rng = build("continuous"), np.random.default_rng(0)
    horizon, n, size = 4, 5, agent.model.actions.size
    out, act = rng.normal(size=(horizon, n, 2 * size)), 1.5 * rng.normal(size=(horizon, n, size))
    ret, val, con = rng.normal(size=(horizon, n)), rng.normal(size=(horizon + 1, n)), rng.random((horizon + 1, n))
    logp, chaos = oracle.normal_policy(out[..., :size], out[..., size:], act)
    want = oracle.actor_loss(logp.T, chaos.T, ret.T, val.T, con.T, 2.5, TINY.entropy)
    t = [torch.tensor(x, dtype=torch.float32) for x in (out, act, ret, val, con)]
    dream = dreamer_v3.Dream(torch.zeros(0), t[1], torch.zeros(horizon + 1, n), t[4])
    found, entropy = dreamer_v3.actor_loss(t[0], dream, agent.pick, (t[2] - t[3][:-1]) / 2.5, TINY.entropy)
    weight = dreamer_v3.imagined_returns(dream, t[3], LAMBDA)[1]
    close((weight * found).t(), want)
    close(entropy, chaos)


@pytest.mark.parametrize("act", ["discrete", "continuous"])
def test_every_loss_of_an_update(act, monkeypatch):
    """All of ``losses`` from rows on; only what was drawn is taken from it: z, imagined z and actions."""
    agent, batch, dreams = shaken(build(act)), Table(act).window(), []
    twin = Twin(agent)
    whole = agent.imagine
    monkeypatch.setattr(agent, "imagine", lambda *args: dreams.append(whole(*args)) or dreams[-1])
    agent.range.ends.copy_(torch.tensor([-1.0, 2.0]))
    led, start = before(agent, batch)
    losses, scales, states, _ = agent.losses(batch, led, start)
    want = expected(twin, batch, led, start, states, dreams[0], agent.model.actions.groups)
    assert losses.keys() == want.keys()
    for name, loss in losses.items():
        close(loss, want[name], rtol=3e-5, atol=3e-5)
    total = sum(scales[name] * loss.mean() for name, loss in losses.items())
    names = {"replay_value": "repval"}
    close(total, np.asarray(oracle.total_loss({names.get(k, k): v for k, v in want.items()})), rtol=1e-5)


def expected(twin, batch, led, start, states: State, dream, groups):
    """The losses by name, time first where imagined."""
    first, last, terminal = (getattr(batch, k).numpy() for k in ("is_first", "is_last", "is_terminal"))
    shape, rew = batch.rew.shape, f64(batch.rew)
    image, vector = batch.obs["image"], f64(batch.obs["vector"])
    embed = twin.embed(image.flatten(0, 1), batch.obs["vector"].flatten(0, 1)).reshape(*shape, -1)
    stoch = grouped(states.stoch)
    deter, post, prior = net.observe(twin.core, f64(start.deter), grouped(start.stoch), embed, f64(led), first, stoch)
    feat = net.feature(deter, stoch)
    flat = deter.reshape(-1, deter.shape[-1]), stoch.reshape(-1, S, K)
    drawn = net.decode_image(twin.draw, *flat, 2, 2).reshape(*shape, 8, 8, 3)
    told = net.decode_vectors(*twin.tell, *flat)["vector"].reshape(*shape, -1)
    kl = oracle.kl_loss(post, prior)
    losses = {
        "image": oracle.image_loss(drawn, image.numpy().transpose(0, 1, 3, 4, 2)),
        "vector": oracle.vector_loss(told, vector),
        "dyn": kl,
        "rep": kl,
        "rew": net.two_hot_loss(twin.head("reward", feat), rew),
        "con": oracle.binary_loss(twin.head("continuation", feat)[..., 0], oracle.con_target(terminal)),
    }
    # imagined from every row: h by the cell, z and a as they were drawn
    seen, act = f64(dream.feat), f64(dream.act)
    h, zs = flat[0], seen[..., deter.shape[-1] :].reshape(*seen.shape[:2], S, K)
    np.testing.assert_array_equal(zs[0], flat[1])
    hs = [h]
    for k in range(len(act)):
        hs.append(net.core_step(twin.core, hs[-1], zs[k], act[k], np.zeros(len(h))))
    seen = net.feature(np.stack(hs), zs).swapaxes(0, 1)  # (N, H + 1, F)
    act = act.swapaxes(0, 1)
    con = net.sigmoid(twin.head("continuation", seen)[..., 0])
    val, slow = twin.value("critic", seen), twin.value("slow_critic", seen)
    ret = oracle.imagined_return(twin.value("reward", seen), con, val)
    *_, scale = oracle.update_return_scale(-1.0, 2.0, ret)
    assert scale > 1
    out = twin.head("actor", seen[:, :-1])
    if groups:
        logp, chaos = oracle.categorical_policy(out, act.argmax(-1))
    else:
        logp, chaos = oracle.normal_policy(*np.split(out, 2, -1), act)
    losses["policy"] = oracle.actor_loss(logp, chaos, ret, val, con, scale).T
    losses["value"] = oracle.critic_loss(twin.head("critic", seen), ret, slow, con).T
    # real rows
    boot = ret[:, 0].reshape(shape)
    losses["replay_value"] = oracle.replay_value_loss(
        twin.head("critic", feat), twin.value("slow_critic", feat), rew, last, terminal, boot
    )
    return losses


# ---- updates


def test_several_steps_of_the_optimiser():
    rng = np.random.default_rng(0)
    params = {"a": rng.normal(size=(4, 3)), "b": np.zeros(5), "c": 1e-3 * rng.normal(size=7)}
    ours = [torch.nn.Parameter(torch.tensor(v, dtype=torch.float32)) for v in params.values()]
    optimizer = optim.LaProp(ours, lr=1e-2, warmup=3)
    state = oracle.laprop_start(params)
    for k in range(6):
        grads = {name: rng.normal(size=v.shape) * 10.0 ** (k - 4) for name, v in params.items()}
        params, state = oracle.laprop_step(params, grads, state, peak=1e-2, warmup=3)
        for p, grad in zip(ours, grads.values(), strict=True):
            p.grad = torch.tensor(grad, dtype=torch.float32)
        optimizer.step()
        for p, want in zip(ours, params.values(), strict=True):
            close(p, want, rtol=5e-5, atol=1e-6)


def test_an_update_moves_the_slow_critic_after_the_critic():
    agent, table = shaken(build(warmup=1)), Table()
    named = {k: f64(p) for k, p in agent.slow.named_parameters()}
    start = [p.clone() for p in agent.critic.parameters()]
    agent.learn(table)
    agent.learn(table)  # the first one's learning rate is 0
    moved = {k: f64(p) for k, p in agent.critic.named_parameters()}
    assert all(not torch.equal(a, b) for a, b in zip(start, agent.critic.parameters(), strict=True))
    once = oracle.mix_slow(named, {k: f64(p) for k, p in zip(named, start, strict=True)})
    want = oracle.mix_slow(once, moved)
    for name, p in agent.slow.named_parameters():
        close(p, want[name], atol=1e-6)
