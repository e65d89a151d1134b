"""The logger sums without waiting, writes means, names what is not finite, and outlives its sinks."""

from __future__ import annotations

import errno
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from dreamlab.core.errors import NonFinite, RunError, UserError
from dreamlab.logs import jsonl, tensorboard
from dreamlab.logs.logger import Logger, Sink, open_sinks

ROOT = Path(__file__).parent.parent


class Seen(Sink):
    def __init__(self):
        self.lines, self.media, self.messages = [], {}, []

    def write(self, step, scalars, media):
        self.lines.append((step, dict(scalars)))
        self.media.update(media)

    def message(self, text):
        self.messages.append(text)


class Failing(Sink):
    def __init__(self, error, vital=False):
        self.error, self.vital, self.calls = error, vital, 0

    def write(self, step, scalars, media):
        self.calls += 1
        raise self.error


def lines_of(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_line_holds_the_mean_of_what_was_added_whatever_its_kind():
    seen, values = Seen(), [1.0, 2.5, 7.0, -3.0]
    log = Logger([seen])
    for kind in (float, torch.tensor, np.float64, lambda v: torch.tensor(v, dtype=torch.bfloat16)):
        for value in values:
            log.add("vision", {"loss": kind(value)})
        log.add("vision", {"once": 4})
        log.write(3, **{"run/updates": 9})
        assert seen.lines.pop() == (
            3,
            {"vision/loss": pytest.approx(np.mean(values)), "vision/once": 4, "run/updates": 9},
        )
    log.write(4)
    assert not seen.lines  # nothing new, nothing written


def test_values_stay_tensors_until_they_are_written(monkeypatch):
    log = Logger([])
    for name in ("item", "tolist", "__float__", "cpu", "numpy"):
        monkeypatch.setattr(torch.Tensor, name, lambda *a: pytest.fail("add waited for the device"))
    for i in range(3):
        log.add("vision", {"loss": torch.full((), float(i)), "picture": torch.zeros(3, 4, 4, dtype=torch.uint8)})


def test_bf16_sums_are_exact_to_fp32():
    seen = Seen()
    log = Logger([seen])
    for _ in range(1000):
        log.add("g", {"x": torch.tensor(1.0, dtype=torch.bfloat16)})
    log.write(1)
    assert seen.lines[0][1] == {"g/x": 1.0}


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_is_named_with_its_step_after_the_rest_was_written(bad):
    seen = Seen()
    log = Logger([seen])
    log.add("memory", {"nll": torch.tensor(bad), "loss": torch.tensor(2.0)})
    with pytest.raises(NonFinite, match=r"memory/nll.*step 120"):
        log.write(120)
    assert seen.lines == [(120, {"memory/loss": 2.0})]


def test_nothing_is_saved_beside_a_nan_that_is_not_yet_written():
    log = Logger([])
    log.add("memory", {"nll": float("nan")})
    with pytest.raises(NonFinite, match="memory/nll"):
        log.state_dict()


def test_what_is_no_scalar_and_no_picture_is_refused_by_name():
    with pytest.raises(TypeError, match=r"vision/loss.*\(3,\)"):
        Logger([]).add("vision", {"loss": torch.zeros(3)})


def test_pictures_and_films_are_passed_on_once():
    seen = Seen()
    log = Logger([seen])
    log.add("vision", {"grid": torch.zeros(3, 4, 5, dtype=torch.uint8), "film": np.zeros((7, 1, 4, 5), np.uint8)})
    log.write(1)
    assert {key: value.shape for key, value in seen.media.items()} == {
        "vision/grid": (3, 4, 5),
        "vision/film": (7, 1, 4, 5),
    }
    seen.media.clear()
    log.write(2, **{"run/updates": 1})
    assert not seen.media


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_a_failing_sink_warns_once_and_the_others_go_on():
    seen, failing = Seen(), Failing(OSError(errno.ENETDOWN, "no network"))
    log = Logger([failing, seen])
    with pytest.warns(RuntimeWarning, match="no network"):
        log.write(0, **{"run/updates": 0})
    for step in (1, 2):
        log.write(step, **{"run/updates": step})  # a second warning would fail the test
    assert failing.calls == 1
    assert len(seen.lines) == 3


def test_a_full_disk_under_the_metrics_stops_the_run(tmp_path, monkeypatch):
    log = Logger([jsonl.Sink(tmp_path)])
    log.write(1, **{"run/updates": 1})

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(jsonl.os, "write", full)
    with pytest.raises(RunError, match=r"disk is full.*metrics\.jsonl"):
        log.write(2, **{"run/updates": 2})


def test_an_unknown_sink_is_answered_with_the_known_ones(tmp_path):
    with pytest.raises(UserError, match=r"console.*jsonl.*pictures.*tensorboard.*'tensorboard'"):
        open_sinks(tmp_path, ["tensorbord"])
    assert [type(sink).__module__ for sink in open_sinks(tmp_path, ["jsonl"])] == ["dreamlab.logs.jsonl"]


def play(log: Logger, start: int, stop: int, value: float = 0.0) -> None:
    """Two values a step, a line every third step: so that a save falls between lines."""
    for step in range(start, stop):
        log.add("g", {"x": torch.tensor(step / 7 + value), "y": step / 7})
        if step % 3 == 0:
            log.write(step)


def test_a_resumed_run_has_the_lines_of_an_uninterrupted_one(tmp_path):
    whole = Logger(open_sinks(tmp_path / "whole", ["jsonl"]))
    play(whole, 0, 20)
    whole.close()

    log = Logger(open_sinks(tmp_path / "cut", ["jsonl"]))
    play(log, 0, 11)
    state = json.loads(json.dumps(log.state_dict()))
    play(log, 11, 17, value=100.0)  # what a killed process wrote after its last checkpoint
    with (tmp_path / "cut" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 18, "g/')  # and half a line
    log = Logger(open_sinks(tmp_path / "cut", ["jsonl"]))
    log.load_state_dict(state)
    assert len(lines_of(tmp_path / "cut")) == 4
    play(log, 11, 20)
    log.close()
    assert (tmp_path / "cut" / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()


def test_a_run_that_begins_anew_begins_its_file_anew(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "a/b": 2}\n')
    log = Logger(open_sinks(tmp_path, ["jsonl"]))
    log.write(5, **{"g/x": 1.0})
    assert lines_of(tmp_path) == [{"step": 5, "g/x": 1.0}]


def test_a_file_that_lost_lines_keeps_its_whole_ones(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "a/b": 2}\n{"step": 2, "a')
    sink = jsonl.Sink(tmp_path)
    sink.load_state_dict({"offset": 4000})
    sink.write(3, {"a/b": 4.0}, {})
    assert [line["step"] for line in lines_of(tmp_path)] == [1, 3]


def test_tensorboard_has_scalars_pictures_and_films_and_purges_on_resume(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = Logger([tensorboard.Sink(tmp_path)])
    film = np.random.default_rng(0).integers(0, 255, (5, 3, 8, 8), np.uint8)
    log.add("vision", {"grid": film[0], "film": film})
    log.write(1, **{"g/x": 1.0})
    log.write(2, **{"g/x": 2.0})
    state = log.state_dict()
    log.write(3, **{"g/x": 33.0})
    log.write(4, **{"g/x": 44.0})
    log.close()

    log = Logger([tensorboard.Sink(tmp_path)])
    log.load_state_dict(state)
    log.write(3, **{"g/x": 3.0})
    log.close()
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [(e.step, e.value) for e in events.Scalars("g/x")] == [(1, 1.0), (2, 2.0), (3, 3.0)]
    assert set(events.Tags()["images"]) == {"vision/grid", "vision/film"}
    gif = events.Images("vision/film")[0]
    assert gif.encoded_image_string.startswith(b"GIF89a")
    from io import BytesIO

    from PIL import Image, ImageSequence

    assert len(list(ImageSequence.Iterator(Image.open(BytesIO(gif.encoded_image_string))))) == 5


def test_the_table_of_metrics_is_whole():
    rows = re.findall(
        r"^\| ([a-z]+/[a-z_]+) \| ([^|]+) \| ([^|]+) \|$", (ROOT / "docs" / "metrics.md").read_text(), re.M
    )
    keys = [key for key, _, _ in rows]
    assert len(keys) == len(set(keys)) > 25
    assert {"collect/ret", "vision/kl", "memory/nll", "controller/mean_return", "eval/mean", "run/memory_mib"} <= set(
        keys
    )
