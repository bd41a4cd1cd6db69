"""Scores of a checkpoint, by running its training plan with a learning rate of 0."""

from __future__ import annotations

import numpy as np
import pytest

from gridnode.protocol.syft_proto import encode_state
from gridnode.simulation.evaluation import evaluate, evaluate_checkpoint
from gridnode.simulation.training import UnusablePlan
from tests.support.mlp import recorded_parameters, recorded_plan, score_by_hand, some_digits, step_by_hand


def test_evaluation_gives_loss_and_accuracy_of_the_checkpoint() -> None:
    parameters, held_out = recorded_parameters(), some_digits(50)

    evaluation = evaluate_checkpoint(recorded_plan(), encode_state(parameters), held_out)

    assert evaluation.examples == 50
    assert (evaluation.loss, evaluation.accuracy) == pytest.approx(score_by_hand(parameters, held_out), rel=1e-5)


def test_batches_do_not_change_the_score() -> None:
    """The last batch is smaller and must weigh less."""
    parameters, held_out = recorded_parameters(), some_digits(50)

    whole, in_batches = (evaluate(recorded_plan(), parameters, held_out, batch_size=size) for size in (50, 17))

    assert in_batches.loss == pytest.approx(whole.loss, rel=1e-6)
    assert in_batches.accuracy == pytest.approx(whole.accuracy)


def test_better_parameters_score_better() -> None:
    parameters, held_out = recorded_parameters(), some_digits(40)
    trained = parameters
    for _ in range(30):
        trained = tuple(each.astype(np.float32) for each in step_by_hand(trained, held_out, lr=0.1))

    before, after = evaluate(recorded_plan(), parameters, held_out), evaluate(recorded_plan(), trained, held_out)

    assert after.loss < before.loss
    assert after.accuracy > before.accuracy + 0.2


def test_checkpoint_of_another_model_is_refused() -> None:
    with pytest.raises(UnusablePlan, match="8 inputs, but a training plan for 3 parameters takes 7"):
        evaluate(recorded_plan(), recorded_parameters()[:3], some_digits(3))
