"""Tables are read as pandas reads them, which the references do."""

import csv
import io

import pandas
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yopo_train.errors import UserError
from yopo_train.evaluation.benchmarks.tsv import read_tsv

TEXT = st.text('ab "\t\n\u2028ä€𝄞', max_size=6)
MISSING = st.sampled_from(["", "nan", "None", "NA", "N/A", "null", "none", "Nan", '"', "\t", "\n"])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(TEXT | MISSING, min_size=3, max_size=3), min_size=1, max_size=5), st.sampled_from(["\n", "\r\n"])
)
def test_as_pandas(tmp_path_factory, rows, end):
    file = tmp_path_factory.getbasetemp() / "table.tsv"
    text = io.StringIO()
    csv.writer(text, dialect="excel-tab", lineterminator=end).writerows([["a", "b", "c"], *rows])
    file.write_bytes(text.getvalue().encode())
    frame = pandas.read_table(file, dtype=str)
    expected = [{name: None if pandas.isna(value) else value for name, value in row.items()}
                for row in frame.to_dict("records")]  # fmt: skip
    assert [row for _, row in read_tsv(file)] == expected


def test_spans_are_places_in_the_file(tmp_path):
    file = tmp_path / "table.tsv"
    file.write_bytes('\ufeffname\timage\r\n"ä\t""b"""\tQUJD\r\nx\t\r\n\r\ny\tREVG'.encode())
    rows = list(read_tsv(file, spans=("image",)))
    assert [where for where, _ in rows] == [f"{file}, row {i}" for i in (1, 2, 3)]
    assert [row["name"] for _, row in rows] == ['ä\t"b"', "x", "y"]
    data = file.read_bytes()
    assert [row["image"] and data[slice(*row["image"])] for _, row in rows] == [b"QUJD", None, b"REVG"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "cannot be read as a table"),
        (b"a\tb\n1\n", r"row 1: 1 fields, expected 2 \(a, b\)"),
        (b"a\tb\n1\t2\t3\n", "row 1: 3 fields, expected 2"),
        (b'a\tb\n1\t"2\n', "row 1: field 2 begins with a quote that does not end"),
        (b"a\tb\n1\t\xff\n", "row 1: not UTF-8"),
    ],
)
def test_broken_tables(data, message, tmp_path):
    (tmp_path / "table.tsv").write_bytes(data)
    with pytest.raises(UserError, match=message):
        list(read_tsv(tmp_path / "table.tsv"))
