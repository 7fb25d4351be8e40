"""macOS and the BSDs: one kernel mechanism a file."""
