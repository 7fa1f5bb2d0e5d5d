from __future__ import annotations

import math

import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyro_pcflow as pcf
from helpers.flat_fit import fit
from helpers.stand_ins import DiagonalGaussian, NormalizedGaussian, same_state, small_stack, some_points
from pyro_pcflow.training import TrainingDivergedError
from pyro_pcflow.training.divergence import find_first_nonfinite

OPTIONS = {"batch_size": 64, "device": "cpu"}


class TestDivergence:
    @pytest.mark.parametrize("value", [math.inf, math.nan])
    @pytest.mark.parametrize("layer", [0, 2])
    def test_names_the_step_and_the_layer(self, value, layer):
        module = small_stack()
        planted = module.layers[layer].network[4]
        planted.break_at, planted.value = 8, value
        with pytest.raises(TrainingDivergedError, match="diverged at step 8") as caught:
            fit(module, some_points(), max_steps=20, **OPTIONS)
        assert caught.value.step == 8
        assert caught.value.first_nonfinite == f"the output of layer 'layers.{layer}.network.4' (Breakable)"
        assert caught.value.first_nonfinite in str(caught.value)
        assert "lower lr than 0.003" in str(caught.value)

    def test_the_last_good_checkpoint_and_average_are_kept(self, tmp_path):
        def train(max_steps, break_at):
            module = small_stack()
            module.layers[1].network[4].break_at = break_at
            out = tmp_path / f"{break_at}"
            fit(module, some_points(), max_steps=max_steps, checkpoint_every=3, out=out, **OPTIONS)
            return module

        with pytest.raises(TrainingDivergedError, match=r"checkpoint\.pt is the last good checkpoint"):
            train(20, break_at=8)
        state = torch.load(tmp_path / "8" / "checkpoint.pt", weights_only=True)
        assert state["step"] == 6
        assert all(value.isfinite().all() for value in [*state["module"].values(), *state["averages"].values()])
        assert not (tmp_path / "8" / "model.pt").exists()

    def test_a_resumed_run_falls_back_on_the_averages_of_its_checkpoint(self, tmp_path, monkeypatch):
        # Or the best evaluation would stay.
        options = {**OPTIONS, "patience": None}
        fit(small_stack(), some_points(), max_steps=6, out=tmp_path, **options)
        kept = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["averages"]
        module = small_stack()
        step = torch.optim.AdamW.step

        def blow_up(self, closure=None):
            step(self, closure)
            self.param_groups[0]["params"][0].data.fill_(math.inf)

        monkeypatch.setattr(torch.optim.AdamW, "step", blow_up)
        with pytest.raises(TrainingDivergedError, match=r"step (7|8)"):
            fit(module, some_points(), max_steps=9, out=tmp_path, resume=True, **options)
        assert same_state(kept, {name: weight.data for name, weight in module.named_parameters()})

    def test_no_step_is_taken_and_the_module_holds_the_average(self):
        averages = []
        for break_at in (8, 8):
            module = small_stack()
            module.layers[1].network[4].break_at = break_at
            with pytest.raises(TrainingDivergedError):
                fit(module, some_points(), max_steps=20, **OPTIONS)
            averages.append(module.state_dict())
            assert all(value.isfinite().all() for value in module.state_dict().values())
            assert not torch.equal(module.layers[0].network[0].weight, small_stack().layers[0].network[0].weight)
        assert same_state(*averages)

    @pytest.mark.filterwarnings("ignore:.*has the units of other points")
    def test_a_transform_that_overflows_past_the_hooks_is_named(self):
        torch.manual_seed(0)
        flow = pcf.PointCloudFlow(num_couplings=2, hidden_dims=[8])
        flow.normalize(torch.tensor([[0.0, 0.0, 0.0], [2e-18, 0.0, 2e-18]]))
        with pytest.raises(TrainingDivergedError, match=r"first in .*layer 'transform\.parts\.2' \(Standardize\)"):
            fit(flow, some_points() * 1e23, max_steps=5, **OPTIONS)
        assert "inverse_and_log_det" not in vars(flow.transform.parts[0])

    def test_a_gradient_that_is_not_finite_names_the_parameter(self):
        class Root(DiagonalGaussian):
            def log_prob(self, points):
                # The square root of zero is finite, its slope is not.
                return super().log_prob(points) - (self.loc - self.loc.detach()).abs().sum().sqrt()

        with pytest.raises(TrainingDivergedError, match="gradient of parameter 'loc'"):
            fit(Root(), some_points(), max_steps=5, **OPTIONS)

    def test_a_loss_that_overflows_by_itself(self):
        class Sum(DiagonalGaussian):
            def log_prob(self, points):
                return super().log_prob(points) * 1e38

        with pytest.raises(TrainingDivergedError, match=r"step 1: the loss is inf.*the loss, though every layer"):
            fit(Sum(), some_points(), max_steps=5, **OPTIONS)

    def test_a_step_that_leaves_infinite_weights_writes_no_checkpoint(self, tmp_path):
        module = DiagonalGaussian()
        with pytest.raises(TrainingDivergedError, match="at step 1: the step left weights, not finite first in"):
            fit(
                module, some_points(), max_steps=5, lr=3e38, warmup_steps=0, checkpoint_every=1, out=tmp_path, **OPTIONS
            )
        assert torch.load(tmp_path / "checkpoint.pt")["step"] == 0
        assert module.loc.tolist() == [0.0, 0.0, 0.0]

    def test_a_distribution_that_validates_its_arguments(self):
        class Validating(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = nn.Linear(3, 3)
                self.calls = 0

            def log_prob(self, points):
                self.calls += 1
                noise = self.layer(points if self.calls < 4 else points * math.nan)
                return dist.Normal(torch.zeros(3), torch.ones(3), validate_args=True).to_event(1).log_prob(noise)

        with pytest.raises(
            TrainingDivergedError, match=r"step 4: ValueError \(Expected value .* layer 'layer' \(Linear\)"
        ) as caught:
            fit(Validating(), some_points(), max_steps=9, held_out=0, **OPTIONS)
        assert isinstance(caught.value.__cause__, ValueError)

    def test_any_other_error_of_a_module_is_its_own(self):
        class Wrong(NormalizedGaussian):
            def log_prob(self, points):
                raise ValueError("a fault of its own")

        with pytest.raises(ValueError, match="a fault of its own"):
            fit(Wrong(), some_points(), max_steps=5, **OPTIONS)


def test_nothing_is_found_where_all_is_finite():
    module = small_stack()
    hooks = [len(layer._forward_hooks) for layer in module.modules()]
    assert find_first_nonfinite(module, lambda batch: -module.log_prob(batch).mean(), some_points(10)) is None
    assert [len(layer._forward_hooks) for layer in module.modules()] == hooks
    assert all("inverse_and_log_det" not in vars(layer) for layer in module.modules())
