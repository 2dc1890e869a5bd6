"""Tables as other programs write them, and their labels: nothing is merged, moved or lost."""

from __future__ import annotations

import csv
import io

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gbdnn.cli import datasets, labels
from gbdnn.errors import FileFormatError, InputError, NonFiniteError

X = np.array([[5.1, 3.5, 1.4], [4.9, 3.0, 1.5], [6.2, 3.4, 5.4]], np.float32)
NAMES = ["cat", "dog", "cat"]


@pytest.fixture
def read(tmp_path):
    """Write a text to a file and read it as a table."""

    def made(text: str, name: str = "a.csv", **options: object) -> datasets.Dataset:
        path = tmp_path / name
        path.write_text(text)
        return datasets.read(path, **options)

    return made


def frame(columns="abc", y=NAMES, label="label"):
    """Return X as a DataFrame, with labels as the last column."""
    made = pd.DataFrame(X, columns=list(columns))
    return made if y is None else made.assign(**{label: y})


# -- names of columns ------------------------------------------------------------------------------


@given(order=st.permutations([0, 1, 2, 3]), named=st.booleans())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
def test_columns_come_in_the_order_of_their_names(read, order, named):
    table = frame(label="label" if named else "kind")  # kind is known by its texts only
    found = read(table[table.columns[order]].to_csv(index=False), columns=["a", "b", "c"])
    np.testing.assert_array_equal(found.X, X)
    assert found.y.tolist() == NAMES
    assert found.names == ("a", "b", "c")


@pytest.mark.parametrize(
    ("columns", "wanted", "match"),
    [
        ("abd", "abc", r"lacks 'c'; has besides 'd'"),
        ("abc", "abcd", r"lacks 'd'"),
        ("abc", "ab", r"has besides 'c'"),
        ("aab", "abc", r"lacks 'c'; has twice 'a'"),
        ("ABC", "abc", r"lacks 'a', 'b', 'c'; has besides 'A', 'B', 'C'"),
    ],
)
def test_missing_and_unknown_columns_are_listed(read, columns, wanted, match):
    table = frame(y=None)
    table.columns = list(columns)
    with pytest.raises(InputError, match=match):
        read(table.to_csv(index=False), columns=list(wanted))


def test_many_unknown_columns_are_counted(read):
    text = ",".join(f"c{k}" for k in range(200)) + "\n" + ",".join("1" * 200)
    with pytest.raises(InputError, match="and 180 more") as error:
        read(text, columns=[f"d{k}" for k in range(200)])
    assert len(str(error.value)) < 1000


def test_a_table_without_names_is_taken_as_it_stands(read):
    with pytest.warns(UserWarning, match="no header"):
        found = read(frame(y=None).to_csv(index=False, header=False), columns=["a", "b", "c"])
    np.testing.assert_array_equal(found.X, X)
    assert found.names is None
    assert read("a,a\n1,2\n3,4\n").names is None  # by names that are equal nothing can be found


@pytest.mark.parametrize("label", ["label", "species", "class"])
def test_the_models_own_label_comes_first(read, label):
    text = "class,species,label,a\n1,2,3,4\n5,6,7,8\n"
    columns = [name for name in ("class", "species", "label", "a") if name != label]
    found = read(text, columns=columns, names=(label,))
    assert found.label == label
    assert found.names == tuple(columns)


# -- headers of numbers, indices -------------------------------------------------------------------


@pytest.mark.parametrize("y", [None, NAMES, [0, 1, 0]])
@pytest.mark.parametrize("index", [False, True])
@pytest.mark.parametrize("columns", ["012", "124", "abc"])
def test_what_pandas_writes(read, y, index, columns):
    """With pandas' own names 0, 1, 2 and its index no sample is lost or won."""
    text = frame(columns, y).sort_index(ascending=False).to_csv(index=index)
    if index:
        with pytest.warns(UserWarning, match="the first column, which has no name, left out"):
            found = read(text)
    elif columns == "124" and y is None:
        with pytest.raises(InputError, match="--header or --no-header"):
            read(text)
        found = read(text, header=True)
    else:
        found = read(text)
    np.testing.assert_array_equal(found.X, X[::-1])
    assert found.names == tuple(columns)
    assert (found.y is None) if y is None else (found.y.tolist() == y[::-1])


@pytest.mark.parametrize(
    ("text", "header"),
    [
        ("0,1,2\n1.5,2.5,3.5\n", True),
        ("0,1,2\n3,4,5\n", None),
        ("0,1\n0,0\n", None),
        ("0\n1.5\n", None),
        ("2019,2020,2021\n1.5,2.5,3.5\n", None),
        ("1,3,5,7,9,11\n4,2,9,1,1,1\n", None),
        ("0,1,2\n1,x,y\n", True),
        ("1,3,5\n4,2,9\n", False),
        ("5,3,1\n4.5,2.5,9.5\n", False),
        ("0.0,1.0,2.0\n4.5,2.5,9.5\n", False),
        ("0,1,2\n", False),
    ],
)
def test_a_first_line_of_numbers(read, text, header):
    """A header, a sample, or (None) the user is asked; what the user says holds."""
    lines = len(text.splitlines())
    if header is None:
        with pytest.raises(InputError, match="line 1"):
            read(text)
    elif "x" not in text:
        assert len(read(text).X) == lines - header
    else:
        with pytest.raises(InputError, match="line 2"):  # not line 1: that is a header
            read(text)
    if lines > 1 and "x" not in text:
        assert len(read(text, header=True).X) == lines - 1
        assert len(read(text, header=False).X) == lines


@pytest.mark.parametrize("label", [None, "-1", "kind"])
def test_unnamed_columns_are_left_out(read, label):
    table = frame(label="kind" if label else "label")
    twice = pd.read_csv(io.StringIO(table.to_csv())).to_csv()  # ",Unnamed: 0,a,b,c,..."
    with pytest.warns(UserWarning, match="2 unnamed columns left out"):
        found = read(twice, label=label, features=3)
    np.testing.assert_array_equal(found.X, X)
    assert found.y.tolist() == NAMES
    named = ',"a"\n"row 1",1\n"row 2",2\n'  # as R names rows: text, but no labels
    with pytest.warns(UserWarning, match="left out"):
        assert read(named).y is None
    assert read(named, label="0").y.tolist() == ["row 1", "row 2"]


# -- labels ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "classes"),
    [
        (["007", "7"], ["007", "7"]),
        (["123456789012345678", "123456789012345679"], [123456789012345678, 123456789012345679]),
        (["1234567890123456789012", "1234567890123456789013"], None),
        (["1_1", "11"], None),
        (["1.1", "1.10"], None),
        (["1e3", "1000"], None),
        (["+1", "1"], None),
        (["0.0", "-0.0"], None),
        (["1", "1.5"], ["1", "1.5"]),
        (["inf", "Infinity"], None),
        (["3", "10"], [3, 10]),
        (["-1", "1"], [-1, 1]),
        (["1.0", "2.0"], [1, 2]),
        (["0.5", "1.5"], [0.5, 1.5]),
        (["1.000000000000000000e+00", "2.000000000000000000e+00"], [1, 2]),  # numpy.savetxt
        (["NA", "FR"], None),
        (["x", "1"], None),
    ],
)
def test_as_many_classes_as_texts(words, classes):
    found, numbers = labels.as_classes(labels.typed([*words, words[0]]))
    assert found == (sorted(words) if classes is None else classes)
    assert [type(one) for one in found] == [type(found[0])] * 2
    assert numbers[0] == numbers[2] != numbers[1]
    np.testing.assert_array_equal(labels.codes(found, labels.typed(words)), numbers[:2])


@given(words=st.lists(st.text("0123456789.e+-_ax", min_size=1, max_size=5), min_size=1))
def test_labels_are_never_merged(words):
    y = labels.typed(words)
    assert len(np.unique(y)) == len(set(words))
    if y.dtype.kind == "U":
        assert y.tolist() == words


def test_a_number_and_its_text_are_one_label():
    for y in (np.array([7, 3]), np.array([7.0, 3.0]), np.array(["7", "3"]), np.array([b"7", b"3"])):
        assert labels.codes([3, 7], y).tolist() == [1, 0]
        assert labels.codes(["3", "7"], y).tolist() == [1, 0]
    assert labels.codes([False, True], np.array(["True", "no"])).tolist() == [1, -1]
    assert labels.codes([7, 8], np.array(["007", "8"])).tolist() == [-1, 1]


@pytest.mark.parametrize(
    ("y", "task"),
    [
        (np.array(["a", "b"]), "classify"),
        (np.array(["007", "7"]), "classify"),
        (np.array([1.0, 2.0]), "classify"),
        (np.array([1.0, 2.5]), "regress"),
        (np.array(["1", "2.5"]), "regress"),
        (np.zeros((3, 2)), "regress"),
        (np.arange(10).repeat(5), "classify"),
    ],
)
def test_task_of(y, task):
    assert labels.task_of(y) == task
    if task == "regress":
        assert labels.as_values(y).dtype == np.float64


def test_labels_that_may_be_either():
    for y in (
        np.arange(51).repeat(100),
        np.arange(11),
        np.arange(300.0),
        np.arange(20).astype(str),
    ):
        with pytest.warns(UserWarning, match="--task regress"):
            assert labels.task_of(y) == "classify"
    with pytest.raises(InputError, match="--task classify or regress"):
        labels.task_of(np.array(["1.1", "1.10", "1.2"]))


@pytest.mark.parametrize("word", ["", " ", "nan", "NaN", "-nan"])
@pytest.mark.parametrize("others", ["cat", "3", "1.5"])
def test_missing_labels(read, word, others):
    lines = [f"1,{others}", "2,4", f"3,{word}", f"5,{others}"]
    with pytest.raises(InputError, match=r"a\.csv, line 4, column 2 \(label\): expected a label"):
        read("\n".join(["a,label", *lines]))
    with pytest.raises(InputError, match=r"a\.csv, line 3, column 2: expected a label"):
        read("\n".join(lines), label="1", header=False)
    with pytest.raises(InputError, match=r"labels: .* index 2"):
        labels.as_classes(np.array([others, "4", word, others]))


def test_labels_of_which_all_are_missing(read):
    """Such a column is no column of labels: it is there to be filled by the prediction."""
    found = read("a,label\n1,\n2,\n")
    assert found.y is None
    np.testing.assert_array_equal(found.X, [[1], [2]])


@pytest.mark.parametrize("word", ["inf", "-Infinity", "1e999"])
def test_infinite_labels(read, word):
    with pytest.raises(NonFiniteError, match=r"line 3, column 2 \(y\).*got "):
        read(f"a,y\n1,2.5\n3,{word}\n")


@pytest.mark.parametrize(
    ("field", "got"),
    [("", "nothing"), ("NA", "'NA'"), ("?", r"'\?'"), ("nan", "nan"), ("inf", "inf"),
     ("1e300", "1e300"), ("1_1", "'1_1'"), ("1 1", "'1 1'"), ("0x1", "'0x1'")],
)  # fmt: skip
@pytest.mark.parametrize("line", [2, 5000])
def test_faults_are_found_as_the_user_counts(read, field, got, line):
    lines = ["one,two,label", *["1,2,a"] * 6000]
    lines[line - 1] = f"1,{field},a"
    with pytest.raises(InputError, match=rf"a\.csv, line {line}, column 2 \(two\): .*got {got}"):
        read("\n".join(lines))


# -- how fields are divided ------------------------------------------------------------------------


@pytest.mark.parametrize("header", ["", "a b c label"])
@pytest.mark.parametrize("options", [{}, {"fmt": "%.4f"}, {"fmt": "%10.3f"}, {"delimiter": "  "},
                                     {"delimiter": "\t"}, {"fmt": "%7.2f "}])  # fmt: skip
def test_what_numpy_writes(tmp_path, header, options):
    """Blanks, any number of them; the header is a comment."""
    path, y = tmp_path / "a.txt", np.array([1.0, 2.0, 1.0])
    if "delimiter" in options:
        header = header.replace(" ", options["delimiter"])
    np.savetxt(path, np.column_stack([X, y]), header=header, **options)
    found = datasets.read(path, label=None if header else "-1")
    np.testing.assert_allclose(found.X, X, rtol=1e-6)
    assert labels.as_classes(labels.typed(found.y.tolist()) if found.y.dtype.kind == "U" else
                             found.y)[1].tolist() == [0, 1, 0]  # fmt: skip
    assert found.names == (("a", "b", "c") if header else None)


@pytest.mark.parametrize(
    ("delimiter", "decimal"), [(",", "."), (";", "."), ("\t", "."), (" ", "."), (";", ",")]
)
@pytest.mark.parametrize("header", [True, False])
def test_delimiters(read, delimiter, header, decimal):
    text = frame().to_csv(index=False, sep=delimiter, header=header, decimal=decimal)
    found = read(text)
    np.testing.assert_array_equal(found.X, X)
    assert found.y.tolist() == NAMES
    values = frame(y=[0.5, 1.0, 2.5]).to_csv(index=False, sep=delimiter, decimal=decimal)
    assert labels.as_values(read(values).y).ravel().tolist() == [0.5, 1.0, 2.5]


@pytest.mark.parametrize(
    ("text", "X", "y"),
    [
        ("1,5;2,5;up\n3,5;4;down\n", [[1.5, 2.5], [3.5, 4]], ["up", "down"]),
        ("1,2,a;b\n3,4,c;d\n", [[1, 2], [3, 4]], ["a;b", "c;d"]),
        ("1,2,New York\n3,4,San Jose\n", [[1, 2], [3, 4]], ["New York", "San Jose"]),
        ("5.1, 3.5, x\n4.9, 3.0, y\n", [[5.1, 3.5], [4.9, 3.0]], ["x", "y"]),
        ("sepal length\n5.1\n4.9\n", [[5.1], [4.9]], None),
        ("1\n2\n", [[1], [2]], None),
        ('"a b";"c";"label"\n1;2;"x;y"\n3;4;"z"\n', [[1, 2], [3, 4]], ["x;y", "z"]),
        ("# made by hand\n# a,b\n1,2\n3,4\n", [[1, 2], [3, 4]], None),
        ("  1   2  \n\n  3   4  \n", [[1, 2], [3, 4]], None),
    ],
)
def test_neighbours(read, text, X, y):
    found = read(text)
    np.testing.assert_array_equal(found.X, np.array(X, np.float32))
    assert (found.y is None) if y is None else (found.y.tolist() == y)


def test_decimal_signs_that_contradict(read):
    for text in ("a;b\n1,5;2.5\n", "a;b\n" + "1.5;2\n" * 5000 + "1,5;2\n", 'a,b\n"1,5",2\n'):
        with pytest.raises(FileFormatError, match=r"Decimal commas|got '2\.5'"):
            read(text)
    assert read("a;b\n" + "1;2\n" * 5000 + "1,5;2\n").X[-1, 0] == 1.5


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_table_comes_back(read, data):
    """Numbers and label texts, whatever divides them."""
    delimiter = data.draw(st.sampled_from(",;\t "))
    letters = st.text("abc ,;'\"é", min_size=1, max_size=6).filter(lambda text: text.strip())
    words = data.draw(st.lists(letters.map(lambda text: "w" + text.strip()), min_size=2))
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, lineterminator="\n")
    writer.writerow(["one", "label", "two"])
    writer.writerows([k + 0.5, word, -k] for k, word in enumerate(words))
    found = read(text.getvalue())
    assert found.y.tolist() == words
    np.testing.assert_array_equal(found.X, [[k + 0.5, -k] for k in range(len(words))])
