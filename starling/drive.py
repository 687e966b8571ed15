"""A run's stages, one after the other, from where an earlier call stopped."""

import importlib
from pathlib import Path

from starling import config, endpoints, progress, trackers
from starling.agreeing import first_difference
from starling.at_work import timed
from starling.borrowing import shares
from starling.config import Config
from starling.store import ROAD, Run, is_run
from starling.tune_settings import is_online


def settings(recipe: str, run: Path | None, overrides: list[str] | None) -> tuple[Path, Config]:
    """The run's folder and settings: those of CONFIG, or without one those that the run was made with.

    Endpoints are looked at here, before settings are written anywhere: a URL may hold a key that belongs nowhere.
    """
    if not recipe and run is not None and is_run(run):
        saved = Run.read(run)
        found = run, config.load(run / "config.toml", overrides) if overrides else saved.config
    else:
        path = config.find_recipe(recipe or config.DEFAULT_RECIPE)
        found = run or Path("runs") / path.stem, config.load(path, overrides)
    endpoints.named(found[1])
    return found


def taken_over(agreeing: list[str], opened: Run, other: Run) -> str:
    """Which stages come from another run, and what keeps the next one from it."""
    taken = [stage for stage in agreeing if shares(opened, other, stage)]
    why = first_difference(opened.config, other.config)
    return f"from {other.root}: {', '.join(taken) or 'nothing'}" + (f"; not the rest, since {why}" if why else "")


def drive(run: Run, stages: list[str]) -> None:
    """Do the stages that are not done yet, in road order."""
    pending = [stage for stage in stages if not run.is_done(stage)]
    if pending:
        endpoints.refuse_unready(run.config, pending)
        if endpoints.local_judges(run.config, pending):
            _refuse_unfit_judges(run, pending)
        trackers.refuse_missing(run.config.run.trackers)
        if "fit" in pending:
            from starling import trainable  # loads PyTorch

            trainable.refuse_unready(run.config.fit, run.config.run.model)
        if "tune" in pending:
            from starling import findings, rewards  # load PyTorch

            findings.refuse_too_large(run.config)
            if is_online(run.config.tune.algorithm):
                rewards.refuse_unready(run.config.tune.rewards)
        if "evaluate" in pending and run.config.evaluate.benchmarks:
            from starling import run_benchmarks  # loads PyTorch

            run_benchmarks.refuse_unready(run.config, run.root)
        run.refuse_damage(ROAD[: ROAD.index(pending[0])])
        from starling import device, inputs  # load PyTorch, which the other commands need not wait for

        products = device.dtype_name(device.product_dtype())
        progress.say(f"run {run.root}, seed {run.config.run.seed}, matrix products in {products}")
    for stage in stages:
        if run.is_done(stage):
            progress.say(f"{stage}: done already ({run.manifest['stages'][stage]['seconds']:.0f} s)")
            continue
        # Anew for each stage, so that its random numbers do not depend on what this process did before.
        threads = device.setup(run.config.run.threads, run.config.run.seed)
        module = importlib.import_module(f"starling.stages.{stage}")
        run.started(stage, threads=threads, products=products, inputs=inputs.digests(run, stage))
        with timed(run, stage), progress.noted_in(run.progress_path, stage):
            facts = module.run(run)
        device.release_memory()  # before the next stage asks for more
        run.finished(stage, facts)
        progress.say(f"{stage}: done in {run.manifest['stages'][stage]['seconds']:.0f} s")


def _refuse_unfit_judges(run: Run, stages: list[str]) -> None:
    from starling import own_reward  # load PyTorch, see above
    from starling.judges import make

    make.refuse_unfit(run.config, run.root, stages)
    if "tune" in stages:
        own_reward.refuse_settings(run.config, run.reward_model_path)
