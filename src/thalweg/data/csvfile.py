"""CSV and TSV: every column is read as text, and what is wrong with a file is located only once it is."""

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pacsv

from thalweg.data.limits import check_columns
from thalweg.data.sniff import check_file
from thalweg.data.text import clean_table
from thalweg.errors import DataError, ThalwegError

_BLOCK = 8 << 20


def read_csv(path: Path) -> pa.Table:
    """The whole file as clean text; raises `DataError` for every way in which it is not one table."""
    with _text(path) as (delimiter, names):
        table = pacsv.read_csv(path, **_options(delimiter, names))
        if not table.num_rows:
            raise DataError(
                f"{path} has a header and no rows: there is nothing to learn from or to ask about"
            )
        return clean_table(table.rename_columns(_stripped(names)))


def stream_csv(path: Path) -> Iterator[pa.Table]:
    """The file as clean text, a block of rows at a time."""
    with _text(path) as (delimiter, names):
        rows = 0
        with pacsv.open_csv(path, **_options(delimiter, names)) as reader:
            for batch in reader:
                rows += batch.num_rows
                if batch.num_rows:
                    yield clean_table(pa.Table.from_batches([batch]).rename_columns(_stripped(names)))
        if not rows:
            raise DataError(f"{path} has a header and no rows: there is nothing to ask about")


def check_names(names: list[str], where: str) -> None:
    """Raise `DataError` for empty, repeated or too many column names."""
    check_columns(len(names), where)
    for position, name in enumerate(names):
        if not name.strip():
            raise DataError(f"{where}: column {position + 1} has no name: give it one in the first line")
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise DataError(
                f"{where}: two columns are named {name!r}: rename one (if the first line is already data, "
                "put a line with column names above it)"
            )
        seen.add(name)


@contextmanager
def _text(path: Path) -> Iterator[tuple[str, list[str]]]:
    check_file(path, "text")
    delimiter = ","
    try:
        delimiter, names = _header(path)
        yield delimiter, names
    except ThalwegError:
        raise
    except (pa.ArrowException, UnicodeError, csv.Error, OSError, ValueError, KeyError) as error:
        raise _diagnosis(path, delimiter, error) from error


def _header(path: Path) -> tuple[str, list[str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        line = next((line for line in file if line.strip()), "")
    delimiter = "\t" if path.suffix.lower() in (".tsv", ".tab") else ","
    if delimiter == "," and "," not in line:
        delimiter = next((other for other in ";\t|" if other in line), ",")
    with path.open(encoding="utf-8-sig", newline="") as file:
        names = next((row for row in csv.reader(file, delimiter=delimiter) if row), [])
    stripped = _stripped(names)
    check_names(stripped, str(path))
    if len(names) > 1 and all(map(_is_number, stripped)) and stripped != [str(i) for i in range(len(names))]:
        raise DataError(
            f"{path}: the first line ({', '.join(stripped[:4])}, …) looks like data: "
            "put a line with column names above it"
        )
    return delimiter, names


def _stripped(names: list[str]) -> list[str]:
    return [name.strip() for name in names]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _options(delimiter: str, names: list[str]) -> dict:
    # In a file of one column an empty line is a missing cell.
    parse = pacsv.ParseOptions(
        delimiter=delimiter, newlines_in_values=True, ignore_empty_lines=len(names) > 1
    )
    convert = pacsv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False)
    return {
        "read_options": pacsv.ReadOptions(block_size=_BLOCK),
        "parse_options": parse,
        "convert_options": convert,
    }


def _diagnosis(path: Path, delimiter: str, error: Exception) -> DataError:
    if "Empty CSV file" in str(error):
        return DataError(f"{path} has a header and no rows: there is nothing to learn from or to ask about")
    return (
        _encoding(path) or _ragged(path, delimiter) or DataError(f"{path} cannot be read as a table: {error}")
    )


def _encoding(path: Path) -> DataError | None:
    offset = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                return DataError(
                    f"{path}, line {number}: byte {offset + error.start} (0x{line[error.start]:02x}) is not "
                    "UTF-8: convert the file first, for example: "
                    f"iconv -f LATIN1 -t UTF-8 {path.name} > utf8-{path.name}"
                )
            offset += len(line)
    return None


def _ragged(path: Path, delimiter: str) -> DataError | None:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter=delimiter)
        try:
            rows = (row for row in reader if row)
            width = len(next(rows, []))
            for number, row in enumerate(rows):
                if len(row) != width:
                    quote = "; is a quotation mark left open?" if any("\n" in cell for cell in row) else ""
                    return DataError(
                        f"{path}, row {number} (line {reader.line_num}): {len(row)} cells where the header "
                        f"has {width}: fix that line (a cell with {delimiter!r} in it needs quotation marks)"
                        f"{quote}"
                    )
        except csv.Error as error:
            return DataError(f"{path}, line {reader.line_num}: {error}")
    return None
