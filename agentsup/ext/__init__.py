"""agentsup within other packages: a file for each, imported by its own name."""
