"""Train a Deep Sets policy to follow cars it only knows by radio, with checkpoints that resume to the byte.

    python3 train.py generate --dataset_dir dataset
    python3 train.py train --dataset_dir dataset --emulator_params emulator_params.json \\
        --total_timesteps 400000 --run_id demo --output_dir results
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType

TERMINATED = 128 + signal.SIGTERM


class Stop:
    """Set by SIGTERM: the generation under way is finished and saved first."""

    def __init__(self) -> None:
        self.asked = False
        signal.signal(signal.SIGTERM, self._ask)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True


# Before numpy is loaded: a signal may come at any time.
STOP = Stop()
# More threads would add up in another order, and these arrays are too small to gain from them.
os.environ.update(OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")

import checkpoint
import es
import numpy as np
import world
from world import InputError


def train(options: argparse.Namespace, stop: Stop) -> int:
    scenarios = world.load(options.dataset_dir)
    radio = world.Radio.read(options.emulator_params)
    if options.total_timesteps <= 0 or options.checkpoint_every <= 0:
        raise InputError("--total_timesteps and --checkpoint_every must be more than 0")
    if options.total_timesteps % es.STEPS_PER_GENERATION or options.checkpoint_every % es.STEPS_PER_GENERATION:
        raise InputError(f"--total_timesteps and --checkpoint_every must be multiples of {es.STEPS_PER_GENERATION}")
    history: list[list[float]] = []
    if options.resume:
        saved = checkpoint.load(options.resume)
        if saved.seed != options.seed:
            raise InputError(f"{options.resume} was made with --seed {saved.seed}, not {options.seed}")
        state, history = saved.state, [list(line) for line in saved.history]
        print(f"resumed from step {state.step} ({options.resume})", flush=True)
    else:
        state = es.State.begin(options.seed)
        print("starting from step 0", flush=True)
    folder = options.checkpoint_dir or Path("models/runs") / options.run_id / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    options.output_dir.mkdir(parents=True, exist_ok=True)
    pause = options.pace * es.STEPS_PER_GENERATION / options.checkpoint_every
    with (options.output_dir / "progress.jsonl").open("a", encoding="utf-8") as progress:
        due = time.monotonic()
        while state.step < options.total_timesteps and not stop.asked:
            state, reward = es.generation(state, scenarios, radio, options.seed)
            _, crashed = es.evaluate(state.weights, scenarios, radio, options.seed)
            line = {"step": state.step, "reward": round(reward, 6), "collision_rate": float(crashed.mean())}
            print(f"step {line['step']} reward {reward:.3f} collision_rate {crashed.mean():.2f}", flush=True)
            progress.write(json.dumps(line) + "\n")
            progress.flush()
            if state.step % options.checkpoint_every == 0:
                history.append([state.step, line["reward"]])
                checkpoint.save(folder, checkpoint.Saved(state, options.seed, history))
            due += pause
            while not stop.asked and time.monotonic() < due:
                time.sleep(min(0.05, max(0.0, due - time.monotonic())))
    if state.step < options.total_timesteps:
        if state.step:
            place = checkpoint.save(folder, checkpoint.Saved(state, options.seed, history))
            print(f"told to stop: saved {place}", flush=True)
        return TERMINATED
    finish(options, state, scenarios, radio, history)
    return 0


def finish(
    options: argparse.Namespace,
    state: es.State,
    scenarios: list[world.Scenario],
    radio: world.Radio,
    history: list[list[float]],
) -> None:
    """The weights, and the metrics: the same bytes however often training was interrupted."""
    returns, crashed = es.evaluate(state.weights, scenarios, radio, options.seed)
    with (options.output_dir / "weights.npy").open("wb") as stream:
        np.save(stream, state.weights)
    rewards = [line[1] for line in history]
    half = len(rewards) // 2
    trend = float(np.mean(rewards[half:]) - np.mean(rewards[:half])) if half else 0.0
    metrics = {
        "collision_rate": float(crashed.mean()),
        "reward_trend": round(trend, 6),
        "rewards": history,
        "scenarios": [
            {"name": s.name, "collision": bool(c), "return": round(float(r), 6)}
            for s, r, c in zip(scenarios, returns, crashed, strict=True)
        ],
        "total_timesteps": state.step,
        "weights_sha256": hashlib.sha256(state.weights.tobytes()).hexdigest(),
    }
    beside = options.output_dir / ".metrics.json.tmp"
    beside.write_text(json.dumps(metrics, indent=1) + "\n", "utf-8")
    beside.replace(options.output_dir / "metrics.json")
    print(f"done: collision_rate {metrics['collision_rate']:.2f}, reward_trend {trend:+.3f}", flush=True)


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    commands = parser.add_subparsers(dest="command", required=True)
    generate = commands.add_parser("generate", help="make a dataset of scenarios")
    generate.add_argument("--dataset_dir", type=Path, required=True)
    generate.add_argument("--scenarios", type=int, default=16, help="how many (default: %(default)s)")
    generate.add_argument("--seed", type=int, default=7)
    training = commands.add_parser("train", help="train on a dataset")
    training.add_argument("--dataset_dir", type=Path, required=True)
    training.add_argument("--emulator_params", type=Path, required=True, help="how messages travel (JSON)")
    training.add_argument("--total_timesteps", type=int, required=True)
    training.add_argument("--run_id", required=True)
    training.add_argument("--output_dir", type=Path, required=True)
    training.add_argument("--resume", type=Path, help="a folder step_<N> to go on from")
    training.add_argument("--seed", type=int, default=1)
    training.add_argument("--checkpoint_every", type=int, default=10000, help="steps (default: %(default)s)")
    training.add_argument("--checkpoint_dir", type=Path, help="default: models/runs/<run_id>/checkpoints")
    training.add_argument("--pace", type=float, default=0.0, help="seconds between checkpoints, at least (default: 0)")
    return parser.parse_args(argv)


def main() -> int:
    options = arguments()
    try:
        if options.command == "generate":
            world.generate(options.dataset_dir, options.scenarios, options.seed)
            return 0
        return train(options, STOP)
    except InputError as error:
        print(f"train.py: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
