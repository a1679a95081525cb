"""How eq. 3 pulls at networks that predict something else than noise: formulas, pulls and a figure, for a page."""

from __future__ import annotations

from pathlib import Path

import torch

from latentclap.book.figures import figure_style
from latentclap.book.longer.common import number, save
from latentclap.book.markdown import table
from latentclap.diffusion import CosineTime, NoiseSchedule, Process, RectifiedFlow
from latentclap.files import write_text
from latentclap.losses import READINGS, gradient_factor, mean_pull, step_weight

#: |d latent / d output| by reading, in the terms of :func:`latentclap.losses.gradient_factor`
FORMULAS = {
    r"noise $\epsilon$, `epsilon`": (r"b/a", r"c\,b/a", r"\lvert b' - a'\,b/a \rvert", "b"),
    r"velocity $v$, `v_prediction`": ("b", r"c\,b", r"\lvert a\,b' - a'\,b \rvert", r"a\,b"),
    r"clean latent $s_0$, `sample`": ("1", "c", r"\lvert a' - a\,b'/b \rvert", "a"),
    r"flow $u$, `flow_prediction`": ("t", "", "t - t'", r"t\,(1 - t)"),
}

#: the step at which the paper's w is a tenth
_TENTH = 200
#: the cap of the min-SNR weights of eq. 1 with which TANGO is trained
_GAMMA = 5
#: the betas of stable-diffusion-2-1's scheduler, with which TANGO is trained
_SD = {"beta_start": 0.00085, "beta_end": 0.012, "prediction": "v_prediction"}


def processes() -> dict[str, Process]:
    """What the table has a row for, by its name there; the first is the paper's."""
    return {
        "AudioLDM's schedule, `epsilon`": NoiseSchedule(),
        "AudioLDM's schedule, `v_prediction`": NoiseSchedule(prediction="v_prediction"),
        "AudioLDM's schedule, `sample`": NoiseSchedule(prediction="sample"),
        "Stable Diffusion 2.1's, `v_prediction`": NoiseSchedule(**_SD),
        "the same with zero terminal SNR": NoiseSchedule(**_SD, rescale_betas_zero_snr=True),
        "`squaredcos_cap_v2`, `v_prediction`": NoiseSchedule(
            beta_schedule="squaredcos_cap_v2", prediction="v_prediction"
        ),
        "`CosineTime`, `v_prediction`": CosineTime(),
        "`RectifiedFlow`, `flow_prediction`": RectifiedFlow(),
    }


def predictions_page(out: str | Path = "book/generated/predictions.md") -> Path:
    """Write the formulas, what every prediction makes of the pull, and beside the page the figure of it.

    Args:
        out: the Markdown file to write; the figure is a PNG of the same name.
    """
    out = Path(out)
    figure = out.with_suffix(".png")
    _figure(figure)
    heads = [f"`{reading}`" for reading in READINGS]
    formulas = [(name, *(f"${form}$" if form else "none" for form in row)) for name, row in FORMULAS.items()]
    parts = [
        table(("the network predicts", *heads), formulas, numbers=0),
        "The same over the steps of AudioLDM's schedule, with the flow at $n = t N$, $N = 1000$. Below $n = 5$ a"
        " jump of `ddim` ends at the clean latent:",
        f"![Derivative of what φ is given by the network's output over the step, for each reading and prediction]"
        f"({figure.name})",
        "The pull of eq. 3 is"
        r" $\mathbb{E}_n[w(n)\,\lvert\partial\,\text{latent} / \partial\,\text{output}\rvert]$ over uniform steps."
        " The table has it with the paper's $w$, as a multiple of that in its first row, `x0` of predicted noise."
        " The last two columns are about noise: the signal-to-noise ratio (SNR) at"
        f" $n = {_TENTH}$, where $w$ is a tenth, and the step at which the SNR is AudioLDM's at {_TENTH}.",
        table(
            ("process and prediction", *heads, f"SNR at {_TENTH}", "equal SNR at"),
            _pulls(),
            numbers=len(heads) + 2,
        ),
        _weights(),
    ]
    write_text(out, "\n\n".join(parts) + "\n")
    return out


def _pulls() -> list[tuple[str, ...]]:
    """mean_pull of every process and reading over the first's, the SNR where w is a tenth, the step as noisy."""
    first, tenth = mean_pull(), torch.tensor([_TENTH])
    return [
        (
            name,
            *(
                "none"
                if process.continuous and reading == "posterior"
                else number(mean_pull(reading=reading, schedule=process) / first)
                for reading in READINGS
            ),
            number(process.snr(process.at_number(tenth)).item()),
            f"{as_noisy(process):.0f}",
        )
        for name, process in processes().items()
    ]


def as_noisy(process: Process) -> float:
    """The step number n (of a time t, t N) at which the SNR is that of AudioLDM's schedule where w is a tenth."""
    steps = process.grid()
    least = NoiseSchedule().snr(torch.tensor([_TENTH]))
    nearest = (process.snr(steps).log() - least.log()).abs().argmin()
    return process.number(steps)[nearest].item()


def _weights() -> str:
    """What w(n) is needed for, with noise and with v, and what weights of eq. 1 do beside it."""
    late = {}
    for prediction in ("epsilon", "v_prediction"):
        f = gradient_factor("x0", NoiseSchedule(), torch.arange(1000), prediction=prediction)
        late[prediction] = f[500:].sum() / f.sum(), f.max().item()
    (noise, most), (v, least) = late.values()
    gains = {
        p: mean_pull("constant", prediction=p) / mean_pull(prediction=p) for p in ("epsilon", "v_prediction")
    }
    sd = NoiseSchedule(**_SD)
    w, snr = step_weight(sd.grid()), sd.snr(sd.grid())
    weighted = (w * snr.clamp(max=_GAMMA) / snr).sum() / w.sum()
    return (
        f"Without a weight ($w = 1$) the noisier half of AudioLDM's steps would have {noise:.0%} of the pull of `x0`"
        f" with predicted noise, and {v:.0%} with $v$; the largest derivative is {number(most)} with noise and"
        f" {number(least)} with $v$. The paper's $w$ makes the mean pull {number(gains['epsilon'])} times smaller"
        f" with noise, and {number(gains['v_prediction'])} times with $v$.\n\n"
        "Min-SNR weights of eq. 1,"
        rf" $\min(\text{{SNR}}, {_GAMMA}) / \text{{SNR}}$ in Stable Diffusion 2.1's schedule, are small where $w$ is"
        f" large: their mean over the steps, weighted by $w$, is {number(weighted.item())}."
    )


def _figure(out: Path) -> None:
    """The derivative over the step, a panel for each reading; the flow at n = t N."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    flow = RectifiedFlow()
    n, t = torch.arange(1000), flow.grid()
    with mpl.rc_context():
        figure_style()
        figure = Figure(figsize=(7.2, 5.0))
        panels = figure.subplots(2, 2, sharex=True).flat
        for axes, reading in zip(panels, READINGS, strict=True):
            for prediction in NoiseSchedule.predictions:
                f = gradient_factor(reading, NoiseSchedule(), n, prediction=prediction)
                axes.semilogy(n, f, label=prediction)
            if reading != "posterior":
                axes.semilogy(flow.number(t), gradient_factor(reading, flow, t), label="flow_prediction")
            axes.set_title(reading)
            axes.set_ylim(bottom=max(axes.get_ylim()[0], 1e-3))
        handles, names = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside upper center", ncols=len(names))
        figure.supxlabel("diffusion step $n$; of the flow $n = t N$", fontsize="medium")
        figure.supylabel("|d latent / d output|", fontsize="medium")
        save(figure, out)
