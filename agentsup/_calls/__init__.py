"""One call: check what is asked, start it, read what it prints, end it, say what came of it."""
