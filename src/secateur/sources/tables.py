"""Tables with named columns, read by Arrow, which is strict where others guess."""

from __future__ import annotations

import csv
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv
import pyarrow.parquet

from secateur.errors import InputError
from secateur.sources.checks import anomaly_labels, listed, reading, shortened
from secateur.sources.source import Source

LOG = logging.getLogger(__name__)
NAMES_SHOWN = 20
CSV_BLOCK_BYTES = 2**24  # a line must fit; Arrow's default of 1 MB ends at some 50,000 columns


def read_csv(path: Path, md5: str, label: str | None) -> Source:
    """The columns of a .csv file: UTF-8, comma-separated, its first line the columns' names.

    Raises:
        InputError: rows of differing length (which line), no header, text in a column, a missing
            label column, labels other than 0 and 1.
    """
    with reading(path):
        try:
            table = pa.csv.read_csv(
                path,
                read_options=pa.csv.ReadOptions(block_size=CSV_BLOCK_BYTES),
                convert_options=pa.csv.ConvertOptions(strings_can_be_null=True),
            )
            names = table.schema.names
        except (pa.ArrowInvalid, UnicodeDecodeError):
            _explain_csv(path)
            raise
    check_header(names, path)
    return _source(table, path, md5, label)


def read_parquet(path: Path, md5: str, label: str | None) -> Source:
    """The columns of a .parquet file; an index that pandas stored is left out.

    Raises:
        InputError: a column that does not hold numbers, a missing label column, labels other than
            0 and 1.
    """
    with reading(path), pa.parquet.ParquetFile(path) as file:
        table = file.read()
        described = (table.schema.pandas_metadata or {}).get("index_columns", [])
    # A range is described by a dictionary and takes no column.
    index = [name for name in described if isinstance(name, str) and name != label]
    stored = [name for name in index if table.schema.names.count(name) == 1]
    if stored:
        LOG.info("%s: the index %s is left out", path, _named(stored))
        table = table.drop_columns(stored)
    return _source(table, path, md5, label)


def _source(table: pa.Table, path: Path, md5: str, label: str | None) -> Source:
    names: list[str] = table.schema.names
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise InputError(f"{path} has more than one column {_named(twice)}; names must differ")
    if "" in names:
        raise InputError(
            f"column {names.index('')} of {path} has no name (the first column is 0); name it, or "
            "leave it out if it is an index"
        )
    labels = None
    if label is not None:
        if label not in names:
            raise InputError(
                f"{path} has no column {label!r} (data.label); its columns are {_named(names)}"
            )
        labels = anomaly_labels(_label_values(table.column(label)), f"column {label!r} of {path}")
        table = table.drop_columns([label])
    features = tuple(table.schema.names)
    return Source(
        name="file",
        origin=str(path),
        rows=_numbers(table, path),
        md5=md5,
        path=path.as_posix(),
        labels=labels,
        feature_names=features,
    )


def _numbers(table: pa.Table, path: Path) -> np.ndarray:
    """(rows, columns) float64; empty cells become NaN."""
    names, columns = list(table.schema.names), [decoded(column) for column in table.columns]
    wrong = [name for name, column in zip(names, columns, strict=True) if not is_number(column)]
    if wrong:
        first = columns[names.index(wrong[0])]
        others = f"; so do {_named(wrong[1:])}" if len(wrong) > 1 else ""
        raise InputError(f"{path}: column {wrong[0]!r} holds {_content(first)}{others}")
    rows = np.empty((table.num_rows, len(columns)), np.float64)
    del table
    for position in reversed(range(len(columns))):  # a column is freed as soon as it is copied
        rows[:, position] = columns.pop().cast(pa.float64(), safe=False).to_numpy()
    return rows


def decoded(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Categories as the values that they stand for."""
    if pa.types.is_dictionary(column.type):
        return column.cast(column.type.value_type)
    return column


def is_number(column: pa.ChunkedArray) -> bool:
    """Whether a column holds numbers, or nothing at all."""
    kinds = pa.types
    return any(
        is_kind(column.type)
        for is_kind in (
            kinds.is_integer,
            kinds.is_floating,
            kinds.is_boolean,
            kinds.is_decimal,
            kinds.is_null,
        )
    )


def _is_text(column: pa.ChunkedArray) -> bool:
    return pa.types.is_string(column.type) or pa.types.is_large_string(column.type)


def _content(column: pa.ChunkedArray) -> str:
    """What a column that does not hold numbers holds instead, and where."""
    if not _is_text(column):
        return f"values of type {column.type}; allowed: numbers"
    row = _first_text(column)
    value = shortened(column[row].as_py())
    return f"text: {value} in row {row} (the first row is 0); allowed: numbers"


def _first_text(column: pa.ChunkedArray) -> int:
    """The first row whose text is not a number, found by halving."""
    start, stop = 0, len(column)
    while stop - start > 1:
        middle = (start + stop) // 2
        if _parses(column.slice(start, middle - start)):
            start = middle
        else:
            stop = middle
    return start


def _parses(column: pa.ChunkedArray) -> bool:
    try:
        pa.compute.utf8_trim_whitespace(column).cast(pa.float64())
    except pa.ArrowInvalid:
        return False
    return True


def _label_values(column: pa.ChunkedArray) -> np.ndarray:
    """(rows,) the labels as numbers, or as text where they are not numbers."""
    column = decoded(column)
    if is_number(column):
        return column.cast(pa.float64(), safe=False).to_numpy()
    return np.array([str(value) for value in column.to_pylist()])


def _explain_csv(path: Path) -> None:
    """Say in the user's terms, with the line, why Arrow refused a file.

    Raises:
        InputError: if the reason was found.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = csv.reader(file)
            names = next(lines, [])
            data_lines = 0
            for cells in lines:
                if cells and len(cells) != len(names):
                    raise InputError(
                        f"{path}: line {lines.line_num} has {len(cells)} cells, the first line "
                        f"names {len(names)} columns; allowed: rows of one length"
                    )
                data_lines += bool(cells)
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text: {error}") from None
    except csv.Error:
        return
    if data_lines == 0:
        raise InputError(f"{path} has no rows")


def check_header(names: Sequence[str], path: Path) -> None:
    """The first line of a .csv file names columns.

    Raises:
        InputError: it holds numbers, so that a row would be lost, or another separator.
    """
    if len(names) == 1 and (";" in names[0] or "\t" in names[0]):
        raise InputError(f"{path} has the one column {names[0]!r}; allowed: commas between cells")
    counted = any(list(names) == [str(n + first) for n in range(len(names))] for first in (0, 1))
    if not counted and all(_is_numeral(name) for name in names):
        raise InputError(
            f"{path}: the first line holds only numbers ({listed(names)}); it must name the columns"
        )


def _is_numeral(name: str) -> bool:
    try:
        float(name)
    except ValueError:
        return False
    return True


def _named(names: Sequence[str]) -> str:
    return listed((shortened(name) for name in names), most=NAMES_SHOWN) or "none"
