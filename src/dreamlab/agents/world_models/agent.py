"""World Models: the agent and its recipe (Ha & Schmidhuber 2018, arXiv:1803.10122).

collect   behaviour writes rows: a random one, and from the second iteration on the controller
vision    V learns to compress single frames
encode    V's codes (mu, logvar) are written beside the rows, once
memory    M learns to predict the codes' sequence; z is drawn from them afresh for every batch
controller  C is evolved by CMA-ES in the environment or in M's dream, or learns by gradients (``actor_critic``)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from dreamlab.agents import fits
from dreamlab.agents.world_models import reports
from dreamlab.agents.world_models.acting import COLLECTORS
from dreamlab.agents.world_models.actions import actions_for
from dreamlab.agents.world_models.actor_critic import ActorCritic
from dreamlab.agents.world_models.config import STAGES, TAKES, Config, budget, dreams, stages
from dreamlab.agents.world_models.evolved import Evolved
from dreamlab.agents.world_models.memory import Memory, Sequences, memory_losses, sequences
from dreamlab.agents.world_models.model import Latent, Model, codes, see
from dreamlab.agents.world_models.schedules import SCHEDULES
from dreamlab.agents.world_models.vision import draw, pixel_accuracy
from dreamlab.core.errors import RunError, UserError
from dreamlab.core.inside import View
from dreamlab.core.protocols import Experience, Phase, Policy
from dreamlab.core.sampling import EpisodeWindows, Frames, WholeEpisodes
from dreamlab.core.seeds import derive, forked, torch_rng
from dreamlab.core.types import Batch, Recorded
from dreamlab.nn.compute import Compute
from dreamlab.nn.optim import load_optimizer, optimizer_state

if TYPE_CHECKING:
    from dreamlab.core.types import Metrics

SEQUENCES: dict[str, type[WholeEpisodes] | type[EpisodeWindows]] = {
    "episodes": WholeEpisodes,
    "windows": EpisodeWindows,
}
BEHAVIOURS: dict[str, type[Evolved] | type[ActorCritic]] = {"cma-es": Evolved, "actor-critic": ActorCritic}
ENCODE_BATCH = 250


class WorldModelsAgent:
    """V, M and C, and the phases that train them one after the other."""

    def __init__(
        self, config: Config, obs_space: spaces.Dict, act_space: spaces.Space, compute: Compute, seed: int, run: Any
    ) -> None:
        self.config, self.compute, self.seed, self.run = config, compute, seed, run
        self.actions = actions_for(act_space, config.controller.actions)
        with forked(seed, "init"):
            vision: Any = see(config.vision, obs_space)
            memory = Memory(vision.latent, self.actions.size, config.memory)
            self.model = Model(vision, memory, self.actions)
            self.behaviour = BEHAVIOURS[config.controller.learner](config, self.model, compute, seed)
        real = not any(t.is_meta for part in self.parts.values() for t in part.state_dict().values())
        device = compute.device if real else torch.device("cpu")  # sizes are counted on the meta device
        if real:
            for part in self.parts.values():
                part.to(device)
        self.model.eval()
        self.generators = {name: torch_rng(device, seed, "draw", name) for name in ("collect", "vision", "memory")}
        self.optimizers = {
            name: OPTIMIZERS[kind](part.parameters(), lr)
            for name, part, kind, lr in (
                ("vision", vision, "adam", config.vision.lr),
                ("memory", memory, config.memory.optimizer, config.memory.lr),
            )
            if any(True for _ in part.parameters())
        }
        self.schedules = {
            "vision": SCHEDULES[config.vision.schedule](config.vision.lr),
            "memory": SCHEDULES[config.memory.schedule](config.memory.lr),
        }
        self.frames = Frames(derive(seed, "frames"))
        self.sequences = SEQUENCES[config.memory.windows](derive(seed, "sequences"))
        self._vision_losses, self._nll = compute.compiled(vision.losses), compute.compiled(memory.kind.nll)
        self.seen = 0  # updates of V
        self.encoded = 0  # rounds of the running encode phase that are done
        self.loaded: set[str] = set()
        self.recorded: Recorded | None = None

    # ---- the recipe

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        """V, M and C."""
        return {"vision": self.model.vision, "memory": self.model.memory, **self.behaviour.parts}  # type: ignore[dict-item]

    def phases(self) -> Sequence[Phase]:
        """The budget with the live parts bound to it; parts taken from another run are not trained again."""
        learners: dict[str, Any] = {
            "vision": lambda phase: self.learn_vision,
            "encode": lambda phase: partial(self.encode, rounds=phase.rounds),
            "memory": lambda phase: self.learn_memory,
            **{
                name: lambda phase, learn=learn: partial(learn, iteration=phase.iteration)
                for name, learn in self.behaviour.learners.items()
            },
        }
        return [
            replace(
                phase,
                act=self._collector(phase) if phase.env_steps else None,
                learn=((learners[phase.name](phase), 1),) if phase.name in learners else (),
            )
            for phase in budget(self.config, self.run, self.loaded, self.recorded)
        ]

    def refuse_untrained(self) -> None:
        """Call when all is loaded that was asked for.

        Raises:
            UserError: ``stages`` leaves out a part that the others stand on, and no run has brought it.
        """
        config, trained = self.config, stages(self.config, self.loaded)
        there = {*trained, *self.loaded, *(() if list(self.parts["vision"].parameters()) else ("vision",))}
        remembers = config.controller.inputs != "z" or dreams(config)
        needs = {"memory": ("vision",), "controller": ("vision", "memory") if remembers else ("vision",)}
        for name in trained:
            for lacking in (part for part in needs.get(name, ()) if part not in there):
                raise UserError(
                    f"stages {' '.join(trained)}: {name} needs {lacking}, which is not trained; take it from a run "
                    f"with --from RUN, or let stages name it too"
                )

    def _collector(self, phase: Phase) -> Policy:
        """Who acts in a phase: at first chance, later what has been learned."""
        if phase.name == "collect" and phase.iteration == 1 and "controller" not in self.loaded:
            return COLLECTORS[self.config.collect](self.model.vision.latent, self.actions, self.generators["collect"])
        return self.policy(explore=True)

    def policy(self, explore: bool) -> Policy:
        """The controller as it is now."""
        return self.behaviour.policy(explore)

    @property
    def acts(self) -> bool:
        """Whether it has a behaviour worth a score: C is trained, or was."""
        return "controller" in stages(self.config, self.loaded) or "controller" in self.loaded

    def learn_from(self, recorded: Recorded) -> None:
        """Learn from recordings instead of collecting; ask for ``phases`` after this.

        Raises:
            UserError: the recipe needs what they lack.
        """
        config, trained = self.config, stages(self.config, self.loaded)
        lacks = []
        if config.memory.reward and not recorded.rewards and "memory" in trained:
            lacks.append("no rewards for M to predict (leave them out: --agent.memory.no-reward)")
        if config.memory.continuation and not recorded.ends and "memory" in trained:
            lacks.append("no ends for M to predict (leave them out: --agent.memory.no-continuation)")
        if "controller" in trained and not recorded.actions:
            lacks.append(
                "no actions, so that C could not know what it does (leave C out: --agent.stages vision memory)"
            )
        elif "controller" in trained and not dreams(config) and not recorded.env:
            lacks.append(
                "no environment for C to act in (type --agent.controller.train-in dream, name one with --env, "
                "or leave C out: --agent.stages vision memory)"
            )
        practises = config.controller.learner == "actor-critic" and config.actor_critic.env_steps > 0
        if "controller" in trained and practises and not recorded.env:
            lacks.append(
                "no environment to practise in (type --agent.actor-critic.env-steps 0, or name one with --env)"
            )
        if config.iterations > 1:
            lacks.append("nobody who collects anew for a second iteration (type --agent.iterations 1)")
        if lacks:
            raise UserError(f"the recipe does not fit the recordings, where there are {'; '.join(lacks)}")
        self.recorded = recorded

    # ---- V

    def learn_vision(self, experience: Experience) -> Metrics:
        """One update of V on random frames."""
        config, vision = self.config.vision, self.model.vision
        x = self._seen(experience, self.frames(experience.index, config.batch))  # (N, C, s, s) or (N, n)
        vision.adapt(x)
        self.parts["vision"].train()
        with self.compute.autocast():
            mu, logvar = vision.encode(x)
            recon = vision.decode(draw(mu, logvar, self.generators["vision"]))
        self.parts["vision"].eval()
        losses = {
            name: loss.mean() for name, loss in self._vision_losses(x, recon, mu, logvar, config.kl_floor).items()
        }
        self.seen += 1
        beta = config.beta * min(1.0, self.seen / max(config.anneal, 1))
        loss = losses["reconstruction"] + beta * losses["kl"]
        self._update("vision", loss)
        metrics = {"loss": loss.detach(), **{name: value.detach() for name, value in losses.items()}}
        if vision.key == "image":
            metrics["pixel_accuracy"] = pixel_accuracy(x, recon.detach())
        return metrics

    @torch.no_grad()
    def encode(self, experience: Experience, rounds: int) -> Metrics:
        """Write V's codes beside one of ``rounds`` shares of all rows held."""
        index = experience.index
        held = (index.stop - index.start) * index.streams
        begin, end = (held * (self.encoded + i) // rounds for i in (0, 1))
        rows = index.start * index.streams + np.arange(begin, end)[:, None]  # (n, 1)
        for i in range(0, len(rows), ENCODE_BATCH):
            piece = rows[i : i + ENCODE_BATCH]
            with self.compute.autocast():
                mu, logvar = self.model.vision.encode(self._seen(experience, piece))
            experience.annotate(piece, mu=mu.half()[:, None], logvar=logvar.half()[:, None])  # (n, 1, D)
        self.encoded = (self.encoded + 1) % rounds  # the next iteration begins anew: V has learned
        return {"rows": float(len(rows))}

    def _seen(self, experience: Experience, rows: np.ndarray) -> Tensor:
        return seen(self.model, experience, rows)

    # ---- M

    def learn_memory(self, experience: Experience) -> Metrics:
        """One update of M; one draw of z is both input and, a step later, target."""
        config = self.config.memory
        self._refuse_short(experience)
        rows = self.sequences(experience.index, config.batch, config.sequence + 1)
        batch = experience.gather(rows, obs=())
        mu, logvar = codes(batch)
        steps = self._steps(batch, draw(mu, logvar, self.generators["memory"]))
        losses, h = self._memory_losses(steps)
        weights = {"nll": 1.0, "rew": config.reward_weight, "con": config.continuation_weight}
        loss = sum((weights[name] * value for name, value in losses.items()), torch.zeros((), device=h.device))
        self._update("memory", loss, config.clip)
        return {"loss": loss.detach(), **{name: value.detach() for name, value in losses.items()}}

    def _refuse_short(self, experience: Experience) -> None:
        episodes, warm_up = experience.index.episodes(), self.config.memory.warm_up
        longest = int((episodes.stop - episodes.start).max(initial=0)) - 1
        if longest <= warm_up:
            raise RunError(
                f"no episode is longer than the {warm_up} steps that M warms up for (the longest has {longest}): there "
                "is nothing to learn; make memory.warm_up shorter"
            )

    def _steps(self, batch: Batch, z: Tensor) -> Sequences:
        """What M learns from; the first ``warm_up`` steps of a sequence only fill its memory."""
        steps = sequences(batch, z, self.actions.seen(batch.act, batch.extras))
        steps.valid[:, : self.config.memory.warm_up] = False
        return steps

    def _memory_losses(self, steps: Sequences) -> tuple[dict[str, Tensor], Tensor]:
        """Mean losses over the valid steps, and h (B, T, H)."""
        memory = self.model.memory
        with self.compute.autocast():
            h = memory(steps.z, steps.act, steps.is_first)  # (B, T, H)
            mixture, extras = memory.mixture(h), memory.extras(h)
        nll = self._nll(mixture, steps.after)  # (B, T, D)
        losses = memory_losses(nll, extras, steps.rew, steps.is_terminal, self.config.memory.terminal_weight)
        count = steps.valid.sum().clamp(min=1)  # a batch of episodes just begun has no step at all
        return {name: (loss * steps.valid).sum() / count for name, loss in losses.items()}, h.float()

    def _update(self, part: str, loss: Tensor, clip: float | None = None) -> None:
        optimizer, schedule = self.optimizers.get(part), self.schedules[part]
        if optimizer is None:
            return  # it has statistics alone
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate
        optimizer.zero_grad()
        loss.backward()
        if clip is not None:
            nn.utils.clip_grad_value_(self.parts[part].parameters(), clip)
        optimizer.step()
        schedule.learned(loss)

    # ---- to be looked at

    def judge(self, latents: Latent, memory: Any = None) -> tuple[Mapping[str, View], Any]:
        """What C does at latents (N, T), and its critic says, if it has one."""
        return self.behaviour.judge(latents), memory

    # ---- reports

    @torch.no_grad()
    def report(self, phase: str, experience: Experience) -> Metrics:
        """Measures on rows spread over the whole table, at the codes' means; pictures of what V sees."""
        if phase == "vision":
            return reports.vision(self.model, experience)
        if phase != "memory":
            return {}
        config = self.config.memory
        length = min(config.sequence, max(256, 2 * config.warm_up))
        rows = EpisodeWindows(derive(self.seed, "report"))(experience.index, min(config.batch, 32), length + 1)
        batch = experience.gather(rows, obs=())
        steps = self._steps(batch, codes(batch)[0])
        losses, h = self._memory_losses(steps)
        return reports.memory(self.model.memory, losses, h, steps)

    # ---- saving

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs to go on as if nothing had happened."""
        return {
            "vision": _contiguous(self.model.vision.state_dict()),
            "memory": _contiguous(self.model.memory.state_dict()),
            "controller": self.behaviour.state_dict(),
            "optimizers": {name: optimizer_state(optimizer) for name, optimizer in self.optimizers.items()},
            "samplers": {"frames": self.frames.state_dict(), "sequences": self.sequences.state_dict()},
            "generators": {name: rng.get_state() for name, rng in self.generators.items()},
            "schedules": {name: schedule.state_dict() for name, schedule in self.schedules.items()},
            "seen": self.seen,
            "encoded": self.encoded,
            "trained": sorted(self.loaded | set(stages(self.config, self.loaded))),
            "loaded": sorted(self.loaded),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore ``state_dict``; ask for ``phases`` after this, as loaded parts shorten them."""
        self.model.vision.load_state_dict(state["vision"])
        self.model.memory.load_state_dict(state["memory"])
        self.behaviour.load_state_dict(state["controller"])
        for name, optimizer in self.optimizers.items():
            load_optimizer(optimizer, state["optimizers"][name])
        self.frames.load_state_dict(state["samplers"]["frames"])
        self.sequences.load_state_dict(state["samplers"]["sequences"])
        for name, rng in self.generators.items():
            rng.set_state(torch.as_tensor(state["generators"][name], dtype=torch.uint8).cpu())
        for name, schedule in self.schedules.items():
            schedule.load_state_dict(state["schedules"][name])
        self.seen, self.encoded = int(state["seen"]), int(state["encoded"])
        self.loaded = set(state["loaded"])

    def load_parts(self, state: Mapping[str, Any]) -> list[str]:
        """Take parts from another run's ``state_dict``.

        Without ``stages`` these are V and M, which then are not trained again. With ``stages``, all parts that are not
        trained must come from there, C only if it was trained; a part that is trained begins there if it fits, else
        anew.

        Returns:
            What became of each, in words.

        Raises:
            UserError: a part that is needed is of other sizes, or that run has none.
        """
        trained, have, words = stages(self.config, TAKES), set(state.get("trained", TAKES)), []
        wanted = TAKES if self.config.stages is None else STAGES
        for name in wanted:
            if name not in have or name not in state:
                if name in trained or name == "controller":
                    continue
                raise UserError(
                    f"cannot take {name!r} from that run; it has trained: {', '.join(sorted(have)) or 'nothing'}"
                )
            if name in trained and name in self.parts and not fits(self.parts[name], state[name]):
                words.append(f"{name} anew, as it does not fit")
                continue
            try:
                take = self.behaviour.take if name == "controller" else self.parts[name].load_state_dict
                take(state[name])
            except (RuntimeError, KeyError) as error:
                if name in trained:
                    words.append(f"{name} anew, as it does not fit")
                    continue
                raise UserError(
                    f"the other run's {name} does not fit this one: {str(error).splitlines()[-1].strip()}; "
                    f"give this run the same sizes (--agent.{name}...)"
                ) from None
            self.loaded.add(name)
            words.append(name)
        return words


def seen(model: Model, experience: Experience, rows: np.ndarray) -> Tensor:
    """What V sees of rows (B, T): x (B * T, ...)."""
    return model.vision.inputs(experience.gather(rows, obs=(model.vision.key,)).obs)


def _adam(parameters: Any, lr: float) -> torch.optim.Optimizer:
    parameters = list(parameters)
    fused = all(p.device.type in ("cpu", "cuda") for p in parameters)
    return torch.optim.Adam(parameters, lr, fused=fused)


def _rmsprop(parameters: Any, lr: float) -> torch.optim.Optimizer:
    return torch.optim.RMSprop(parameters, lr, alpha=0.9)


OPTIMIZERS = {"adam": _adam, "rmsprop": _rmsprop}


def _contiguous(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.contiguous() for name, value in state.items()}
