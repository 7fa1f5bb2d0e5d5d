"""Results of inference for ArviZ, by its own summaries and plots."""

from __future__ import annotations

import sys

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import MCMC, NUTS

from helpers.conjugate import make_conjugate
from pyro_pcflow.infer import complete, sample_posterior, to_datatree

# Small models, few steps and clouds that are no shapes: what complete says of them has tests of its own.
pytestmark = pytest.mark.filterwarnings("ignore:what was found may be wrong")


@pytest.fixture(scope="module")
def known():
    return make_conjugate(strength=0.7)


@pytest.fixture
def arviz():
    return pytest.importorskip("arviz_base")


HEIGHTS = torch.tensor([1.6, 1.8, 1.7]).double()


def people():
    loc = pyro.sample("loc", dist.Normal(torch.ones(()).double(), 1.0))
    with pyro.plate("people", 3):
        pyro.sample("height", dist.Normal(loc, 0.1), obs=HEIGHTS)


@pytest.mark.usefixtures("arviz")
def test_chains(known):
    pyro.set_rng_seed(0)
    chains = sample_posterior(people, num_chains=4, num_steps=20, warmup_steps=20)
    tree = to_datatree(chains, observed={"height": HEIGHTS})
    assert set(tree.children) == {"posterior", "sample_stats", "observed_data"}
    assert tree["posterior"]["loc"].dims == ("chain", "draw")
    assert (tree["posterior"]["loc"].values == chains.samples["loc"].numpy()).all()
    for name, value in chains.statistics.items():
        assert (tree["sample_stats"][name].values == value.numpy()).all()
    assert (tree["observed_data"]["height"].values == HEIGHTS.numpy()).all()
    assert tree["observed_data"]["height"].sizes == {"height_dim_0": 3}


@pytest.mark.usefixtures("arviz")
@pytest.mark.parametrize("num_chains", [1, 2])
@pytest.mark.filterwarnings("ignore:num_chains=2 is more than available_cpu:UserWarning")
def test_mcmc_of_pyro(num_chains, monkeypatch):
    """Divergences lie at the draws that Pyro names."""
    pyro.set_rng_seed(0)
    # Chains one after the other, whatever the machine has.
    monkeypatch.setattr(torch.multiprocessing, "cpu_count", lambda: 1)
    chain = MCMC(
        NUTS(people, step_size=1.0, adapt_step_size=False, jit_compile=False),
        num_samples=30,
        warmup_steps=0,
        num_chains=num_chains,
        disable_progbar=True,
    )
    chain.run()
    found = chain.diagnostics()
    # How many draws diverge, and whether any does, is chance.
    assert found["divergences"].keys() == {f"chain {index}" for index in range(num_chains)}
    found["divergences"] = {f"chain {index}": [index, 7 + 3 * index, 29] for index in range(num_chains)}
    monkeypatch.setattr(chain, "diagnostics", lambda: found)
    tree = to_datatree(chain)
    assert tree["posterior"]["loc"].sizes == {"chain": num_chains, "draw": 30}
    for index, places in enumerate(found["divergences"].values()):
        marked = tree["sample_stats"]["diverging"].values[index].nonzero()[0]
        assert marked.tolist() == places
    rates = [float(rate) for rate in found["acceptance rate"].values()]
    assert tree["sample_stats"]["acceptance_rate"].values[:, 0] == pytest.approx(rates)


@pytest.mark.usefixtures("arviz")
@pytest.mark.parametrize("batch_shape", [(), (3,)])
@pytest.mark.parametrize(
    ("method", "chains"), [("hmc", 4), ("svi", 1), pytest.param("nuts", 1, marks=pytest.mark.exhaustive)]
)
def test_completions(known, batch_shape, method, chains):
    """All draws of all chains, the recorded points without padding, and the completed clouds."""
    pyro.set_rng_seed(0)
    partial = known.flow.cloud(torch.zeros(*batch_shape, 2).double(), num_points=6).sample()
    mask = torch.ones(partial.shape[:-1], dtype=torch.bool)
    mask[..., :2] = False
    options = {"num_chains": 4} if method == "hmc" else {}
    result = complete(known.flow, partial, 9, mask=mask, method=method, num_steps=10, num_samples=5, **options)
    tree = to_datatree(result)
    batch = ("cloud",) if batch_shape else ()
    context = tree["posterior"]["context"]
    assert context.dims == ("chain", "draw", *batch, "context_dim_0")
    assert context.sizes["chain"] == chains
    assert context.sizes["draw"] == (5 if method == "svi" else 10)
    assert tree["observed_data"]["partial"].dims == (*batch, "point", "coordinate")
    recorded = torch.from_numpy(tree["observed_data"]["partial"].values)
    assert torch.equal(recorded.isnan().any(-1), ~mask)
    assert torch.equal(recorded[mask], partial[mask])
    assert tree["posterior_predictive"]["clouds"].shape == (1, 5, *batch_shape, 9, 3)
    if method == "svi":
        assert "sample_stats" not in tree.children
    else:
        assert tree["sample_stats"]["log_likelihood"].dims == ("chain", "draw", *batch)
        kept = torch.from_numpy(context.values).flatten(0, 1)
        # Those that are returned are among them.
        distance = (result.latents["context"].unsqueeze(1) - kept).abs().flatten(2).amax(-1).amin(1)
        assert distance.max() < 1e-12


@pytest.fixture(scope="module")
def rows():
    pyro.set_rng_seed(0)
    return sample_posterior(people, num_chains=8, num_steps=100)


def test_summaries_of_arviz(rows):
    """Its r_hat and effective number are those of the chains."""
    stats = pytest.importorskip("arviz_stats")
    tree = to_datatree(rows)
    summary = stats.summary(tree, round_to="none")
    assert float(summary.loc["loc", "mean"]) == pytest.approx(rows.samples["loc"].mean().item())
    assert float(summary.loc["loc", "r_hat"]) < 1.05  # by ranks
    assert float(stats.rhat(tree, method="split")["loc"]) == pytest.approx(rows.r_hat["loc"].item(), abs=0.01)
    assert float(stats.ess(tree, method="mean")["loc"]) == pytest.approx(rows.n_eff["loc"].item(), rel=0.3)


def test_plots_of_arviz(rows):
    """They need no more than the tree."""
    plots = pytest.importorskip("arviz_plots")
    import matplotlib.pyplot as plt

    for plot in (plots.plot_trace, plots.plot_dist, plots.plot_rank):
        plot(to_datatree(rows), backend="matplotlib")
        plt.close("all")


def test_without_arviz(monkeypatch):
    monkeypatch.setitem(sys.modules, "arviz_base", None)
    chains = sample_posterior(people, num_chains=2, num_steps=4, warmup_steps=4)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'pyro-pcflow\[arviz\]'"):
        to_datatree(chains)


def test_what_is_no_result(known):
    with pytest.raises(TypeError, match=r"expected what sample_posterior or complete returned.*got int"):
        to_datatree(3)
    result = complete(known.flow, torch.zeros(5, 3).double(), 8, method="svi", num_steps=2, num_samples=1)
    with pytest.raises(ValueError, match="leave observed out"):
        to_datatree(result, observed={})
