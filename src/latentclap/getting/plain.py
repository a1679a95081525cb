"""What needs no more than downloading, and how every source is announced."""

from __future__ import annotations

from latentclap.getting.plan import Options, Plan, Say
from latentclap.getting.sources import Source


def get_plain(source: Source, options: Options, say: Say, _: tuple[str, ...] = ()) -> Plan | None:
    """Download, and no more."""
    plan = Plan(source, options)
    if not announce(plan, say):
        return None
    with plan.alone():
        plan.preflight()
        paths = plan.run(say)
    say(f"{source.name}: {len(paths)} files in {plan.folder}")
    return plan


def announce(plan: Plan, say: Say, unpacked: int = 0, peak: int | None = None) -> bool:
    """Say source, licence and sizes; False for a dry run."""
    say(plan.source.said())
    say(plan.table(unpacked, peak))
    if plan.options.dry_run:
        plan.preflight(unpacked, peak)
        say("  --dry-run: nothing was written")
    return not plan.options.dry_run
