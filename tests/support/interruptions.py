"""Runs that break off at one of their saves."""

from dbn.runtime.checkpoint_manager import CheckpointManager


class Broken(Exception):
    """What breaks a run off."""


class breaking:
    """Let a run break off at its n-th save, on all processes at once."""

    def __init__(self, saves):
        self.saves, self.original = saves, CheckpointManager.save

    def __enter__(self):
        count = [0]

        def counted(keeper, picture):
            self.original(keeper, picture)
            count[0] += picture is not None
            if count[0] == self.saves:
                raise Broken

        CheckpointManager.save = counted if self.saves else self.original

    def __exit__(self, *_):
        CheckpointManager.save = self.original
