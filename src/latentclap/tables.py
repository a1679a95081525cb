"""Tables as people have them: separated by commas, semicolons or tabs, from any spreadsheet."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from latentclap.errors import InputError

#: what may separate columns; of equally frequent ones the first counts
DELIMITERS = ",;\t"
#: Excel's own first line, which names the separator
_SEP = re.compile(r"\A\s*sep=(.)\n", re.IGNORECASE)


def table_text(path: str | Path) -> tuple[str, str]:
    """The text of a table, with ``\\n`` at the end of lines, and the character that separates its columns.

    UTF-8 with or without a mark at its beginning, or UTF-16 with one, as "Unicode text" of a spreadsheet is.

    Raises:
        UnicodeDecodeError: it is neither.
    """
    data = Path(path).read_bytes()
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    text = data.decode("utf-16" if wide else "utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    if told := _SEP.match(text):
        return text[told.end() :], told.group(1)
    header = next((line for line in text.split("\n") if line.strip()), "")
    return text, max(DELIMITERS, key=header.count)


def csv_text(rows: Iterable[Iterable[object]]) -> str:
    """Rows as the text of a CSV file: commas, quotes where a field needs them, and a newline after each row."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def column(name: str) -> str:
    """A column's name as it is compared: without spaces around it, in lower case."""
    return name.strip().lower()


def rows_of(path: str | Path) -> Iterator[tuple[int, list[str]]]:
    """Rows of a table with the number of the line at which each begins, the header first; blank rows are left out.

    Raises:
        InputError: not UTF-8, a quote that is not closed, or more fields than columns: a comma without quotes.
    """
    try:
        text, delimiter = table_text(path)
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8; save it as CSV in UTF-8") from None
    width, line = 0, 1
    reader = csv.reader(io.StringIO(text, newline="\n"), delimiter=delimiter, strict=True)
    while True:
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise InputError(
                f"{path}: line {line}: {error}; a field with a quote in it has quotes around it, and its own twice"
            ) from None
        if row is None:
            return
        if any(field.strip() for field in row):
            width = width or len(row)
            if any(field.strip() for field in row[width:]):
                raise InputError(
                    f"{path}: line {line} has {len(row)} fields for {width} columns; a field with {delimiter!r} in it"
                    " needs double quotes around it"
                )
            yield line, row[:width]
        line = reader.line_num + 1
