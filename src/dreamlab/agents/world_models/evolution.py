"""C evolved by CMA-ES (arXiv:1803.10122, appendix A.4): the paper's learner of the controller.

Trained without gradients: a generation is P candidates drawn around a mean; a candidate's fitness is its mean
return over R episodes, in the real environment or in the dream. One unit of learning is one wave: as many of the
generation's P * R episodes as run side by side. CMA-ES hears of a generation when all its waves are in.

Ours, not the paper's: candidates are not rounded; no weight decay (the authors' has the wrong sign and does next
to nothing); dreams of candidates i and i + P/2 share their first image but not their chance; with
``shared_seeds`` all candidates meet the same episodes, in the dream with the same chance too, which cuts the noise
of comparing them a good deal.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import cma
import numpy as np
import torch

from dreamlab.agents.world_models.config import ControllerConfig, side_by_side
from dreamlab.agents.world_models.controller import Controller
from dreamlab.core.errors import NonFinite, RunError
from dreamlab.core.protocols import Experience
from dreamlab.core.seeds import derive, numpy_rng
from dreamlab.core.types import Outcome

if TYPE_CHECKING:
    from dreamlab.core.types import Metrics


class Evolution:
    """CMA-ES that maximises, with a random generator of its own, saved as its seed and what it was told.

    Going on replays ask and tell, which ends in the same state bit by bit (same machine, same library). The mean is
    saved beside them, so that acting needs no replay, and that a library that replays to another one is noticed.
    """

    def __init__(self, size: int, population: int, sigma0: float, seed: int, start: np.ndarray | None = None) -> None:
        self.size, self.population, self.sigma0, self.seed = size, population, sigma0, seed
        self.start = np.zeros(size) if start is None else np.asarray(start, np.float64)  # the first mean
        self.history: list[np.ndarray] = []
        self.asked: np.ndarray | None = None
        self._saved: tuple[np.ndarray, float] | None = None  # mean and sigma, until ask and tell are replayed
        self._begin()

    def _begin(self) -> None:
        self.rng = numpy_rng(self.seed, "cma")
        options = {
            "popsize": self.population,
            "randn": lambda *shape: self.rng.standard_normal(shape),
            "seed": float("nan"),  # leave NumPy's global generator alone
            "verbose": -9,
        }
        self.cma = cma.CMAEvolutionStrategy(self.start.copy(), self.sigma0, options)

    def _replay(self) -> None:
        """Come to the saved state, if not done yet, by asking and telling all over again."""
        if self._saved is None:
            return
        mean, _ = self._saved
        self._begin()
        for fitness in self.history:
            self.cma.tell(self.cma.ask(), (-fitness).tolist())
        if not np.allclose(self.cma.mean, mean, rtol=0, atol=1e-6):
            raise RunError(
                "CMA-ES replayed to another mean than was saved: its library or linear algebra is not the one that "
                "this run was trained with. The run can be evaluated, but not gone on with here"
            )
        self._saved = None

    @property
    def generation(self) -> int:
        """Generations told so far."""
        return len(self.history)

    @property
    def mean(self) -> np.ndarray:
        """The distribution's mean (n,)."""
        return np.asarray(self.cma.mean if self._saved is None else self._saved[0])

    @property
    def sigma(self) -> float:
        """The step size."""
        return float(self.cma.sigma if self._saved is None else self._saved[1])

    def ask(self) -> np.ndarray:
        """The generation's candidates (P, n): the same ones until they are told."""
        self._replay()
        if self.asked is None:
            self.asked = np.stack(self.cma.ask())
        return self.asked

    def tell(self, fitness: np.ndarray) -> None:
        """How good the candidates were (P,): more is better."""
        fitness = np.asarray(fitness, np.float64)
        self.cma.tell(list(self.ask()), (-fitness).tolist())  # the library minimises
        self.history.append(fitness.copy())
        self.asked = None

    def state_dict(self) -> dict[str, Any]:
        history = np.array(self.history).reshape(-1, self.population)
        return {
            "seed": self.seed,
            "start": self.start.copy(),
            "history": history,
            "mean": self.mean.copy(),
            "sigma": self.sigma,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.seed, self.asked = int(state["seed"]), None
        self.start = np.asarray(state["start"], np.float64)
        self.history = list(np.asarray(state["history"], np.float64))
        self._saved = np.asarray(state["mean"], np.float64), float(state["sigma"])


Play = Callable[[Experience, np.ndarray, np.ndarray, int], Outcome]
"""(experience, controllers (P, n), seeds of the episodes (N,), seed of the wave) -> N outcomes.

The episodes are the controllers' in turn, N / P each.
"""


class Search:
    """CMA-ES in waves: the unit of learning of the controller phase.

    Episodes are numbered candidate by candidate, ``pair = candidate * R + episode``; every ``evaluate_every``
    generations the mean plays ``evaluate_episodes``. What is drawn depends on seed, generation and wave alone,
    so a wave that was interrupted is simply played again. Each iteration of the recipe begins a search of its own
    around the mean that the one before it has found.
    """

    def __init__(self, config: ControllerConfig, controller: Controller, play: Play, seed: int) -> None:
        self.config, self.controller, self.play, self.seed = config, controller, play, seed
        self.best_evaluation = -math.inf
        self._begin(1)

    def _begin(self, iteration: int, start: np.ndarray | None = None) -> None:
        self.iteration = iteration
        size, config = self.controller.theta.numel(), self.config
        self.evolution = Evolution(size, config.population, config.sigma0, self._iterated(self.seed), start)
        self.returns = np.empty(0)
        self.lengths = np.empty(0, np.int64)
        self.evaluating = False

    def begin_again(self) -> None:
        """Search around the controller as it is now."""
        self._begin(self.iteration, self._found())

    def _found(self) -> np.ndarray:
        return self.controller.theta.detach().cpu().numpy()

    def _iterated(self, seed: int) -> int:
        return seed if self.iteration == 1 else derive(seed, "iteration", self.iteration)

    def __call__(self, experience: Experience, iteration: int = 1) -> Metrics:
        """Play one wave; when it completes a generation or an evaluation, use it."""
        if iteration < self.iteration:
            return {}  # generations that were added later go to the last iteration alone
        if iteration > self.iteration:
            self._begin(iteration, self._found())
        done, wave = len(self.returns), side_by_side(self.config, experience.slots)
        pairs = np.arange(done, min(done + wave, self._total()))
        # the wave's own chance; with shared seeds every wave of a generation has the same
        chance = ("evaluate", done) if self.evaluating else ("wave", 0 if self.config.shared_seeds else done)
        seeds = self._seeds(pairs)
        outcome = self.play(experience, self._weights(pairs), seeds, self._derive(*chance))
        if not np.isfinite(outcome.ret).all():
            raise NonFinite(f"a return of generation {self.evolution.generation + 1} is not finite: {outcome.ret}")
        self.returns = np.concatenate([self.returns, outcome.ret])
        self.lengths = np.concatenate([self.lengths, outcome.length])
        metrics: dict[str, float] = {"wave_return": float(outcome.ret.mean())}
        if len(self.returns) == self._total():
            metrics |= self._evaluated() if self.evaluating else self._generation()
            self.returns, self.lengths = np.empty(0), np.empty(0, np.int64)
        return metrics

    def _total(self) -> int:
        config = self.config
        return config.evaluate_episodes if self.evaluating else config.population * config.episodes

    def _weights(self, pairs: np.ndarray) -> np.ndarray:
        if self.evaluating:
            return self.evolution.mean[None]
        together = self.config.episodes if self.config.train_in == "dream" else 1  # a dream wave: whole candidates
        return self.evolution.ask()[pairs[::together] // self.config.episodes]

    def _seeds(self, pairs: np.ndarray) -> np.ndarray:
        """Candidates i and i + P/2 meet the same episodes, or with ``shared_seeds`` all do; new each generation."""
        config = self.config
        if self.evaluating:
            return np.array([self._derive("evaluation", int(pair)) for pair in pairs])
        alike = 1 if config.shared_seeds else math.ceil(config.population / 2)
        return np.array(
            [self._derive("episode", int(p // config.episodes) % alike, int(p % config.episodes)) for p in pairs]
        )

    def _derive(self, *path: str | int) -> int:
        return derive(self._iterated(self.seed), "controller", self.evolution.generation, *path)

    def _generation(self) -> dict[str, float]:
        config, evolution = self.config, self.evolution
        fitness = self.returns.reshape(config.population, config.episodes).mean(1)  # (P,)
        evolution.tell(fitness)
        self._show_mean()
        self.evaluating = bool(config.evaluate_every) and evolution.generation % config.evaluate_every == 0
        return {
            "generation": evolution.generation,
            "return": fitness.mean(),
            "return_std": fitness.std(),
            "return_best": fitness.max(),
            "return_worst": fitness.min(),
            "length": self.lengths.mean(),
            "sigma": evolution.sigma,
        }

    def _evaluated(self) -> dict[str, float]:
        self.evaluating = False
        mean = float(self.returns.mean())
        self.best_evaluation = max(self.best_evaluation, mean)
        return {
            "mean_return": mean,
            "mean_return_std": float(self.returns.std()),
            "mean_return_best": self.best_evaluation,
            "mean_length": float(self.lengths.mean()),
        }

    def _show_mean(self) -> None:
        self.controller.theta.copy_(torch.as_tensor(self.evolution.mean))

    def state_dict(self) -> dict[str, Any]:
        return {
            "iteration": self.iteration,
            "evolution": self.evolution.state_dict(),
            "returns": self.returns,
            "lengths": self.lengths,
            "evaluating": self.evaluating,
            "best_evaluation": self.best_evaluation if math.isfinite(self.best_evaluation) else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.iteration = int(state["iteration"])
        self.evolution.load_state_dict(state["evolution"])
        self.returns = np.asarray(state["returns"], np.float64)
        self.lengths = np.asarray(state["lengths"], np.int64)
        self.evaluating = bool(state["evaluating"])
        best = state["best_evaluation"]
        self.best_evaluation = -math.inf if best is None else float(best)
        self._show_mean()
