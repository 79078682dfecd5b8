"""How Sphinx makes the pages of the API out of the docstrings: `python3 dev.py docs`. A warning is an error."""

import re

from xpc_instrument import __version__

project = "xpc-instrument"
author = "The xpc-instrument authors"
version = release = __version__
html_theme = "alabaster"
html_theme_options = {"description": "Hooks for functions of a running application", "page_width": "70em", "show_powered_by": False}
html_sidebars = {"**": ["about.html", "navigation.html", "searchbox.html"]}
html_copy_source = False

extensions = ["sphinx.ext.autodoc"]
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True}
# As they are written, and not as the objects that they mean.
autodoc_type_aliases = {"AddressLike": "AddressLike", "Path": "Path"}
python_use_unqualified_type_names = True

# A name in backquotes is a link if it is on these pages, and code otherwise.
default_role = "py:obj"
nitpicky = True
nitpick_ignore_regex = [
    ("py:obj", r".*"),
    ("py:class", r"(enum|inspect|os|pathlib|socket|unittest\.mock)\.\w+"),  # the standard library
    ("py:class", r"AddressLike|Octaves|Path|.*\.(Config|Event|Events|F|Row|Settings)"),  # names of several types, which the text describes
]

# Made by `connect`, by a registration, for a hook and by `stats()`: nobody calls their constructors.
_MADE_ELSEWHERE = {"Session", "Handle", "Call", "Reference", "Figures", "ProbeStats", "HookStats", "LaneStats", "RemoteTraceback"}
_MADE_ELSEWHERE |= {
    "Trace",
    "Tree",
    "TreeNode",
    "Watch",
    "CallEvent",
    "Log",
    "LineEvent",
    "Stat",
    "StatRow",
    "Monitor",
    "MonitorRow",
    "Stacks",
    "StackRow",
    "Stack",
    "Described",
    "Injected",
    "FaultRow",
    "Recorder",
    "Recording",
    "Service",
    "Mocker",
}


def _without_constructor(app, what, name, obj, options, signature, return_annotation):
    return ("", None) if what in ("class", "exception") and name.rpartition(".")[2] in _MADE_ELSEWHERE else None


def _with_links(app, what, name, obj, options, lines):
    lines[:] = [re.sub(r"``(\w[\w.]*)``", r":py:obj:`\1`", line) for line in lines]


def setup(app):
    app.connect("autodoc-process-docstring", _with_links)
    app.connect("autodoc-process-signature", _without_constructor)
