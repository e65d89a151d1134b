"""V: the paper's sizes, the loss's definition, and that it learns."""

from __future__ import annotations

import pytest
import torch

from dreamlab.agents.world_models.vision import (
    SIZES,
    Vision,
    active_units,
    grid,
    grown,
    kl_to_unit,
    layers,
    pixel_accuracy,
    pixels,
    reconstructions,
    traversal,
    vision_losses,
)
from dreamlab.core.errors import UserError


@pytest.fixture(autouse=True)
def _one_thread():
    """Tiny convolutions wait longer for other threads than they compute, the more so on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def maps(sequential: torch.nn.Sequential, x: torch.Tensor) -> list[int]:
    widths = []
    for layer in sequential:
        x = layer(x)
        widths.append(x.shape[-1])
    return widths[::2]


@pytest.mark.parametrize(("latent", "count"), [(32, 4_348_547), (64, 4_446_915)])
def test_the_papers_parameter_counts(latent, count):
    with torch.device("meta"):
        assert sum(p.numel() for p in Vision((3, 64, 64), latent).parameters()) == count


def test_the_papers_map_sizes():
    vision = Vision((3, 64, 64), 32)
    with torch.no_grad():
        assert maps(vision.encoder, torch.zeros(1, 3, 64, 64)) == [31, 14, 6, 2]
        assert maps(vision.decoder, torch.zeros(1, 1024, 1, 1)) == [5, 13, 30, 64]


def test_every_size_offered_has_layers_that_land_on_it():
    for size in SIZES:
        form = layers(size)
        assert grown(form.kernels) == size
        assert len(form.kernels) == len(form.channels) <= 4
        assert form.width >= 1


@pytest.mark.parametrize("size", [8, 10, 16, 33, 84])
def test_other_sizes_come_back_as_they_went_in(size):
    vision = Vision((1, size, size), 4)
    image = torch.rand(2, 1, size, size)
    mu, logvar = vision.encode(image)
    assert mu.shape == logvar.shape == (2, 4)
    assert vision.decode(mu).shape == image.shape


def test_small_images_take_fewer_stages():
    assert len(layers(64).channels) == 4
    assert len(layers(16).channels) == 2


@pytest.mark.parametrize("shape", [(3, 7, 7), (3, 210, 210), (3, 96, 64)])
def test_a_size_without_a_form_is_refused_with_what_to_type(shape):
    with pytest.raises(UserError, match=r"square images.*--env\.size 64"):
        Vision(shape, 32)


def test_a_standard_latent_costs_just_the_floor_and_pulls_nothing():
    image = torch.rand(5, 3, 8, 8)
    mu, logvar = torch.zeros(5, 32, requires_grad=True), torch.zeros(5, 32, requires_grad=True)
    losses = vision_losses(image, image, mu, logvar, kl_floor=0.5)
    assert kl_to_unit(mu, logvar).abs().max() == 0
    assert torch.equal(losses["kl"], torch.full((5,), 16.0))
    assert torch.equal(losses["reconstruction"], torch.zeros(5))
    losses["kl"].sum().backward()
    assert mu.grad.abs().max() == 0
    assert logvar.grad.abs().max() == 0


def test_the_floor_is_for_the_images_sum_not_for_each_dimension():
    mu = torch.zeros(1, 32)
    mu[0, 0] = 7.0  # 24.5 nats in one dimension, none in the others
    kl = vision_losses(torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8, 8), mu, torch.zeros(1, 32), 0.5)["kl"]
    assert kl.item() == pytest.approx(24.5)


def test_the_kl_is_the_closed_form_of_two_gaussians():
    mu, logvar = torch.randn(4, 6), torch.randn(4, 6)
    expected = torch.distributions.kl_divergence(
        torch.distributions.Normal(mu, (0.5 * logvar).exp()), torch.distributions.Normal(0.0, 1.0)
    )
    torch.testing.assert_close(kl_to_unit(mu, logvar), expected)


def test_losses_are_of_single_images():
    image, recon = torch.rand(3, 3, 8, 8), torch.rand(3, 3, 8, 8)
    mu, logvar = torch.randn(3, 4), torch.randn(3, 4)
    once = vision_losses(image, recon, mu, logvar, 0.5)
    twice = vision_losses(*(x.repeat(2, *[1] * (x.dim() - 1)) for x in (image, recon, mu, logvar)), 0.5)
    for name, loss in once.items():
        torch.testing.assert_close(twice[name].mean(), loss.mean())
    torch.testing.assert_close(once["reconstruction"][0], (image[0] - recon[0]).square().sum())


def test_encoding_decodes_nothing():
    vision = Vision((3, 16, 16), 4)
    vision.decoder.register_forward_hook(lambda *a: pytest.fail("encode ran the decoder"))
    vision.encode(torch.rand(2, 3, 16, 16))


def test_bytes_become_fractions_with_channels_last():
    image = torch.randint(256, (2, 3, 3, 16, 16), dtype=torch.uint8)
    seen = pixels(image)
    assert seen.shape == (6, 3, 16, 16)
    assert seen.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(seen, image.flatten(0, 1) / 255)


def test_measures_at_their_ends():
    image = torch.rand(4, 3, 8, 8)
    assert pixel_accuracy(image, image) == 1
    assert pixel_accuracy(image, image + 0.5) == 0
    mu = torch.zeros(100, 3)
    mu[:, 1] = torch.randn(100)
    assert active_units(mu) == 1


def test_pictures_are_bytes_with_truth_above():
    vision, image = Vision((3, 16, 16), 4), torch.rand(5, 3, 16, 16)
    picture = reconstructions(vision, image)
    assert picture.shape == (3, 2 * 17 + 1, 5 * 17 + 1)
    assert picture.dtype == torch.uint8
    torch.testing.assert_close(picture[:, 1:17, 1:17], image[0].mul(255).round().byte())
    assert traversal(vision, image).shape == (3, 4 * 17 + 1, 7 * 17 + 1)
    assert grid(torch.zeros(1, 1, 3, 4, 4), gap=0, scale=3).shape == (3, 12, 12)


def test_v_learns_one_batch_by_heart():
    torch.manual_seed(0)
    vision, image = Vision((3, 16, 16), 8), torch.rand(4, 3, 16, 16)
    optimizer = torch.optim.Adam(vision.parameters(), 2e-3)
    first = None
    for _ in range(120):
        mu, logvar = vision.encode(image)
        loss = vision_losses(image, vision.decode(mu), mu, logvar, 0.5)["reconstruction"].mean()
        first = first or loss.item()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.2 * first
