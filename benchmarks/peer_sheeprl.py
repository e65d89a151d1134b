"""The updates and policy steps of DreamerV1, V2 and V3 by sheeprl 0.8, to compare with ours.

    python -m venv peers/sheeprl
    peers/sheeprl/bin/pip install torch==2.13.0
    peers/sheeprl/bin/pip install "sheeprl==0.8.*"
    printf 'update 1\\nupdate 1\\npolicy 20\\n' | peers/sheeprl/bin/python benchmarks/peer_sheeprl.py --agent dreamer-v2

It runs in that environment, alone: nothing of dreamlab is imported. One line of JSON says what was built. Then each
line of input asks for a case and how many units of it, and is answered by one line with the seconds that they took,
so that a benchmark can give both sides their turns. The first of each case warms up. On Linux the allocator's
settings count for a quarter of V3's update (``tuned`` in the first line says whether they are there):

    MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=17179869184 MALLOC_TOP_PAD_=268435456

``update``: one whole update on a batch gathered from random uint8 frames of 3 x 64 x 64 in memory: world model,
imagination over 15 steps from every latent, actor, critic and their optimizers; V2's copies of the critic; V3's replay
value and slow critic, and the latents written back. ``policy``: one observation of one environment to one action.

Each is configured, built, trained and asked for actions by sheeprl's own functions, without its loop over
environments. With six actions:

    agent           sheeprl's          parameters, as many as ours
    dreamer-v1      dreamer_v1           6,286,427                   as configured there: the paper's; no discount head
    dreamer-v2      dreamer_v2          31,038,076                   1024 wide where it has 600; a discount head
    dreamer-v3      dreamer_v3_5        10,492,616 (12m)             the network of 2024, not its dreamer_v3 of 2023
                                           686,456 (1m)

Arithmetic is the same within 0.3 %, counted as dreamer.py counts ours: 96.33 GFLOP to our 96.57 for an update of V1
on 8 x 32 rows, 316.44 to 316.44 for one of V2. What stays different:

- Rates and the weights of losses are sheeprl's. Its metrics are off; ours are part of our update.
- V1 and V2: the prior is found, and drawn from, step by step within the scan; ours is found after it.
- V1: actor and critic are taught by the world model's new weights, ours by those before. Ours asks the actor once
  more, for its entropy. In bf16 the scans are too; ours are in fp32 on a CPU, where so few weights gain nothing.
- V2: imagination keeps what a gradient through it would need, though actions are discrete and none is taken; ours
  does not.
- V3's convolutions are channels-last, as sheeprl has them on a GPU. V1's and V2's it has so nowhere; that would make
  V1's update some 5 % faster.
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
from sheeprl.algos.dreamer_v1 import agent as v1_agent
from sheeprl.algos.dreamer_v1 import dreamer_v1 as v1
from sheeprl.algos.dreamer_v2 import agent as v2_agent
from sheeprl.algos.dreamer_v2 import dreamer_v2 as v2
from sheeprl.algos.dreamer_v2 import utils as v2_utils
from sheeprl.algos.dreamer_v3_5 import agent as v3_agent
from sheeprl.algos.dreamer_v3_5 import dreamer_v3_5 as v3
from sheeprl.algos.dreamer_v3_5 import utils as v3_utils
from sheeprl.utils.utils import dotdict
from torch import Tensor, nn
from torch.distributions import Distribution

PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed"}
OBS = spaces.Dict({"rgb": spaces.Box(0, 255, (3, 64, 64), np.uint8)})
ACTIONS = 6
ROWS = 4096
"""steps in memory"""


def configured(*settings: str) -> Any:
    """sheeprl's own configuration, with the network that is asked for."""
    with initialize_config_module("sheeprl.configs", version_base="1.3"):
        found = compose("config", [*settings, "env.num_envs=1"])
    parts = ("algo", "env", "distribution")
    return dotdict({part: OmegaConf.to_container(found[part], resolve=True) for part in parts})


def experience() -> dict[str, Tensor]:
    """Random steps in a row, an episode's start now and then."""
    first = (torch.rand(ROWS, 1) < 0.005).float()
    return {
        "rgb": torch.randint(256, (ROWS, 3, 64, 64), dtype=torch.uint8),
        "actions": nn.functional.one_hot(torch.randint(ACTIONS, (ROWS,)), ACTIONS).float(),
        "rewards": torch.randn(ROWS, 1),
        "is_first": first,
        "terminated": first.roll(-1, 0),
        "truncated": torch.zeros(ROWS, 1),
    }


class Cases:
    """What can be asked for: each method does some units and says how many rows these held."""

    parts: tuple[nn.Module, ...]
    """what is trained"""
    player: Any

    def __init__(self, chosen: argparse.Namespace) -> None:
        torch.manual_seed(0)
        Distribution.set_default_validate_args(False)  # as its command line does
        self.batch, self.length, self.rows = chosen.batch, chosen.length, experience()
        self.fabric = Fabric(accelerator="cpu", devices=1, precision=PRECISIONS[chosen.precision])
        self.build(chosen)
        self.parameters = sum(p.numel() for part in self.parts for p in part.parameters())
        self.player.init_states()

    def build(self, chosen: argparse.Namespace) -> None:
        raise NotImplementedError

    def learn(self) -> None:
        raise NotImplementedError

    def drawn(self, length: int) -> Tensor:
        """Rows of a batch (length, batch)."""
        return torch.randint(ROWS - length + 1, (self.batch,)) + torch.arange(length)[:, None]

    def update(self, count: int) -> int:
        for _ in range(count):
            self.learn()
        # a loss that is not finite leaves no weight of its optimizer finite
        assert all(next(part.parameters()).isfinite().all() for part in self.parts), "the weights are not finite"
        return count * self.batch * self.length

    @torch.inference_mode()
    def policy(self, count: int) -> int:
        for i in range(count):
            (act,) = self.act({"rgb": self.rows["rgb"][i % ROWS][None].numpy()})
            act.argmax(-1).item()
        return count

    def act(self, obs: dict[str, np.ndarray]) -> Any:
        return self.player.get_actions(v2_utils.prepare_obs(self.fabric, obs, cnn_keys=["rgb"]))


class DreamerV1(Cases):
    def build(self, chosen: argparse.Namespace) -> None:
        self.cfg = configured("exp=dreamer_v1", "algo.actor.expl_amount=0.4")
        *parts, self.player = v1_agent.build_agent(self.fabric, (ACTIONS,), False, self.cfg, OBS)
        self.parts = tuple(parts)
        algo = self.cfg.algo
        optimizers = [
            hydra.utils.instantiate(of.optimizer, params=part.parameters(), _convert_="all")
            for of, part in zip((algo.world_model, algo.actor, algo.critic), parts, strict=True)
        ]
        self.optimizers = self.fabric.setup_optimizers(*optimizers)

    def learn(self) -> None:
        ids = self.drawn(self.length)
        data = {name: column[ids].float() for name, column in self.rows.items()}
        v1.train(self.fabric, *self.parts, *self.optimizers, data, None, self.cfg)

    def act(self, obs: dict[str, np.ndarray]) -> Any:
        return self.player.get_exploration_actions(v2_utils.prepare_obs(self.fabric, obs, cnn_keys=["rgb"]))


class DreamerV2(Cases):
    def build(self, chosen: argparse.Namespace) -> None:
        model = "algo.world_model"
        self.cfg = configured(
            "exp=dreamer_v2",
            f"{model}.recurrent_model.recurrent_state_size=1024",
            f"{model}.transition_model.hidden_size=1024",  # the layer before the GRU takes its width from here
            f"{model}.representation_model.hidden_size=1024",
            f"{model}.use_continues=True",
            f"{model}.kl_free_nats=0.0",
        )
        *parts, self.target, self.player = v2_agent.build_agent(self.fabric, (ACTIONS,), False, self.cfg, OBS)
        self.parts = tuple(parts)
        algo, self.updates = self.cfg.algo, 0
        optimizers = [
            v2_utils.build_optimizer(of.optimizer, part.parameters())
            for of, part in zip((algo.world_model, algo.actor, algo.critic), parts, strict=True)
        ]
        self.optimizers = self.fabric.setup_optimizers(*optimizers)

    def learn(self) -> None:
        ids = self.drawn(self.length)
        data = {name: column[ids].float() for name, column in self.rows.items()}
        if self.updates % self.cfg.algo.critic.per_rank_target_network_update_freq == 0:
            self.target.module.load_state_dict(self.parts[2].module.state_dict())
        parts = (*self.parts, self.target, *self.optimizers)
        v2.train(self.fabric, *parts, data, None, self.cfg, (ACTIONS,))
        self.updates += 1


class DreamerV3(Cases):
    def build(self, chosen: argparse.Namespace) -> None:
        self.cfg = configured("exp=dreamer_v3_5", f"algo=dreamer_v3_5_{chosen.size.upper()}")
        *parts, self.slow, self.player = v3_agent.build_agent(self.fabric, (ACTIONS,), False, self.cfg, OBS)
        self.parts = tuple(parts)
        for part in (parts[0].encoder, parts[0].observation_model):
            part.to(memory_format=torch.channels_last)
        weights = [p for part in parts for p in part.parameters()]
        self.optimizer = self.fabric.setup_optimizers(hydra.utils.instantiate(self.cfg.algo.optimizer, params=weights))
        scale, sizes = self.cfg.algo.actor.moments, self.cfg.algo.world_model
        self.moments = v3_utils.Moments(scale.decay, scale.max, scale.percentile.low, scale.percentile.high)
        deter = sizes.recurrent_model.recurrent_state_size
        self.rows["deter"] = torch.zeros(ROWS, deter, dtype=torch.half)
        self.rows["stoch"] = torch.zeros(ROWS, sizes.stochastic_size, dtype=torch.uint8)

    def learn(self) -> None:
        ids = self.drawn(self.length + 1)  # the first step is the context
        data = {name: column[ids] for name, column in self.rows.items()}
        parts = (*self.parts, self.slow)
        latents = v3.train(self.fabric, self.cfg, *parts, self.optimizer, self.moments, data, None, (ACTIONS,))
        v3.update_target_critic(self.parts[2], self.slow, self.cfg.algo.critic.tau)
        for name, latent in zip(("deter", "stoch"), latents, strict=True):
            self.rows[name][ids[1:]] = latent

    def act(self, obs: dict[str, np.ndarray]) -> Any:
        return self.player.get_actions(v3_utils.prepare_obs(self.fabric, obs, cnn_keys=["rgb"]))


AGENTS = {"dreamer-v1": DreamerV1, "dreamer-v2": DreamerV2, "dreamer-v3": DreamerV3}

if __name__ == "__main__":
    asked = options(__doc__, ("1m", "12m"), agents=AGENTS)
    serve("sheeprl", version("sheeprl"), asked, AGENTS[asked.agent])
