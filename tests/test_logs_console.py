"""The console says enough and not more: few plain lines, one bar, nothing lost when a signal speaks."""

from __future__ import annotations

import io

from dreamlab.logs import console


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def run_phase(sink, clock, name: str, total: int, seconds: float, each=lambda i: None) -> None:
    for i in range(1, total + 1):
        clock.now += seconds / total
        each(i)
        sink.write(i, {f"{name}/loss": 3.25, f"{name}/other": 1.0, "run/updates": i}, {})
        sink.progress(name, i, total, "updates", "")


def test_plain_lines_come_every_ten_seconds_and_at_a_phases_end():
    out, clock = io.StringIO(), Clock()
    sink = console.Sink(file=out, clock=clock)
    run_phase(sink, clock, "vision", 3500, 35.0)
    run_phase(sink, clock, "memory", 500, 5.0)
    sink.progress("memory", 500, 500, "updates", "")  # said twice, shown once
    sink.close()
    lines = out.getvalue().splitlines()
    assert [line.split()[0] for line in lines] == ["vision"] * 4 + ["memory"]
    assert "3,500/3,500 updates" in lines[3]
    assert "100%" in lines[3]
    assert "100/s" in lines[0]
    assert "ETA 0:25" in lines[0]
    assert "loss 3.25" in lines[0]
    assert "\x1b" not in out.getvalue()


def test_a_phase_that_is_cut_short_leaves_its_last_state():
    out, clock = io.StringIO(), Clock()
    sink = console.Sink(file=out, clock=clock)
    for i in range(4):
        clock.now += 1
        sink.progress("collect", i, 100, "steps", "")
    sink.close()
    assert out.getvalue().splitlines() == ["collect     3/100 steps  3%  1.00/s  ETA 1:37"]


def test_a_resumed_phase_takes_its_rate_from_this_session():
    out, clock = io.StringIO(), Clock()
    sink = console.Sink(file=out, clock=clock)
    sink.progress("vision", 9000, 10000, "updates", "")
    clock.now = 20.0
    sink.progress("vision", 9100, 10000, "updates", "")
    assert "5.00/s" in out.getvalue()
    assert "ETA 3:00" in out.getvalue()


def test_a_long_round_keeps_its_rate_and_is_told_rarely():
    """IRIS learns for a minute or more between two counted steps."""
    out, clock = io.StringIO(), Clock()
    sink = console.Sink(file=out, clock=clock)
    for second in range(241):  # 200 steps at the end of every two minutes
        clock.now = float(second)
        sink.progress("dynamics", 200 * (second // 120), 1000, "steps", "")
    lines = out.getvalue().splitlines()
    assert len(lines) < 10
    assert "400/1,000 steps" in lines[-1]
    assert not [line for line in lines if "200/1,000" in line and "ETA -" in line]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_has_a_bar_with_messages_above_it(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    out, clock = Terminal(), Clock()
    sink = console.Sink(file=out, clock=clock)
    run_phase(sink, clock, "vision", 50, 5.0, lambda i: sink.message("[saved] at /tmp/x") if i == 20 else None)
    sink.close()
    text = out.getvalue()
    assert "[saved] at /tmp/x" in text
    assert "\x1b[3" in text  # colours
    assert text.rstrip().endswith("\x1b[?25h")  # the cursor is given back
    assert "\x1b[3" not in coloured_off(monkeypatch)


def coloured_off(monkeypatch) -> str:
    monkeypatch.setenv("NO_COLOR", "1")
    out, clock = Terminal(), Clock()
    sink = console.Sink(file=out, clock=clock)
    run_phase(sink, clock, "vision", 5, 1.0)
    sink.close()
    assert "vision" in out.getvalue()
    return out.getvalue()


def test_a_message_that_a_signal_sends_while_a_line_is_drawn_waits_for_it(monkeypatch):
    out, clock = io.StringIO(), Clock()
    sink = console.Sink(file=out, clock=clock)
    show = sink._show

    def interrupted(phase):
        sink.message("stopping")
        show(phase)

    monkeypatch.setattr(sink, "_show", interrupted)
    run_phase(sink, clock, "vision", 2, 1.0)
    assert [line.split()[0] for line in out.getvalue().splitlines()] == ["vision", "stopping"]
