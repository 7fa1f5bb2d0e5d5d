r"""Train a model of many clouds on a category for some time, and keep its learning curve.

    python -m benchmarks.tools.make_bodies --out bodies.npy
    python -m benchmarks.tools.pretrain body.npz --train bodies.npy --seconds 7200 --out runs/body
    python -m benchmarks.tools.pretrain body.npz --train bodies.npy --start runs/body/model.pt \
        --encoder-points 512 1536 --seconds 5000 --out runs/body-2
    python -m benchmarks.tools.pretrain body.npz --train bodies.npy --start runs/body-2/model.pt \
        --model '{"num_corrections": 2}' --seconds 4500 --out runs/body-3
    python -m benchmarks.tools.pretrain chair table --scale 0.15 --shift 0.02 --mirror 0 --weight-decay 0.1 \
        --seconds 900 --up y --out runs/furniture

Trained on the train split, or on a file of other clouds of the kind, watched on the val split, and at the end scored
once on the test split, by the encoder's posteriors and by refined ones. The run folder has the model, the metrics,
sheets of samples and reconstructions, a figure of the curve, and `shipped.pt`: the model in half precision, whose score
it is. Several files are classes of one model.
"""

from __future__ import annotations

import argparse
import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import torch

import pyro_pcflow as pcf
from benchmarks.common.constants import NOISE_PER_HALF_EXTENT, VAE_LEARNING_RATE
from benchmarks.tools.score_model import in_form, load_classes, scores_of


def draw_curve(history: list[dict[str, float]], path: Path) -> None:
    """Draw the loss of the training clouds and the bound of others, in nats per point, against the steps."""
    figure, axes = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
    axes.plot([line["step"] for line in history], [-line["loss"] for line in history], label="training", lw=0.8)
    held_out = [line for line in history if "nats_per_point" in line]
    axes.plot(
        [line["step"] for line in held_out], [line["nats_per_point"] for line in held_out], "o-", ms=3, label="held out"
    )
    values = np.array([-line["loss"] for line in history])
    axes.set_ylim(np.quantile(values, 0.05), None)
    axes.set_xlabel("step")
    axes.set_ylabel("evidence lower bound, nats per point")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Train, draw, score."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="+", help="category files, or embedded examples; each a class")
    parser.add_argument("--train", type=Path, help="a npy file of clouds to train on, in place of the train split")
    parser.add_argument("--scale", type=float, help="stretch axes of training clouds, see ScaleAxes")
    parser.add_argument("--shift", type=float, help="move training clouds, see Shift")
    parser.add_argument("--mirror", type=int, metavar="AXIS", help="mirror half of the training clouds")
    parser.add_argument("--model", type=json.loads, default={}, help="options of PointCloudVAE, as JSON")
    parser.add_argument("--start", type=Path, help="a trained model to go on with, whose options --model may change")
    parser.add_argument("--seconds", type=float, default=700.0, help="training time (%(default)s)")
    parser.add_argument("--lr", type=float, default=VAE_LEARNING_RATE, help="highest learning rate (%(default)s)")
    parser.add_argument("--weight-decay", type=float, help="of all weights, see Optimization (that of the prior alone)")
    parser.add_argument("--batch-size", type=int, help="clouds per step")
    parser.add_argument(
        "--target-points", type=int, default=256, help="points of a cloud scored per step (%(default)s)"
    )
    parser.add_argument(
        "--encoder-points",
        type=int,
        nargs="+",
        default=[512],
        help="points of a cloud that the encoder reads, or the least and the most of them (512)",
    )
    parser.add_argument("--up", default="z", help="axis that stands upright in the pictures (%(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="run folder")
    parser.add_argument("--resume", action="store_true", help="go on with the run in the folder")
    arguments = parser.parse_args()
    if arguments.train and len(arguments.data) > 1:
        parser.error("--train is clouds of one class, and there are several files")
    train, validation, test = load_classes(arguments.data)
    noise = NOISE_PER_HALF_EXTENT * pcf.data.half_extent(train[0])
    torch.manual_seed(0)
    classes = {"num_classes": len(arguments.data)} if len(arguments.data) > 1 else {}
    if arguments.start:
        before: Any = pcf.load(arguments.start)
        vae = pcf.PointCloudVAE(**{**before.config, **arguments.model})
        # What the options add to it is new.
        vae.load_state_dict({**vae.state_dict(), **before.state_dict()})
    else:
        vae = pcf.PointCloudVAE(3, **{**classes, **arguments.model})
    changes = [
        (pcf.training.ScaleAxes, arguments.scale),
        (pcf.training.Mirror, arguments.mirror),
        (pcf.training.Shift, arguments.shift),
    ]
    given = [change(value) for change, value in changes if value is not None]
    encoder_points = arguments.encoder_points
    result = pcf.fit(
        vae,
        pcf.data.MappedClouds(arguments.train) if arguments.train else in_form(train),
        held_out=in_form(validation),
        noise=noise,
        lr=arguments.lr,
        batch_size=arguments.batch_size,
        max_seconds=arguments.seconds,
        out=arguments.out,
        resume=arguments.resume,
        optimization=pcf.training.Optimization(
            betas=(0.9, 0.99), weight_decay=arguments.weight_decay, warmup_steps=500, grad_clip=10.0
        ),
        sampling=pcf.training.CloudSampling(
            target_points=arguments.target_points,
            encoder_points=encoder_points[0] if len(encoder_points) == 1 else encoder_points,
            augment=given or "auto",
        ),
        logging=pcf.training.Logging(pictures=pcf.training.Pictures(arguments.up, azim=60.0)),
    )
    draw_curve(result.history, arguments.out / "curve.png")
    shipped = arguments.out / "shipped.pt"
    pcf.save(deepcopy(vae).half(), shipped)
    again = pcf.load(shipped).float()
    print(f"{result}, val split; {shipped}: {shipped.stat().st_size / 1e6:.1f} MB; test split:")
    print(*scores_of(again, *test, noise), sep="\n")


if __name__ == "__main__":
    main()
