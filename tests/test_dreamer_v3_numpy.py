"""The NumPy networks of DreamerV3 against second definitions of themselves, closed forms and the paper's constants."""

from __future__ import annotations

import dreamer_v3_numpy as net
import numpy as np
import pytest
from dreamer_v3_numpy_losses import numerical_gradient

D, S, K, A, HIDDEN, G = 16, 3, 4, 2, 5, 4


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def layer(rng, n_in, n_out, blocks=None):
    shape = (n_in, n_out) if blocks is None else (blocks, n_in // blocks, n_out // blocks)
    return {"w": rng.normal(size=shape), "b": rng.normal(size=n_out), "scale": rng.normal(size=n_out)}


def core(rng):
    inputs = {f"dynin{i}": layer(rng, n, HIDDEN) for i, n in enumerate((D, S * K, A))}
    return {**inputs, "dynhid0": layer(rng, D + 3 * HIDDEN * G, D, G), "dyngru": layer(rng, D, 3 * D, G)}


def carry(rng, n=2):
    return rng.normal(size=(n, D)), np.eye(K)[rng.integers(K, size=(n, S))], 3 * rng.normal(size=(n, A))


# Scalars


def test_symlog_and_symexp_undo_each_other_and_are_odd():
    x = np.array([1e-9, 0.3, 7, 300])
    assert np.allclose(net.symexp(net.symlog(1e4 * x)), 1e4 * x, rtol=1e-12)
    assert np.array_equal(net.symlog(-x), -net.symlog(x))
    assert np.array_equal(net.symexp(-x), -net.symexp(x))


def test_bins_are_mirrored_and_have_the_paper_s_ends():
    bins = net.two_hot_bins()
    assert bins.shape == (255,)
    assert np.array_equal(bins, -bins[::-1])
    assert np.all(np.diff(bins) > 0)
    assert bins[[127, 128, 254]] == pytest.approx([0, 0.170558, 4.85165e8], rel=1e-5)


def test_two_hot_weights_mean_the_number_they_encode(rng):
    bins = net.two_hot_bins()
    x = np.concatenate([net.symexp(rng.uniform(-20, 20, 200)), bins, [1e9, -1e9]])
    weights = net.two_hot(x)
    assert np.all(weights >= 0)
    assert np.all((weights > 0).sum(-1) <= 2)
    assert np.allclose(weights.sum(-1), 1, rtol=0, atol=1e-15)
    assert np.allclose(weights @ bins, np.clip(x, bins[0], bins[-1]), rtol=1e-9)
    assert np.array_equal(net.two_hot(bins), np.eye(255))


def test_uniform_logits_predict_exactly_zero_and_cost_ln_255():
    assert net.two_hot_prediction(np.zeros(255)) == 0.0
    assert net.two_hot_loss(np.zeros((2, 255)), np.array([3.7, -1e3])) == pytest.approx(np.log(255))


def test_the_prediction_is_the_mean_of_the_bins(rng):
    logit = rng.normal(size=(3, 255))
    assert np.allclose(net.two_hot_prediction(logit), net.softmax(logit) @ net.two_hot_bins(), rtol=1e-6)


# Layers


def test_block_linear_is_a_block_diagonal_matrix(rng):
    w, b, x = rng.normal(size=(4, 3, 2)), rng.normal(size=8), rng.normal(size=(5, 12))
    dense = np.zeros((12, 8))
    for g in range(4):
        dense[3 * g : 3 * g + 3, 2 * g : 2 * g + 2] = w[g]
    assert np.allclose(net.block_linear(x, w, b), net.linear(x, dense, b))


def test_rms_norm_leaves_a_mean_square_of_one(rng):
    x = 50 * rng.normal(size=(4, 6))
    assert np.allclose((net.rms_norm(x, np.ones(6)) ** 2).mean(-1), 1, atol=1e-5)
    assert np.allclose(net.rms_norm(np.full(3, 1e-2), np.ones(3)), np.sqrt(0.5))  # the floor under the root, 1e-4


def test_convolution_counts_neighbours_and_shifts_without_mirroring():
    assert net.conv(np.ones((1, 6, 6, 1)), np.ones((5, 5, 1, 1)), np.zeros(1))[0, :, :, 0][[0, 1, 2], [0, 1, 2]] == (
        pytest.approx([9, 16, 25])
    )
    image, right = np.zeros((1, 6, 6, 1)), np.zeros((5, 5, 1, 1))
    image[0, 2, 3], right[2, 3] = 1, 1
    assert net.conv(image, right, np.zeros(1))[0, 2, 2, 0] == 1  # reads its neighbour on the right


def test_pooling_undoes_upsampling(rng):
    x = rng.normal(size=(2, 3, 4, 5))
    assert np.array_equal(net.max_pool(net.upsample(x)), x)


# The recurrent state-space model


def test_without_weights_a_core_step_keeps_0_73_of_the_state(rng):
    weights = {k: {name: 0 * x for name, x in part.items()} for k, part in core(rng).items()}
    deter, stoch, act = carry(rng)
    assert np.allclose(net.core_step(weights, deter, stoch, act, [0, 0]), deter * (1 - net.sigmoid(np.array(-1.0))))


def test_a_closed_update_gate_keeps_the_state_of_its_block(rng):
    weights = core(rng)
    weights["dyngru"]["b"].reshape(G, 3, D // G)[1, 2] = -1e9
    deter, stoch, act = carry(rng)
    after = net.core_step(weights, deter, stoch, act, [0, 0])
    assert np.allclose((after == deter).mean(0), np.repeat([0, 1, 0, 0], D // G))


def test_the_shared_inputs_may_be_one_dense_matrix(rng):
    weights = core(rng)
    deter, stoch, act = carry(rng)
    w = weights["dynhid0"]["w"]
    parts = zip(range(3), (deter, stoch.reshape(2, -1), act / np.maximum(1, abs(act))), strict=True)
    shared = np.concatenate([net.phi(weights[f"dynin{i}"], x) for i, x in parts], -1)  # (N, 3 hidden)
    dense = np.concatenate(list(w[:, D // G :]), -1)  # (3 hidden, D)
    own = np.concatenate([deter[:, 4 * g : 4 * g + 4] @ w[g, :4] for g in range(G)], -1)
    x = own + shared @ dense + weights["dynhid0"]["b"]
    x = net.silu(net.rms_norm(x, weights["dynhid0"]["scale"]))
    gates = net.block_linear(x, weights["dyngru"]["w"], weights["dyngru"]["b"])
    gate = {
        name: gates.reshape(2, G, 3, 4)[:, :, i].reshape(2, D) for i, name in enumerate(("reset", "cand", "update"))
    }
    update = net.sigmoid(gate["update"] - 1)
    expected = update * np.tanh(net.sigmoid(gate["reset"]) * gate["cand"]) + (1 - update) * deter
    assert np.allclose(net.core_step(weights, deter, stoch, act, [0, 0]), expected)


def test_a_first_step_forgets_the_state_and_the_encoded_action(rng):
    weights, state = core(rng), carry(rng)
    fresh = net.core_step(weights, *(0 * x for x in state), [0, 0])
    half = net.core_step(weights, *state, [0, 1])
    assert np.array_equal(half[1], fresh[1])
    assert not np.allclose(half[0], fresh[0])


def test_actions_beyond_one_count_as_one(rng):
    weights, (deter, stoch, _) = core(rng), carry(rng, 1)
    clipped, beyond = (net.core_step(weights, deter, stoch, np.array([a]), [0]) for a in ([1, -0.5], [3, -0.5]))
    assert np.array_equal(clipped, beyond)


def test_observing_in_two_halves_is_observing_once(rng):
    weights = {**core(rng), "obs0": layer(rng, D + 6, HIDDEN), "obslogit": layer(rng, HIDDEN, S * K)}
    weights |= {"prior0": layer(rng, D, 5), "prior1": layer(rng, 5, 5), "priorlogit": layer(rng, 5, S * K)}
    deter, stoch, _ = carry(rng)
    chunk = [rng.normal(size=(2, 6, 6)), rng.normal(size=(2, 6, A)), rng.random((2, 6)) < 0.3]
    chunk.append(np.eye(K)[rng.integers(K, size=(2, 6, S))])
    whole = net.observe(weights, deter, stoch, *chunk)
    first = net.observe(weights, deter, stoch, *(x[:, :2] for x in chunk))
    second = net.observe(weights, first[0][:, -1], chunk[3][:, 1], *(x[:, 2:] for x in chunk))
    for one, a, b in zip(whole, first, second, strict=True):
        assert np.allclose(one, np.concatenate([a, b], 1), rtol=1e-12)


def test_unimix_has_a_floor_and_the_sample_its_gradient(rng):
    logit = 100 * rng.normal(size=(S, K))
    assert net.unimix(logit).min() >= 0.01 / K
    assert np.allclose(net.unimix(logit).sum(-1), 1)
    logit, onehot, out = rng.normal(size=(S, K)), np.eye(K)[[0, 3, 1]], rng.normal(size=(S, K))
    assert np.array_equal(net.straight_through(onehot, logit, logit).round(12), onehot)
    found = numerical_gradient(lambda x: (out * net.straight_through(onehot, x, logit)).sum(), logit)
    p = net.softmax(logit)
    assert np.allclose(found, 0.99 * p * (out - (p * out).sum(-1, keepdims=True)), atol=1e-8)


# Encoder and decoder


def test_a_missing_vector_reads_as_zeros_and_keys_are_sorted():
    obs = {"b": np.array([[np.e - 1, 0.0], [-np.inf, 5.0]]), "a": np.array([2, -1])}
    assert np.allclose(net.vector_input(obs, {"a": 3}), [[0, 0, 1, 1, 0], [0, 0, 0, 0, 0]])


def test_images_keep_their_size_through_encoder_and_decoder(rng):
    def stage(n_in, n_out):
        return {"w": rng.normal(size=(5, 5, n_in, n_out)), "b": rng.normal(size=n_out), "scale": np.ones(n_out)}

    tokens = net.encode_image([stage(3, 2), stage(2, 4)], rng.integers(256, size=(2, 8, 12, 3)))
    assert tokens.shape == (2, 2 * 3 * 4)
    weights = {"sp0": layer(rng, D, 24, 2), "sp1": layer(rng, S * K, 6), "sp2": layer(rng, 6, 24)}
    weights |= {"spnorm": {"scale": np.ones(4)}, "stages": [stage(4, 2)], "imgout": stage(2, 3)}
    deter, stoch, _ = carry(rng)
    mean = net.decode_image(weights, deter, stoch, 2, 3)
    assert mean.shape == (2, 8, 12, 3)
    assert 0 < mean.min() < mean.max() < 1


def test_black_and_white_are_half_a_unit_from_grey():
    centre = {"w": np.zeros((5, 5, 1, 1)), "b": np.zeros(1), "scale": np.ones(1)}
    centre["w"][2, 2] = 1
    black, white = (net.encode_image([centre], np.full((1, 2, 2, 1), x, np.uint8)) for x in (0, 255))
    assert [black[0, 0], white[0, 0]] == pytest.approx([net.silu(-1.0), net.silu(1.0)], abs=1e-3)


def test_a_block_of_the_state_fills_its_own_channels(rng):
    weights = {"sp0": layer(rng, D, 16, 2), "sp1": layer(rng, S * K, 6), "sp2": layer(rng, 6, 16)}
    weights |= {
        "spnorm": {"scale": np.ones(4)},
        "stages": [],
        "imgout": {"w": np.zeros((5, 5, 4, 4)), "b": np.zeros(4)},
    }
    for part in (weights["sp0"]["b"], weights["sp2"]["w"], weights["sp2"]["b"]):
        part[:] = 0
    weights["imgout"]["w"][2, 2] = np.eye(4)
    deter, stoch, _ = carry(rng)
    deter[:, D // 2 :] = 0
    mean = net.decode_image(weights, deter, stoch, 2, 2)
    assert np.all(mean[..., 2:] == 0.5)
    assert np.all(mean[..., :2] != 0.5)


def test_what_comes_first_in_a_concatenation(rng):
    deter, stoch, _ = carry(rng)
    first = layer(rng, D + S * K, 5)
    first["w"][S * K :] = 0  # reads the first inputs alone
    outs = {"vec": layer(rng, 5, 3)}
    one, other = (net.decode_vectors([first], outs, x, stoch)["vec"] for x in (deter, deter + 1))
    assert np.array_equal(one, other)
    weights, tokens = {"obs0": layer(rng, D + 6, 5), "obslogit": layer(rng, 5, S * K)}, rng.normal(size=(2, 6))
    weights["obs0"]["w"][D:] = 0
    one, other = (net.posterior_logit(weights, deter, x, K) for x in (tokens, tokens + 1))
    assert np.array_equal(one, other)
    assert np.array_equal(net.feature(deter, stoch)[:, :D], deter)
