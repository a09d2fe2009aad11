"""Studies with the library: one question or command a file, and in folders what they stand on."""
