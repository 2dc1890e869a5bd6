"""Mathematics as MathML, which browsers draw themselves: no script, nothing from the network."""

from __future__ import annotations

from typing import Any

from latex2mathml.converter import convert


def inline(self: Any, node: Any) -> None:
    """Write a formula inside a sentence."""
    self.body.append(convert(node.astext()))


def display(self: Any, node: Any) -> None:
    """Write a formula on lines of its own; several lines are aligned as they say."""
    text = node.astext().strip()
    if "\\\\" in text or "&" in text:
        text = rf"\begin{{aligned}}{text}\end{{aligned}}"
    self.body.append(f'<div class="math">{convert(text, display="block")}</div>')


def skip(visit: Any) -> Any:
    """Return the visitor that does not look at what is below the node."""
    from docutils import nodes

    def visited(self: Any, node: Any) -> None:
        visit(self, node)
        raise nodes.SkipNode

    return visited


def setup(app: Any) -> dict[str, Any]:
    """Add the renderer."""
    app.add_html_math_renderer("mathml", (skip(inline), None), (skip(display), None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
