"""DreamerV3's update and policy step by sheeprl 0.8, to compare with ours.

    python -m venv peers/sheeprl
    peers/sheeprl/bin/pip install torch==2.13.0
    peers/sheeprl/bin/pip install "sheeprl==0.8.*"
    printf 'update 1\\nupdate 1\\npolicy 20\\n' | peers/sheeprl/bin/python benchmarks/peer_sheeprl.py

It runs in that environment, alone: nothing of dreamlab is imported. One line of JSON says what was built. Then each
line of input asks for a case and how many units of it, and is answered by one line with the seconds that they took,
so that a benchmark can give both sides their turns. The first of each case warms up. On Linux the allocator's
settings count for a quarter of an update (``tuned`` in the first line says whether they are there):

    MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=17179869184 MALLOC_TOP_PAD_=268435456

``update``: one whole update on a batch gathered from random uint8 frames of 3 x 64 x 64 in memory: world model,
imagination over 15 steps from every latent, actor, critic, replay value, slow critic, optimizer, and the latents
written back. ``policy``: one observation of one environment to one action.

The network is that of 2024 (sheeprl's ``dreamer_v3_5``; its ``dreamer_v3`` is the lighter one of 2023), configured,
built, trained and asked for actions by sheeprl's own functions, without its loop over environments. Its convolutions
are channels-last, as sheeprl has them on a GPU. With six actions it has 10,492,616 parameters for 12m and 686,456
for 1m, as many as ours.
"""

from __future__ import annotations

import argparse
from importlib.metadata import version
from typing import Any

import hydra
import numpy as np
import torch
from gymnasium import spaces
from hydra import compose, initialize_config_module
from lightning.fabric import Fabric
from omegaconf import OmegaConf
from peer_protocol import options, serve
from sheeprl.algos.dreamer_v3_5.agent import build_agent
from sheeprl.algos.dreamer_v3_5.dreamer_v3_5 import train, update_target_critic
from sheeprl.algos.dreamer_v3_5.utils import Moments, prepare_obs
from sheeprl.utils.utils import dotdict
from torch import Tensor, nn
from torch.distributions import Distribution

PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed"}
ACTIONS = 6
ROWS = 4096
"""steps in memory"""


def configured(chosen: argparse.Namespace) -> Any:
    """sheeprl's own configuration, with the network that is asked for."""
    with initialize_config_module("sheeprl.configs", version_base="1.3"):
        found = compose("config", ["exp=dreamer_v3_5", f"algo=dreamer_v3_5_{chosen.size.upper()}", "env.num_envs=1"])
    return dotdict({part: OmegaConf.to_container(found[part], resolve=True) for part in ("algo", "env")})


# ---- the cases


class Cases:
    """What can be asked for: each method does some units and says how many rows these held."""

    def __init__(self, chosen: argparse.Namespace) -> None:
        torch.manual_seed(0)
        Distribution.set_default_validate_args(False)  # as its command line does
        self.batch, self.length, self.cfg = chosen.batch, chosen.length, configured(chosen)
        self.fabric = Fabric(accelerator="cpu", devices=1, precision=PRECISIONS[chosen.precision])
        obs_space = spaces.Dict({"rgb": spaces.Box(0, 255, (3, 64, 64), np.uint8)})
        built = build_agent(self.fabric, (ACTIONS,), False, self.cfg, obs_space)
        self.world_model, self.actor, self.critic, self.slow, self.player = built
        for part in (self.world_model.encoder, self.world_model.observation_model):
            part.to(memory_format=torch.channels_last)
        parts = (self.world_model, self.actor, self.critic)
        weights = [p for part in parts for p in part.parameters()]
        self.parameters = sum(p.numel() for p in weights)
        self.optimizer = self.fabric.setup_optimizers(hydra.utils.instantiate(self.cfg.algo.optimizer, params=weights))
        scale = self.cfg.algo.actor.moments
        self.moments = Moments(scale.decay, scale.max, scale.percentile.low, scale.percentile.high)
        self.rows = experience(self.cfg.algo.world_model)
        self.player.init_states()

    def update(self, count: int) -> int:
        for _ in range(count):
            start = torch.randint(ROWS - self.length, (self.batch,))
            ids = start + torch.arange(self.length + 1)[:, None]  # time first; the first step is the context
            data = {name: column[ids] for name, column in self.rows.items()}
            parts = (self.world_model, self.actor, self.critic, self.slow)
            latents = train(self.fabric, self.cfg, *parts, self.optimizer, self.moments, data, None, (ACTIONS,))
            update_target_critic(self.critic, self.slow, self.cfg.algo.critic.tau)
            for name, latent in zip(("deter", "stoch"), latents, strict=True):
                self.rows[name][ids[1:]] = latent
        assert latents[0].isfinite().all(), "the latents are not finite"
        return count * self.batch * self.length

    @torch.inference_mode()
    def policy(self, count: int) -> int:
        for i in range(count):
            image = self.rows["rgb"][i % ROWS][None].numpy()
            obs = prepare_obs(self.fabric, {"rgb": image}, cnn_keys=["rgb"])
            (act,) = self.player.get_actions(obs)
            act.argmax(-1).item()
        return count


def experience(sizes: Any) -> dict[str, Tensor]:
    """Random steps in a row, an episode's start now and then."""
    first = (torch.rand(ROWS, 1) < 0.005).float()
    return {
        "rgb": torch.randint(256, (ROWS, 3, 64, 64), dtype=torch.uint8),
        "actions": nn.functional.one_hot(torch.randint(ACTIONS, (ROWS,)), ACTIONS).float(),
        "rewards": torch.randn(ROWS, 1),
        "is_first": first,
        "terminated": first.roll(-1, 0),
        "truncated": torch.zeros(ROWS, 1),
        "deter": torch.zeros(ROWS, sizes.recurrent_model.recurrent_state_size, dtype=torch.half),
        "stoch": torch.zeros(ROWS, sizes.stochastic_size, dtype=torch.uint8),
    }


if __name__ == "__main__":
    serve("sheeprl", version("sheeprl"), options(__doc__, ("1m", "12m")), Cases)
