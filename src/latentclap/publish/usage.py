"""The code that a card prints: how to load and sample what was published. The tests run it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from typing import Any

#: diffusers' scheduler for each of our samplers; DDIM's is the one in the folder
_SCHEDULERS = {"dpmsolver++": "DPMSolverMultistepScheduler", "unipc": "UniPCMultistepScheduler"}


def example(told: dict[str, Any]) -> str:
    """A text that it was trained with, for examples: the most frequent one."""
    texts = told["record"].get("data", {}).get("texts", {})
    return next(iter(texts), "This is a sound of rain.")


def loading(told: dict[str, Any]) -> Iterator[str]:
    """What has to be there before the code runs."""
    from latentclap.publish.card import REPOSITORY

    folder = told["name"].partition("/")[2] or told["name"]
    if told["pushed"]:
        yield (
            f"By its name it is downloaded; `hf download {told['name']} --local-dir {folder}` keeps it in a folder,"
            " which can be named instead."
        )
    yield (
        f"latentclap is at {REPOSITORY}."
        + (" Adapters are loaded from a folder or file, so download them first." if told["adapters"] else "")
    )


def latentclap_code(told: dict[str, Any]) -> str:
    """With latentclap, in a terminal and from Python."""
    text = " ".join(example(told).split())
    name = _folder(told) if told["adapters"] else told["name"]
    base = told["base"].get("load", "")
    model = f"--model {_word(base)} --lora {_word(name)}" if told["adapters"] else f"--model {_word(name)}"
    loaded = f"FoleySystem.from_pretrained({_string(base if told['adapters'] else name)})"
    merged = f".with_lora({_string(name)})" if told["adapters"] else ""
    download = (
        f"hf download {told['name']} --local-dir {_word(name)}\n"
        if told["pushed"] and told["adapters"]
        else ""
    )
    return (
        f"```bash\n{download}latentclap generate {model} --prompt {shlex.quote(text)} -n 8 -o clips\n```\n\n"
        "```python\n"
        "from latentclap import FoleySystem\n"
        "from latentclap.audio import write_wave\n\n"
        f"system = {loaded}{merged}\n"
        f"waves = system.generate(prompts=[{_string(text)}], n=2, seed=0)\n"
        'write_wave("clip.wav", waves[0], system.sampling_rate)\n'
        "```\n\n" + _defaults(told)
    )


def _defaults(told: dict[str, Any]) -> str:
    chosen = told["system"]["sampling"]
    of = "the base's" if told["adapters"] else "its `latentclap.json`'s"
    return (
        f"Where nothing else is said it is sampled with {of} settings: {chosen['sampler']}, {chosen['steps']} steps,"
        f" guidance {chosen['guidance_scale']:g}."
    )


def diffusers_code(told: dict[str, Any]) -> str:
    """With diffusers alone, and what is different there."""
    if told["adapters"] and told["system"]["tuning"]:
        return (
            "diffusers alone cannot load it: beside the adapters a tuning layer behind the text encoder was trained,"
            " which diffusers leaves out."
        )
    system, chosen = told["system"], told["system"]["sampling"]
    scheduler = _SCHEDULERS.get(chosen["sampler"])
    lines = ["import soundfile", "import torch"]
    lines.append("from diffusers import " + ", ".join(sorted(filter(None, ("AudioLDMPipeline", scheduler)))))
    lines += [""] if not told["adapters"] else _base_code(told)
    if not told["adapters"]:
        lines.append(f"pipe = AudioLDMPipeline.from_pretrained({_string(told['name'])})")
    if scheduler:
        lines.append(f"pipe.scheduler = {scheduler}.from_config(pipe.scheduler.config)")
    lines += [
        "wave = pipe(",
        f"    {_string(' '.join(example(told).split()))},",
        f"    audio_length_in_s={system['seconds']:g},",
        f"    num_inference_steps={chosen['steps']},",
        f"    guidance_scale={chosen['guidance_scale']:g},",
        "    generator=torch.Generator().manual_seed(0),",
        ").audios[0]",
        f'soundfile.write("clip.wav", wave, {system["sampling_rate"]})',
    ]
    return "From diffusers:\n\n```python\n" + "\n".join(lines) + "\n```\n\n" + _differences(told)


def _base_code(told: dict[str, Any]) -> list[str]:
    """Loading adapters onto their base; mini's own form is none that diffusers opens."""
    base, lines = told["base"].get("load", ""), []
    if base == "mini":
        lines += [
            "from latentclap import FoleySystem",
            "",
            "# mini comes with latentclap, in a form that diffusers does not open",
            'FoleySystem.from_pretrained("mini").save_pretrained("base")',
        ]
        base = "base"
    else:
        lines.append("")
    lines.append(f"pipe = AudioLDMPipeline.from_pretrained({_string(base)})")
    lines.append(
        f'pipe.unet.load_lora_adapter({_string(_folder(told))}, prefix="unet", use_safetensors=True)'
    )
    return lines


def _differences(told: dict[str, Any]) -> str:
    lines = ["The same seed gives another clip there: the noise is drawn in another way."]
    if told["system"]["polish"] is not None:
        lines.append(
            "The pipeline leaves out the last step of latentclap, which makes the wave agree with its log-mel"
            f" ({told['system']['polish']} iterations); how much that changes was not measured for this system."
        )
    if told["system"]["tuning"] and not told["adapters"]:
        lines.append("Its tuning layer is folded into the UNet that the pipeline opens.")
    return " ".join(lines)


def _folder(told: dict[str, Any]) -> str:
    return told["name"].partition("/")[2] or told["name"]


def _word(text: str) -> str:
    return shlex.quote(text)


def _string(text: str) -> str:
    """A string of Python's; letters of other scripts stay as they are."""
    return json.dumps(text, ensure_ascii=False)
