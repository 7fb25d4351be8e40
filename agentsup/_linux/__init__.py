"""One kernel mechanism a file."""
