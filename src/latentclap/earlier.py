"""What an earlier call planned in a folder of clips, beside what this one plans: what is alike, and what differs.

A plan is what decides how clips sound: ``model``, ``weights``, ``settings`` (with ``sounds`` where sounds are
varied), ``prompts`` {name: text} and ``format``.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

Plan = dict[str, Any]


def read(told: Any) -> dict[str, Any]:
    """What a folder's record, or the plan of a stopped run, tells, as far as it has the form of one.

    Args:
        told: as it was read; an edited one, or another program's, may hold anything.

    Returns:
        It with ``plan``, ``commands``, ``calls`` and ``maker``, each of its kind.

    Raises:
        ValueError: there is no plan in it.
    """
    kinds = {"model": str, "weights": list, "settings": dict, "prompts": dict, "format": str}
    plan = told["plan"] if isinstance(told, dict) and "plan" in told else told
    if not isinstance(plan, dict) or not all(isinstance(plan.get(key), kind) for key, kind in kinds.items()):
        raise ValueError("no plan")
    if not isinstance(plan["settings"].get("sounds", {}), dict):
        raise ValueError("no plan of sounds")
    commands, calls, maker = (told.get(key) for key in ("commands", "calls", "maker"))
    return {
        **told,
        "plan": plan,
        "commands": [word for word in commands if isinstance(word, str)]
        if isinstance(commands, list)
        else [],
        "calls": [call for call in calls if isinstance(call, dict)] if isinstance(calls, list) else [],
        "maker": maker if isinstance(maker, dict) else {},
    }


def same_model(one: str, other: str) -> bool:
    """Whether two names mean one model: the same name, or two ways to write the place of one folder or file."""
    return one == other or _place(one) == _place(other)


def _place(model: str) -> str:
    """Where a model of one's own lies, links followed; a name that is no place here stays as it is."""
    return os.path.realpath(model) if os.path.exists(model) else model


def _parts(plan: Plan) -> tuple[Plan, dict[str, str], dict[str, Any]]:
    """What decides about every clip of a plan; each name's text; each name's sound."""
    settings = {key: value for key, value in plan["settings"].items() if key != "sounds"}
    model = _place(plan["model"])
    return (
        plan | {"model": model, "settings": settings, "prompts": None},
        plan["prompts"],
        plan["settings"].get("sounds", {}),
    )


def alike(theirs: Plan, plan: Plan) -> set[str]:
    """Names whose clips two plans make alike: all that decides about a clip but its name's text and sound is one."""
    (rest, texts, sounds), (other, their_texts, their_sounds) = _parts(plan), _parts(theirs)
    if rest != other:
        return set()
    return {
        name
        for name, text in texts.items()
        if their_texts.get(name) == text and their_sounds.get(name) == sounds.get(name)
    }


def joined(plan: Plan, earlier: Iterable[Plan]) -> Plan:
    """The plan with the classes and texts of earlier ones that make clips as it does.

    A name that stands for another text there is not taken over: whoever looks at the folder's files sees that.
    """
    prompts = dict(plan["prompts"])
    for theirs in earlier:
        if _parts(theirs)[0] == _parts(plan)[0]:
            prompts = {**theirs["prompts"], **prompts}
    # as they are asked for, and then the others
    return plan | {"prompts": {**plan["prompts"], **prompts}}


def differences(theirs: Plan, plan: Plan) -> list[str]:
    """What differs between two plans, in words: what this one says, and what the earlier one said."""
    if not same_model(theirs["model"], plan["model"]):
        found = [f"--model {plan['model']}, there {theirs['model']}"]
    else:
        found = ["the model's weights have changed"] if theirs["weights"] != plan["weights"] else []
    (rest, texts, sounds), (other, their_texts, their_sounds) = _parts(plan), _parts(theirs)
    ours, old = rest["settings"], other["settings"]
    for key in dict.fromkeys([*ours, *old]):
        if ours.get(key) != old.get(key):
            option = "--" + key.replace("_", "-")
            found.append(f"{option} {_said(ours.get(key))}, there {_said(old.get(key))}")
    if theirs["format"] != plan["format"]:
        found.append(f"--format {plan['format']}, there {theirs['format']}")
    for name in texts:
        if name in their_texts and their_texts[name] != texts[name]:
            found.append(f"another text for {name}")
        elif name in their_sounds and their_sounds[name] != sounds.get(name):
            found.append(f"another sound or strength for {name}")
    return found


def _said(value: Any) -> str:
    """A setting's value as one types it."""
    if value is None:
        return "none"
    if isinstance(value, dict):  # adapters, by their file and the beginning of its digest
        return f"{value.get('file')} ({str(value.get('digest'))[:8]})"
    return f"{value:g}" if isinstance(value, float) else str(value)
