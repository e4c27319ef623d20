"""Configuration of Sphinx; ``make docs`` builds from the sources that :mod:`assemble` lays out in ``build/docs``."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE))  # for the hooks below, which Sphinx imports by name

project = "shoal"
author = "the authors of shoal"
html_title = "shoal"
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx_gallery.gen_gallery",
    "gallery_pages",
    "docstrings",
]
exclude_patterns = ["_made/**", "_numbers/**"]
highlight_language = "none"
smartquotes = False  # they make one dash of the two before a flag
pygments_dark_style = "github-dark"  # underlines no names, which would look like links
templates_path: list[str] = []
root_doc = "index"

# ---- Markdown
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 4

# ---- Python reference
autodoc_default_options = {"members": True}
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
maximum_signature_line_length = 80
python_use_unqualified_type_names = True
toc_object_entries_show_parents = "hide"

# ---- the page: everything lies in the folder that is built, and nothing is fetched
html_theme = "furo"
html_static_path = [str(HERE / "static")]
html_css_files = ["shoal.css"]
html_js_files = [("figures.js", {"defer": "defer"})]
html_copy_source = False
html_show_sourcelink = False
html_show_copyright = False
html_theme_options = {"navigation_with_keys": False}
mathjax_path = "mathjax/tex-svg.js"  # SVG needs no fonts
mathjax_options = {"defer": "defer"}
mathjax3_config = {"options": {"enableMenu": False}, "svg": {"fontCache": "local"}}  # the menu's tools are fetched

# ---- the gallery
sphinx_gallery_conf = {
    "examples_dirs": str(ROOT / "gallery"),
    "gallery_dirs": "gallery",
    "within_subsection_order": "FileNameSortKey",
    "image_scrapers": ("gallery_pages.scrape",),
    "reset_modules": ("gallery_pages.record",),
    "reset_modules_order": "both",
    "capture_repr": ("_repr_html_",),
    "abort_on_example_error": True,
    "run_stale_examples": True,  # the library may have changed where the page has not
    "download_all_examples": False,
    "show_signature": False,
    "write_computation_times": False,
    "min_reported_time": 1e9,
    "remove_config_comments": True,
}
