"""The only training loop: any agent's recipe, phase by phase, on any experience.

What happens between two units of learning or two stretches of acting is decided by integers alone
(``progress``), so a run that is killed and started again does the same things in the same order. Clocks
(lines of metrics, reports, evaluations) tick on the run's step; only saving looks at the time of day,
and saving changes nothing.
"""

from __future__ import annotations

import errno
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from dreamlab.core.errors import EnvironmentFailed, Interrupted, NonFinite, RunError
from dreamlab.core.protocols import Agent, Phase
from dreamlab.core.seeds import derive, forked
from dreamlab.run.checkpoint import Checkpoints
from dreamlab.run.config import RunConfig
from dreamlab.run.experience import Experience
from dreamlab.run.memory import MIB, Peak
from dreamlab.run.progress import Progress

if TYPE_CHECKING:
    from dreamlab.core.types import Metrics

LINES = 100
"""lines of metrics that a phase of learning alone has at least, if it has as many rounds"""
CHUNK = 50
"""environment steps between two looks at the clocks"""


class Log(Protocol):
    """What the trainer needs of a logger."""

    def add(self, group: str, metrics: Metrics) -> None: ...
    def write(self, step: int, /, **extra: float) -> Any: ...
    def progress(self, phase: str, done: int, total: int, unit: str, note: str = "") -> None: ...
    def message(self, text: str) -> None: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class Stopped(Exception):
    """The user stopped the run; its state was saved."""


class Trainer:
    """Runs ``agent.phases()`` to their ends. ``evaluate(step)`` returns a score; the best is kept."""

    def __init__(
        self,
        agent: Agent,
        experience: Experience,
        log: Log,
        checkpoints: Checkpoints,
        config: RunConfig,
        evaluate: Callable[[int], float] | None = None,
    ) -> None:
        self.agent, self.experience, self.log = agent, experience, log
        self.checkpoints, self.config, self.evaluate = checkpoints, config, evaluate
        self.phases: Sequence[Phase] = agent.phases()
        self.progress = Progress()
        self.clocks = {"log": 0, "report": 0, "eval": 0, "final": -1}
        self.stop = False
        self.settings: Mapping[str, Any] = {}  # what the run was started with: each checkpoint knows
        self.repeat = 1  # frames of the environment in one step
        self.parameters = 0  # that are optimised
        self.peak = Peak(0.5)
        self._cut = False  # the running stretch was broken off: clocks wait, so that they tick where they always would
        experience.stop = lambda: self.stop
        self._saved_at = self._logged_at = time.monotonic()
        self._logged: tuple[int, int] = (0, 0)
        self._firsts: dict[int, int] = {}  # oldest time that each kept checkpoint sees

    @property
    def step(self) -> int:
        return self.progress.step(self.phases)

    # -- the loop --------------------------------------------------------------------------------------------

    def train(self) -> None:
        """Run to the end.

        Raises:
            Stopped: the user asked to stop; all is saved.
            NonFinite: something was NaN or infinite; nothing of it is saved.
            EnvironmentFailed: all that came before it is saved.
            RunError: the disk is full.
        """
        self.peak.start()
        try:
            with self._signals():
                while (phase := self.progress.current(self.phases)) is not None:
                    if self.progress.owes_learning(phase):
                        self._learn(phase)
                    else:
                        self._collect(phase)
                    self._after(phase)
                self._finish()
        except EnvironmentFailed as error:
            raise type(error)(f"{error} [step {self.step}; {self._rescue()}]") from error
        except NonFinite as error:
            raise NonFinite(f"{error} [step {self.step}; {self._last_good()}]") from error
        except (RuntimeError, ValueError, ArithmeticError) as error:  # as torch says when it draws from NaN
            if not (spoilt := self._spoilt()):
                raise
            raise NonFinite(f"{spoilt} [step {self.step}; {self._last_good()}]") from error
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise RunError(
                f"the disk is full ({error.filename or self.checkpoints.folder}) at step {self.step}; "
                f"{self._last_good()}. Free some space and run the same command again"
            ) from error
        finally:
            self.peak.stop()
            self.experience.close()

    def _learn(self, phase: Phase) -> None:
        random = torch.get_rng_state()
        try:
            metrics = self.progress.turn(phase)(self.experience)
        except (Interrupted, EnvironmentFailed) as error:
            torch.set_rng_state(random)  # the unit is done again from the same state
            if isinstance(error, EnvironmentFailed):
                raise
            self._cut = True  # told once it is done
            return
        self._cut = False
        self.log.add(phase.group or phase.name, metrics)
        self.progress.learned(phase)

    def _collect(self, phase: Phase) -> None:
        if phase.act is None:
            raise RuntimeError(f"phase {phase.key!r} has environment steps but no policy")
        count = self.progress.of(phase)
        want = min(self.progress.due(phase) - count.env_steps, CHUNK - count.env_steps % CHUNK)
        taken, ended, word = self.experience.collect(phase.act, phase.key, want)
        if word:
            self.log.message(word)
        count.env_steps += taken
        self._cut = taken < want
        for outcome in ended:
            for ret, length in zip(outcome.ret, outcome.length, strict=True):
                self.log.add(phase.group or phase.name, {"ret": float(ret), "length": float(length)})

    def _after(self, phase: Phase) -> None:
        """Clocks, between two units."""
        count = self.progress.of(phase)
        done, total, unit = (
            (count.env_steps, phase.env_steps, "steps") if phase.env_steps else (count.rounds, phase.rounds, "rounds")
        )
        finished = self.progress.finished(phase)
        score = None if self._cut else self._tick(phase, finished, done, total, unit)
        full = self.experience.replay.room() == 0
        late = time.monotonic() - self._saved_at > 60 * self.config.save_minutes
        if finished or full or late or self.stop or score is not None:
            self.save(score)
        if self.stop:
            raise Stopped

    def _tick(self, phase: Phase, finished: bool, done: int, total: int, unit: str) -> float | None:
        """Metrics, reports and evaluations that are due, after a whole stretch. Returns an evaluation's score."""
        if self._ticked("log", self.config.log_every) or finished or self._telling(phase):
            self.write()
        self.log.progress(phase.key, done, total, unit)
        if self._ticked("report", self.config.report_every) or finished:
            self._report(phase)
        if self.evaluate is not None and self._due("eval", self.config.eval_every) and not self.stop:
            return self._evaluate()
        return None

    def _telling(self, phase: Phase) -> bool:
        """Whether a round has just ended that gives a phase of learning alone one of its ``LINES``.

        A phase of few and long rounds, as generations of CMA-ES are, would else be told in one line.
        """
        count = self.progress.of(phase)
        if phase.env_steps or count.place or not count.rounds:
            return False
        return count.rounds * LINES // phase.rounds > (count.rounds - 1) * LINES // phase.rounds

    def _finish(self) -> None:
        """The last evaluation, once for each end that a run has had."""
        if self.evaluate is not None and self.clocks["final"] != self.step:
            score = self._evaluate()
            if self.stop:
                self.save()
                raise Stopped
            self.clocks["final"] = self.step
            self.save(score)

    def _report(self, phase: Phase) -> None:
        with forked(self.config.seed, "report", self.step):
            self.log.add(phase.group or phase.name, self.agent.report(phase.name, self.experience))
        self.log.write(self.step)

    def _evaluate(self) -> float | None:
        assert self.evaluate is not None
        try:
            with forked(self.config.seed, "evaluate"):
                score = self.evaluate(self.step)
        except Interrupted:
            return None
        if self.config.eval_every:
            self.clocks["eval"] = self.step // self.config.eval_every
        return score

    def _due(self, clock: str, every: int) -> bool:
        return bool(every) and self.step // every > self.clocks[clock]

    def _ticked(self, clock: str, every: int) -> bool:
        due = self._due(clock, every)
        if due:
            self.clocks[clock] = self.step // every
        return due

    def write(self) -> None:
        """A line of metrics."""
        now, step = time.monotonic(), self.step
        updates = self.progress.updates(self.phases)
        env_steps = self.progress.env_steps() + self.experience.rollout_steps
        spent = max(now - self._logged_at, 1e-9)
        self.log.add(
            "run",
            {
                "env_steps": env_steps,
                "updates": updates,
                "frames": env_steps * self.repeat,
                "steps_per_second": (env_steps - self._logged[0]) / spent,
                "updates_per_second": (updates - self._logged[1]) / spent,
                "memory_mib": self.peak.bytes / MIB,
                "parameters": self.parameters,
                **self._ratio(updates),
            },
        )
        self._logged_at, self._logged = now, (env_steps, updates)
        self.log.write(step)

    def _ratio(self, updates: int) -> dict[str, float]:
        """Steps learned from for each step taken, of an agent that says how many an update learns from."""
        each, taken = getattr(self.agent, "learns", 0), self.progress.env_steps()
        return {"replay_ratio": updates * each / taken} if each and taken else {}

    # -- keeping ---------------------------------------------------------------------------------------------

    def save(self, score: float | None = None) -> None:
        """Write a checkpoint of everything: agent, rows, environments, progress, logs, random generators."""
        step, replay = self.step, self.experience.replay
        logged = self.log.state_dict()  # raises NonFinite: what is not finite and not yet written is not saved either
        replay.sync()
        parts: dict[str, Mapping[str, Any]] = {
            **{f"agent-{k}": {"value": v} for k, v in self.agent.state_dict().items()},
            "run": {
                "progress": self.progress.state_dict(),
                "phases": [[p.key, p.env_steps, p.rounds] for p in self.phases],  # for whoever lists runs
                "clocks": dict(self.clocks),
                "experience": self.experience.state_dict(),
                "log": logged,
                "random": random_state(),
                "settings": self.settings,
                "firsts": [[s, f] for s, f in self._firsts.items()] + [[step, replay.start]],
            },
        }
        kept = self.checkpoints.save(step, parts, score)
        self._firsts = {s: f for s, f in self._firsts.items() if s in kept} | {step: replay.start}
        replay.saved(step, min(self._firsts), min(self._firsts.values()))
        self._saved_at = time.monotonic()

    def restore(self) -> int | None:
        """Go on from the newest whole checkpoint, or seed a fresh start. Returns the step, or None for a fresh one."""
        self.checkpoints.mend()
        if not self.checkpoints.steps():
            torch.manual_seed(derive(self.config.seed, "train"))
            np.random.seed(derive(self.config.seed, "train", "numpy"))
            self.experience.replay.clear()  # rows of a start that was never saved
            return None
        step, parts, words = self.checkpoints.load()
        for word in words:
            self.log.message(f"{word}; going on from the checkpoint before it, step {step}")
        self.agent.load_state_dict(agent_state(parts))
        self.phases = self.agent.phases()  # parts taken from another run shorten them
        run = parts["run"]
        self.progress.load_state_dict(run["progress"])
        self.clocks = dict(run["clocks"])
        self.experience.load_state_dict(run["experience"], step)
        self.log.load_state_dict(run["log"])
        set_random_state(run["random"])
        self.checkpoints.set_aside_after(step)
        there = self.checkpoints.steps()
        self._firsts = {s: f for s, f in run["firsts"] if s in there}  # these can still be gone back to
        self.experience.replay.saved(step, min(self._firsts), min(self._firsts.values()))
        self._logged = (
            self.progress.env_steps() + self.experience.rollout_steps,
            self.progress.updates(self.phases),
        )
        return step

    def _rescue(self) -> str:
        """Save what came before an environment failed. Returns a word about it."""
        if not self.progress.env_steps() and not self.progress.updates(self.phases):
            return "nothing had been done yet"
        try:
            self.save()
        except (RunError, OSError) as error:
            return f"and it could not be saved ({error}); {self._last_good()}"
        return "all until then is saved: once it is mended, the same command goes on"

    def _spoilt(self) -> str | None:
        """What is NaN or infinite in the agent or in metrics under way, if anything is."""
        try:
            self.log.state_dict()
        except NonFinite as error:
            return str(error)
        for name, part in self.agent.parts.items():
            for key, value in part.state_dict().items():
                if value.is_floating_point() and not bool(torch.isfinite(value).all()):
                    return f"{name}.{key} is not finite"
        return None

    def _last_good(self) -> str:
        steps = self.checkpoints.steps()
        return f"the last good checkpoint is step {steps[-1]}" if steps else "no checkpoint had been made yet"

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """The first Ctrl-C (or SIGTERM) stops after the running unit and saves; the second stops at once."""

        def ask(number: int, frame: Any) -> None:
            if self.stop:
                raise KeyboardInterrupt
            self.stop = True
            self.log.message("stopping after this unit and saving (Ctrl-C again: stop at once)")

        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def agent_state(parts: Mapping[str, Any]) -> dict[str, Any]:
    """What ``Agent.load_state_dict`` takes, from a checkpoint's parts."""
    return {k.removeprefix("agent-"): v["value"] for k, v in parts.items() if k.startswith("agent-")}


def random_state() -> dict[str, Any]:
    """Every global random generator of this process."""
    kind, keys, place, has_gauss, gauss = np.random.get_state(legacy=True)  # type: ignore[misc]
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "mps": torch.mps.get_rng_state() if torch.backends.mps.is_available() else None,
        "numpy": [kind, np.asarray(keys, np.int64), place, has_gauss, gauss],
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """Restore what ``random_state`` gave."""
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
    if torch.backends.mps.is_available() and state.get("mps") is not None:
        torch.mps.set_rng_state(state["mps"])
    kind, keys, place, has_gauss, gauss = state["numpy"]
    np.random.set_state((kind, keys.astype(np.uint32), place, has_gauss, gauss))
