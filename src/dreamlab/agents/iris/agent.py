"""IRIS: the agent and its recipe (Micheli et al. 2023, arXiv:2209.00588v3; the authors' code).

An epoch collects, then trains what has begun, in this order:

tokenizer     frames <-> tokens
dynamics      a transformer predicts the next frame's tokens, the reward's sign and the end
actor_critic  learns in imagination: frames decoded from tokens that the transformer draws

The tokenizer stands still once its updates of an epoch are done. So frames are tokenised once an epoch, when they are
first needed: their tokens lie beside the rows with the number of the tokenizer that wrote them.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from dreamlab.agents import refuse_lacking
from dreamlab.agents.iris import actor_critic as behaviour
from dreamlab.agents.iris import perceptual, reports
from dreamlab.agents.iris.acting import Acting
from dreamlab.agents.iris.actor_critic import Imagined, Seen
from dreamlab.agents.iris.config import PARTS, Config, budget, trained
from dreamlab.agents.iris.dynamics import Dynamics, decay_groups, draw
from dreamlab.agents.iris.model import Latent, Model
from dreamlab.agents.iris.tokenizer import Tokenizer, usage
from dreamlab.core.errors import UserError
from dreamlab.core.inside import Choices, Number, View
from dreamlab.core.protocols import Experience, Phase, Policy, State
from dreamlab.core.sampling import Segments
from dreamlab.core.seeds import derive, forked
from dreamlab.core.types import Batch, Recorded
from dreamlab.nn import group_norm, optim
from dreamlab.nn.compute import Compute

if TYPE_CHECKING:
    from dreamlab.core.types import Metrics
    from dreamlab.run.config import RunConfig

CHUNK = 64
"""frames tokenised or decoded at once"""
LOOK = 50
"""updates between two looks at rewards"""
REVIVED = 64
"""frames, or more, among which the codes that nothing named find new places"""
COLLAPSED = 0.05
"""share of the codebook in use below which it has collapsed"""


class Steps(NamedTuple):
    """What the dynamics learn from, in the paper's convention: ``rew[t]`` and ``end[t]`` are what ``act[t]`` led to."""

    tokens: Tensor
    """(B, T, K)"""
    act: Tensor
    """(B, T) int64"""
    rew: Tensor
    """(B, T)"""
    end: Tensor
    """(B, T) bool: terminated or, as the authors have it, truncated"""
    mask: Tensor
    """(B, T) bool: the row after it is there, which says what came of it"""


def steps(batch: Batch, tokens: Tensor) -> Steps:
    """From rows (B, T + 1) and tokens (B, T, K) of all but the last: each row is paired with the one after it."""
    return Steps(tokens, batch.act[:, :-1].argmax(-1), batch.rew[:, 1:], batch.is_last[:, 1:], batch.mask[:, 1:])


class Iris:
    """Tokenizer, dynamics, actor and critic, and the phases that train them."""

    def __init__(
        self,
        config: Config,
        obs_space: spaces.Dict,
        act_space: spaces.Space,
        compute: Compute,
        seed: int,
        run: RunConfig,
    ) -> None:
        shape, self.actions = fitting(obs_space, act_space)
        self.config, self.compute, self.seed, self.run = config, compute, seed, run
        self.evaluation = "sample"  # may be set to mode for one evaluation
        self.perceptual = perceptual.settle(config.tokenizer.perceptual, shape[0], min(shape[1:]))
        self.recipe: perceptual.Reconstruction | None = None  # made when it is needed: only learning reads weights
        with forked(seed, "init"):
            tokenizer = Tokenizer(shape, config.tokenizer)
            dynamics = Dynamics(tokenizer.tokens, config.tokenizer.vocabulary, self.actions, config.dynamics)
            self.actor_critic = behaviour.build(
                shape, tokenizer.tokens, config.tokenizer.vocabulary, self.actions, config.actor_critic
            )
        self.model = Model(tokenizer, dynamics)
        if not next(tokenizer.parameters()).is_meta:  # sizes are counted on the meta device
            for part in self.parts.values():
                part.to(compute.device)
        for part in self.parts.values():
            part.eval()
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            "tokenizer": optim.adam(tokenizer.parameters(), config.tokenizer.lr, 1e-8),
            "dynamics": optim.adamw(decay_groups(dynamics, config.dynamics.decay), config.dynamics.lr),
            "actor_critic": optim.adam(self.actor_critic.parameters(), config.actor_critic.lr, 1e-8),
        }
        self.segments = {name: Segments(derive(seed, "segments", name)) for name in PARTS}
        self.versions = dict.fromkeys(PARTS, 0)  # updates of each part
        self.told: set[str] = set()  # warnings that were given
        self.recorded: Recorded | None = None
        self._imagine = compute.whole(self.imagine)
        if compute.compile and compute.device.type == "cpu":
            dynamics.transformer.fuse(compute.compiled)
            group_norm.fuse(tokenizer, compute.compiled)

    # ---- the recipe

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        """The three."""
        return {
            "tokenizer": self.model.tokenizer, "dynamics": self.model.dynamics, "actor_critic": self.actor_critic,
        }  # fmt: skip

    def phases(self) -> Sequence[Phase]:
        """``budget`` with the live parts bound to it."""
        learners = {
            "tokenizer": self.learn_tokenizer, "dynamics": self.learn_dynamics, "actor_critic": self.learn_actor_critic,
        }  # fmt: skip
        act = self.policy(explore=True)
        return [
            replace(
                phase,
                act=act if phase.env_steps else None,
                learn=tuple((learners[name], times) for name, times in trained(phase, self.config).items()),
            )
            for phase in budget(self.config, self.run, (), self.recorded)
        ]

    def policy(self, explore: bool) -> Policy:
        """It draws its actions, at one temperature while it collects and at another when it is evaluated."""
        config = self.config
        if explore:
            return Acting(self, config.temperature, config.epsilon, remember=config.actor_critic.burn_in)
        return Acting(self, config.eval_temperature if self.evaluation == "sample" else 0.0, 0.0, remember=0)

    @property
    def acts(self) -> bool:
        """Whether it has a behaviour worth a score."""
        return self.config.actor_critic.updates > 0

    @property
    def protocol(self) -> Mapping[str, Any]:
        """What a score must say beside how actions were chosen."""
        drawn = {"temperature": self.config.eval_temperature} if self.evaluation == "sample" else {}
        return {"reconstruction_loss": perceptual.name(self.perceptual, self.config.tokenizer.worst), **drawn}

    def refuse_untrained(self) -> None:
        """Call when all is loaded that was asked for.

        Raises:
            UserError: LPIPS is asked for, or was when the run began, and its weights are not there.
        """
        self.recipe = self.recipe or perceptual.make(self.perceptual, self.config.tokenizer.worst)

    def learn_from(self, recorded: Recorded) -> None:
        """Learn from recordings alone.

        Raises:
            UserError: they lack actions or rewards.
        """
        refuse_lacking("iris", recorded)
        if not recorded.ends:
            warnings.warn(
                "these recordings do not say where episodes ended: IRIS takes the end of each for one", stacklevel=2
            )
        self.recorded = recorded

    # ---- the tokenizer

    def learn_tokenizer(self, experience: Experience) -> Metrics:
        """One update on single frames."""
        config, tokenizer = self.config.tokenizer, self.model.tokenizer
        rows = self.segments["tokenizer"](experience.index, config.batch, 1)
        image = experience.gather(rows, obs=("image",), extras=()).obs["image"].flatten(0, 1)
        self.recipe = self.recipe or perceptual.make(self.perceptual, self.config.tokenizer.worst)
        tokenizer.train()
        with self.compute.autocast():
            if self.versions["tokenizer"] < config.continuous:
                loss, metrics = tokenizer.continuous_losses(image, self.recipe)
            else:
                loss, metrics, tokens = tokenizer.losses(image, self.recipe)
                tokenizer.used[tokens.flatten()] = True
                metrics |= usage(tokens, config.vocabulary)
        tokenizer.eval()
        found = self._step("tokenizer", loss, metrics)
        quantised = self.versions["tokenizer"] - config.continuous
        if (config.continuous and quantised == 0) or (config.revive and quantised > 0 == quantised % config.revive):
            self._revive(experience)
        return found

    def _revive(self, experience: Experience) -> None:
        rows = self.segments["tokenizer"](experience.index, max(REVIVED, self.config.tokenizer.batch), 1)
        image = experience.gather(rows, obs=("image",), extras=()).obs["image"].flatten(0, 1)
        with self.compute.autocast():
            self.model.tokenizer.revive(image)

    @torch.no_grad()
    def tokens(self, experience: Experience, rows: np.ndarray) -> Tensor:
        """Tokens (B, T, K) of rows, zeros where padded: those beside the rows if today's tokenizer wrote them."""
        k, now = self.model.tokenizer.tokens, self.versions["tokenizer"] + 1  # 0 is what was never written
        extras = experience.gather(rows, obs=(), extras=("tokens", "tokenised")).extras
        stale = rows >= 0
        if "tokenised" in extras:
            stale &= extras["tokenised"].cpu().numpy() != now
            found = extras["tokens"].long()
        else:
            found = torch.zeros(*rows.shape, k, dtype=torch.int64, device=self.compute.device)
        if not stale.any():
            return found
        ids, place = np.unique(rows[stale], return_inverse=True)
        fresh = torch.cat([self._tokenised(experience, ids[i : i + CHUNK, None]) for i in range(0, len(ids), CHUNK)])
        experience.annotate(
            ids[:, None],
            tokens=fresh[:, None].to(torch.int16),
            tokenised=torch.full((len(ids), 1), now, dtype=torch.int32),
        )
        found[torch.from_numpy(stale).to(found.device)] = fresh[torch.from_numpy(place).to(found.device)]
        return found

    def _tokenised(self, experience: Experience, rows: np.ndarray) -> Tensor:
        with self.compute.autocast():
            return self.model.tokenizer.tokenise(experience.gather(rows, obs=("image",), extras=()).obs["image"][:, 0])

    # ---- the dynamics

    def learn_dynamics(self, experience: Experience) -> Metrics:
        """One update on windows that begin anywhere in an episode, padded on the right."""
        config, dynamics = self.config.dynamics, self.model.dynamics
        rows = self.segments["dynamics"](experience.index, config.batch, config.blocks + 1)
        batch = experience.gather(rows, obs=(), extras=())
        self._tell_rewards(batch)
        learned = steps(batch, self.tokens(experience, np.where(rows[:, 1:] >= 0, rows[:, :-1], -1)))
        dynamics.train()
        with self.compute.autocast():
            loss, metrics = dynamics.losses(*learned)
        dynamics.eval()
        return self._step("dynamics", loss, metrics)

    def _tell_rewards(self, batch: Batch) -> None:
        """Once: where rewards are more than their sign."""
        if "rewards" in self.told or self.versions["dynamics"] % LOOK:  # looking waits for the device
            return
        rew = batch.rew[batch.mask]
        if bool((rew.abs() * (rew.abs() - 1)).any()):
            self.told.add("rewards")
            warnings.warn(
                f"rewards here lie between {rew.min():.3g} and {rew.max():.3g}: IRIS learns their sign alone, so it "
                "cannot tell a large reward from a small one, and a dream's return counts signs; scores are of real "
                "rewards",
                stacklevel=2,
            )

    # ---- actor and critic

    def learn_actor_critic(self, experience: Experience) -> Metrics:
        """One update: imagine from frames anywhere in an episode, then learn from what was imagined."""
        config = self.config.actor_critic
        rows = self.segments["actor_critic"](experience.index, config.batch, config.burn_in + 1, pad="left")
        tokens = self.tokens(experience, rows)  # (N, B + 1, K)
        mask = torch.from_numpy(rows[:, :-1] >= 0).to(tokens.device)
        with torch.no_grad():
            with self.compute.autocast():
                memory = self.actor_critic.burn(self.see(tokens[:, :-1]), mask)
            with self.compute.autocast():  # a cache of casts of its own: what a graph captures must cast inside it
                dream = self._imagine(tokens[:, -1], memory)
        self.actor_critic.train()
        with self.compute.autocast():
            said = self.actor_critic.unroll(dream.seen, memory)
        self.actor_critic.eval()
        losses = behaviour.losses(said, dream, config)
        with torch.no_grad():
            metrics = {f"loss/{name}": loss.detach() for name, loss in losses.items()} | {
                "policy_entropy": behaviour.entropy(said.logits.log_softmax(-1)).mean(),
                "value": said.val.mean(),
                "imagined_reward": dream.rew.mean(),
                "imagined_return": dream.rew.sum(1).mean(),
                "imagined_ends": dream.end.float().mean(),
            }
        return self._step("actor_critic", torch.stack(list(losses.values())).sum(), metrics)

    def see(self, tokens: Tensor) -> Seen:
        """Tokens (..., K), and the frames (..., C, h, w) that they stand for if the actor-critic looks at them."""
        if not self.actor_critic.looks:
            return Seen(tokens, tokens.new_zeros(*tokens.shape[:-1], 0, dtype=torch.float32))
        pieces = [self.model.tokenizer.picture(piece) for piece in tokens.flatten(0, -2).split(CHUNK)]
        return Seen(tokens, torch.cat(pieces).unflatten(0, tokens.shape[:-1]))

    def imagine(self, tokens: Tensor, memory: State) -> Imagined:
        """H steps from start frames (N, K) by the policy, without gradients, drawn in the paper's order."""
        dynamics, horizon = self.model.dynamics, self.config.actor_critic.horizon
        context = dynamics.begin(tokens)
        seen, acts, rews, ends = [], [], [], []
        for k in range(horizon):
            seen.append(self.see(tokens))
            said, memory = self.actor_critic.step(seen[-1], memory)
            act = draw(said.logits)
            context, after = dynamics.step(
                context, act, frame=k < horizon - 1, at=dynamics.tokens - 1 + k * dynamics.block
            )
            tokens = after.tokens
            acts.append(act)
            rews.append(after.rew)
            ends.append(after.end)
        frames = Seen(*(torch.stack(part, 1) for part in zip(*seen, strict=True)))
        return Imagined(frames, torch.stack(acts, 1), torch.stack(rews, 1), torch.stack(ends, 1))

    # ---- all three

    def _step(self, name: str, loss: Tensor, metrics: Mapping[str, Tensor]) -> Metrics:
        optimizer, part = self.optimizers[name], self.parts[name]
        optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(part.parameters(), getattr(self.config, name).clip, foreach=True)
        optimizer.step()
        self.versions[name] += 1
        found = {"loss": loss.detach(), **metrics, "gradient_norm": norm}
        return {f"{name}/{key}": value for key, value in found.items()}

    # ---- to be looked at

    @torch.no_grad()
    def judge(self, latents: Latent, memory: State = None) -> tuple[Mapping[str, View], State]:
        """What actor and critic say of frames (N, T) that follow one another, and their memory after them."""
        seen = self.see(latents.tokens)
        memory = self.actor_critic.initial(len(latents.tokens), latents.tokens.device) if memory is None else memory
        found = []
        for frame in zip(*(part.unbind(1) for part in seen), strict=True):
            said, memory = self.actor_critic.step(Seen(*frame), memory)
            found.append(said)
        said = behaviour.Said(*(torch.stack(parts, 1) for parts in zip(*found, strict=True)))
        log = said.logits.log_softmax(-1)
        policy = Choices((log.exp(),))
        return {"value": Number(said.val), "entropy": Number(behaviour.entropy(log)), "policy": policy}, memory

    # ---- reports and saving

    @torch.no_grad()
    def report(self, phase: str, experience: Experience) -> Metrics:
        """Frames beside their reconstructions, the codebook's use, open-loop films, values against real returns."""
        found: dict[str, Any] = {}
        active = [name for name in PARTS if self.versions[name]]
        if self.versions["tokenizer"] > self.config.tokenizer.continuous:
            found |= reports.tokenizer(self.model.tokenizer, experience)
            share = float(found["codebook_usage"])
            if share < COLLAPSED:
                warnings.warn(
                    f"the codebook has collapsed, or has yet to unfold: {share:.1%} of its "
                    f"{self.config.tokenizer.vocabulary} codes are in use after {self.versions['tokenizer']} updates; "
                    "if it stays so, try --agent.tokenizer.revive 50, a smaller --agent.tokenizer.commitment-scale, or "
                    "fewer codes with --agent.tokenizer.vocabulary",
                    stacklevel=3,
                )
        if "dynamics" in active:
            found |= reports.dynamics(self.model, experience)
        if "actor_critic" in active:
            found |= reports.values(self, experience)
        return found

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs to go on as if nothing had happened."""
        state: dict[str, Any] = {name: dict(part.state_dict()) for name, part in self.parts.items()}
        return state | {
            "optimizers": {name: optim.optimizer_state(o) for name, o in self.optimizers.items()},
            "segments": {name: sampler.state_dict() for name, sampler in self.segments.items()},
            "versions": dict(self.versions),
            "perceptual": self.perceptual,
            "told": sorted(self.told),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore ``state_dict``."""
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
            optim.load_optimizer(self.optimizers[name], state["optimizers"][name])
            self.segments[name].load_state_dict(state["segments"][name])
        self.versions = {name: int(state["versions"][name]) for name in PARTS}
        self.told = set(state["told"])
        self.perceptual, self.recipe = str(state["perceptual"]), None  # as it began, whatever weights are here now


def fitting(obs_space: spaces.Dict, act_space: spaces.Space) -> tuple[tuple[int, int, int], int]:
    """The shape (C, h, w) of the frames, and how many actions there are.

    Raises:
        UserError: no frames, or actions that are not one of n.
    """
    image = obs_space.spaces.get("image")
    if image is None or image.shape is None:
        raise UserError(
            f"IRIS sees frames, but the environment gives {', '.join(obs_space.spaces)}; type --env.obs pixels, or "
            "take an agent for numbers: dreamer-v3"
        )
    if not isinstance(act_space, spaces.Discrete):
        raise UserError(
            f"IRIS has a token for each action, so it chooses one of n (Discrete); this environment's actions are "
            f"{act_space}: give a discrete form where there is one (CarRacing: --env.no-continuous), or take "
            "dreamer-v3, which acts in any space"
        )
    return tuple(image.shape), int(act_space.n)  # type: ignore[return-value]
