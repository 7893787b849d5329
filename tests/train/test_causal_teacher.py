"""A causal teacher sees what the student sees, and so do the scores it is compared with."""

import pytest
import torch

from causvid.data.shards import Shards
from causvid.engine import solver
from causvid.nn.visibility import FULL
from causvid.train import dmd, ode
from causvid.train.shapes import student_visibility


def test_a_causal_teacher_is_trained_with_what_the_student_sees_and_a_level_for_each_chunk(chain, changed, monkeypatch):
    seen = []

    def stop(self, x, sigma, text, *, visibility=FULL, **_):
        seen.append((sigma, visibility))
        raise InterruptedError

    monkeypatch.setattr("causvid.models.transformer.Transformer.forward", stop)
    for causal in (False, True):
        stage = chain.build("teacher", changed("teacher", causal=causal, image=0.0))
        with pytest.raises(InterruptedError):
            chain.step(stage, 3)  # of the last phase: whole clips, [1, 3]
    (whole, full), (levels, limited) = seen
    assert full == FULL and limited == student_visibility(chain.preset) != FULL
    assert whole.shape == levels.shape == (4, 4)
    assert torch.equal(whole, whole[:, :1].expand(-1, 4))
    assert torch.equal(levels[:, 1:], levels[:, 1:2].expand(-1, 3)) and (levels[:, 0] != levels[:, 1]).all()


def test_a_causal_teacher_learns_another_model_from_the_same_draws(chain, changed):
    """Single frames see the same either way; in whole clips a later frame is hidden from an earlier one."""
    losses = {}
    for frames in (1, 4):
        for causal in (False, True):
            phases = [{"frames": frames, "batch": 2, "until": 1.0}]
            stage = chain.build("teacher", changed("teacher", causal=causal, phases=phases))
            with torch.no_grad():
                stage.modules["model"].head.weight.fill_(0.1)
            losses[frames, causal] = float(chain.step(stage)["loss"])
    assert losses[1, True] == losses[1, False]
    assert losses[4, True] != losses[4, False]


@pytest.mark.parametrize("causal", [False, True])
def test_pairs_and_scores_see_what_the_teacher_was_trained_to_see(causal, chain, changed, monkeypatch):
    preset = changed("teacher", causal=causal)
    asked = []

    def guided(model, keys, null_keys, *, guidance, visibility=FULL):
        asked.append(visibility)
        return solver.guided_velocity(model, keys, null_keys, guidance=guidance, visibility=visibility)

    monkeypatch.setattr(Shards, "save", lambda *_: None)
    for module, stage in ((ode, "pairs"), (dmd, "dmd")):
        monkeypatch.setattr(module, "guided_velocity", guided)
        chain.step(chain.build(stage, preset))
    assert len(asked) == 1 + preset.recipe.dmd.critic_updates + 2  # the ODE; the critic's updates; both scores
    assert set(asked) == {student_visibility(preset) if causal else FULL}
