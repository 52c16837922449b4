"""How training rows reach the device: all at once, or block by block where they are too many."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf

DEVICE_BYTES = 2**30  # training rows up to this size stay on the device
BLOCK_BYTES = 2**26  # larger data comes in blocks of this size


class Blocks:
    """Training rows in blocks that fit the device; one block where all rows do.

    Blocks are consecutive rows: prepared data is shuffled once already.
    """

    def __init__(self, rows: np.ndarray, batch: int) -> None:
        """Prepare to hand out rows.

        Args:
            rows: (rows, ...), at least a batch; may be memory-mapped.
            batch: rows a step.
        """
        self.rows = rows
        self.batch = batch
        row_bytes = rows.nbytes // len(rows)
        self.block = max(batch, BLOCK_BYTES // row_bytes // batch * batch)
        fits = rows.nbytes <= DEVICE_BYTES
        self._resident = tf.constant(np.asarray(rows)) if fits else None

    def starts(self, order: np.random.Generator) -> list[int]:
        """The first rows of an epoch's blocks, in the order of their turns."""
        if self._resident is not None:
            return [0]
        starts = np.arange(0, len(self.rows) - self.batch + 1, self.block)
        return [int(start) for start in order.permutation(starts)]

    def feed(self, starts: Sequence[int]) -> Iterator[tf.Tensor]:
        """The blocks that start there, the next one read while the last one is used."""
        if self._resident is not None:
            yield from [self._resident] * len(starts)
            return
        yield from tf.data.Dataset.from_generator(
            lambda: (self.rows[start : start + self.block] for start in starts),
            output_signature=tf.TensorSpec((None, *self.rows.shape[1:]), self.rows.dtype),
        ).prefetch(1)

    def steps(self, rows: int, order: np.random.Generator) -> np.ndarray:
        """(steps, batch) int32: which of a block's rows make each step, in a new order every time.

        The rows left over from whole batches are others every epoch.
        """
        steps = rows // self.batch
        return order.permutation(rows)[: steps * self.batch].reshape(steps, -1).astype(np.int32)

    @property
    def steps_an_epoch(self) -> int:
        """How many steps `steps` gives for all of an epoch's blocks."""
        if self._resident is not None:
            return len(self.rows) // self.batch
        lengths = np.minimum(
            self.block, len(self.rows) - np.arange(0, len(self.rows) - self.batch + 1, self.block)
        )
        return int((lengths // self.batch).sum())
