"""DreamerV3's losses, returns and optimiser in plain float64 NumPy, beside the networks of ``dreamer_v3_numpy``.

No gradients here: where the paper stops one, the stopped quantity is an argument of its own, so the
``numerical_gradient`` in the other arguments is the gradient that the paper means. Losses keep their batch and time
axes (...).
"""

from __future__ import annotations

import numpy as np
from dreamer_v3_numpy import log_softmax, sigmoid, symlog, two_hot_loss, unimix

GAMMA = 1 - 1 / 333
LAMBDA = 0.95
LOSS_SCALES = {"rew": 1.0, "con": 1.0, "dyn": 1.0, "rep": 0.1, "policy": 1.0, "value": 1.0, "repval": 0.3}
"""beta of every loss; reconstructions, whatever their key, have 1"""


def numerical_gradient(function, x, step=1e-6):
    """d function(x) / dx by central differences; function: array -> number, x of any shape -> same shape."""
    grad, x = np.zeros(x.shape), x.astype(np.float64)
    for i in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[i] += step
        down[i] -= step
        grad[i] = (function(up) - function(down)) / (2 * step)
    return grad


# World-model losses


def image_loss(mean, image):
    """Squared error without a half, summed over the pixels: mean (..., h, w, c), uint8 image -> (...)."""
    return ((mean - image / 255) ** 2).sum((-3, -2, -1))


def vector_loss(pred, target):
    """(pred - symlog(target))^2 without a half, summed: (..., n) twice -> (...)."""
    return ((pred - symlog(target)) ** 2).sum(-1)


def discrete_loss(logit, index):
    """-ln softmax(logit)[index]: logit (..., n, K), index (..., n) -> (...), summed over n."""
    return -np.take_along_axis(log_softmax(logit), index[..., None], -1)[..., 0].sum(-1)


def kl_categorical(q, p):
    """KL(q || p) of probabilities, per latent: (..., S, K) twice -> (..., S)."""
    return (q * (np.log(q) - np.log(p))).sum(-1)


def kl_loss(post_logit, prior_logit, free_nats=1.0, mix=0.01):
    """L_dyn = L_rep in value: max(1, sum over latents of KL(q || p)); logits (..., S, K) -> (...).

    L_dyn's gradient is in the second argument alone, L_rep's in the first alone.
    """
    return np.maximum(free_nats, kl_categorical(unimix(post_logit, mix), unimix(prior_logit, mix)).sum(-1))


def con_target(is_terminal):
    """c_t: gamma, or 0 where the episode terminated (not where it was cut); (...) -> (...)."""
    return GAMMA * (1 - np.asarray(is_terminal, np.float64))


def binary_loss(logit, target):
    """-[c ln sigmoid(l) + (1 - c) ln sigmoid(-l)], the loss of con with a soft c; (...) twice -> (...)."""
    return target * np.logaddexp(0, -logit) + (1 - target) * np.logaddexp(0, logit)


def total_loss(losses):
    """{name: loss of any shape} -> a number: the scaled sum of the means; unknown names are reconstructions."""
    return sum(LOSS_SCALES.get(name, 1.0) * loss.mean() for name, loss in losses.items())


# Returns


def imagined_return(rew, con, val, trace=LAMBDA):
    """R_t = r_{t+1} + c_{t+1} [(1 - lambda) v_{t+1} + lambda R_{t+1}], R_H = v_H: (..., H+1) each -> (..., H)."""
    rets = [val[..., -1]]
    for t in reversed(range(rew.shape[-1] - 1)):
        after = (1 - trace) * val[..., t + 1] + trace * rets[0]
        rets.insert(0, rew[..., t + 1] + con[..., t + 1] * after)
    return np.stack(rets[:-1], -1)


def replay_return(rew, is_last, is_terminal, boot, discount=GAMMA, trace=LAMBDA):
    """The same on real steps: (B, T) each -> (B, T-1); boot b_t is the imagined return R_0 from step t.

    R_t = r_{t+1} + gamma (1 - term_{t+1}) [(1 - l) b_{t+1} + l R_{t+1}], l = lambda (1 - last_{t+1}); the last R is b.
    """
    rets = [boot[:, -1]]
    for t in reversed(range(rew.shape[1] - 1)):
        live, mixed = discount * (1.0 - is_terminal[:, t + 1]), trace * (1.0 - is_last[:, t + 1])
        rets.insert(0, rew[:, t + 1] + live * ((1 - mixed) * boot[:, t + 1] + mixed * rets[0]))
    return np.stack(rets[:-1], 1)


def return_by_n_steps(rew, live, trace, val):
    """R by its definition, a mixture of n-step returns: (T,) each, row t+1 belonging to what follows t -> (T-1,).

    live is what the future is worth, trace the chance of looking a step further: con and lambda in imagination,
    gamma (1 - term) and lambda (1 - last) in replay.
    """
    rets, end = [], len(rew) - 1
    for t in range(end):
        ret = 0.0
        for n in range(1, end - t + 1):
            n_step = sum(np.prod(live[t + 1 : k]) * rew[k] for k in range(t + 1, t + n + 1))
            n_step += np.prod(live[t + 1 : t + n + 1]) * val[t + n]
            stops = 1.0 if t + n == end else 1 - trace[t + n]
            ret += np.prod(trace[t + 1 : t + n]) * stops * n_step
        rets.append(ret)
    return np.array(rets)


def percentile(x, percent):
    """The value below which ``percent`` of all x lie, linear between its neighbours."""
    ordered = np.sort(np.ravel(x))
    place = percent / 100 * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def update_return_scale(low, high, ret, rate=0.01):
    """S: (low, high) from (0, 0) on, all returns -> new (low, high, S), S = max(1, high - low); no debiasing."""
    low = (1 - rate) * low + rate * percentile(ret, 5)
    high = (1 - rate) * high + rate * percentile(ret, 95)
    return low, high, max(1.0, high - low)


# Behaviour: t = 0 is the replayed state, t = H the last imagined one


def imagined_weight(con):
    """w_t, the product of c_0 .. c_t: (..., H+1) -> (..., H); w_0 = c_0."""
    return np.cumprod(con, -1)[..., :-1]


def categorical_policy(logit, index, mix=0.01):
    """ln pi(a | s) and H[pi]: logit (..., A), index (...) -> (...) and (...)."""
    probs = unimix(logit, mix)
    logp = np.log(np.take_along_axis(probs, index[..., None], -1)[..., 0])
    return logp, -(probs * np.log(probs)).sum(-1)


def normal_policy(mean_out, std_out, act):
    """ln pi(a | s) and H[pi] of Normal(tanh(m), 0.1 + 0.9 sigmoid(s + 2)): (..., A) each -> (...) and (...)."""
    mean, std = np.tanh(mean_out), 0.1 + 0.9 * sigmoid(std_out + 2)
    logp = -0.5 * ((act - mean) / std) ** 2 - np.log(std) - 0.5 * np.log(2 * np.pi)
    entropy = np.log(std) + 0.5 * np.log(2 * np.pi) + 0.5
    return logp.sum(-1), entropy.sum(-1)


def actor_loss(logp, entropy, ret, val, con, scale, entropy_scale=3e-4):
    """-w_t (ln pi(a_t) (R_t - v_t) / S + eta H): logp, entropy, ret (..., H), val, con (..., H+1) -> (..., H).

    Gradients go through logp and entropy alone. Val is the prediction of the online critic.
    """
    advantage = (ret - val[..., :-1]) / scale
    return -imagined_weight(con) * (logp * advantage + entropy_scale * entropy)


def critic_loss(logit, ret, slow_val, con):
    """w_t [CE(twohot(R_t)) + CE(twohot(slow v_t))]: logit (..., H+1, 255), ret (..., H) -> (..., H).

    slow_val, con: (..., H+1). Gradients go through logit alone.
    """
    both = two_hot_loss(logit[..., :-1, :], ret) + two_hot_loss(logit[..., :-1, :], slow_val[..., :-1])
    return imagined_weight(con) * both


def replay_value_loss(logit, slow_val, rew, is_last, is_terminal, boot):
    """The critic on real steps: logit (B, T, 255), the rest (B, T) -> (B, T-1), weight 1 - last_t."""
    ret = replay_return(rew, is_last, is_terminal, boot)
    both = two_hot_loss(logit[:, :-1], ret) + two_hot_loss(logit[:, :-1], slow_val[:, :-1])
    return (1.0 - is_last[:, :-1]) * both


# Optimiser


def clip_gradient(param, grad, clip=0.3, floor=1e-3):
    """AGC of a whole tensor: |g| at most 0.3 max(1e-3, |theta|), Euclidean norms over all entries."""
    limit = clip * max(floor, np.sqrt((param**2).sum()))
    return grad / max(1.0, np.sqrt((grad**2).sum()) / limit)


def learning_rate(update, peak=4e-5, warmup=1000):
    """Linear from 0 at update 0 to the peak at update ``warmup``, then constant."""
    return peak * min(1.0, update / warmup)


def laprop_start(params):
    """The state before the first update: v and m, zeros like each parameter, and the number of updates made."""
    return {"v": {k: 0.0 * p for k, p in params.items()}, "m": {k: 0.0 * p for k, p in params.items()}, "updates": 0}


def laprop_step(params, grads, state, peak=4e-5, warmup=1000, beta1=0.9, beta2=0.999, eps=1e-20):
    """AGC, then v = EMA(g^2), m = EMA(g / (sqrt(v^) + eps)), theta - lr m^; dictionaries -> new params, new state."""
    n, new, v, m = state["updates"] + 1, {}, {}, {}
    for k, param in params.items():
        grad = clip_gradient(param, grads[k])
        v[k] = beta2 * state["v"][k] + (1 - beta2) * grad**2
        normed = grad / (np.sqrt(v[k] / (1 - beta2**n)) + eps)
        m[k] = beta1 * state["m"][k] + (1 - beta1) * normed
        new[k] = param - learning_rate(state["updates"], peak, warmup) * m[k] / (1 - beta1**n)
    return new, {"v": v, "m": m, "updates": n}


def mix_slow(slow, online, rate=0.02):
    """The slow critic after an optimiser step, from the critic already updated: dictionaries of arrays."""
    return {k: (1 - rate) * slow[k] + rate * online[k] for k in slow}
