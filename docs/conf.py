import importlib.metadata

project = "agentsup"
release = importlib.metadata.version(project)
extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"{project} {release}"
myst_heading_anchors = 2
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 88
