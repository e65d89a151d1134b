"""The model card: what the Hub shows of a model, with its metadata for reinforcement learning (``model-index``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from dreamlab import __version__
from dreamlab.evals.episodes import figure

ABOUT = {
    "world-models": "World Models (Ha & Schmidhuber 2018, arXiv:1803.10122)",
    "dreamer-v1": "DreamerV1 (Hafner et al. 2020, arXiv:1912.01603)",
    "dreamer-v2": "DreamerV2 (Hafner et al. 2021, arXiv:2010.02193)",
    "dreamer-v3": "DreamerV3 (Hafner et al. 2023, arXiv:2301.04104)",
    "iris": "IRIS (Micheli et al. 2023, arXiv:2209.00588)",
}
"""agents by the papers that they follow"""
TOLD = ("episodes", "seed", "seeds", "policy", "checkpoint", "precision", "envs", "gymnasium", "dreamlab", "date")
"""of a protocol, in this order; what the agent adds comes after, the environment's settings are in the score's file"""


def card(
    repo: str,
    config: Mapping[str, Any],
    step: int,
    scores: Mapping[str, Mapping[str, Any]],
    parameters: int,
    starts: int,
    films: Mapping[str, str],
    dreams: bool,
) -> str:
    """README.md.

    Args:
        config: the stored settings.
        scores: of this checkpoint, by file name below ``evaluations/``; the first is the one that the Hub shows.
        parameters: of all networks.
        starts: contexts that it may dream from.
        films: what each film shows, by file name.
        dreams: whether there is a world model.
    """
    agent, env = str(config["agent"]), str(config["env"]["id"])
    lines = [_metadata(agent, env, scores, dreams), f"# {agent} on {env}", ""]
    lines += [
        f"{ABOUT.get(agent, agent)}, trained in `{env}` with dreamlab {__version__}: checkpoint {step:,}, "
        f"{parameters:,} parameters.",
        "",
    ]
    if "replay.mp4" in films:
        lines += [f"{films['replay.mp4']}:", "", '<video src="replay.mp4" controls loop muted></video>', ""]
    lines += ["## Use it", "", "```python", "import dreamlab", "", f'model = dreamlab.load("{repo}")']
    lines += ["policy = model.policy()  # (obs, is_first, state) -> (act, state, columns)", "```", "", "```bash"]
    lines += ["pip install 'dreamlab[hub]'", f"dreamlab evaluate {repo} --episodes 100"]
    lines += [f"dreamlab dream {repo} --horizon 30"] if dreams and starts else []
    lines += [
        "```",
        "",
        "Loading it runs no code of this repository: weights are safetensors, all else is JSON and YAML.",
        "",
    ]
    lines += ["## Scores", "", *_table(scores)]
    lines += ["## Files", "", "| file | what |", "|---|---|"]
    lines += ["| `config.yaml` | every setting of the run |", "| `state.json`, `*.safetensors` | weights, by part |"]
    lines += [f"| `starts.safetensors` | {starts} start contexts: dreams begin there |"] if starts else []
    lines += [f"| `{name}` | {what} |" for name, what in films.items()]
    lines += ["| `evaluations/` | each score with its returns and its whole protocol |"] if scores else []
    return "\n".join(lines) + "\n"


def _metadata(agent: str, env: str, scores: Mapping[str, Mapping[str, Any]], dreams: bool) -> str:
    tags = [env, "reinforcement-learning", "deep-reinforcement-learning", agent, *(["world-model"] if dreams else [])]
    data: dict[str, Any] = {"library_name": "dreamlab", "pipeline_tag": "reinforcement-learning", "tags": tags}
    for score in list(scores.values())[:1]:
        value = f"{figure(score['mean'])} +/- {figure(score['std'])}"
        result = {
            "task": {"type": "reinforcement-learning", "name": "reinforcement-learning"},
            "dataset": {"name": env, "type": env},
            "metrics": [{"type": "mean_reward", "name": "mean_reward", "value": value, "verified": False}],
        }
        data["model-index"] = [{"name": agent, "results": [result]}]
    return f"---\n{yaml.safe_dump(data, sort_keys=False)}---\n"


def _table(scores: Mapping[str, Mapping[str, Any]]) -> Sequence[str]:
    if not scores:
        return ["This checkpoint was not evaluated.", ""]
    lines = ["| mean | std over episodes | episodes | protocol |", "|---|---|---|---|"]
    for name, score in scores.items():
        said = dict(score.get("protocol", {}))
        own = [key for key in said if key not in (*TOLD, "env")]
        words = "; ".join(f"{key}: {said[key]}" for key in (*TOLD, *own) if key in said and key != "episodes")
        for key in ("time_limit", "repeat"):  # what changes a return most; the rest is in the file
            if isinstance(said.get("env"), Mapping) and said["env"].get(key) is not None:
                words += f"; {key.replace('_', ' ')}: {said['env'][key]}"
        lines.append(
            f"| {figure(score['mean'])} | {figure(score['std'])} | {len(score['returns'])} | "
            f"[{words}](evaluations/{name}) |"
        )
    return [*lines, "", "Undiscounted returns of whole episodes. Scores of other protocols are not comparable.", ""]
