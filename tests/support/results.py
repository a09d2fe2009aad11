"""What an experiment writes: its files, its pictures, and the format of its arms."""

#: What an arm has in every study, as in `compare`.
FORMAT = {
    *(
        "start",
        "activation",
        "architecture",
        "labels",
        "labelled_rows",
        "learning_rate",
        "head_learning_rate",
        "setting",
    ),
    *("test_error", "validation_error", "validation_curves", "seconds", "commit", "device", "diverged"),
    *("tried", "kept"),
}


def written(folder):
    return {path.name for path in folder.iterdir()}


def is_png(path):
    return path.read_bytes().startswith(b"\x89PNG")
