r"""Train the completer of a model of many clouds for some time.

    python -m benchmarks.tools.make_bodies --out bodies.npy --count 30000 --seed 1
    python -m benchmarks.tools.pretrain_completer body body.npz --train bodies.npy --seconds 3000 --out runs/completer
    python -m benchmarks.tools.pretrain_completer body body.npz --train bodies.npy --start runs/completer/model.pt \
        --outliers 0.1 --lr 1.5e-3 --seconds 5400 --out runs/completer-2

Trained on the train split, or on a file of other clouds of the kind, and watched on the val split, on which the
exponents of the likelihood are then chosen. The run folder has `model.pt`, the completer before that, the metrics, and
`shipped.pt`: the completer with its model, in half precision.
"""

from __future__ import annotations

import argparse
import time
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch

import pyro_pcflow as pcf
from benchmarks.common.categories import load_splits
from benchmarks.common.constants import NOISE_PER_HALF_EXTENT

# One in so many views has outliers, if there are any.
ONE_IN = 4


def load_model(name: str) -> Any:
    """A model that comes with the package, or that of a file."""
    return pcf.load_pretrained(name) if name in pcf.models.PRETRAINED else pcf.load(name).float()


def calibrate(completer: pcf.infer.Completer, clouds: torch.Tensor, noise: float) -> None:
    """Choose the exponents of the likelihood on clouds, and print what each one covers and scores."""
    generator = torch.Generator().manual_seed(0)
    begin = time.process_time()
    found = pcf.infer.calibrate_temper(
        completer, clouds + noise * torch.randn(clouds.shape, generator=generator), seed=0
    )
    for count, tried in found.items():
        print(
            f"{count:5d} points:",
            *(f"{exponent:g}: {share:.3f}, {score:.3f} nats" for exponent, (share, score) in tried.items()),
            sep="  ",
        )
    print(f"exponents {completer.temper.tolist()}, {time.process_time() - begin:.0f} CPU s", flush=True)


def main() -> None:
    """Train, calibrate, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a pretrained model's name, or a file")
    parser.add_argument("data", type=Path, help="category file")
    parser.add_argument("--train", type=Path, help="a npy file of clouds to train on, in place of the train split")
    parser.add_argument("--start", type=Path, help="a trained completer to go on with, in place of a new one")
    parser.add_argument("--outliers", type=float, help="largest share of outliers in one of four views (none)")
    parser.add_argument("--seconds", type=float, default=3000.0, help="training time, or 0 (%(default)s)")
    parser.add_argument("--lr", type=float, help="highest learning rate (the completer's own)")
    parser.add_argument("--batch-size", type=int, default=32, help="real clouds per step (%(default)s)")
    parser.add_argument("--num-calibrated", type=int, default=30, help="clouds of the val split for the exponents")
    parser.add_argument("--out", type=Path, required=True, help="run folder")
    parser.add_argument("--resume", action="store_true", help="go on with the run in the folder")
    arguments = parser.parse_args()
    train, validation, _ = load_splits(arguments.data)
    noise = NOISE_PER_HALF_EXTENT * pcf.data.half_extent(train[0])
    torch.manual_seed(0)
    completer = pcf.load(arguments.start) if arguments.start else pcf.infer.Completer(load_model(arguments.model))
    assert isinstance(completer, pcf.infer.Completer)
    if arguments.outliers:
        spoilt = pcf.infer.Outliers(completer.views, most=arguments.outliers)
        completer.views = pcf.infer.OneOf((completer.views, spoilt), (ONE_IN - 1.0, 1.0))
    if arguments.seconds:
        result = pcf.fit(
            completer,
            pcf.data.MappedClouds(arguments.train) if arguments.train else train,
            held_out=validation,
            noise=noise,
            lr=arguments.lr,
            batch_size=arguments.batch_size,
            max_seconds=arguments.seconds,
            out=arguments.out,
            resume=arguments.resume,
        )
        print(result, flush=True)
    arguments.out.mkdir(parents=True, exist_ok=True)
    calibrate(completer, validation[: arguments.num_calibrated], noise)
    shipped = arguments.out / "shipped.pt"
    pcf.save(deepcopy(completer).half(), shipped)
    print(f"{shipped}: {shipped.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
