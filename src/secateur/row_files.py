"""Files and streams of rows, a batch in memory at a time: in to be scored, and the scores out."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from secateur.errors import InputError
from secateur.scoring import Scores
from secateur.sources.checks import NUMBERS, reading, shortened
from secateur.sources.tables import check_header, decoded, is_number

STREAM = "-"  # standard input or output, as CSV
OUTPUTS = (".csv", ".parquet")
_SCHEMA = pa.schema([("reconstruction_error", pa.float64()), ("anomaly", pa.bool_())])

Write = Callable[[Scores], None]
Select = Callable[[Sequence[str], object], list[int]]
"""From a table's column names, and what to call the table, to where those to read are."""


def row_batches(rows: str, select: Select, batch: int) -> Iterator[np.ndarray]:
    """The rows of a file or of standard input, (≤ batch, features) at a time.

    Args:
        rows: an .npy, .csv or .parquet file, or `-` for CSV on standard input. CSV has its column
            names in the first line, and one row a line.
        select: says which columns of a table to read, in order.
        batch: rows to have in memory.

    Raises:
        InputError: the file is missing or broken, of an unknown kind, or holds text.
    """
    if rows == STREAM:
        return _csv_batches(sys.stdin.buffer, "standard input", select, batch)
    path = Path(rows)
    readers = {".npy": _npy_file, ".csv": _csv_file, ".parquet": _parquet_file}
    if path.suffix.lower() not in readers:
        raise InputError(
            f"{path} has the unknown ending {path.suffix!r}; allowed: {', '.join(readers)}, or "
            f"{STREAM} for CSV on standard input"
        )
    if not path.is_file():
        raise InputError(f"{path} is no file")
    return readers[path.suffix.lower()](path, select, batch)


def _npy_file(path: Path, select: Select, batch: int) -> Iterator[np.ndarray]:
    with reading(path):
        rows = np.lib.format.open_memmap(path, mode="r")
    if rows.dtype.kind not in NUMBERS:
        raise InputError(f"{path} holds values of type {rows.dtype}; allowed: real numbers")
    for start in range(0, len(rows), batch):
        yield np.asarray(rows[start : start + batch])


def _parquet_file(path: Path, select: Select, batch: int) -> Iterator[np.ndarray]:
    with reading(path), pa.parquet.ParquetFile(path) as file:
        stored = file.schema_arrow.names
        names = [stored[place] for place in select(stored, path)]
        for name in names:
            if stored.count(name) > 1:
                raise InputError(f"{path} has more than one column {name!r}")
            kind = file.schema_arrow.field(name).type
            kind = kind.value_type if pa.types.is_dictionary(kind) else kind
            if not is_number(pa.chunked_array([], kind)):
                raise InputError(f"{path}: column {name!r} holds {kind}; allowed: numbers")
        for records in file.iter_batches(batch, columns=names):
            table = pa.Table.from_batches([records])
            yield _numbers([decoded(table.column(name)) for name in names], len(table))


def _csv_file(path: Path, select: Select, batch: int) -> Iterator[np.ndarray]:
    with path.open("rb") as file:
        yield from _csv_batches(file, path, select, batch)


def _csv_batches(
    lines: IO[bytes], origin: object, select: Select, batch: int
) -> Iterator[np.ndarray]:
    names = _cells(lines.readline().removeprefix(b"\xef\xbb\xbf"), origin)
    if not names:
        raise InputError(f"{origin} is empty; the first line must name the columns")
    check_header(names, Path(str(origin)))
    wanted = select(names, origin)
    first_row = 0
    while block := list(islice(lines, batch)):
        block = [line for line in block if line.strip()]
        yield _parsed(block, names, wanted, origin, first_row)
        first_row += len(block)


def _parsed(
    block: list[bytes], names: list[str], wanted: list[int], origin: object, first_row: int
) -> np.ndarray:
    if not block:
        return np.empty((0, len(wanted)))
    # By position: names need not differ.
    places = [str(place) for place in range(len(names))]
    chosen = [str(place) for place in wanted]
    try:
        table = pa.csv.read_csv(
            io.BytesIO(b"".join(block)),
            read_options=pa.csv.ReadOptions(column_names=places, use_threads=False),
            convert_options=pa.csv.ConvertOptions(
                include_columns=chosen, column_types=dict.fromkeys(chosen, pa.float64())
            ),
        )
    except pa.ArrowInvalid as error:
        _explain(block, names, wanted, origin, first_row)
        raise InputError(f"{origin} cannot be read as CSV: {error}") from None
    return _numbers([table.column(place) for place in chosen], len(table))


def _explain(
    block: list[bytes], names: list[str], wanted: list[int], origin: object, first_row: int
) -> None:
    """Say which row Arrow refused, and why.

    Raises:
        InputError: if the reason was found.
    """
    for row, line in enumerate(block, first_row):
        cells = _cells(line, origin)
        if len(cells) != len(names):
            raise InputError(
                f"{origin}: row {row} has {len(cells)} cells, the first line names {len(names)} "
                "columns (the first row is 0); allowed: rows of one length, one a line"
            )
        for place in wanted:
            try:
                float(cells[place] or "nan")
            except ValueError:
                raise InputError(
                    f"{origin}: row {row} column {names[place]!r} holds text: "
                    f"{shortened(cells[place])} (the first row is 0); allowed: numbers"
                ) from None


def _cells(line: bytes, origin: object) -> list[str]:
    try:
        return next(csv.reader([line.decode().rstrip("\r\n")], strict=True), [])
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{origin} is not CSV in UTF-8: {error}") from None


def _numbers(columns: list[pa.ChunkedArray], count: int) -> np.ndarray:
    """(rows, columns) float64; empty cells become NaN."""
    rows = np.empty((count, len(columns)))
    for position, column in enumerate(columns):
        rows[:, position] = column.cast(pa.float64(), safe=False).to_numpy()
    return rows


@contextlib.contextmanager
def writing_scores(output: str) -> Iterator[Write]:
    """A function that takes scores; the file appears under its name once all are there.

    Args:
        output: a .csv or .parquet file, or `-` for CSV on standard output, which shows every batch
            at once. Anomalies are 1 in CSV, true in Parquet.

    Raises:
        InputError: the ending is unknown, or the folder is not there.
    """
    if output == STREAM:
        with _csv_writer(sys.stdout.buffer) as writer:
            yield writer
        return
    path = Path(output)
    if path.suffix.lower() not in OUTPUTS:
        raise InputError(
            f"{path} has the unknown ending {path.suffix!r}; allowed: {', '.join(OUTPUTS)}, or "
            f"{STREAM} for CSV on standard output"
        )
    if not path.parent.is_dir():
        raise InputError(f"{path} cannot be written: there is no folder {path.parent}")
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    try:
        with draft.open("wb") as file:
            kind = _csv_writer if path.suffix.lower() == ".csv" else _parquet_writer
            with kind(file) as writer:
                yield writer
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


@contextlib.contextmanager
def _parquet_writer(file: IO[bytes]) -> Iterator[Write]:
    with pa.parquet.ParquetWriter(file, _SCHEMA) as writer:
        yield lambda scores: writer.write_table(pa.table(list(scores), schema=_SCHEMA))


@contextlib.contextmanager
def _csv_writer(file: IO[bytes]) -> Iterator[Write]:
    header = ",".join(_SCHEMA.names).encode() + b"\n"

    def write(scores: Scores) -> None:
        nonlocal header
        pairs = zip(*(values.tolist() for values in scores), strict=True)
        lines = "".join(f"{error!r},{int(anomaly)}\n" for error, anomaly in pairs)
        file.write(header + lines.encode())
        file.flush()
        header = b""

    yield write
    file.write(header)  # nothing came
