"""The table of a network's layers."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gbdnn.errors import MissingDependencyError
from gbdnn.layers import Layer
from gbdnn.types import Array
from gbdnn.weights import Integers, Weight

__all__ = ["Summary", "markdown_table", "summarised", "tensors", "text_table", "to_frame"]


def text_table(rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """Return rows of text as columns, of which the first `left` stand on the left."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    sides = ["<" if k < left else ">" for k in range(len(widths))]
    return "\n".join(
        "  ".join(map("{:{}{}}".format, row, sides, widths)).rstrip() for row in rows
    )  # fmt: skip


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 0) -> str:
    """Return a Markdown table; the first `left` columns are aligned left, the others right."""
    rule = ["---"] * left + ["--:"] * (len(heads) - left)
    lines = [f"| {' | '.join(row)} |" for row in (heads, *rows)]
    return "\n".join([lines[0], f"|{'|'.join(rule)}|", *lines[1:]]) + "\n"


@dataclass(frozen=True)
class Summary:
    """A network's layers as rows; prints as a table."""

    rows: tuple[dict[str, Any], ...]
    note: str = ""

    @property
    def total(self) -> dict[str, Any]:
        """Sums over the layers."""
        sums = {name: sum(row[name] for row in self.rows) for name in ("nnz", "bytes", "edges")}
        places = sum(row["places"] for row in self.rows)
        return sums | {"places": places, "density": sums["nnz"] / places if places else 0.0}

    def to_frame(self) -> Any:
        """Return a pandas DataFrame, one row for each layer.

        Raises
        ------
        MissingDependencyError
            Without pandas.
        """
        return to_frame(self.rows, "summary.rows")

    def __str__(self) -> str:
        return text_table(self._table(), left=3) + (f"\n{self.note}" if self.note else "")

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """Return the table for notebooks."""
        head, *rows = (list(map(html.escape, row)) for row in self._table())
        styles = [' style="text-align: left"'] * 3 + [""] * (len(head) - 3)
        text = f"<table><thead>{_html_row('th', head, styles)}</thead><tbody>"
        return text + "".join(_html_row("td", row, styles) for row in rows) + "</tbody></table>"

    def _table(self) -> list[list[str]]:
        """Return head, layers and total as text."""
        engines = "backend" in self.rows[0]
        head = ["layer", "kind", "shape (out x in)", "nnz", "density", "bytes", "edges"]
        integers = any(row.get("form", "").startswith("int") for row in self.rows)
        table = [head + ["form", "bits"] * integers + ["backend"] * engines]
        for row in (*self.rows, self.total):
            wide = row.get("in_features")
            shape = f"{row['out_features']} x {row['in_features']}" if wide else ""
            numbers = [
                f"{row['nnz']:,}", f"{row['density']:.4%}", f"{row['bytes']:,}",
                f"{row['edges']:,}",
            ] if row["bytes"] else [""] * 4  # fmt: skip
            names = [str(row.get("layer", "total")), row.get("kind", ""), shape]
            form = [row.get("form", ""), row.get("bits", "")] * integers
            table.append(names + numbers + form + [row.get("backend", "")] * engines)
        return table


def tensors(parameters: Mapping[str, Weight | Array]) -> list[dict[str, Any]]:
    """Return a row for each tensor: name, form, shape, entries, bits of each, scales, bytes.

    "input" says how the input of products with a weight is rounded, if it is.
    """
    rows = []
    for name, tensor in parameters.items():
        row: dict[str, Any] = {"tensor": name, "form": "array", "shape": list(tensor.shape)}
        if isinstance(tensor, Weight):
            row |= {"form": tensor.form, "entries": tensor.nnz}
        else:
            row |= {"entries": int(tensor.size)}
        row |= {"bits": 8 * tensor.dtype.itemsize, "scales": 0, "bytes": tensor.nbytes}
        row["input"] = ""
        if isinstance(tensor, Integers):
            row |= {"bits": tensor.bits, "scales": int(tensor.scales.size)}
            row["form"] += f", {tensor.layout}"
            if (levels := tensor.levels) is not None:
                row["input"] = f"{levels.high - levels.low + 1} levels of {levels.step:.4g}"
        rows.append(row)
    return rows


def to_frame(records: Sequence[Mapping[str, Any]], name: str) -> Any:
    """Return records as a pandas DataFrame; `name` is where they stand without pandas."""
    try:
        import pandas as pd
    except ImportError:
        fix = f"Install it with pip install pandas; {name} needs nothing."
        raise MissingDependencyError("to_frame", "pandas", "no such package", fix) from None
    return pd.DataFrame.from_records(list(records))


def _html_row(kind: str, cells: Sequence[str], styles: Sequence[str]) -> str:
    made = (f"<{kind}{s}>{cell}</{kind}>" for cell, s in zip(cells, styles, strict=True))
    return f"<tr>{''.join(made)}</tr>"


def summarised(
    layers: Sequence[Layer], engine: Callable[[Weight], str] | None = None
) -> Summary:  # fmt: skip
    """Return the table of layers; `engine`, of a weight, adds a column with each one's backend."""
    rows = []
    for k, layer in enumerate(layers):
        weights = [getattr(layer, name) for name in layer.weight_names]
        places = sum(weight.shape[0] * weight.shape[1] for weight in weights)
        nnz = sum(weight.nnz for weight in weights)
        row = {
            "layer": k,
            "kind": type(layer).__name__,
            "in_features": layer.in_features or 0,
            "out_features": layer.out_features or 0,
            "nnz": nnz,
            "places": places,
            "density": nnz / places if places else 0.0,
            "bytes": layer.nbytes,
            "edges": layer.edges,
            "form": _each(_form(weight) for weight in weights),
            "bits": _each(getattr(weight, "bits", 8 * weight.dtype.itemsize) for weight in weights),
        }
        rows.append(row | ({} if engine is None else {"backend": _each(map(engine, weights))}))
    return Summary(tuple(rows))


def _form(weight: Any) -> str:
    """Return a weight's form, with the layout of an integer one."""
    layout = getattr(weight, "layout", "")
    return f"{weight.form} {layout}".rstrip()


def _each(words: Iterable[Any]) -> str:
    """Return different words as a list in text, each once."""
    return ", ".join(dict.fromkeys(map(str, words)))
