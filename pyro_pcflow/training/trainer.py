"""The loop of a training."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from pyro_pcflow.ops.progress import ProgressBar, progress_bar
from pyro_pcflow.ops.random import seeded
from pyro_pcflow.ops.reading import printable
from pyro_pcflow.ops.signals import Interrupts
from pyro_pcflow.training.checkpoint import check_checkpoint
from pyro_pcflow.training.distributed import Processes
from pyro_pcflow.training.divergence import TrainingDivergedError, find_culprit
from pyro_pcflow.training.economy import economical
from pyro_pcflow.training.objective import Objective
from pyro_pcflow.training.options import PRECISIONS, Settings
from pyro_pcflow.training.run_folder import RunFolder
from pyro_pcflow.training.schedule import Schedule
from pyro_pcflow.training.warm_up import WarmUp
from pyro_pcflow.training.weights import FlatWeights

__all__ = ["Loop"]


@dataclass(frozen=True)
class _Moment:
    """A moment between two changes of the weights, from which training can go on: all but the weights themselves.

    Attributes:
        numbers: steps, scores and so on, as a checkpoint has them.
        random: states of the generators.
        versions: how often parameters and buffers had been written to.
    """

    numbers: dict[str, Any]
    random: dict[str, Tensor]
    versions: list[int]


class Loop:
    """One training, from its first step or from a checkpoint; a context that leaves averaged weights behind.

    Args:
        module: on its device, already normalised.
        objective: has the data, and evaluates the module on it.
        settings: see `fit`.
        folder: where metrics and checkpoints go, or None.
        processes: those that share the training; each takes its part of every batch, and the mean of their gradients
            is that of the whole batch.
        interrupts: the handler of signals.
        warm_up: told between two steps that a kernel may take over, or None.
    """

    def __init__(
        self,
        module: nn.Module,
        objective: Objective,
        settings: Settings,
        folder: RunFolder | None,
        processes: Processes | None = None,
        interrupts: Interrupts | None = None,
        warm_up: WarmUp | None = None,
    ) -> None:
        self.interrupts = Interrupts() if interrupts is None else interrupts
        self.processes = Processes() if processes is None else processes
        self.module = module
        self.objective = objective
        self.settings = settings
        self.folder = folder
        self.warm_up = warm_up
        self.schedule = Schedule(settings.lr, settings.warmup_steps, settings.max_steps, settings.max_seconds)
        self.step = 0
        self.scores: dict[str, float] = {}
        self.history: list[dict[str, Any]] = []
        trainable = {name: weight for name, weight in module.named_parameters() if weight.requires_grad}
        self.weights = FlatWeights(trainable, settings.ema_decay)
        self.optimizer = torch.optim.Adam([self.weights.values], lr=settings.lr, fused=True)
        self._good = self.weights.averages.clone()
        self._watched = [*module.parameters(), *module.buffers()]
        # Sums of loss and gradient norm since the last line of the metrics, and how many they are.
        self._window = [0.0, 0.0, 0]
        # The rate of the last step, and whether that step may still wait for its evaluation and its line.
        self._rate = 0.0
        self._pending = False
        self._moment: _Moment | None = None
        # The step of the checkpoint, and when it was written.
        self._saved: tuple[int, float] | None = None
        self._mark = (0, 0.0)
        self._seconds_before = 0.0
        self._agreed_seconds = 0.0
        self._start = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds of training so far; processes that train together agree on them once a step."""
        if self.processes.size > 1:
            return self._agreed_seconds
        return self._own_seconds()

    def _own_seconds(self) -> float:
        return self._seconds_before + time.perf_counter() - self._start

    def __enter__(self) -> Loop:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.weights.drop_gradients()
        if not _is_finite(self.weights.averages):
            self.weights.averages.copy_(self._good)
        self.weights.release(averaged=True)

    def run(self, progress: bool | None) -> None:
        """Train to the end of the schedule."""
        if self.folder is not None:
            self._begin_in_folder(self.folder)
        self._start = time.perf_counter()
        self._agreed_seconds = self._seconds_before
        self.module.train()
        if self.processes.size > 1:
            self._begin_together()
        with progress_bar(
            progress if self.processes.is_first else False,
            "fit",
            total=1.0,
            initial=self.schedule.progress(self.step, self.seconds),
            bar_format="{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}",
        ) as bar:
            try:
                precision = PRECISIONS[self.settings.precision]
                with self.interrupts.undisguised(), economical(self.module, precision, self.settings.recompute):
                    self._run(bar)
            except KeyboardInterrupt:
                with self.interrupts.held():
                    self._save_if_whole()
                raise
        if self.folder is not None and self.processes.is_first:
            with self.weights.averaged():
                self.folder.write_model(self.module)
        self.processes.wait()

    def kept(self) -> str:
        """What an interrupt leaves, in a line."""
        where = f"interrupted at step {self.step}"
        if self.folder is None:
            return f"{where}: the module holds the averaged weights, and without out nothing else is kept"
        if self._saved is None:
            return f"{where}: no checkpoint was written yet; resume=True (--resume) starts again in {self.folder.path}"
        return (
            f"{where}; {self.folder.path} holds the checkpoint of step {self._saved[0]}: continue with resume=True "
            "(on the command line --resume)"
        )

    def _run(self, bar: ProgressBar) -> None:
        self._mark = (self.step, time.perf_counter())
        self._saved = (self.step, self.seconds)
        self._note_moment(pending=self._pending)
        done = self._settle(bar) if self._pending else self.schedule.progress(self.step, self.seconds) >= 1.0
        while not done:
            self.interrupts.check()
            if self.warm_up is not None:
                self.warm_up.between_steps(self.step)
            self._take_step()
            done = self._settle(bar)

    def _settle(self, bar: ProgressBar) -> bool:
        """Evaluate, log and save what is due after a step, and say whether it was the last one."""
        now = self.seconds
        done = self.schedule.progress(self.step, now) >= 1.0
        evaluate = self.objective.evaluates and (done or self.step % self.settings.eval_every == 0)
        log = done or evaluate or self.step % self.settings.log_every == 0
        checkpoint = self.folder is not None and (done or self._checkpoint_is_due(now))
        if evaluate or checkpoint or done:
            self._check_weights()
        if log:
            steps, seconds = self.step - self._mark[0], time.perf_counter() - self._mark[1]
            # A run that was interrupted between a step and its line has made no step yet.
            points_per_second = steps * self.objective.points_per_step / seconds if steps else None
            if evaluate:
                self.scores = self._evaluate()
            self._log(points_per_second, evaluate, bar)
            self._note_moment(pending=False)
        if checkpoint:
            self._save()
        if log:
            # The rate of the next line leaves out what evaluating and saving took.
            self._mark = (self.step, time.perf_counter())
        return done

    def _checkpoint_is_due(self, now: float) -> bool:
        by_time = self._saved is not None and now - self._saved[1] >= self.settings.checkpoint_seconds
        return by_time or self.step % self.settings.checkpoint_every == 0

    def _note_moment(self, pending: bool) -> None:
        """Note that training can go on from here."""
        if self.folder is not None:
            self._moment = _Moment(
                {
                    "step": self.step,
                    "scores": self.scores,
                    "window": self._window,
                    "lr": self._rate,
                    "pending": pending,
                },
                self._random_state(),
                self._versions(),
            )

    def _take_step(self) -> None:
        batch = self.objective.share(self.objective.batch(self.step), self.processes)
        self.weights.drop_gradients()
        try:
            loss = self.objective.loss(batch)
        except ValueError as error:
            # Distributions that validate their arguments raise where others return NaN.
            culprit = find_culprit(self.module, self.objective.loss, batch)
            if culprit is None:
                raise
            self._diverge(self.step + 1, f"{type(error).__name__} ({str(error).splitlines()[0]})", culprit, error)
        loss.backward()
        gradient = self.weights.gather_gradients()
        mean_loss = loss.detach()
        if self.processes.size > 1:
            # One exchange a step: gradients, the loss, and the clock that decides when training ends.
            clock = gradient.new_tensor([self._own_seconds()])
            shared = self.processes.mean(torch.cat([gradient, mean_loss.reshape(1).to(gradient), clock]))
            gradient.copy_(shared[:-2])
            mean_loss, self._agreed_seconds = shared[-2], float(shared[-1])
        value, norm = torch.stack([mean_loss, gradient.norm()]).tolist()
        if not (math.isfinite(value) and math.isfinite(norm)):
            culprit = find_culprit(self.module, self.objective.loss, batch)
            self._diverge(self.step + 1, f"the loss is {value:.6g} and the norm of the gradient {norm:.6g}", culprit)
        with self.interrupts.held():
            # From here to the end of the step, the state belongs to no step.
            self._moment = None
            if norm > self.settings.grad_clip:
                gradient.mul_(self.settings.grad_clip / norm)
            self._rate = self.schedule.rate(self.step, self.seconds)
            self.optimizer.param_groups[0]["lr"] = self._rate
            self.optimizer.step()
            self.weights.update_average(self.step)
            self._window = [self._window[0] + value, self._window[1] + norm, self._window[2] + 1]
            self.step += 1
            self._note_moment(pending=True)

    @torch.no_grad()
    def _evaluate(self) -> dict[str, float]:
        self.module.eval()
        # Evaluating more or less often must not change what training draws, and each time draws the same.
        with self.weights.averaged(), seeded(self.settings.seed, self._device), economical(self.module, None, False):
            scores = self.objective.evaluate()
        self.module.train()
        return scores

    def _log(self, points_per_second: float | None, evaluated: bool, bar: ProgressBar) -> None:
        loss, norm, count = self._window
        line: dict[str, Any] = {
            "step": self.step,
            "seconds": self.seconds,
            "loss": loss / count,
            "lr": self._rate,
            "grad_norm": norm / count,
            "points_per_second": points_per_second,
        }
        if evaluated:
            line.update(self.scores)
        # JSON knows no infinity, and the history shall be what the file says.
        line = {key: value if value is None or math.isfinite(value) else None for key, value in line.items()}
        self.history.append(line)
        if self.folder is not None and self.processes.is_first:
            self.folder.log(line)
        self._window = [0.0, 0.0, 0]
        score = self.scores.get("nats_per_point")
        held_out = "" if score is None else f", held-out {score:.3f} nats per point"
        speed = "" if points_per_second is None else f", {points_per_second:,.0f} points/s"
        bar.set_postfix_str(f"loss {loss / count:.3f}{held_out}{speed}", refresh=False)
        bar.update(self.schedule.progress(self.step, self.seconds) - bar.n)

    def _begin_in_folder(self, folder: RunFolder) -> None:
        # The first process has locked the folder.
        self.processes.wait()
        state = folder.read_checkpoint()
        averages = self.weights.named(self.weights.averages)
        if state is not None:
            try:
                check_checkpoint(state, self.module, self.weights.values.detach(), averages)
            except ValueError as error:
                raise ValueError(f"{printable(folder.checkpoint)} does not fit the module: {error}") from error
        self._extend(folder, state)
        if self.processes.is_first:
            # The line of a step that waits for it will be written again.
            last = -1 if state is None else state["step"] - state.get("pending", False)
            self.history = folder.read_metrics(last)
        if state is None:
            # So that a resumed run starts from these very weights, whatever module it is given.
            self._note_moment(pending=False)
            self._save()
            return
        self.module.load_state_dict(state["module"])
        for name, average in averages.items():
            average.copy_(state["averages"][name])
        # The options of the optimizer are those of this training, whatever the file says.
        own = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state["optimizer"]["state"], "param_groups": own})
        self._good.copy_(self.weights.averages)
        self.step = state["step"]
        self.scores = state["scores"]
        self._window = state["window"]
        self._rate = state.get("lr", 0.0)
        self._pending = state.get("pending", False)
        self._seconds_before = state["seconds"]
        if self.processes.is_first:
            self._set_random_state(state)
        else:
            # Every process draws its own numbers; only the first one's are kept.
            torch.manual_seed(hash((self.settings.seed, self.processes.rank, self.step)))

    def _extend(self, folder: RunFolder, state: dict[str, Any] | None) -> None:
        """Let the rest of a run that was extended, now or before, begin at the rate that it had come to."""
        step, seconds = (0, 0.0) if state is None else (state["step"], state["seconds"])
        before = folder.limits_before
        schedule = self._schedule(folder, before or {})
        ended = schedule.progress(step, seconds) >= 1.0
        if self.processes.is_first:
            folder.check_outputs(ended)
        if before is not None:
            # The rate of the first step is no rate that a run has come to.
            folder.extend(step, seconds, schedule.rate(step, seconds) if step else 0.0, ended)
            if self.processes.is_first:
                folder.write_extended()
        self.schedule = self._schedule(folder, {})

    def _schedule(self, folder: RunFolder, limits: dict[str, Any]) -> Schedule:
        settings = self.settings
        own = {"max_steps": settings.max_steps, "max_seconds": settings.max_seconds}
        last: dict[str, Any] = folder.extensions[-1] if folder.extensions else {"step": 0, "lr": 0.0}
        return Schedule(
            settings.lr, settings.warmup_steps, **{**own, **limits}, start_step=last["step"], start_rate=last["lr"]
        )

    def _set_random_state(self, state: dict[str, Any]) -> None:
        torch.set_rng_state(state["random"]["cpu"])
        if "cuda" in state["random"] and self._device.type == "cuda":
            torch.cuda.set_rng_state(state["random"]["cuda"], self._device)

    def _begin_together(self) -> None:
        """Start from one set of weights, those that take their first values from data included."""
        if self.step == 0:
            with torch.no_grad():
                self.objective.loss(self.objective.batch(0))
        for tensor in (self.weights.values.data, self.weights.averages):
            tensor.copy_(self.processes.from_first(tensor))

    def _save(self) -> None:
        """Write a checkpoint of the moment that was noted last, which the weights still belong to."""
        assert self._moment is not None
        self._saved = (self.step, self.seconds)
        if not self.processes.is_first:
            return
        assert self.folder is not None
        with self.interrupts.held():
            self.folder.write_checkpoint(
                {
                    **self._moment.numbers,
                    "seconds": self.seconds,
                    "random": self._moment.random,
                    "module": self.module.state_dict(),
                    "averages": self.weights.named(self.weights.averages),
                    "optimizer": self.optimizer.state_dict(),
                }
            )

    def _save_if_whole(self) -> None:
        """Save the moment that was noted last, unless something has written to the module since."""
        if self._moment is not None and self._moment.versions == self._versions():
            # Whatever was being evaluated with other weights.
            self.weights.show(self.weights.values)
            self._save()

    @property
    def _device(self) -> torch.device:
        return self.weights.values.device

    def _random_state(self) -> dict[str, Tensor]:
        state = {"cpu": torch.get_rng_state()}
        if self._device.type == "cuda":
            state["cuda"] = torch.cuda.get_rng_state(self._device)
        return state

    def _versions(self) -> list[int]:
        # A forward pass may write: statistics of a batch, or weights that take their first values from data.
        return [tensor._version for tensor in self._watched]

    def _check_weights(self) -> None:
        if not (_is_finite(self.weights.values.data) and _is_finite(self.weights.averages)):
            weights = self.weights.named(self.weights.values.data).items()
            bad = [name for name, value in weights if not bool(value.isfinite().all())]
            self._diverge(self.step, "the step left weights", f"parameter {bad[0]!r}" if bad else "their average")
        self._good.copy_(self.weights.averages)

    def _diverge(self, step: int, what: str, culprit: str | None, cause: BaseException | None = None) -> NoReturn:
        where = f"not finite first in {culprit}" if culprit else "though a second pass over the same batch is finite"
        kept = "the module holds the last averaged weights that were finite"
        if self.folder is not None:
            kept += f", and {self.folder.checkpoint} is the last good checkpoint"
        raise TrainingDivergedError(
            f"training diverged at step {step}: {what}, {where}. Try a lower lr than "
            f"{self.settings.lr:g}, and check the scale of the data; {kept}",
            step=step,
            culprit=culprit,
        ) from cause


def _is_finite(flat: Tensor) -> bool:
    return bool(flat.isfinite().all())
