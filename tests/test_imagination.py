"""Imagination: actions lead where the time diagram says, each row on its own, draws from the caller's stream."""

from __future__ import annotations

import pytest
import torch
from walk import Latent, Walk

from dreamlab.core.imagination import alive, imagine, leaves, pick, predict_all, tree_map
from dreamlab.core.seeds import forked


def start(n: int) -> Latent:
    return Latent(torch.randn(n, 2, generator=torch.Generator().manual_seed(0)), torch.arange(n))


def test_action_k_leads_from_latent_k_to_latent_k_plus_1():
    act = torch.randn(3, 5, 2)
    out = imagine(Walk(noise=0), start(3), act)
    assert out.latents.place.shape == (3, 6, 2)
    assert out.latents.clock.tolist() == [[n + k for k in range(6)] for n in range(3)]
    assert torch.equal(out.latents.place[:, 0], start(3).place)
    torch.testing.assert_close(out.latents.place.diff(dim=1), 0.1 * act, atol=1e-6, rtol=0)


def test_the_actor_sees_the_latent_at_which_it_chooses():
    out = imagine(Walk(noise=0), start(4), lambda z: torch.stack([z.clock, z.place[:, 1]], 1).float(), 6)
    assert out.act.shape == (4, 6, 2)
    assert torch.equal(out.act[..., 0].long(), out.latents.clock[:, :-1])
    assert torch.equal(out.act[..., 1], out.latents.place[:, :-1, 1])


def test_an_actor_and_the_actions_it_chose_imagine_the_same():
    model = Walk()
    with forked(3):
        one = imagine(model, start(4), lambda z: z.place.sin(), 7, temperature=0.5)
    with forked(3):
        two = imagine(model, start(4), one.act, temperature=0.5)
    assert torch.equal(one.latents.place, two.latents.place)


def test_later_actions_do_not_reach_back():
    act = torch.randn(3, 6, 2)
    other = act.clone()
    other[:, 4:] = 99
    with forked(0):
        one = imagine(Walk(), start(3), act)
    with forked(0):
        two = imagine(Walk(), start(3), other)
    assert torch.equal(one.latents.place[:, :5], two.latents.place[:, :5])
    assert not torch.equal(one.latents.place[:, 5], two.latents.place[:, 5])


def test_temperature_scales_the_draws():
    def spread(temperature: float) -> float:
        with forked(0):
            return float(
                imagine(Walk(), start(500), torch.zeros(500, 1, 2), 1, temperature).latents.place.diff(dim=1).std()
            )

    assert spread(0.0) < 0.01 < spread(0.5) < spread(2.0)


def test_gradients_flow_to_the_actions():
    act = torch.zeros(2, 3, 2, requires_grad=True)
    imagine(Walk(noise=0), start(2), act).latents.place[:, -1].sum().backward()
    torch.testing.assert_close(act.grad, torch.full((2, 3, 2), 0.1))


def test_a_horizon_is_needed_and_fits_the_actions():
    with pytest.raises(ValueError, match="horizon"):
        imagine(Walk(), start(2), lambda z: z.place)
    with pytest.raises(ValueError, match="3 actions"):
        imagine(Walk(), start(2), torch.zeros(2, 3, 2), 4)
    assert imagine(Walk(), start(2), torch.zeros(2, 3, 2), 2).act.shape == (2, 2, 2)


def test_predict_all_is_predict_at_each_time():
    model = Walk(end=4)
    out = imagine(model, start(3), torch.randn(3, 5, 2))
    seen = predict_all(model, out.latents)
    assert seen["image"].shape == (3, 6, 1, 12, 14)
    for t in range(6):
        for key, value in model.predict(tree_map(lambda x, t=t: x[:, t], out.latents)).items():
            torch.testing.assert_close(seen[key][:, t], value)


def test_alive_holds_up_to_and_with_the_end():
    con = torch.tensor([[0.9, 0.8, 0.1, 0.9], [0.9, 0.9, 0.9, 0.9], [0.2, 0.9, 0.9, 0.9]])
    want = [[1, 1, 1, 0], [1, 1, 1, 1], [1, 0, 0, 0]]
    assert alive(con).long().tolist() == want


def test_trees_keep_their_types_and_rows_are_picked_one_by_one():
    a, b = start(3), tree_map(lambda x: x + 10, start(3))
    nested = (a, (b.place, ()))
    assert len(leaves(nested)) == 3
    assert isinstance(tree_map(lambda x: x, nested)[0], Latent)
    mixed = pick(torch.tensor([True, False, True]), a, b)
    assert torch.equal(mixed.place[[0, 2]], a.place[[0, 2]])
    assert torch.equal(mixed.clock[1], b.clock[1])
