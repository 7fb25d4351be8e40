"""Sans-IO rules: they are told the time and what happened, and say what is to be done."""
