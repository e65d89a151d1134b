"""Open-loop error: what is compared is what should be, the baselines are what they say, episodes are not crossed."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from walk import Walk, windows

from dreamlab.core.errors import UserError
from dreamlab.dream.film import films
from dreamlab.dream.prediction import map_batch, prediction_error, reached
from dreamlab.dream.similarity import PSNR_CAP, gaussian_window, mse, psnr, ssim


def ssim_by_hand(a: np.ndarray, b: np.ndarray) -> float:
    """SSIM of (C, h, w) as the paper writes it: one window after the other."""
    size = min(11, min(a.shape[1:]) - (min(a.shape[1:]) + 1) % 2)
    axis = np.exp(-((np.arange(size) - size // 2) ** 2) / (2 * 1.5**2))
    weight = np.outer(axis, axis) / axis.sum() ** 2
    values = []
    for c in range(a.shape[0]):
        for y in range(a.shape[1] - size + 1):
            for x in range(a.shape[2] - size + 1):
                p, q = a[c, y : y + size, x : x + size], b[c, y : y + size, x : x + size]
                mp, mq = (weight * p).sum(), (weight * q).sum()
                vp, vq = (weight * (p - mp) ** 2).sum(), (weight * (q - mq) ** 2).sum()
                cov = (weight * (p - mp) * (q - mq)).sum()
                values.append((2 * mp * mq + 1e-4) * (2 * cov + 9e-4) / ((mp**2 + mq**2 + 1e-4) * (vp + vq + 9e-4)))
    return float(np.mean(values))


@pytest.mark.parametrize("shape", [(3, 16, 16), (1, 13, 20), (3, 8, 12), (2, 5, 5), (1, 1, 1)])
def test_ssim_is_the_papers(shape):
    rng = np.random.default_rng(0)
    a = rng.random((3, *shape))
    b = np.clip(a + rng.normal(0, [[[[0.0]]], [[[0.1]]], [[[0.5]]]], a.shape), 0, 1)
    got = ssim(torch.from_numpy(a), torch.from_numpy(b))
    np.testing.assert_allclose(got.numpy(), [ssim_by_hand(p, q) for p, q in zip(a, b, strict=True)], atol=1e-9)
    torch.testing.assert_close(got, ssim(torch.from_numpy(b), torch.from_numpy(a)))
    assert float(got[0]) == pytest.approx(1)


def test_ssim_in_single_precision_stays_near():
    rng = np.random.default_rng(1)
    a, b = rng.random((2, 4, 3, 32, 32))
    single = ssim(torch.from_numpy(a).float(), torch.from_numpy(b).float())
    torch.testing.assert_close(single.double(), ssim(torch.from_numpy(a), torch.from_numpy(b)), atol=1e-4, rtol=0)
    assert float(gaussian_window(11).sum()) == pytest.approx(1)


def test_psnr_is_of_each_frame_and_finite():
    a = torch.zeros(2, 1, 4, 4)
    b = torch.stack([a[0], a[1] + 0.1])
    assert psnr(a, b)[1].item() == pytest.approx(20, abs=1e-4)
    assert psnr(a, b)[0].item() == PSNR_CAP
    torch.testing.assert_close(mse(a, b), torch.tensor([0.0, 0.01]))


def test_a_perfect_model_is_perfect_and_the_baselines_are_what_they_say():
    batch, c, h = windows(6, 12), 3, 9
    out = prediction_error(Walk(noise=0), [map_batch(batch, lambda x: x[:4]), map_batch(batch, lambda x: x[4:])], c, h)
    assert out["horizon"] == list(range(1, h + 1))
    assert max(out["model"]["mse"]) < 1e-5  # a byte's rounding
    assert min(out["model"]["ssim"]) > 0.999
    assert max(out["latent"]["model"]) < 1e-10
    assert max(out["reward_mae"]) < 1e-5
    assert out["continue_accuracy"] == [1.0] * h
    real = batch.obs["image"].double() / 255
    for k in (1, 4, 9):
        last = (real[:, c - 1] - real[:, c - 1 + k]).square().mean()
        mean = (real.mean((0, 1)) - real[:, c - 1 + k]).square().mean()
        assert out["repeat_last"]["mse"][k - 1] == pytest.approx(float(last), rel=1e-4)
        assert out["mean_frame"]["mse"][k - 1] == pytest.approx(float(mean), rel=1e-4)
        z = batch.obs["vector"]
        assert out["latent"]["repeat_last"][k - 1] == pytest.approx(
            float((z[:, c - 1] - z[:, c - 1 + k]).square().mean())
        )


def test_the_shape_that_other_programs_read():
    out = prediction_error(Walk(), [windows(3, 8)], 2, 5)
    groups = {"model": {"mse", "psnr", "ssim"}, "repeat_last": {"mse", "psnr", "ssim"}}
    groups |= {"mean_frame": {"mse", "psnr", "ssim"}, "latent": {"model", "repeat_last"}}
    assert set(out) == {"horizon", *groups, "reward_mae", "continue_accuracy"}
    for group, names in groups.items():
        assert set(out[group]) == names
        assert all(len(values) == 5 and all(math.isfinite(v) for v in values) for values in out[group].values())
    assert json.loads(json.dumps(out)) == out


def test_actions_one_off_are_seen():
    batch = windows(6, 12)
    late = batch._replace(act=batch.act.roll(1, 1))
    early = batch._replace(act=batch.act.roll(-1, 1))
    for wrong in (late, early):
        assert prediction_error(Walk(noise=0), [wrong], 3, 6)["latent"]["model"][3] > 1e-4


def test_nothing_beyond_an_episodes_end_is_compared():
    """Row 0 ends at row 4, row 1 within its context, row 2 at the last row; what lies after is made absurd."""
    c, h = 3, 5
    batch = windows(4, c + h, ends=[4, 1, c + h - 1, 99])
    assert reached(batch, c).tolist() == [[1, 1, 0, 0, 0], [0] * 5, [1] * 5, [1] * 5]
    want = prediction_error(Walk(noise=0, end=7), [batch], c, h)
    absurd = map_batch(batch, lambda x: x.clone())
    absurd.obs["image"][~batch.mask], absurd.rew[~batch.mask] = 255, 1e6
    assert prediction_error(Walk(noise=0, end=7), [absurd], c, h) == want
    assert max(want["model"]["mse"]) < 1e-5
    assert want["continue_accuracy"] == [1.0, 0.5 + 1 / 6, 1.0, 1.0, 0.5]


def test_a_reset_inside_the_window_ends_it_too():
    batch = windows(2, 8)
    first = batch.is_first.clone()
    first[0, 5] = True
    assert reached(batch._replace(is_first=first), 3).tolist() == [[1, 1, 0, 0, 0], [1] * 5]


def test_a_horizon_that_no_window_reaches_is_none():
    out = prediction_error(Walk(noise=0), [windows(2, 8, ends=[4, 5])], 3, 5)
    assert [v is None for v in out["model"]["mse"]] == [False, False, False, True, True]


def test_more_samples_score_their_mean():
    batch = windows(40, 8)
    one = prediction_error(Walk(noise=0.3), [batch], 2, 5)["latent"]["model"][-1]
    many = prediction_error(Walk(noise=0.3), [batch], 2, 5, samples=64)["latent"]["model"][-1]
    cold = prediction_error(Walk(noise=0.3), [batch], 2, 5, temperature=0.0)["latent"]["model"][-1]
    assert one == pytest.approx(5 * 0.3**2, rel=0.4)
    assert many < one / 10
    assert cold < one / 10


def test_scores_are_reproducible_and_leave_the_generator_alone():
    before = torch.get_rng_state()
    one = prediction_error(Walk(), [windows(3, 8)], 2, 5, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert one == prediction_error(Walk(), [windows(3, 8)], 2, 5, seed=1)
    assert one != prediction_error(Walk(), [windows(3, 8)], 2, 5, seed=2)


def test_vectors_have_a_squared_error_only():
    batch = windows(3, 8)
    out = prediction_error(Walk(images=False), [batch._replace(obs={"vector": batch.obs["vector"]})], 2, 5)
    assert {k: set(v) for k, v in out.items() if k in ("model", "mean_frame")} == {
        "model": {"mse"},
        "mean_frame": {"mse"},
    }


def test_what_cannot_be_scored_is_refused_with_the_reason():
    with pytest.raises(UserError, match="2 \\+ 7 rows are needed, got 8"):
        prediction_error(Walk(), [windows(3, 8)], 2, 7)
    with pytest.raises(UserError, match="even one step after a context of 3"):
        prediction_error(Walk(), [windows(3, 8, ends=[0, 1, 1])], 3, 5)

    class Deep(Walk):
        def predict(self, latent):
            return {"depth": latent.place}

    with pytest.raises(UserError, match="nothing to compare: the model predicts \\['depth'\\]"):
        prediction_error(Deep(), [windows(3, 8)], 2, 5)


def test_films_show_the_same_frames():
    batch, c = windows(3, 9, ends=[99, 5, 1]), 3
    shown = films(Walk(noise=0), batch, c)
    assert [len(f.real) for f in shown] == [9, 6]  # the third ends inside its context
    for i, film in enumerate(shown):
        assert {x.dtype for x in film[:4]} == {np.dtype(np.uint8)}
        assert {x.shape for x in film[:4]} == {film.real.shape}
        np.testing.assert_array_equal(film.real, batch.obs["image"][i, : len(film.real)].numpy())
        np.testing.assert_array_equal(film.dream[:c], film.reconstruction[:c])
        assert film.difference.max() <= 1
    noisy = films(Walk(noise=0.5), batch, c, seed=1)[0]
    assert noisy.difference[c:].max() > 20
    np.testing.assert_array_equal(noisy.dream, films(Walk(noise=0.5), batch, c, seed=1)[0].dream)


def test_it_is_said_which_windows_begin_with_a_stored_state():
    class Remembering(Walk):
        def remembers(self, batch):
            return batch.extras["kept"][:, 0]

    kept = torch.tensor([True, False, True, True])[:, None].expand(4, 9)
    batch = windows(4, 9, ends=[99, 5, 1, 99])._replace(extras={"kept": kept})
    assert [f.remembered for f in films(Remembering(), batch, 3)] == [True, False, True]  # the third is too short
    assert prediction_error(Remembering(), [batch], 3, 6)["remembered"] == 0.75
    assert "remembered" not in prediction_error(Walk(), [batch], 3, 6)


def test_only_pictures_are_filmed():
    with pytest.raises(UserError, match="images"):
        films(Walk(images=False), windows(2, 8), 3)
