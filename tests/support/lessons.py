"""Teachers whose distribution is known, and how far a student is from its teacher."""

import torch

from dbn.units import Bernoulli, Categorical, Spin
from tests.support.oracles import machine, visible_probabilities

SIDES = {"bernoulli": lambda: Bernoulli(4), "spin": lambda: Spin(3), "groups": lambda: Categorical(6, classes=3)}
#: Visible and hidden units of a teacher, the scale of its weights and a seed that gives its units much in common.
LESSONS = [("bernoulli", "bernoulli", 2.0, 5), ("spin", "spin", 0.8, 3), ("groups", "bernoulli", 3.0, 4)]
EXAMPLES = 5000


def lesson_machine(visible, hidden, scale, seed):
    return machine(SIDES[visible]().double(), SIDES[hidden]().double(), scale=scale, seed=seed)


@torch.no_grad()
def centred_teacher(*lesson):
    """A teacher whose weights, not its biases, decide."""
    rbm = lesson_machine(*lesson)
    rbm.hidden_bias.copy_(-rbm.visible.mean(torch.zeros_like(rbm.visible_bias)) @ rbm.weight)
    rbm.visible_bias.copy_(-rbm.weight @ rbm.hidden.mean(torch.zeros_like(rbm.hidden_bias)))
    return rbm


def kl_from(teacher, student):
    """KL(teacher ‖ student) in nats, by enumeration."""
    p, q = visible_probabilities(teacher)[1], visible_probabilities(student)[1]
    return float((p * (p / q).log()).sum())
