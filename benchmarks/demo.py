"""The main job: a flow learns a cow in a minute, is filmed and compared; then a model learns bodies in three.

python -m benchmarks.demo --out runs/demo
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

import pyro_pcflow as pcf
from benchmarks.common.scores import nats_per_point
from benchmarks.rivals.gaussian import Gaussian
from benchmarks.rivals.pyro_stack import PyroStack

# Of Pyro's own couplings: the best of three for this mesh, by `python -m benchmarks.density`, and smaller ones to fall
# back on.
LEARNING_RATES = (1e-2, 5e-3, 2.5e-3)


def main() -> None:
    """Train, compare, film; then train on many shapes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="run folder (%(default)s)")
    parser.add_argument("--seconds", type=float, default=60.0, help="training time of each flow (%(default)s)")
    parser.add_argument(
        "--body-seconds", type=float, default=150.0, help="training time of the model of bodies (%(default)s)"
    )
    arguments = parser.parse_args()
    out = _free(arguments.out)

    clouds = pcf.data.load_example("spot", 200_000)
    points, unseen = clouds[0].split([180_000, 20_000])
    print("The cow: 180,000 points sampled from its surface, thickened by noise of a width that fits their spacing.")

    flow = pcf.PointCloudFlow(3)
    parameters = sum(parameter.numel() for parameter in flow.parameters())
    print(f"Training our flow (the default, {parameters:,} parameters) for {arguments.seconds:.0f} s.")
    options: dict[str, Any] = {"max_seconds": arguments.seconds, "held_out": unseen, "seed": 0}
    torch.manual_seed(0)
    ours = pcf.fit(flow, points, noise="auto", out=out, **options)
    noise = ours.noise
    assert noise is not None
    print(f"Training Pyro's own couplings (12, 64 wide) for {arguments.seconds:.0f} s, with the same loop.")
    stack, pyros = _train_reference(points, {**options, "noise": noise})
    test = unseen + noise * torch.randn(unseen.shape, generator=torch.Generator().manual_seed(1))
    gaussian = Gaussian(points, noise).log_prob(test).mean().item()

    table = "\n".join(
        [
            "held-out log-density, nats per point (higher is better)",
            f"  Gaussian               {gaussian:8.3f}",
            f"  Pyro's own couplings   {nats_per_point(stack, test):8.3f}   {pyros.steps} steps",
            f"  pyro-pcflow            {nats_per_point(flow, test):8.3f}   {ours.steps} steps",
        ]
    )
    print(table)
    (out / "comparison.txt").write_text(table + "\n")
    print(f"{out}: {', '.join(sorted(path.name for path in out.iterdir()))}")
    train_bodies(out / "bodies", arguments.body_seconds)


def train_bodies(out: Path, seconds: float) -> None:
    """Train the default model of many clouds on the embedded bodies, and draw new ones."""
    train, test = (pcf.data.load_example("body", split=split) for split in ("train", "test"))
    torch.manual_seed(0)
    vae = pcf.PointCloudVAE(3)
    parameters = sum(parameter.numel() for parameter in vae.parameters())
    print(f"Training a VAE ({parameters:,} parameters) on {len(train)} bodies for {seconds:.0f} s.")
    camera = pcf.training.Pictures(up="z", azim=60.0)
    result = pcf.fit(
        vae,
        train,
        held_out=test,
        noise="auto",
        max_seconds=seconds,
        seed=0,
        out=out,
        logging=pcf.training.Logging(pictures=camera),
    )
    print(
        f"bound of {len(test)} held-out bodies: {result.nats_per_point:.3f} nats per point, "
        f"{result.scores['nats_per_cloud']:.0f} nats per cloud, after {result.steps} steps"
    )
    print(f"{out}: {', '.join(sorted(path.name for path in out.iterdir()))}")


def _train_reference(points: torch.Tensor, options: dict[str, Any]) -> tuple[PyroStack, pcf.training.FitResult]:
    """Train Pyro's own couplings at the highest learning rate at which they do not diverge."""
    for lr in LEARNING_RATES:
        torch.manual_seed(0)
        try:
            stack = PyroStack(3)
            return stack, pcf.fit(stack, points, lr=lr, **options)
        except pcf.training.TrainingDivergedError as error:
            print(f"They diverged at step {error.step} with a learning rate of {lr:g}: once more with a smaller one.")
    raise RuntimeError(f"Pyro's own couplings diverged at every learning rate of {LEARNING_RATES}")


def _free(path: Path) -> Path:
    """The folder itself, or the next one with a number if it holds an earlier demo."""
    candidates = [path, *(path.with_name(f"{path.name}-{i}") for i in range(2, 1000))]
    return next(candidate for candidate in candidates if not candidate.exists())


if __name__ == "__main__":
    main()
