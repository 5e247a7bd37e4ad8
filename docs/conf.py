"""How the site is built: `make docs`. Nothing is fetched from the network, neither when it is built nor when it is read."""

import hashlib
import os
import sys
from pathlib import Path

import acutance

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))

project = "acutance"
author = "The acutance developers"
copyright = author
release = version = acutance.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
    "mathml",
    "catalogue",
    "outside",
    "streams",
]

exclude_patterns = ["_build", "_ext", "_static", "**/.ipynb_checkpoints"]
root_doc = "index"
nitpicky = True

# Markdown: as GitHub reads it, with formulas between dollars and blocks between colons.
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 4

# Pages with code are executed when they are built; what was executed once is kept until its code or ours changes.
sources = sorted(path for folder in ("registry", "plugins") for path in (HERE.parent / folder).rglob("*.py"))
code = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
# Each runs in an empty folder of its own, with the commands of this environment, on one core as a slow machine has it.
nb_execution_mode = "cache"
nb_execution_in_temp = True
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["PYTHONWARNINGS"] = "ignore:IProgress not found"  # bars of progress have no place on a page
nb_execution_cache_path = str(HERE / "_build" / "executed" / code[:16])
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_merge_streams = True

# API pages: signatures with their types, docstrings of Google's style.
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True}
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
# Types in signatures: those of other projects are described where only a network leads to, some of our own nowhere.
nitpick_ignore_regex = [(r"py:(class|obj|exc)", r".*")]

html_math_renderer = "mathml"
html_theme = "furo"
html_title = "acutance"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {"navigation_with_keys": True, "sidebar_hide_name": False}
copybutton_prompt_text = r"\$ |>>> |\.\.\. "
copybutton_prompt_is_regexp = True
copybutton_only_copy_prompt_lines = False
