"""Atari 2600 games of the Arcade Learning Environment: ALE/Pong-v5, and the older PongNoFrameskip-v4.

One engine plays them in worker processes, the other on ALE's own C++ threads; both give the same episodes for the
same seeds. Whatever differs between papers is a setting here (steps are agent steps, of ``repeat`` frames each):

=================  ==============  =============  ======================  =======================
setting            default         DreamerV2, V3  IRIS, in training       IRIS, when scored
=================  ==============  =============  ======================  =======================
``sticky``         0.25 (v5)       0.25           0 (NoFrameskip-v4)      0
``noops``          0 30            0 29           1 30                    1 1 (``eval_noops``)
``life_loss``      ignore          ignore         end                     ignore (``evaluation``)
``train_limit``    none            none           5000                    none (``evaluation``)
``limit_counts``   steps           steps          frames                  frames
``resize_first``   off             off            on                      on
``rewards``        raw             raw            raw                     raw (``evaluation``)
``action_set``     minimal         minimal, full  minimal                 minimal
=================  ==============  =============  ======================  =======================

The picture is the brighter of the last two frames, pixel by pixel, resized by Pillow: afterwards, or before with
``resize_first``. A time limit truncates (IRIS's agent takes that for a true end). Two slips of IRIS's own code are left
out: where a step is cut short it shows frames of the step before, and where the step without action after a lost life
ends the game, it plays one step more in it.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from dreamlab.core.errors import UserError, missing_package
from dreamlab.envs.config import EnvConfig

if TYPE_CHECKING:
    import gymnasium
    from gymnasium.vector import VectorEnv

WORKER_BYTES = 15 << 20
"""memory of one in a worker process (1, 2, 4 of them: 14, 29, 57 MiB); on ALE's threads it is less than 5"""
FRAMES = 108_000
"""half an hour of play: where every published protocol cuts a game off"""

CLASSIC = """
adventure air_raid alien amidar assault asterix asteroids atlantis bank_heist battle_zone beam_rider berzerk bowling
boxing breakout carnival centipede chopper_command crazy_climber defender demon_attack double_dunk elevator_action
enduro fishing_derby freeway frostbite gopher gravitar hero ice_hockey jamesbond journey_escape kangaroo krull
kung_fu_master montezuma_revenge ms_pacman name_this_game phoenix pitfall pong pooyan private_eye qbert riverraid
road_runner robotank seaquest skiing solaris space_invaders star_gunner tennis time_pilot tutankham up_n_down venture
video_pinball wizard_of_wor yars_revenge zaxxon
"""
"""the games that have the older ids too"""
MORE = """
atlantis2 backgammon basic_math blackjack casino crossbow darkchambers donkey_kong earthworld entombed et flag_capture
frogger galaxian hangman haunted_house human_cannonball kaboom keystone_kapers king_kong klax koolaid laser_gates
lost_luggage mario_bros miniature_golf mr_do othello pacman pitfall2 sir_lancelot space_war superman surround tetris
tic_tac_toe_3d trondead turmoil video_checkers video_chess video_cube word_zapper
"""


KNOWN = ("ALE/Breakout-v5", "ALE/Pong-v5", "ALE/Qbert-v5", "ALE/SpaceInvaders-v5")
"""named where not all ids are"""


@dataclass(frozen=True)
class Config(EnvConfig):
    """An Atari game."""

    repeat: int = 4
    """frames an action lasts (frame skip): one agent step; rewards are summed"""
    sticky: float | None = None
    """chance in each frame that the game goes on with the last action instead; none is the id's own: 0.25, v4: 0"""
    pool: bool = True
    """show the maximum of an agent step's last two frames: many games draw half of their things in every other one"""
    noops: tuple[int, int] = (0, 30)
    """frames without action at the start of a game: at random, from this many to that many"""
    eval_noops: tuple[int, int] | None = None
    """the same for games that are scored; none is as in training"""
    resize_first: bool = False
    """resize frames before they are pooled, not after; of a step that is cut short, its own last frames are shown"""
    fire: bool = False
    """press FIRE at the start of a game, where there is such a button"""
    life_loss: Literal["ignore", "end"] = "ignore"
    """end: a lost life ends the episode for learning, and the next one goes on in the same game after one no-op step;
    scores are always taken over whole games"""
    rewards: Literal["raw", "sign"] = "raw"
    """sign: -1, 0 or 1 for learning; scores are always taken from raw ones"""
    action_set: Literal["minimal", "full"] = "minimal"
    """minimal: the actions that do something in this game; full: all 18 of the joystick"""
    time_limit: int | None = None
    """agent steps after which a game is truncated; none is 108,000 frames"""
    train_limit: int | None = None
    """agent steps after which a game is truncated while learning, if that is earlier; scores are taken without"""
    limit_counts: Literal["steps", "frames"] = "steps"
    """what both limits count. frames: repeat times as many frames, and those of noops are among them, so that a game's
    last step may be shorter"""
    engine: Literal["auto", "gymnasium", "ale"] = "auto"
    """who steps the games: gymnasium, one a worker process; ale, ALE's own threads; auto takes those where it can"""

    def __post_init__(self) -> None:
        if self.sticky is None:
            object.__setattr__(self, "sticky", 0.0 if self.id.endswith("-v4") else 0.25)
        super().__post_init__()
        if self.time_limit is None:
            object.__setattr__(self, "time_limit", FRAMES // self.repeat)
        if not 0 <= self.sticky <= 1:  # type: ignore[operator]
            raise ValueError(f"sticky must be in [0, 1], got {self.sticky}")
        for name, noops in (("noops", self.noops), ("eval_noops", self.eval_noops)):
            if noops is not None and not 0 <= noops[0] <= noops[1]:
                raise ValueError(f"{name} must be from low to high, none negative, got {noops}")
        if self.resize_first and self.crop is not None:
            raise ValueError("resize_first resizes whole frames: crop must be none")
        if self.fresh and self.life_loss == "end":
            raise ValueError("life_loss end goes on in the same game, so it cannot be fresh in each episode")
        if self.train_limit is not None and self.train_limit < 1:
            raise ValueError(f"train_limit must be at least 1, got {self.train_limit}")

    @property
    def limit(self) -> int:
        """Agent steps after which a game is truncated, all told."""
        return min(self.time_limit or FRAMES, self.train_limit or FRAMES)


REPEATS = True
"""a frame skip that pools frames must do the skipping itself"""


def claims(id: str) -> bool:
    """ALE/Pong-v5, PongNoFrameskip-v4 and -v0, for every game."""
    return rom(id) is not None


def rom(id: str) -> str | None:
    """The game's name among ROMs, ``space_invaders``; None for what is no id of a game."""
    new, old = re.fullmatch(r"ALE/(\w+)-v5", id), re.fullmatch(r"(\w+)NoFrameskip-v[04]", id)
    if new:
        return _named(CLASSIC + MORE).get(new[1])
    return _named(CLASSIC).get(old[1]) if old else None


def title(rom: str) -> str:
    """As ids spell a ROM's name: SpaceInvaders."""
    return rom.title().replace("_", "")


def _named(roms: str) -> dict[str, str]:
    return {title(name): name for name in roms.split()}


def ids() -> list[str]:
    """Today's ids of the games whose ROMs are there; the older ids work too."""
    folder = roms()
    there = [] if folder is None else [name for name in (CLASSIC + MORE).split() if (folder / f"{name}.bin").exists()]
    return [f"ALE/{title(name)}-v5" for name in there]


def roms() -> Path | None:
    """The folder of the ROMs: what ALE_ROMS_DIR says, or that of the package; None where that is not installed."""
    found = find_spec("ale_py")
    if found is None or not found.origin:
        return None
    return Path(os.environ.get("ALE_ROMS_DIR") or Path(found.origin).parent / "roms")


def make(config: EnvConfig, render_mode: str | None = None) -> gymnasium.Env:
    """One game, which repeats actions itself.

    Raises:
        UserError: ale-py is not installed, or a ROM is not there.
    """
    config = _ready(config)
    from dreamlab.envs.ale_py import Game

    return Game(config, render_mode)


def action_names(config: EnvConfig) -> list[str]:
    """What each action means to ALE: noop, fire, up, right, up right fire.

    Raises:
        UserError: as ``make``.
    """
    config = _ready(config)
    from dreamlab.envs.ale_py import meanings

    return [" ".join(re.findall("NOOP|UP|DOWN|LEFT|RIGHT|FIRE", word)).lower() for word in meanings(config)]


def make_vec(config: EnvConfig, n: int, seed: int) -> VectorEnv | None:
    """ALE's own vector engine where it is asked for, or able; else None.

    Raises:
        UserError: it was asked for, but cannot do what was chosen; or as ``make``.
    """
    config = _ready(config)
    if config.engine == "gymnasium":
        return None
    wants = [
        name
        for name, wanted in (
            ("no-op starts from another number than 0", max(config.noops[0], (config.eval_noops or (0,))[0]) > 0),
            ("frames resized before they are pooled", config.resize_first),
            ("limits that count frames", config.limit_counts == "frames"),
            ("vector observations", config.obs == "vector"),
            ("game built anew for each episode", config.fresh),
        )
        if wanted
    ]
    if config.engine == "ale" and wants:
        raise UserError(f"ALE's vector engine has no {' and no '.join(wants)}; type: engine gymnasium")
    if wants:
        return None
    from dreamlab.envs.ale_py import Games

    return Games(config, n, seed)


def evaluation(config: EnvConfig) -> EnvConfig:
    """The settings under which scores are taken: whole games, raw rewards, starts of their own where there are such."""
    noops = _own(config).eval_noops or _own(config).noops
    return replace(_own(config), life_loss="ignore", rewards="raw", train_limit=None, noops=noops, eval_noops=None)


def _own(config: EnvConfig) -> Config:
    if not isinstance(config, Config):
        raise UserError(f"{config.id} takes the settings dreamlab.envs.default_config({config.id!r})")
    return config


def _ready(config: EnvConfig) -> Config:
    """The settings, where all that it takes to play is there."""
    name, folder = rom(config.id), roms()
    if folder is None:
        raise missing_package("ale-py", "atari", config.id)
    if not (folder / f"{name}.bin").is_file():
        raise UserError(
            f"{config.id}: the ROM {name}.bin is not in {folder}; type: pip install --force-reinstall ale-py, "
            "or name the folder that has it in the environment variable ALE_ROMS_DIR"
        )
    return _own(config)
