import importlib.metadata

project = "agentsup"
release = importlib.metadata.version(project)
extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_build"]
html_theme = "furo"
autodoc_member_order = "bysource"
