"""Settings of the documentation: sphinx-build -W docs site."""

import shutil
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent
# sphinx reads below docs only, and a link is lost where a checkout has none
shutil.rmtree(DOCS / "notebooks", ignore_errors=True)
shutil.copytree(DOCS.parent / "notebooks", DOCS / "notebooks",
                ignore=shutil.ignore_patterns("*.py", ".*"))  # fmt: skip
sys.path[:0] = [str(DOCS.parent), str(DOCS / "_extensions")]

import gbdnn  # noqa: E402

project, author = "gbdnn", "the gbdnn developers"
version = release = gbdnn.__version__
copyright = f"{author}, Apache-2.0"

extensions = ["sphinx.ext.autodoc", "numpydoc", "myst_nb", "mathml", "api_pages"]
exclude_patterns = ["_*"]
templates_path: list[str] = []

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # the outputs that are stored; the tests run the notebooks

default_role = "py:obj"  # a link where there is something of that name, code elsewhere
autodoc_mock_imports = ["torch"]  # the pages are the same whether it is installed or not
autodoc_typehints = "none"  # types stand in the docstrings
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autosummary_generate = False  # numpydoc brings it; api_pages writes the pages
numpydoc_show_class_members = False  # methods are shown with their docstrings

html_theme, html_math_renderer = "furo", "mathml"
smartquotes = False
html_title = f"gbdnn {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = html_show_sourcelink = html_show_sphinx = False
