"""The documentation's site (Sphinx): README.md, docs/, the notebooks as stored, and API pages of the docstrings.

The source folder is the repository itself, so that links and pictures work on the site as on a code host.
"""

import sys
from pathlib import Path

DOCS = Path(__file__).parent
sys.path[:0] = [str(DOCS), str(DOCS.parent)]

from site_pages.sources import linkcode_resolve  # noqa: E402, F401

import worldmodels  # noqa: E402

project, release = "World Models", worldmodels.__version__
extensions = ["sphinx.ext.autodoc", "sphinx.ext.linkcode", "myst_nb", "site_pages.api", "site_pages.contents",
              "site_pages.sources"]
root_doc = "README"
include_patterns = ["README.md", "data/README.md", "docs/**", "notebooks/*.ipynb", "CHANGELOG.md", "CONTRIBUTING.md"]
exclude_patterns = ["docs/_build", "docs/site_pages", ".venv", ".git", "build", "dist", "data/*/**"]

myst_heading_anchors = 6                # a code host's
myst_links_external_new_tab = False
nb_execution_mode = "off"
nb_ipywidgets_js = {}                   # nothing is fetched from elsewhere
suppress_warnings = ["myst.header",      # a notebook may begin with a heading of any level
                     "ref.python"]       # a type in a signature whose name two modules have

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_inherit_docstrings = False      # torch's are not ours
python_use_unqualified_type_names = True
add_module_names = False
default_role = "code"                   # `x` in a docstring

html_theme = "furo"
html_title = "World Models"
html_show_copyright = html_copy_source = False
html_show_sphinx = False
pygments_style, pygments_dark_style = "friendly", "monokai"
html_static_path = ["site_pages/static"]
html_css_files = ["site.css"]
