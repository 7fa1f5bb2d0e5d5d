"""The training loop."""

from __future__ import annotations

import logging as logs
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, NoReturn

import torch
from torch import nn

from pyro_pcflow.ops.progress import ProgressBar, progress_bar
from pyro_pcflow.ops.random import seeded
from pyro_pcflow.ops.signals import Interrupts
from pyro_pcflow.training.autocast import autocast
from pyro_pcflow.training.callbacks import Callback, Progress
from pyro_pcflow.training.checkpoint import ResumableState
from pyro_pcflow.training.distributed import Processes
from pyro_pcflow.training.divergence import TrainingDivergedError, find_first_nonfinite
from pyro_pcflow.training.early_stopping import BestEvaluation
from pyro_pcflow.training.objective import Objective
from pyro_pcflow.training.optimizer import OptimizerFactory, adam, build
from pyro_pcflow.training.options import PRECISIONS, Settings
from pyro_pcflow.training.run_folder import RunFolder
from pyro_pcflow.training.schedule import Schedule
from pyro_pcflow.training.warm_up import WarmUp
from pyro_pcflow.training.weights import FlatParameters

__all__ = ["Trainer"]

logger = logs.getLogger(__name__)


class Trainer:
    """One training, from its first step or from a checkpoint; a context that leaves averaged weights behind.

    Args:
        module: on its device, already normalised.
        objective: has the data, and evaluates the module on it.
        settings: see `fit`; nothing of them is left to "auto".
        folder: where metrics and checkpoints go, or None.
        optimizer: makes the optimizer of a vector; Adam by default.
        weight_decays: names of parameters to their weight decay.
        callbacks: told what happens.
        config: what the run folder says of the run, for callbacks.
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
        *,
        optimizer: OptimizerFactory | None = None,
        weight_decays: Mapping[str, float] | None = None,
        callbacks: Sequence[Callback] = (),
        config: Mapping[str, Any] | None = None,
        processes: Processes | None = None,
        interrupts: Interrupts | None = None,
        warm_up: WarmUp | None = None,
    ) -> None:
        self.module = module
        self.objective = objective
        self.settings = settings
        self.folder = folder
        self.processes = Processes() if processes is None else processes
        self.callbacks = callbacks if self.processes.is_first else ()
        self.config = config or {}
        self.interrupts = Interrupts() if interrupts is None else interrupts
        self.warm_up = warm_up
        patience, eval_every = settings.optimization.patience, settings.logging.eval_every
        assert not isinstance(patience, str)
        assert not isinstance(eval_every, str)
        self._patience, self._eval_every = patience, eval_every
        self.schedule = self._schedule([], {})
        self.step = 0
        self.scores: dict[str, float] = {}
        self.history: list[dict[str, Any]] = []
        trainable = {name: weight for name, weight in module.named_parameters() if weight.requires_grad}
        self.weights = FlatParameters(trainable, settings.optimization.ema_decay, weight_decays)
        own = adam(settings.lr, settings.optimization.betas)
        self.optimizer = build(own if optimizer is None else optimizer, self.weights.values)
        self.state = ResumableState(folder, module, self.weights, self.optimizer, objective.score)
        self._last_finite = self.weights.averages.clone()
        # With `patience` alone: the best evaluation, and whether a second phase is to begin from its weights.
        self._best: BestEvaluation | None = None
        self._in_first_phase = self.schedule.is_in_first_of_two(0, 0.0)
        # Sums of loss and gradient norm since the last line of the metrics, and how many they are.
        self._window = [0.0, 0.0, 0]
        # The rate of the last step, and whether that step may still wait for its evaluation and its line.
        self._rate = 0.0
        self._pending = False
        # The step of the checkpoint, and when it was written.
        self._saved: tuple[int, float] | None = None
        self._mark = (0, 0.0)
        self._seconds_before = 0.0
        self._agreed_seconds = 0.0
        self._ended: float | None = None
        self._start = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds of training so far; processes that train together agree on them once a step."""
        if self._ended is not None:
            return self._ended
        return self._agreed_seconds if self.processes.size > 1 else self._own_seconds()

    def _own_seconds(self) -> float:
        return self._seconds_before + time.perf_counter() - self._start

    def progress(self) -> Progress:
        """Where the training stands, for callbacks."""
        out = None if self.folder is None else self.folder.path
        return Progress(
            module=self.module,
            objective=self.objective,
            step=self.step,
            seconds=self.seconds,
            scores=self.scores,
            out=out,
            seed=self.settings.seed,
            settings=self.config,
        )

    def __enter__(self) -> Trainer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.weights.drop_gradients()
        if not self.weights.is_finite(self.weights.averages):
            self.weights.averages.copy_(self._last_finite)
        self._take_best()
        self.weights.release(averaged=True)

    def run(self) -> None:
        """Train to the end of the schedule."""
        if self.folder is not None:
            self._begin_in_folder(self.folder)
        self._start = time.perf_counter()
        self._agreed_seconds = self._seconds_before
        self.module.train()
        if self.processes.size > 1:
            self._begin_together()
        with progress_bar(
            self.settings.logging.progress if self.processes.is_first else False,
            "fit",
            total=1.0,
            initial=self.schedule.progress(self.step, self.seconds),
            bar_format="{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}",
        ) as bar:
            try:
                with self.interrupts.undisguised(), self._autocast():
                    self._run(bar)
            except KeyboardInterrupt:
                with self.interrupts.held():
                    self._save_if_whole()
                raise
        if self._best is not None and self._is_out_of_patience(self._best.waited) and self.processes.is_first:
            logger.warning(
                "stopped early, after %d steps: %d evaluations in a row came to no more than %.3f %s, held out, "
                "and the weights of that score stay",
                self.step,
                self._best.waited,
                self._best.scores[self.objective.score],
                self.objective.score.replace("_", " "),
            )
        self._take_best()
        if self.folder is not None and self.processes.is_first:
            with self.weights.averaged():
                self.folder.write_model(self.module)
        self.processes.wait()

    def end(self) -> None:
        """Tell callbacks that training has come to its end, and the module is back where it was."""
        self._ended = self.seconds
        self._tell(lambda callback, progress: callback.on_end(progress))

    def _autocast(self) -> Any:
        optimization = self.settings.optimization
        return autocast(self.module, PRECISIONS[optimization.precision], optimization.recompute)

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
        self._note(pending=self._pending)
        self._tell(lambda callback, progress: callback.on_start(progress))
        done = self._after_step(bar) if self._pending else self._is_over(self.seconds)
        while not done:
            self.interrupts.check()
            if self.warm_up is not None:
                self.warm_up.between_steps(self.step)
            self._take_step()
            done = self._after_step(bar)

    def _is_over(self, now: float) -> bool:
        """Whether the schedule has come to its end, or patience has."""
        waited = 0 if self._best is None else self._best.waited
        return self._is_out_of_patience(waited) or self.schedule.progress(self.step, now) >= 1.0

    def _is_out_of_patience(self, waited: int) -> bool:
        return self._patience is not None and waited >= self._patience

    def _is_between_phases(self, now: float) -> bool:
        """Whether the first of two phases is over, and the second has not begun from the best weights yet."""
        return self._in_first_phase and not self.schedule.is_in_first_of_two(self.step, now)

    def _begin_second_phase(self, now: float) -> None:
        """Begin a second phase from the best weights, where it is due, or patience has come to its end in the first."""
        if self._best is None or not self._in_first_phase:
            return
        if not self._is_between_phases(now):
            if not self._is_out_of_patience(self._best.waited):
                return
            self.schedule = self.schedule.hastened(self.step, now)
        # Until the next moment is noted, what is kept belongs to other weights.
        self.state.forget()
        for weights in (self.weights.values.data, self.weights.averages):
            weights.copy_(self._best.averages)
        self._best = replace(self._best, waited=0)
        self._in_first_phase = False

    def _take_best(self) -> None:
        """Have the averages, and the scores, of the best evaluation, if it was looked for."""
        if self._best is not None:
            self.weights.averages.copy_(self._best.averages)
            self.scores = dict(self._best.scores)

    def _after_step(self, bar: ProgressBar) -> bool:
        """Evaluate, log and save what is due after a step, and say whether it was the last one."""
        now, logging = self.seconds, self.settings.logging
        done = self._is_over(now)
        is_due = self.step % self._eval_every == 0 or (self._patience is not None and self._is_between_phases(now))
        evaluate = self.objective.evaluates and (done or is_due)
        log = done or evaluate or self.step % logging.log_every == 0
        checkpoint = self.folder is not None and (done or self._checkpoint_is_due(now))
        if evaluate or checkpoint or done:
            self._check_weights()
        if log:
            steps, seconds = self.step - self._mark[0], time.perf_counter() - self._mark[1]
            # A run that was interrupted between a step and its line has made no step yet.
            points_per_second = steps * self.objective.points_per_step / seconds if steps else None
            if evaluate:
                self._evaluate()
                self._begin_second_phase(now)
                done = self._is_over(now)
                checkpoint = checkpoint or (done and self.folder is not None)
            self._log(points_per_second, evaluate, bar)
            self._note(pending=False)
        if checkpoint:
            self._save()
        if log:
            # The rate of the next line leaves out what evaluating and saving took.
            self._mark = (self.step, time.perf_counter())
        return done

    def _checkpoint_is_due(self, now: float) -> bool:
        logging = self.settings.logging
        by_time = self._saved is not None and now - self._saved[1] >= logging.checkpoint_seconds
        return by_time or self.step % logging.checkpoint_every == 0

    def _note(self, pending: bool) -> None:
        """Note a moment from which training can be resumed."""
        self.state.note(
            self._best,
            step=self.step,
            scores=self.scores,
            window=self._window,
            lr=self._rate,
            pending=pending,
            hastened_at=self.schedule.hastened_at,
            in_first_phase=self._in_first_phase,
        )

    def _take_step(self) -> None:
        self.objective.progress = self.schedule.progress(self.step, self.seconds)
        batch = self.objective.batch(self.step)
        if self.processes.size > 1:
            batch = self.objective.share(batch, self.processes.rank, self.processes.size)
        self.weights.drop_gradients()
        try:
            loss = self.objective.loss(batch)
        except ValueError as error:
            # Distributions that validate their arguments raise where others return NaN.
            found = find_first_nonfinite(self.module, self.objective.loss, batch)
            if found is None:
                raise
            self._diverge(self.step + 1, f"{type(error).__name__} ({str(error).splitlines()[0]})", found, error)
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
            found = find_first_nonfinite(self.module, self.objective.loss, batch)
            self._diverge(self.step + 1, f"the loss is {value:.6g} and the norm of the gradient {norm:.6g}", found)
        with self.interrupts.held():
            self.state.forget()
            if norm > self.settings.optimization.grad_clip:
                gradient.mul_(self.settings.optimization.grad_clip / norm)
            now = self.seconds
            progress, second_phase = self.schedule.progress(self.step, now), self.schedule.second_phase
            # A phase that ends during its last step has come to a rate of zero, and not to that of the next.
            is_between = self.objective.progress < second_phase <= progress < 1.0
            self._rate = 0.0 if is_between else self.schedule.rate(self.step, now)
            self.optimizer.param_groups[0]["lr"] = self._rate
            self.weights.shrink(self._rate)
            self.optimizer.step()
            self.weights.hold(self.objective.held())
            self.weights.update_average(self.schedule.steps_of_phase(self.step, now))
            self._window = [self._window[0] + value, self._window[1] + norm, self._window[2] + 1]
            self.step += 1
            self._note(pending=True)

    @torch.no_grad()
    def _evaluate(self) -> None:
        self.module.eval()
        # Evaluating more or less often must not change what training draws, and each time draws the same.
        with self.weights.averaged(), self._seeded(), autocast(self.module, None, False):
            self.scores = self.objective.evaluate()
            self._tell(lambda callback, progress: callback.on_evaluation(progress, self.scores))
        if self._patience is not None:
            # Processes that disagreed in the last bit could disagree on when to end.
            self.scores = self.processes.from_first(self.scores)
            self._best = BestEvaluation.after(self._best, self.weights.averages, self.scores, self.objective.score)
        self.module.train()

    def _seeded(self) -> Any:
        return seeded(self.settings.seed, self.weights.values.device)

    def _tell(self, event: Callable[[Callback, Progress], None]) -> None:
        """Call all callbacks, which change nothing of what training draws."""
        if self.callbacks:
            with self._seeded():
                for callback in self.callbacks:
                    event(callback, self.progress())

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
        # JSON knows no infinity, and the history says what the file says.
        line = {key: value if value is None or math.isfinite(value) else None for key, value in line.items()}
        self.history.append(line)
        if self.folder is not None and self.processes.is_first:
            self.folder.metrics.append(line)
        self._tell(lambda callback, progress: callback.on_log(progress, line))
        self._window = [0.0, 0.0, 0]
        score = self.scores.get(self.objective.score)
        held_out = "" if score is None else f", held-out {score:.3f} {self.objective.score.replace('_', ' ')}"
        speed = "" if points_per_second is None else f", {points_per_second:,.0f} points/s"
        bar.set_postfix_str(f"loss {loss / count:.3f}{held_out}{speed}", refresh=False)
        bar.update(self.schedule.progress(self.step, self.seconds) - bar.n)

    def _begin_in_folder(self, folder: RunFolder) -> None:
        # The first process has locked the folder.
        self.processes.wait()
        state = self.state.read()
        self._extend(folder, state)
        if self.processes.is_first:
            # The line of a step that waits for it will be written again.
            last = -1 if state is None else state["step"] - state.get("pending", False)
            self.history = folder.metrics.read(last)
        if state is None:
            # So that a resumed run starts from these very weights, whatever module it is given.
            self._note(pending=False)
            self._save()
            return
        self._best = self.state.restore(state, random=self.processes.is_first)
        self._last_finite.copy_(self.weights.averages)
        self.step = state["step"]
        self.scores = state["scores"]
        self._window = state["window"]
        self._rate = state.get("lr", 0.0)
        self._pending = state.get("pending", False)
        self._seconds_before = state["seconds"]
        # A run that was extended is in its first phase again.
        is_in_first = self.schedule.is_in_first_of_two(self.step, state["seconds"])
        self._in_first_phase = is_in_first or (state.get("in_first_phase", False) and self.schedule.second_phase < 1.0)
        if not self.processes.is_first:
            # Every process draws its own numbers; only the first one's are kept.
            torch.manual_seed(hash((self.settings.seed, self.processes.rank, self.step)))

    def _extend(self, folder: RunFolder, state: dict[str, Any] | None) -> None:
        """Let the rest of a run that was extended, now or before, begin at the rate that it had come to."""
        step, seconds = (0, 0.0) if state is None else (state["step"], state["seconds"])
        config = folder.config
        schedule = self._schedule(config.extensions, config.limits_before or {})
        # A checkpoint from before the extension has a share of the limits of before.
        if state is not None and step > schedule.start_step:
            schedule = replace(schedule, hastened_at=state.get("hastened_at"))
        stopped = state is not None and "best" in state and self._is_out_of_patience(state["best"]["waited"])
        ended = stopped or schedule.progress(step, seconds) >= 1.0
        if self.processes.is_first:
            folder.check_outputs(ended)
        if config.limits_before is not None:
            # The rate of the first step is no rate that a run has come to.
            config.extend(step, seconds, schedule.rate(step, seconds) if step else 0.0, ended)
            if self.processes.is_first:
                config.write()
            schedule = self._schedule(config.extensions, {})
        self.schedule = schedule

    def _schedule(self, extensions: list[dict[str, Any]], limits: dict[str, Any]) -> Schedule:
        settings = self.settings
        own = {"max_steps": settings.max_steps, "max_seconds": settings.max_seconds}
        last: dict[str, Any] = extensions[-1] if extensions else {"step": 0, "lr": 0.0}
        warmup_steps = settings.optimization.warmup_steps
        begin = {"start_step": last["step"], "start_rate": last["lr"], "second_phase": self.objective.second_phase}
        return Schedule(settings.lr, warmup_steps, **{**own, **limits}, **begin)

    def _begin_together(self) -> None:
        """Start from one set of weights, those that take their first values from data included."""
        if self.step == 0:
            with torch.no_grad():
                self.objective.loss(self.objective.batch(0))
        for tensor in (self.weights.values.data, self.weights.averages):
            tensor.copy_(self.processes.from_first(tensor))

    def _save(self) -> None:
        """Write a checkpoint of the moment that was noted last."""
        self._saved = (self.step, self.seconds)
        if self.processes.is_first:
            with self.interrupts.held():
                self.state.write(self.seconds)

    def _save_if_whole(self) -> None:
        """Save the moment that was noted last, unless something has written to the module since."""
        if self.state.is_whole:
            # Whatever was being evaluated with other weights.
            self.weights.show(self.weights.values)
            self._save()

    def _check_weights(self) -> None:
        if not (self.weights.is_finite(self.weights.values) and self.weights.is_finite(self.weights.averages)):
            weights = self.weights.named(self.weights.values.data).items()
            bad = [name for name, value in weights if not bool(value.isfinite().all())]
            self._diverge(self.step, "the step left weights", f"parameter {bad[0]!r}" if bad else "their average")
        self._last_finite.copy_(self.weights.averages)

    def _diverge(self, step: int, what: str, found: str | None, cause: BaseException | None = None) -> NoReturn:
        where = f"not finite first in {found}" if found else "though a second pass over the same batch is finite"
        kept = "the module holds the last averaged weights that were finite"
        if self.folder is not None:
            kept += f", and {self.folder.checkpoint} is the last good checkpoint"
        raise TrainingDivergedError(
            f"training diverged at step {step}: {what}, {where}. Try a lower lr than "
            f"{self.settings.lr:g}, and check the scale of the data; {kept}",
            step=step,
            first_nonfinite=found,
        ) from cause
