"""DreamerV3's networks (arXiv:2301.04104v2, as its code is now) in plain float64 NumPy: what the PyTorch must equal.

Written from the definitions alone, for plainness and not for speed; nothing is sampled, samples are arguments.
The losses, returns and the optimiser are in ``dreamer_v3_numpy_losses``.

Weights are dictionaries of arrays. A *layer* is ``{"w": (in, out), "b": (out,), "scale": (out,)}``, where ``scale``
belongs to the RMSNorm behind it and is absent where none follows. Block-linear ``w``: (G, in/G, out/G), block g reads
the g-th slice of the input and writes the g-th slice of the output. Convolution ``w``: (5, 5, in, out); images are
(N, h, w, c), and flattened ones run over row, column, channel. N stands for any batch.
"""

from __future__ import annotations

import numpy as np

# Scalars: symlog and two-hot


def symlog(x):
    """sign(x) ln(|x| + 1), any shape."""
    return np.sign(x) * np.log1p(np.abs(x))


def symexp(x):
    """sign(x) (exp|x| - 1), the inverse of symlog, any shape."""
    return np.sign(x) * np.expm1(np.abs(x))


def two_hot_bins():
    """b (255,): symexp of an even grid over [-20, 20], the right half mirrored from the left."""
    half = symexp(np.linspace(-20, 0, 128))
    return np.concatenate([half, -half[:-1][::-1]])


def two_hot(x):
    """twohot(x): x (...) -> weights (..., 255), linear in raw units between the bins around x, clamped outside."""
    bins = two_hot_bins()
    weights = np.zeros((*np.shape(x), 255))
    for i in np.ndindex(np.shape(x)):
        value = min(max(float(np.asarray(x)[i]), bins[0]), bins[-1])
        low = 0
        while low < 253 and bins[low + 1] <= value:
            low += 1
        high_share = (value - bins[low]) / (bins[low + 1] - bins[low])
        weights[(*i, low)], weights[(*i, low + 1)] = 1 - high_share, high_share
    return weights


def two_hot_prediction(logit):
    """E[b]: logit (..., 255) -> (...); the centre, and the sum of mirrored pairs: uniform gives exactly 0."""
    product = softmax(logit) * two_hot_bins()
    return product[..., 127] + (product[..., :127][..., ::-1] + product[..., 128:]).sum(-1)


def two_hot_loss(logit, target):
    """-twohot(target)^T ln softmax(logit): logit (..., 255), target (...) -> (...)."""
    return -(two_hot(target) * log_softmax(logit)).sum(-1)


# Layers


def softmax(logit):
    """softmax over the last axis."""
    return np.exp(log_softmax(logit))


def log_softmax(logit):
    """ln softmax over the last axis."""
    shifted = logit - logit.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def sigmoid(x):
    """1 / (1 + exp(-x)), any shape."""
    return 0.5 + 0.5 * np.tanh(0.5 * x)


def silu(x):
    """x sigmoid(x), any shape."""
    return x * sigmoid(x)


def rms_norm(x, scale, eps=1e-4):
    """x / sqrt(mean(x^2) + eps) * scale over the last axis: x (..., n), scale (n,) -> (..., n)."""
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * scale


def linear(x, w, b):
    """x (..., in), w (in, out), b (out,) -> (..., out)."""
    return x @ w + b


def block_linear(x, w, b):
    """Block-diagonal linear: x (..., in), w (G, in/G, out/G), b (out,) -> (..., out)."""
    n_in = w.shape[1]
    return np.concatenate([x[..., g * n_in : (g + 1) * n_in] @ w[g] for g in range(len(w))], -1) + b


def phi(layer, x):
    """SiLU(RMSNormSiLU(Linear(x))): x (..., in) -> (..., out); layer {w, b, scale}."""
    return silu(rms_norm(linear(x, layer["w"], layer["b"]), layer["scale"]))


def mlp(layers, x):
    """phi after phi: a list of layers, x (..., in) -> (..., out)."""
    for layer in layers:
        x = phi(layer, x)
    return x


def head(layers, out, x):
    """An output head: mlp, then the bare linear layer ``out`` {w, b}; x (..., in) -> (..., out)."""
    return linear(mlp(layers, x), out["w"], out["b"])


# The recurrent state-space model


def unimix(logit, mix=0.01):
    """Probabilities with a floor: logit (..., K) -> 0.99 softmax + 0.01 / K, (..., K)."""
    return (1 - mix) * softmax(logit) + mix / logit.shape[-1]


def straight_through(onehot, logit, stopped_logit, mix=0.01):
    """z_t: onehot + p - sg(p), all (..., S, K); its value is onehot, its gradient in ``logit`` that of p."""
    return onehot + unimix(logit, mix) - unimix(stopped_logit, mix)


def core_step(weights, deter, stoch, act, is_first):
    """h_t = f(h_{t-1}, z_{t-1}, a_{t-1}): the block GRU.

    deter (N, D), stoch (N, S, K), act (N, A) chosen at t-1 (one-hot if discrete), is_first (N,) of step t -> (N, D).

    weights: layers dynin0 (D -> hidden), dynin1 (S K -> hidden), dynin2 (A -> hidden), dynhid0 with block-linear w
    (G, D/G + 3 hidden, D/G), whose rows read [h_g, x0, x1, x2] in this order, and b, scale (D,); dyngru with w
    (G, D/G, 3 D/G), b (3 D,), whose columns in every block are [reset, candidate, update], D/G each.
    """
    keep = (1 - np.asarray(is_first, np.float64))[:, None]
    deter, stoch, act = deter * keep, stoch.reshape(len(stoch), -1) * keep, act * keep  # a zero vector, not one-hot(0)
    act = act / np.maximum(1, np.abs(act))
    shared = [phi(weights[f"dynin{i}"], x) for i, x in enumerate((deter, stoch, act))]

    hid, gru = weights["dynhid0"], weights["dyngru"]
    groups, size = len(hid["w"]), deter.shape[-1] // len(hid["w"])
    x = np.concatenate([part for h in np.split(deter, groups, -1) for part in (h, *shared)], -1)
    x = silu(rms_norm(block_linear(x, hid["w"], hid["b"]), hid["scale"]))  # the norm sees all blocks
    gates = block_linear(x, gru["w"], gru["b"]).reshape(-1, groups, 3, size)  # (N, G, 3, D/G)
    reset, cand, update = (gates[:, :, i].reshape(-1, groups * size) for i in range(3))
    cand, update = np.tanh(sigmoid(reset) * cand), sigmoid(update - 1)
    return update * cand + (1 - update) * deter


def posterior_logit(weights, deter, tokens, classes):
    """q(z_t | h_t, x_t): deter (..., D), tokens (..., E) -> (..., S, K); weights: layers obs0, obslogit."""
    logit = head([weights["obs0"]], weights["obslogit"], np.concatenate([deter, tokens], -1))
    return logit.reshape(*logit.shape[:-1], -1, classes)


def prior_logit(weights, deter, classes):
    """p(z_t | h_t): deter (..., D) -> (..., S, K); weights: layers prior0, prior1, priorlogit."""
    logit = head([weights["prior0"], weights["prior1"]], weights["priorlogit"], deter)
    return logit.reshape(*logit.shape[:-1], -1, classes)


def feature(deter, stoch):
    """What heads read, [h_t, z_t]: deter (..., D), stoch (..., S, K) -> (..., D + S K)."""
    return np.concatenate([deter, stoch.reshape(*stoch.shape[:-2], -1)], -1)


def observe(weights, deter, stoch, tokens, prev_act, is_first, samples):
    """A chunk: carry deter (B, D), stoch (B, S, K); tokens (B, T, E), prev_act (B, T, A), is_first (B, T).

    samples (B, T, S, K) are the one-hot z_t to go on with. Returns deter (B, T, D), posterior and prior logits
    (B, T, S, K), before unimix.
    """
    deters, posts, classes = [], [], stoch.shape[-1]
    for t in range(tokens.shape[1]):
        deter = core_step(weights, deter, stoch, prev_act[:, t], is_first[:, t])
        deters.append(deter)
        posts.append(posterior_logit(weights, deter, tokens[:, t], classes))
        stoch = samples[:, t]
    deters = np.stack(deters, 1)
    return deters, np.stack(posts, 1), prior_logit(weights, deters, classes)


# Encoder and decoder


def vector_input(obs, classes):
    """{key: (N, ...)} -> (N, V): sorted keys, symlog or, for keys in ``classes``, one-hot; a missing entry is all 0.

    Missing is a row of a key in which any number is -inf, or any index -1.
    """
    parts = []
    for key in sorted(obs):
        x = np.asarray(obs[key]).reshape(len(obs[key]), -1)
        there = (x != (-1 if key in classes else -np.inf)).all(-1)
        x = np.where(there[:, None], x, 0)
        x = np.eye(classes[key])[x].reshape(len(x), -1) if key in classes else symlog(x.astype(np.float64))
        parts.append(x * there[:, None])
    return np.concatenate(parts, -1)


def conv(x, w, b):
    """Cross-correlation, stride 1, zero padding that keeps the size: x (N, h, w, in), w (5, 5, in, out), b (out,)."""
    side = w.shape[0] // 2
    padded = np.pad(x, ((0, 0), (side, side), (side, side), (0, 0)))
    out = np.zeros((*x.shape[:3], w.shape[-1]))
    for row, col in np.ndindex(x.shape[1:3]):
        for i, j in np.ndindex(w.shape[:2]):
            out[:, row, col] += padded[:, row + i, col + j] @ w[i, j]
    return out + b


def max_pool(x):
    """Largest of each 2x2 square: (N, h, w, c) -> (N, h/2, w/2, c)."""
    out = np.zeros((len(x), x.shape[1] // 2, x.shape[2] // 2, x.shape[3]))
    for row, col in np.ndindex(out.shape[1:3]):
        out[:, row, col] = x[:, 2 * row : 2 * row + 2, 2 * col : 2 * col + 2].max((1, 2))
    return out


def upsample(x):
    """Every pixel four times: (N, h, w, c) -> (N, 2 h, 2 w, c)."""
    out = np.zeros((len(x), 2 * x.shape[1], 2 * x.shape[2], x.shape[3]))
    for row, col in np.ndindex(out.shape[1:3]):
        out[:, row, col] = x[:, row // 2, col // 2]
    return out


def encode_image(layers, image):
    """uint8 (N, h, w, c) -> tokens (N, h' w' c'): stages conv, pool, norm over channels, SiLU."""
    x = image / 255 - 0.5
    for layer in layers:
        x = silu(rms_norm(max_pool(conv(x, layer["w"], layer["b"])), layer["scale"]))
    return x.reshape(len(x), -1)


def decode_image(weights, deter, stoch, height, width):
    """Means in (0, 1): deter (N, D), stoch (N, S, K) -> (N, H, W, C), from height x width with u = height width c.

    weights: sp0, block-linear D -> u, block g filling the g-th group of c/G channels; sp1, a layer S K -> 2 units;
    sp2, a bare linear 2 units -> u; spnorm {scale (c,)}; stages, a list of convolution layers; imgout, a bare one.
    """
    sp0, groups = weights["sp0"], len(weights["sp0"]["w"])
    by_group = block_linear(deter, sp0["w"], sp0["b"]).reshape(len(deter), groups, height, width, -1)
    from_deter = np.concatenate([by_group[:, g] for g in range(groups)], -1)
    from_stoch = head([weights["sp1"]], weights["sp2"], stoch.reshape(len(stoch), -1)).reshape(from_deter.shape)
    x = silu(rms_norm(from_deter + from_stoch, weights["spnorm"]["scale"]))
    for layer in weights["stages"]:
        x = silu(rms_norm(conv(upsample(x), layer["w"], layer["b"]), layer["scale"]))
    return sigmoid(conv(upsample(x), weights["imgout"]["w"], weights["imgout"]["b"]))


def decode_vectors(layers, outs, deter, stoch):
    """{key: (N, n)}, in symlog space: 3 layers on [stoch, deter], one bare linear per key in ``outs``."""
    x = mlp(layers, np.concatenate([stoch.reshape(len(stoch), -1), deter], -1))
    return {key: linear(x, out["w"], out["b"]) for key, out in outs.items()}
