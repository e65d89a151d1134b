"""What World Models will need beyond its weights, from its numbers alone. Imports nothing heavy.

The factors were fitted to the peaks of single updates on a CPU in fp32, each page counted once; they hold within
a fifth from 16 x 32 to 100 x 999 transitions and from 32 to 100 frames.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gymnasium import spaces

from dreamlab.agents import Footprint
from dreamlab.agents.world_models.config import Config, dreams, side_by_side
from dreamlab.core.types import act_size

if TYPE_CHECKING:
    from dreamlab.run.config import RunConfig

MIB = 1 << 20
LIBRARIES = 40 * MIB
"""cma and what torch sets up at the first convolution"""
CONVOLUTION_SCRATCH = 36 * MIB
MAPS_HELD = 1.5
"""how many times V's feature maps are held during an update"""
HEADS_HELD, HIDDEN_HELD = 8, 11
"""how many times M's 3KD head outputs and its H outputs are held during an update"""


def footprint(config: Config, obs_space: spaces.Dict, act_space: spaces.Space, run: RunConfig) -> Footprint:
    """Peak memory of learning beyond process and weights, and bytes of codes beside a row of the replay."""
    vision, memory, controller = config.vision, config.memory, config.controller
    image = obs_space.spaces.get("image")
    latent, see = vision.latent, 0.0
    if image is not None and image.shape:
        see = vision.batch * 4 * MAPS_HELD * _map_values(image.shape[-1]) + CONVOLUTION_SCRATCH
    elif vision.encoder != "mlp":
        latent = obs_space["vector"].shape[0]  # type: ignore[index]
    joint = memory.mixture == "joint"
    head = memory.mixtures * (2 * latent + (1 if joint else latent))
    acts = 1 if controller.actions == "thirds" else act_size(act_space)
    remember = memory.batch * memory.sequence * 4 * (HEADS_HELD * head + HIDDEN_HELD * memory.hidden)
    dream = 0.0
    if dreams(config):
        rows = side_by_side(controller, run.envs)
        dream = rows * 4 * (8 * memory.hidden + 2 * head + 8 * latent)
    features = latent + memory.hidden * (len(controller.inputs) - 1)
    weights = (features + 1) * (controller.hidden or acts)
    covariance = 5 * 8 * weights**2 if controller.learner == "cma-es" else 0  # the matrix, its factors, updating them
    peak = LIBRARIES + covariance + max(see, remember, dream)
    practises = controller.learner == "actor-critic" and config.actor_critic.env_steps
    noted = 4 * (features + act_size(act_space)) if practises else 0  # beside each row: what C acted on, and its choice
    return Footprint(memory_bytes=int(peak), row_bytes=2 * 2 * latent + noted)


def _map_values(size: int) -> int:
    """Values in an image's way through V and back, about: encoder maps, as much in the decoder, three images."""
    width, channels, values = size, 32, 3 * size * size
    for _ in range(4):
        if width <= 3:
            break
        width = (width - 4) // 2 + 1
        values += 2 * channels * width * width
        channels *= 2
    return values
