"""How far a run is: integers by phase, so that any run can stop, go on, and be extended.

Each phase counts its own environment steps, whole rounds, and place within the round. A phase is finished
when both its budgets are spent; a larger budget makes it unfinished again, which is all that extending is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from dreamlab.core.protocols import Learn, Phase


@dataclass
class Count:
    """Of one phase: environment steps taken, rounds done, units done of the running round."""

    env_steps: int = 0
    rounds: int = 0
    place: int = 0


@dataclass
class Progress:
    """Counts by phase (``Phase.key``)."""

    counts: dict[str, Count] = field(default_factory=dict)

    def of(self, phase: Phase) -> Count:
        return self.counts.setdefault(phase.key, Count())

    def current(self, phases: Sequence[Phase]) -> Phase | None:
        """The first phase that is not finished."""
        return next((p for p in phases if not self.finished(p)), None)

    def finished(self, phase: Phase) -> bool:
        count = self.of(phase)
        return count.env_steps >= phase.env_steps and count.rounds >= phase.rounds

    def due(self, phase: Phase) -> int:
        """Environment steps before the next round: rounds are spread evenly over the steps of the phase."""
        count = self.of(phase)
        if count.rounds >= phase.rounds:
            return phase.env_steps
        return -(-(count.rounds + 1) * phase.env_steps // phase.rounds)

    def owes_learning(self, phase: Phase) -> bool:
        count = self.of(phase)
        return count.rounds < phase.rounds and count.env_steps >= self.due(phase)

    def turn(self, phase: Phase) -> Learn:
        """The part whose turn it is within the round."""
        place = self.of(phase).place
        for learn, times in phase.learn:
            if place < times:
                return learn
            place -= times
        raise AssertionError("a round's place lies outside its parts")

    def learned(self, phase: Phase) -> None:
        """One unit was done."""
        count = self.of(phase)
        count.place += 1
        if count.place >= sum(times for _, times in phase.learn):
            count.rounds, count.place = count.rounds + 1, 0

    def env_steps(self) -> int:
        """Environment steps of all phases, rollouts excluded."""
        return sum(c.env_steps for c in self.counts.values())

    def step(self, phases: Sequence[Phase]) -> int:
        """The run's clock: environment steps, and rounds where a phase takes no steps. It never goes back."""
        return sum(self.of(p).env_steps if p.env_steps else self.of(p).rounds for p in phases)

    def updates(self, phases: Sequence[Phase]) -> int:
        """Units of learning done."""
        return sum(self.of(p).rounds * sum(times for _, times in p.learn) + self.of(p).place for p in phases)

    def state_dict(self) -> dict[str, Any]:
        return {name: asdict(count) for name, count in self.counts.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.counts = {name: Count(**count) for name, count in state.items()}
