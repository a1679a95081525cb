"""``python -m latentclap.point``: one point of Fig. 3 as a job of its own, for sweeps on several GPUs or machines.

It makes the calls that notebook 06 makes for this point, so that the notebook afterwards finds the point trained and
its clips generated, and only scores them and draws.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from latentclap.errors import InputError, run_app
from latentclap.files import check_place, write_json
from latentclap.limits import check_profile, check_values
from latentclap.needs import missing
from latentclap.options import application
from latentclap.profiles import Profile, load_profile
from latentclap.runs import origin

app = application()


def grid(profile: Profile) -> list[tuple[float, bool, int]]:
    """Every (λ, tuning layer, seed) of Fig. 3; λ = 0 is always one of them."""
    sweep = profile.sweep
    lams = sorted({0.0, *sweep.lams})
    return [(lam, tuning, seed) for seed in sweep.seeds for tuning in (False, True) for lam in lams]


def measure(profile: Profile, lam: float, tuning: bool, seed: int, data: str = "") -> dict[str, Any]:
    """Train a point, generate its clips, score both: what is there already is not made again.

    Args:
        profile: gives everything else, epochs and clips per class in its section ``sweep``.
        lam: λ of eq. 4.
        tuning: train a tuning layer too.
        seed: of training and of the generated clips.
        data: folder in DCASE layout; empty: the profile's.

    Returns:
        The point, its scores, and where they come from.
    """
    from latentclap.lab import Lab  # torch takes seconds, and a mistake is to be told before

    started = time.monotonic()
    lab, sweep = Lab(profile, data), profile.sweep
    config = lab.config(
        "LDM+Tuning+Latent" if tuning else "LDM+Latent", seed=seed, lam=lam, epochs=sweep.epochs
    )
    scores = lab.score_point(config, clips_per_class=sweep.clips_per_class)
    return {
        "lam": lam,
        "tuning": tuning,
        "seed": seed,
        "epochs": sweep.epochs,
        "clips_per_class": sweep.clips_per_class,
        **scores,
        "profile": profile.name,
        "data": data or profile.data.folder or "embedded procedural set",
        "trained": str(lab.point(config).folder),
        **origin(),
        "wall_seconds": round(time.monotonic() - started, 1),
    }


@app.command()
def point(
    lam: Annotated[float, typer.Option(help="λ of eq. 4; 0 is plain fine-tuning.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The scores go to this JSON file.")],
    profile: Annotated[str, typer.Option(help="Name, or path of a .toml file.")] = "quick",
    tuning: Annotated[bool, typer.Option(help="Train a tuning layer too.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of training and of the generated clips.")] = 0,
    data: Annotated[str, typer.Option(help="Folder in DCASE layout; empty: the profile's.")] = "",
) -> None:
    """Train and score one point of Fig. 3; a killed job goes on from its last checkpoint."""
    chosen = load_profile(profile)
    check_place(out)
    check_profile(chosen)
    check_values({"finetune.lam": lam, "seed": seed}, "")
    lacking = missing(chosen, data)
    if lacking:
        raise InputError(f"profile {chosen.name}: {lacking[0]}" + " (and others)" * (len(lacking) > 1))
    scores = measure(chosen, lam, tuning, seed, data)
    write_json(out, scores)
    typer.echo(
        f"{out}: {scores['fad_name']} {scores['fad']:.3g}, eq. 1 {scores['ddpm']:.4g}, eq. 3 {scores['lclap']:.3g}"
    )


if __name__ == "__main__":
    sys.exit(run_app(app))
