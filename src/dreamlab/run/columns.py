"""A column of rows on disk: a memory-mapped ring that never meets a full disk half-way.

Writing into a sparse memory map kills the process (SIGBUS) when the disk is full, so blocks are
reserved ahead of every write: a full disk is then an ``OSError`` before anything has changed.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import numpy as np

RESERVE_BYTES = 32 << 20
"""blocks are reserved this far ahead, at most"""


class Column:
    """Values (times, streams, *shape) in one file. Times are ring positions here."""

    def __init__(
        self,
        path: Path,
        times: int,
        streams: int,
        shape: tuple[int, ...],
        dtype: np.dtype,
        read_only: bool = False,
    ) -> None:
        self.path, self.streams, self.shape, self.dtype = path, streams, tuple(shape), np.dtype(dtype)
        self.read_only = read_only
        self.time_bytes = max(1, int(np.prod(shape, dtype=np.int64)) * self.dtype.itemsize * streams)
        self._reserved = 0  # bytes from the start known to have blocks
        self.resize(times)

    def resize(self, times: int) -> None:
        """Map ``times`` times; what was written stays."""
        self.times = times
        size = times * self.time_bytes
        fd = os.open(self.path, os.O_RDONLY if self.read_only else os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if self.read_only:
                self._map = mmap.mmap(fd, size, access=mmap.ACCESS_READ)
            else:
                if os.fstat(fd).st_size != size:
                    os.ftruncate(fd, size)
                self._map = mmap.mmap(fd, size)
        finally:
            os.close(fd)
        if hasattr(mmap, "MADV_RANDOM"):
            self._map.madvise(mmap.MADV_RANDOM)  # sampling jumps about; reading ahead would be for nothing
        self.values = np.frombuffer(self._map, self.dtype).reshape(times, self.streams, *self.shape)
        self.rows = self.values.reshape(times * self.streams, *self.shape)

    def reserve(self, position: int) -> None:
        """Make sure that the blocks under ``position`` exist. Raises OSError (ENOSPC) before anything is written."""
        end = (position + 1) * self.time_bytes
        if end <= self._reserved:
            return
        size = self.times * self.time_bytes
        ahead = min(size, end + min(RESERVE_BYTES, max(1 << 16, self._reserved // 16)))  # small stores stay small
        start = min(self._reserved, position * self.time_bytes)
        fd = os.open(self.path, os.O_RDWR)
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(fd, start, ahead - start)
            else:  # macOS: read what is there and write it back
                for at in range(start, ahead, 1 << 20):
                    block = os.pread(fd, min(1 << 20, ahead - at), at)
                    os.pwrite(fd, block, at)
        finally:
            os.close(fd)
        self._reserved = ahead

    def sync(self) -> None:
        """Have the disk hold what was written: survives power loss, not only the process."""
        self._map.flush()

    def spec(self) -> dict[str, object]:
        return {"shape": list(self.shape), "dtype": self.dtype.str}


def file_name(column: str) -> str:
    """The file of a column in the replay's folder."""
    return f"{column.replace('/', '.')}.bin"
