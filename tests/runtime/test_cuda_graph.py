"""Any work that is recorded and replayed: once a call, anew where tensors move, plainly where that fails."""

import pytest
import torch

import dbn.finetuning.graphed_step
import dbn.runtime.cuda_graph
import dbn.training.graphed_update
from dbn.runtime.cuda_graph import GraphedStep
from tests.support.oracles import generator


def replay_of(work, state, draw=None):
    return GraphedStep(work, state, draw, torch.device("cpu"))


def called(replay, times):
    for _ in range(times):
        replay()


def test_a_graphed_step_runs_once_per_call(recording):
    seen, number = recording(), torch.zeros(3)
    called(replay_of(lambda: number.add_(1), lambda: [number]), 10)
    assert number.tolist() == [10, 10, 10]
    assert seen.replays == 7


def test_a_step_that_cannot_be_captured_runs_eagerly_after_one_warning(recording):
    recording()
    number = torch.zeros(3)
    replay = replay_of(lambda: number.add_(1 + 0 * float(number[0])), lambda: [number])
    with pytest.warns(UserWarning, match="without CUDA graphs.*reads numbers back"):
        called(replay, 4)
    called(replay, 1)
    assert number.tolist() == [5, 5, 5]


def test_a_replay_that_differs_from_the_eager_run_is_abandoned(recording):
    recording()
    number, calls = torch.zeros(3), []

    def work():
        calls.append(1)
        number.add_(len(calls))  # recorded as the number that it is then

    replay = replay_of(work, lambda: [number])
    called(replay, 3)
    with pytest.warns(UserWarning, match="does not do what the eager run does"):
        replay()
    assert number.tolist() == [1 + 2 + 3 + 5] * 3  # the fourth call was the recording
    replay()
    assert number.tolist() == [1 + 2 + 3 + 5 + 6] * 3


def test_a_step_is_captured_again_if_a_tensor_has_moved(recording):
    recording()
    held = [torch.zeros(3)]
    replay = replay_of(lambda: held[0].add_(1), lambda: held)
    called(replay, 5)
    held[0] = held[0].clone()
    called(replay, 3)
    assert held[0].tolist() == [8, 8, 8]
    assert replay.captures == 2


def test_tensors_that_move_at_every_step_end_capturing(recording, monkeypatch):
    recording()
    monkeypatch.setattr(dbn.runtime.cuda_graph, "_MAX_CAPTURES", 3)
    held, moved = [torch.zeros(3)], []
    replay = replay_of(lambda: held[0].add_(1), lambda: held)

    def move_and_call():
        for _ in range(9):
            moved.append(held[0])
            held[0] = held[0].clone()
            replay()

    with pytest.warns(UserWarning, match="move at every step"):
        move_and_call()
    assert held[0].tolist() == [9, 9, 9]


def test_replays_draw_new_random_numbers(recording):
    recording()
    drawn, draw = torch.zeros(2), generator(3)
    replay = replay_of(lambda: drawn.uniform_(generator=draw), lambda: [drawn], draw)
    seen = []
    for _ in range(6):
        replay()
        seen.append(drawn.tolist())
    other = generator(3)
    assert seen == [torch.zeros(2).uniform_(generator=other).tolist() for _ in range(6)]
