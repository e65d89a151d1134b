"""DreamerV3's update and policy step by TorchRL 0.14, to compare with ours.

    python -m venv peers/torchrl
    peers/torchrl/bin/pip install torch==2.13.0
    peers/torchrl/bin/pip install "torchrl==0.14.*" "tensordict==0.14.*"
    printf 'update 1\\nupdate 1\\npolicy 20\\n' | peers/torchrl/bin/python benchmarks/peer_torchrl.py

It runs in that environment, alone: nothing of dreamlab is imported. One line of JSON says what was built. Then each
line of input asks for a case and how many units of it, and is answered by one line with the seconds that they took,
so that a benchmark can give both sides their turns. The first of each case warms up. On Linux the allocator's
settings count for a quarter of an update (``tuned`` in the first line says whether they are there):

    MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=17179869184 MALLOC_TOP_PAD_=268435456

``update``: one whole update on a batch gathered from random uint8 frames of 3 x 64 x 64 in memory: world model,
imagination over 15 steps from every latent, actor, critic, replay value, slow critic, optimizer, and the latents
written back. ``policy``: one observation of one environment to one action.

The network is that of 2024: TorchRL's block GRU, prior, posterior, heads and actor, its losses and its optimizer,
and the official convolutions, which pool and upsample where TorchRL's own have strides; they are
channels-last. With six actions that makes 10,492,616 parameters for 12m and 686,456 for 1m, as many as ours.
"""

from __future__ import annotations

import argparse
from contextlib import AbstractContextManager
from itertools import pairwise
from typing import Any

import torch
import torchrl
from peer_protocol import options, serve
from tensordict import TensorDict
from tensordict.nn import TensorDictModule as Step
from tensordict.nn import TensorDictSequential as Steps
from torch import Tensor, nn
from torchrl.data import Composite, OneHot, Unbounded
from torchrl.envs.model_based import DreamerEnv
from torchrl.modules import (
    DreamerV3DiscreteActor,
    DreamerV3MLP,
    RSSMPosteriorV3,
    RSSMPriorV3,
    RSSMRolloutV3,
    RSSMStateEstimatorV3,
    SymExpTwoHot,
    WorldModelWrapper,
)
from torchrl.modules.models.model_based import _dreamer_v3_conv_init as init_conv
from torchrl.modules.models.model_based import _DreamerV3BlockLinear as BlockLinear
from torchrl.modules.models.model_based import _DreamerV3ChannelRMSNorm as ChannelNorm
from torchrl.objectives import DreamerV3ActorLoss, DreamerV3Loss, DreamerV3ModelLoss, DreamerV3ValueLoss, SoftUpdate
from torchrl.objectives.utils import ValueEstimators
from torchrl.trainers.algorithms import DreamerV3Optimizer

WIDTHS = {"1m": 64, "12m": 256}
ACTIONS, GROUPS, BLOCKS, BINS, UNIMIX, HORIZON = 6, 32, 8, 255, 0.01, 333.0
MULTIPLES = (2, 3, 4, 4)
"""channels of the encoder's stages, over the depth"""
ROWS = 4096
"""steps in memory"""
FEATURES = ["state", "belief"]


# ---- the network


class Encoder(nn.Module):
    """The official one: images (..., 3, 64, 64) of bytes to (..., 16 x last channels)."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        channels = [3, *(depth * m for m in MULTIPLES)]
        layers: list[nn.Module] = []
        for before, after in pairwise(channels):
            layers += [nn.Conv2d(before, after, 5, padding="same"), nn.MaxPool2d(2), ChannelNorm(after), nn.SiLU()]
        self.layers = nn.Sequential(*layers).apply(init_conv)
        self.features = 16 * channels[-1]

    def forward(self, image: Tensor) -> Tensor:
        x = self.layers(image.flatten(0, -4).float() / 255 - 0.5)
        return x.reshape(*image.shape[:-3], -1)


class Decoder(nn.Module):
    """The official one: (..., stoch) and (..., deter) to images (..., 3, 64, 64) in [0, 1]."""

    def __init__(self, depth: int, width: int, stoch: int, deter: int) -> None:
        super().__init__()
        channels = [depth * m for m in reversed(MULTIPLES)]
        features = 16 * channels[0]
        self.from_deter = BlockLinear(deter, features, BLOCKS)
        self.from_stoch = DreamerV3MLP(stoch, features, depth=1, num_cells=2 * width)
        layers: list[nn.Module] = [ChannelNorm(channels[0]), nn.SiLU()]
        for before, after in pairwise(channels):
            layers += [nn.Upsample(scale_factor=2), nn.Conv2d(before, after, 5, padding="same")]
            layers += [ChannelNorm(after), nn.SiLU()]
        layers += [nn.Upsample(scale_factor=2), nn.Conv2d(channels[-1], 3, 5, padding="same"), nn.Sigmoid()]
        self.layers = nn.Sequential(*layers).apply(init_conv)

    def forward(self, stoch: Tensor, deter: Tensor) -> Tensor:
        x = self.from_deter(deter) + self.from_stoch(stoch)
        x = self.layers(x.reshape(-1, x.shape[-1] // 16, 4, 4))
        return x.reshape(*stoch.shape[:-1], 3, 64, 64)


class Agent:
    """TorchRL's parts, put together as its own examples do."""

    def __init__(self, width: int) -> None:
        self.stoch, self.deter = GROUPS * width // 16, 8 * width
        feat, sizes = self.stoch + self.deter, {"hidden_dim": width, "rnn_hidden_dim": 8 * width}
        sizes |= {"num_categoricals": GROUPS, "num_classes": width // 16}
        self.encoder = Encoder(width // 16)
        self.prior = RSSMPriorV3(
            action_shape=(ACTIONS,),
            action_dim=ACTIONS,
            recurrent_model="block_gru",
            num_blocks=BLOCKS,
            unimix=UNIMIX,
            **sizes,
        )
        self.posterior = RSSMPosteriorV3(obs_embed_dim=self.encoder.features, use_rms_norm=True, unimix=UNIMIX, **sizes)
        self.decoder = Decoder(width // 16, width, self.stoch, self.deter)
        for part in (self.encoder, self.decoder):
            part.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.reward = DreamerV3MLP(feat, BINS, depth=1, num_cells=width, outscale=0.0)
        self.con = DreamerV3MLP(feat, 1, depth=1, num_cells=width)
        self.actor = DreamerV3DiscreteActor(feat, ACTIONS, num_cells=width, unimix=UNIMIX)
        critic = DreamerV3MLP(feat, BINS, num_cells=width, outscale=0.0)
        self.value = Steps(
            Step(critic, FEATURES, ["state_value_logits"]),
            Step(SymExpTwoHot(BINS), ["state_value_logits"], ["state_value"]),
        )
        self.loss = self._loss()

    def _world_model(self) -> Steps:
        after = [("next", key) for key in FEATURES]
        rollout = RSSMRolloutV3(
            Step(self.prior, [*FEATURES, "action"], [("next", "prior_logits"), *after]),
            Step(
                self.posterior,
                [("next", "belief"), ("next", "encoded_latents")],
                [("next", "posterior_logits"), ("next", "state")],
            ),
        )
        return Steps(
            Step(self.encoder, [("next", "pixels")], [("next", "encoded_latents")]),
            rollout,
            Step(self.decoder, after, [("next", "reco_pixels")]),
            Step(self.reward, after, [("next", "reward_logits")]),
            Step(SymExpTwoHot(BINS), [("next", "reward_logits")], [("next", "reward")]),
            Step(self.con, after, [("next", "continue_pred")]),
        )

    def _imagination(self) -> DreamerEnv:
        transition = Step(self.prior, [*FEATURES, "action"], ["_", *FEATURES])
        reward = Steps(
            Step(self.reward, FEATURES, ["reward_logits"]),
            Step(SymExpTwoHot(BINS), ["reward_logits"], ["reward"]),
        )
        env = DreamerEnv(WorldModelWrapper(transition, reward), (self.stoch,), (self.deter,))
        env.observation_spec = Composite(state=Unbounded(self.stoch), belief=Unbounded(self.deter))
        env.state_spec = env.observation_spec.clone()
        env.action_spec, env.reward_spec = OneHot(ACTIONS, dtype=torch.float32), Unbounded((1,))
        return env

    def _loss(self) -> DreamerV3Loss:
        model = DreamerV3ModelLoss(
            self._world_model(),
            lambda_continue=1.0,
            kl_mode="separate",
            unimix=UNIMIX,
            continue_target_scale=1 - 1 / HORIZON,
            reco_symlog=False,
            detach_output=False,
        )
        con = Steps(
            Step(self.con, FEATURES, ["continue_logits"]), Step(nn.Sigmoid(), ["continue_logits"], ["continuation"])
        )
        actor = DreamerV3ActorLoss(
            self.actor, self.value, self._imagination(), continuation_model=con, use_reinforce=True
        )
        actor.make_value_estimator(ValueEstimators.TDLambda, gamma=1.0, lmbda=0.95)  # the discount is within con
        value = DreamerV3ValueLoss(self.value, "two_hot", actor_loss=actor, slow_critic_regularization=1.0)
        return DreamerV3Loss(model, actor, value, continuation_horizon=HORIZON)


# ---- the cases


class Cases:
    """What can be asked for: each method does some units and says how many rows these held."""

    def __init__(self, chosen: argparse.Namespace) -> None:
        torch.manual_seed(0)
        self.batch, self.length, self.bf16 = chosen.batch, chosen.length, chosen.precision == "bf16"
        self.agent = Agent(WIDTHS[chosen.size])
        self.optimizer = DreamerV3Optimizer([p for p in self.agent.loss.parameters() if p.requires_grad])
        self.slow = SoftUpdate(self.agent.loss.value_loss, tau=0.02)
        self.parameters = sum(p.numel() for group in self.optimizer.param_groups for p in group["params"])
        self.rows = experience(self.agent)
        self.acting = Steps(
            Step(self.agent.encoder, ["pixels"], ["encoded_latents"]),
            RSSMStateEstimatorV3(self.agent.prior, self.agent.posterior),
            self.agent.actor,
        )
        self.now = self.rows[:1].select(*FEATURES, "is_init").clone()
        self.now["previous_action"] = torch.zeros(1, ACTIONS)

    def _precision(self) -> AbstractContextManager[Any]:
        return torch.autocast("cpu", torch.bfloat16, enabled=self.bf16)

    def update(self, count: int) -> int:
        for _ in range(count):
            start = torch.randint(ROWS - self.length, (self.batch, 1))
            ids = start + torch.arange(self.length)
            with self._precision():
                losses = self.agent.loss(self.rows[ids])
                total = sum(value for name, value in losses.items() if name.startswith("loss_"))
            self.optimizer.zero_grad()
            total.backward()
            self.optimizer.step()
            self.slow.step()
            for key in FEATURES:
                self.rows[key][ids + 1] = losses["replay_context", key].float()
        assert total.isfinite(), "the loss is not finite"
        return count * self.batch * self.length

    @torch.inference_mode()
    def policy(self, count: int) -> int:
        for i in range(count):
            self.now["pixels"] = self.rows["next", "pixels"][i % ROWS][None]
            with self._precision():
                self.acting(self.now)
            self.now["previous_action"] = self.now["action"].float()
            self.now["action"].argmax(-1).item()
        return count


def experience(agent: Agent) -> TensorDict:
    """Random steps in a row, an episode's start now and then; one more than can be sampled, for the latents."""
    flag = torch.rand(ROWS, 1) < 0.005
    return TensorDict(
        {
            "state": torch.zeros(ROWS, agent.stoch),
            "belief": torch.zeros(ROWS, agent.deter),
            "action": nn.functional.one_hot(torch.randint(ACTIONS, (ROWS,)), ACTIONS).float(),
            "is_init": flag,
            "next": {
                "pixels": torch.randint(256, (ROWS, 3, 64, 64), dtype=torch.uint8),
                "reward": torch.randn(ROWS, 1),
                "done": flag.roll(-1, 0),
                "terminated": flag.roll(-1, 0),
            },
        },
        [ROWS],
    )


if __name__ == "__main__":
    serve("torchrl", torchrl.__version__, options(__doc__, WIDTHS), Cases)
