"""What is asked of a module, an objective of the user's, and how processes share a batch."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyro_pcflow as pcf
from helpers.flat_fit import fit
from helpers.stand_ins import DiagonalGaussian, NormalizedGaussian, same_state, some_points
from pyro_pcflow.training import EvidenceLowerBound, ExactLikelihood, Objective
from pyro_pcflow.training.objective import cloud_options, share_of_rows


class Weighted(Objective):
    """Maximum likelihood of weighted points, of which each step has others."""

    points_per_step = 100
    evaluates = True

    def __init__(self, module, points, weights, description=None):
        self.module, self.points, self.weights = module, points, weights
        self.devices, self.said = [], description or {}

    def batch(self, step):
        chosen = torch.randint(len(self.points), (100,))
        return self.points[chosen], self.weights[chosen]

    def loss(self, batch):
        points, weights = batch
        return -(weights * self.module.log_prob(points)).sum() / weights.sum()

    def evaluate(self):
        return {"nats_per_point": self.module.log_prob(self.points).mean().item(), "largest": 3.0}

    def points_for_units(self):
        return self.points

    def description(self):
        return self.said

    def to(self, device):
        self.devices.append(device)


def weighted(module=None, **options):
    """Of two groups of points, the second of which has no weight."""
    points = torch.cat([some_points(500), some_points(500) + 50])
    weights = torch.cat([torch.ones(500), torch.zeros(500)])
    return Weighted(DiagonalGaussian() if module is None else module, points, weights, **options)


class TestOwnObjective:
    def test_it_is_what_is_minimised(self):
        objective = weighted()
        result = fit(objective.module, objective=objective, max_steps=600, lr=0.05, device="cpu")
        mean = objective.points[:500].mean(0)
        assert objective.module.loc.detach().tolist() == pytest.approx(mean.tolist(), abs=0.2)
        assert objective.devices == [torch.device("cpu")]
        assert set(result.scores) == {"nats_per_point", "largest"}
        assert result.history[-1]["points_per_second"] > 0

    def test_its_points_tell_the_units(self):
        objective = weighted(NormalizedGaussian())
        fit(objective.module, objective=objective, max_steps=1, device="cpu")
        assert torch.allclose(objective.module.mean, objective.points.mean(0))

    def test_it_resumes_to_the_last_bit(self, tmp_path):
        def run(out, stop_at=None):
            objective = weighted()
            log_prob, calls = objective.module.log_prob, []

            def counting(points):
                calls.append(1)
                if len(calls) == stop_at:
                    raise KeyboardInterrupt
                return log_prob(points)

            objective.module.log_prob = counting
            fit(objective.module, objective=objective, max_steps=12, out=out, resume=True, eval_every=100, device="cpu")
            return objective.module

        whole = run(tmp_path / "whole")
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "stopped", stop_at=7)
        assert same_state(run(tmp_path / "stopped").state_dict(), whole.state_dict())

    def test_a_run_is_resumed_with_the_same_description_alone(self, tmp_path):
        options = {"max_steps": 2, "out": tmp_path, "resume": True, "device": "cpu"}
        for description in ({"points": 1000}, {"points": 1000}):
            objective = weighted(description=description)
            fit(objective.module, objective=objective, **options)
        objective = weighted(description={"points": 1001})
        with pytest.raises(ValueError, match=r"data\.points was 1000 and is 1001"):
            fit(objective.module, objective=objective, **options)

    def test_it_has_data_of_its_own(self):
        objective = weighted()
        with pytest.raises(ValueError, match="leave out data, batch_size, noise, held_out, sampling"):
            fit(
                objective.module,
                some_points(),
                objective=objective,
                batch_size=3,
                noise=0.1,
                held_out=0,
                target_points=3,
                max_steps=1,
            )
        with pytest.raises(TypeError, match=r"expected a pyro_pcflow\.training\.Objective, got function"):
            fit(objective.module, objective=lambda batch: batch, max_steps=1)
        with pytest.raises(TypeError, match="give data, or an objective"):
            fit(objective.module, max_steps=1)

    def test_a_batch_that_processes_cannot_share_is_told(self):
        objective = weighted()
        with pytest.raises(NotImplementedError, match="Weighted does not say how"):
            objective.share(objective.batch(0), 0, 2)

    def test_a_penalty_is_a_subclass_of_ours(self):
        """Of the likelihood of points, with a term that keeps the mean at zero."""

        class Penalised(pcf.training.ExactLikelihood):
            def loss(self, batch):
                return super().loss(batch) + 1e4 * self.module.loc.square().sum()

        module = DiagonalGaussian()
        result = fit(module, objective=Penalised(module, some_points()), max_steps=200, lr=0.05, device="cpu")
        assert module.loc.abs().max() < 1e-2
        assert result.nats_per_point is not None


def test_batches_are_shared_evenly_or_not_at_all():
    assert [range(12)[share_of_rows(12, rank, 3)] for rank in range(3)] == [range(4), range(4, 8), range(8, 12)]
    with pytest.raises(ValueError, match="multiple of 3"):
        share_of_rows(10, 0, 3)


class Options(nn.Module):
    """A model of clouds of which the signatures are given, and which keeps what it is called with."""

    def __init__(self, model, guide):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.model, self.guide = model, guide


class TestOptions:
    def test_a_module_is_given_those_that_it_names(self):
        told = {}

        def model(clouds, mask=None, dataset_size=None, *, index=None, encoder_points=None):
            told.update(shape=clouds.shape, size=dataset_size, index=index, encoder=encoder_points.shape)
            with pyro.plate("clouds", dataset_size, subsample=torch.arange(len(clouds))):
                z = pyro.sample("z", dist.Normal(module.weight, 1.0))
                pyro.sample("x", dist.Normal(z[:, None, None], 1.0).to_event(2), obs=clouds)

        def guide(clouds, mask=None, dataset_size=None, *, index=None, encoder_points=None):
            with pyro.plate("clouds", dataset_size, subsample=torch.arange(len(clouds))):
                pyro.sample("z", dist.Normal(encoder_points.mean((1, 2)), 0.1))

        module = Options(model, guide)
        assert cloud_options(module) == ("index", "encoder_points")
        objective = EvidenceLowerBound(module, torch.randn(20, 100, 3), batch_size=4, held_out=0)
        objective.loss(objective.batch(0)).backward()
        assert told["shape"] == (4, 50, 3)
        assert told["encoder"] == (4, 50, 3)
        assert told["size"] == 20
        assert torch.equal(told["index"], objective.batch(0).index)

    def test_both_must_name_the_same(self):
        def few(clouds, mask, size, kl_weight=1.0): ...

        def many(clouds, mask, size, *, kl_weight=1.0, labels=None): ...

        for pair, names in (((few, many), "guide names labels, and model"), ((many, few), "model names labels, and")):
            with pytest.raises(TypeError, match=names):
                cloud_options(Options(*pair))

    def test_a_guide_that_takes_any_takes_those_of_the_model(self):
        """As a guide of pyro.infer.autoguide."""

        def model(clouds, mask, size, labels=None): ...

        def guide(*args, **kwargs): ...

        assert cloud_options(Options(model, guide)) == ("labels",)
        assert cloud_options(Options(guide, guide)) == ()

    def test_labels_that_a_model_does_not_take(self):
        def model(clouds, mask, size): ...

        with pytest.raises(ValueError, match="do not take the option labels"):
            EvidenceLowerBound(Options(model, model), (torch.randn(10, 5, 3), torch.zeros(10, dtype=torch.long)))


def test_an_objective_of_another_module_trains_nothing():
    module, other = DiagonalGaussian(), DiagonalGaussian()
    with pytest.raises(ValueError, match="evaluates another DiagonalGaussian, none of whose parameters"):
        fit(module, objective=ExactLikelihood(other, some_points()), max_steps=1)
    # A part of what the objective evaluates can be trained alone.
    both = nn.ModuleList([module, other])
    both.log_prob = lambda points: module.log_prob(points) + other.log_prob(points)
    assert fit(module, objective=ExactLikelihood(both, some_points()), max_steps=1, device="cpu").steps == 1


def test_a_density_has_no_evidence_lower_bound():
    with pytest.raises(TypeError, match="DiagonalGaussian has no model and guide"):
        EvidenceLowerBound(DiagonalGaussian(), torch.randn(5, 4, 3))
