"""The model that is played, and one clip of it: made as ``latentclap generate`` or ``vary`` would make it alone."""

from __future__ import annotations

import shlex
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentclap.asked import way_of
from latentclap.checkpoints import Sampling
from latentclap.errors import InputError
from latentclap.generation import make_plan, write_clips
from latentclap.options import asked_sampling, load_system, read_adapter
from latentclap.play.wish import Wish
from latentclap.runs import config_hash
from latentclap.vary.sounds import STRENGTH, Sounds, check_files, find_sources
from latentclap.vary.takes import lengths_of, make_takes

if TYPE_CHECKING:
    from latentclap.lora import Adapter
    from latentclap.system import FoleySystem

#: DDIM's stochasticity, as generate has it by default.
ETA = 0.0


@dataclass(frozen=True)
class Made:
    """A clip that was made.

    Attributes:
        path: the sound file, by itself in a folder.
        settings: what decides how it sounds, beside text and model, JSON-ready.
        maker: device, versions and code, as :func:`latentclap.generation.write_clips` tells them.
        about: of a take: its sound's file, strength and digest.
        warned: what was warned of, the first of it.
    """

    path: Path
    settings: dict[str, Any]
    maker: dict[str, Any]
    about: dict[str, Any]
    warned: str = ""


@dataclass(frozen=True)
class Maker:
    """A model, as it was named and as it is loaded.

    Attributes:
        model: "mini", a folder, a hub name or an original file.
        system: that one, with the adapters.
        own: how it is sampled where nothing is said.
        lora: where the adapters were read from.
        adapter: those.
        device: as it was named.
        steered_not: why a sound cannot steer its own takes; empty: it can.
    """

    model: str
    system: FoleySystem
    own: Sampling
    lora: Path | None = None
    adapter: Adapter | None = None
    device: str = "auto"
    steered_not: str = ""

    @classmethod
    def load(cls, model: str, lora: Path | None, device: str) -> Maker:
        """Load a model once, for all clips.

        Raises:
            InputError: no such system, adapters or device, or damaged files.
        """
        own = asked_sampling(model, None, None, None)
        adapter = read_adapter(lora)
        system = load_system(model, device)
        if adapter:
            system = adapter.applied(system)
        from latentclap.vary.process import check_steering

        steered_not = ""
        try:
            check_steering(system)
        except InputError as error:
            steered_not = str(error).partition(":")[0]
        return cls(model, system, own, lora, adapter, device, steered_not)

    @cached_property
    def weights(self) -> str:
        """Twelve digits that change with the weights; empty for large ones, which a plan knows by their time."""
        stamps = make_plan(self.model, {}, {}, "wav")["weights"]
        return config_hash(stamps) if all(isinstance(stamp[-1], str) for stamp in stamps) else ""

    def calls(self, wish: Wish) -> int:
        """Calls of the UNet that one clip takes."""
        if wish.sound is None:
            return wish.sampling.steps
        from latentclap.vary.process import start_of

        return start_of(wish.strength, wish.sampling.steps, self.system.schedule.steps)[1]

    @contextmanager
    def watched(self, step: Callable[[], None]) -> Iterator[None]:
        """Call ``step`` before each call of the UNet; what it raises ends the sampling."""
        hook = self.system.unet.register_forward_pre_hook(lambda *_: step())
        try:
            yield
        finally:
            hook.remove()

    def make(self, wish: Wish, seed: int, folder: Path, sound: Path | None = None) -> Made:
        """Make one clip in a new folder.

        Args:
            wish: what is asked for.
            seed: of this one.
            folder: an empty one.
            sound: the file that a take is made of.

        Raises:
            InputError: what cannot be sampled, or a sound that cannot be varied.
        """
        settings = {**wish.sampling.asdict(), "eta": ETA, "seed": seed}
        way = way_of(wish.finish, self.adapter)
        # a clip is warned of once, not once in a process
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always", UserWarning)
            if sound is None:
                name, about = wish.name, {}
                plan = make_plan(self.model, settings | way, {name: wish.text}, "wav")
                path = folder / name / f"{name}_000.wav"
                made = write_clips(
                    self.system, {name: wish.text}, {name: [path]}, settings, 1, True, {}, plan, wish.finish
                )
            else:
                path, about, made = self._take(wish, settings, way, folder, sound)
        words = [str(warning.message) for warning in told if issubclass(warning.category, UserWarning)]
        return Made(path, settings | way, made[path], about, words[0] if words else "")

    def _take(
        self, wish: Wish, settings: dict[str, Any], way: dict[str, Any], folder: Path, sound: Path
    ) -> tuple[Path, dict[str, Any], dict[Path, dict[str, Any]]]:
        sources = find_sources([sound], [wish.strength])
        (source,) = sources
        check_files(sources)
        heard = Sounds(sources, self.system.samples)
        lengths_of(wish.finish, heard, self.system.seconds)
        name = source.name
        plan = make_plan(
            self.model, {**settings, **way, "sounds": {name: source.asdict()}}, {name: wish.text}, "wav"
        )
        path = folder / name / f"{name}_000.wav"
        make = make_takes(self.system, sources, heard, settings, 1)
        made = write_clips(
            self.system,
            {name: wish.text},
            {name: [path]},
            settings,
            1,
            True,
            {},
            plan,
            wish.finish,
            make,
            {name: source.said},
        )
        return path, {"sound": source.title, **source.asdict()}, made

    def command(self, wish: Wish, seed: int, out: str, sound: str = "") -> str:
        """The command that makes the very same clip, as one types it in a shell.

        Args:
            wish: what was asked for.
            seed: of the clip.
            out: name of the folder that it goes into.
            sound: name of the file that a take was made of.
        """
        words = ["latentclap", "vary", sound] if sound else ["latentclap", "generate"]
        if sound:
            words += ["-n", "1"]
            words += ["--strength", repr(wish.strength)] if wish.strength != STRENGTH else []
        if wish.cls:
            words += ["--classes", wish.cls]
        elif wish.text:
            words += ["--prompt", wish.text]
        words += ["--seed", str(seed), *self._sampled(wish.sampling)]
        for key, value in wish.finish.asked().items():
            words += [f"--{key.replace('_', '-')}", _typed(value)]
        words += ["--model", self.model] if self.model != "mini" else []
        words += ["--lora", str(self.lora)] if self.lora else []
        words += ["--device", self.device] if self.device != "auto" else []
        return shlex.join([*words, "-o", out])

    def _sampled(self, sampling: Sampling) -> list[str]:
        """Options for what is not the model's own."""
        words = []
        if sampling.sampler != self.own.sampler:
            words += ["--sampler", sampling.sampler]
        without = self.own.but(sampling.sampler)
        if sampling.steps != without.steps:
            words += ["--steps", str(sampling.steps)]
        if sampling.guidance_scale != without.guidance_scale:
            words += ["--guidance-scale", _typed(sampling.guidance_scale)]
        return words


def _typed(value: float) -> str:
    """A number in the fewest digits that mean the very same."""
    return repr(int(value) if float(value).is_integer() else value)
