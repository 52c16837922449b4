"""Bad data stops here, with one message that says what is wrong and where."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from secateur.errors import InputError
from secateur.sources.source import Source, as_float64, block_bounds

SHOWN = 5  # positions or values that a message spells out
MESSAGE = 300  # characters; some readers quote half the broken file
NUMBERS = "biuf"  # NumPy's kinds: bool, int, unsigned, float


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns whatever a file's reader raises into an `InputError` that names the file."""
    try:
        yield
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; data.path names the file to read") from None
    except MemoryError:
        raise InputError(f"{path} does not fit into memory; a .npy file need not") from None
    # Not a list of exceptions: a broken file makes its reader raise nearly anything.
    except Exception as error:
        kind = path.suffix.lower() or "file"
        raise InputError(f"{path} cannot be read as {kind}: {one_line(error)}") from error


def check_numbers(array: np.ndarray, origin: str) -> None:
    """An array of rows holds numbers: (rows, features), or pictures with or without channels.

    Raises:
        InputError: it holds text, dates, records or complex numbers, or has another shape.
    """
    if array.dtype.kind in "US":
        raise InputError(f"{origin} holds text{_first_text(array)}; allowed: numbers")
    if array.dtype.kind not in NUMBERS:
        raise InputError(f"{origin} holds values of type {array.dtype}; allowed: real numbers")
    if array.ndim not in (2, 3, 4):
        raise InputError(
            f"{origin} has the shape {array.shape}; allowed: (rows, features), or "
            "(rows, height, width) or (rows, height, width, channels) for pictures"
        )


def anomaly_labels(values: np.ndarray, origin: str) -> np.ndarray:
    """(rows,) labels as bool, True = anomaly.

    Raises:
        InputError: a label is neither 0 nor 1; the message counts those that are not.
    """
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1:
        raise InputError(f"{origin} has the shape {values.shape}; allowed: one label a row")
    allowed = (
        np.isin(values, (0, 1)) if values.dtype.kind in NUMBERS else np.zeros(len(values), bool)
    )
    if not allowed.all():
        wrong, counts = np.unique(values[~allowed], return_counts=True)
        found = listed(
            f"{shortened(value)} ({count} times)"
            for value, count in zip(wrong.tolist(), counts, strict=True)
        )
        raise InputError(f"{origin} holds {found}; allowed: 1 = anomaly, 0 = normal")
    return values.astype(bool)


def check_source(source: Source) -> None:
    """A source has rows, all finite, and labels that fit them.

    Raises:
        InputError: no rows or no columns, NaN or infinity (how many and where first), or labels
            that are of another number or leave no normal row.
    """
    if len(source.rows) == 0:
        raise InputError(f"{source.origin} has no rows")
    if source.features == 0:
        raise InputError(f"{source.origin} has no columns of numbers")
    if source.labels is not None:
        if len(source.labels) != len(source.rows):
            raise InputError(
                f"{source.origin} has {len(source.rows)} rows and {len(source.labels)} labels; "
                "allowed: one label a row"
            )
        if source.labels.all():
            raise InputError(
                f"all {len(source.rows)} rows of {source.origin} are labelled 1 = anomaly; "
                "training needs normal rows, labelled 0"
            )
    _check_finite(source, source.rows, source.origin)
    if source.test_rows is not None:
        _check_finite(source, source.test_rows, f"the test rows of {source.origin}")


def check_batch(train_rows: int, batch: int) -> None:
    """The training rows fill a batch.

    Raises:
        InputError: they do not.
    """
    if train_rows < batch:
        raise InputError(
            f"{train_rows} rows to train on are fewer than a batch; allowed: "
            f"baseline.training.batch of at most {train_rows}, got {batch}"
        )


def _check_finite(source: Source, rows: np.ndarray, origin: str) -> None:
    nan = infinite = 0
    places: list[str] = []
    for start, stop in block_bounds(rows, len(rows)):
        block = as_float64(rows[start:stop])
        bad = ~np.isfinite(block)
        if not bad.any():
            continue
        nan += (block_nan := int(np.isnan(block).sum()))
        infinite += int(bad.sum()) - block_nan
        for row, feature in np.argwhere(bad)[: SHOWN - len(places)].tolist():
            places.append(f"row {start + row} {source.column(feature)}")
    if not places:
        return
    more = nan + infinite - len(places)
    raise InputError(
        f"{origin} holds {nan} NaN or empty and {infinite} infinite values: {', '.join(places)}"
        f"{f' and {more} more' if more else ''} (the first row is 0); allowed: finite numbers"
    )


def _first_text(array: np.ndarray) -> str:
    """Where an array of text first holds something that is not a number."""
    for place, value in np.ndenumerate(array):
        try:
            float(value)
        except ValueError:
            return f", first {shortened(str(value))} at {place}"
    return ""


def one_line(error: object) -> str:
    """An error's message without line breaks, cut where it gets long."""
    message = " ".join(str(error).split()) or type(error).__name__
    return message if len(message) <= MESSAGE else f"{message[: MESSAGE - 1]}…"


def shortened(value: object, most: int = 60) -> str:
    """A value as Python writes it, cut where it gets long."""
    written = repr(value)
    return written if len(written) <= most else f"{written[: most - 1]}…"


def listed(names: Iterable[object], most: int = SHOWN) -> str:
    """Names in a row, the first few of many."""
    written = [str(name) for name in names]
    more = f" and {len(written) - most} more" if len(written) > most else ""
    return ", ".join(written[:most]) + more
