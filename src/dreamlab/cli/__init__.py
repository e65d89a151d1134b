"""The commands, one file a verb: the only room that wires the others together."""

from dreamlab.cli import dreams

dreams.wire()
