"""Studies with the library, one question a file."""
