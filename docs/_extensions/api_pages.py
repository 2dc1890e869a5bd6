"""The API reference: a page for each package, of what its ``__all__`` exports.

An object that several packages export is described once, on the page of the package that it
belongs to; the others link to it.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from docutils import nodes
from sphinx.ext.autodoc.mock import mock
from sphinx.transforms import SphinxTransform

PACKAGES = {
    "gbdnn": "networks, layers, weights",
    "gbdnn.training": "the loop, optimizers, schedules",
    "gbdnn.pruning": "post-training and sparse training",
    "gbdnn.quantization": "quantizers, plans, calibration",
    "gbdnn.estimators": "scikit-learn's interface",
    "gbdnn.torch": "layers inside torch models",
    "gbdnn.conversion": "from and for other tools",
    "gbdnn.models": "builders of networks",
    "gbdnn.topology": "patterns of weights",
    "gbdnn.losses": "losses of sequences",
    "gbdnn.decoding": "transducers, n-grams, hidden Markov models",
    "gbdnn.errors": "what is raised",
}
OPTIONS = {
    "gbdnn.estimators": (
        "   :inherited-members: BaseEstimator, ClassifierMixin, RegressorMixin",
        "   :exclude-members: get_metadata_routing, set_fit_request, set_partial_fit_request, "
        "set_score_request",  # scikit-learn's own, made when a class is
    )
}
"""Further options of classes: here methods of their base classes are shown too."""


def exported(package: ModuleType) -> dict[str, Any]:
    """Return the public objects of a package, without modules and numbers."""
    found = {name: getattr(package, name) for name in package.__all__ if name[0] != "_"}
    return {name: thing for name, thing in found.items() if not inspect.ismodule(thing)}


def home_of(thing: Any, packages: dict[str, ModuleType]) -> str:
    """Return the full name under which an object is described."""
    for title, package in reversed(packages.items()):  # gbdnn itself is the last to be asked
        for name, other in exported(package).items():
            if other is thing:
                return f"{title}.{name}"
    raise LookupError(thing)


def first_line(thing: Any) -> str:
    """Return the first line of a docstring."""
    return (inspect.getdoc(thing) or "").partition("\n")[0]


def page(title: str, packages: dict[str, ModuleType]) -> Iterator[str]:
    """Yield the lines of a package's page."""
    yield from (title, "=" * len(title), "", f".. automodule:: {title}", "")
    things = exported(packages[title])
    homes = {name: home_of(thing, packages) for name, thing in things.items()}
    yield from (".. list-table::", "   :widths: auto", "")
    for name, thing in things.items():
        what = "a table of names" if isinstance(thing, dict) else first_line(thing)
        yield from (f"   * - :py:obj:`~{homes[name]}`", f"     - {what}")
    yield ""
    for name, thing in things.items():
        full = f"{title}.{name}"
        if homes[name] != full:
            continue
        if isinstance(thing, dict):
            yield from table(full, thing)
        elif inspect.isclass(thing):
            yield from (f".. autoclass:: {full}", "   :members:")
            yield from (*OPTIONS.get(title, ()), "")
        else:
            yield from (f".. autofunction:: {full}", "")


def table(full: str, things: dict[Any, Any]) -> Iterator[str]:
    """Yield the lines that describe a table of names."""
    yield from (f".. py:data:: {full}", "", "   What may be chosen by name:", "")
    for name, thing in things.items():
        told = first_line(thing) if callable(thing) or hasattr(thing, "__module__") else ""
        yield f"   * ``{name}``" + (f": {told}" if told else "")
    yield ""


def write(app: Any) -> None:
    """Write the pages into the folder ``api``; one that did not change keeps its time stamp."""
    for title in PACKAGES:
        if title != "gbdnn.torch":  # scikit-learn must not meet a torch that is none
            import_module(title)
    with mock(app.config.autodoc_mock_imports):
        packages = {title: import_module(title) for title in PACKAGES}
        folder = Path(app.srcdir) / "api"
        folder.mkdir(exist_ok=True)
        lines = ["API reference", "=============", "", ".. toctree::", "   :maxdepth: 1", ""]
        lines += [f"   {title}: {what} <{title}>" for title, what in PACKAGES.items()]
        pages = {"index": "\n".join([*lines, ""])}
        pages |= {title: "\n".join(page(title, packages)) for title in PACKAGES}
        app.api_names = {}
        for title, package in packages.items():
            for name, thing in exported(package).items():
                home = home_of(thing, packages)
                app.api_names[f"{title}.{name}"] = home
                app.api_names.setdefault(name, home)
    for name, text in pages.items():
        path = folder / f"{name}.rst"
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def equations(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Let what stands further right after an empty line keep its lines: equations, tables."""
    before, made = "", list[str]()
    for number, line in enumerate(lines):
        begins = line.strip() and number and not lines[number - 1].strip()
        belongs = before.endswith("::") or before.lstrip().startswith((".. ", "* ", "- ", ":"))
        if begins and indent(line) > indent(before) and not belongs:
            made += [" " * indent(before) + "::", ""]
        made.append(line)
        before = line if line.strip() else before
    lines[:] = made


def indent(line: str) -> int:
    """Return the number of spaces that a line begins with."""
    return len(line) - len(line.lstrip())


class Bars(SphinxTransform):
    """Let |x| be what it says: docstrings write absolute values, and nothing is substituted."""

    default_priority = 200  # before Sphinx' own substitutions

    def apply(self, **_: Any) -> None:
        """Replace the references."""
        for node in list(self.document.findall(nodes.substitution_reference)):
            node.replace_self(nodes.Text(f"|{node.astext()}|"))


def resolve(app: Any, env: Any, node: Any, contnode: Any) -> Any:
    """Return a link for a name that is described under another: `gbdnn.Trainer`, or `Trainer`."""
    home = app.api_names.get(node.get("reftarget"))
    if node.get("refdomain") != "py" or home is None:
        return None
    where = node.get("refdoc")
    return env.domains["py"].resolve_xref(env, where, app.builder, "obj", home, node, contnode)


def setup(app: Any) -> dict[str, Any]:
    """Write the pages before sources are looked for."""
    app.connect("builder-inited", write)
    app.connect("autodoc-process-docstring", equations, priority=400)  # numpydoc has 500
    app.add_transform(Bars)
    app.connect("missing-reference", resolve)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
