"""The DAG: data -> executed notebooks -> book.   snakemake --cores 2 --config profile=quick

The same file runs a sweep in parallel, here or on a cluster:
    snakemake sweep --cores 2 --config profile=mini
    snakemake sweep --config profile=paper --profile data_scripts/profiles/slurm
Notebooks run alone too (papermill notebooks/03_finetune.ipynb out.ipynb -p lam 1000): nothing below is needed for that.
"""

import hashlib
import os
import sys
from pathlib import Path

from snakemake.utils import Paramspace

PROFILE = config.get("profile", "quick")
if PROFILE.endswith(".toml"):  # a profile of one's own
    PROFILE = os.path.abspath(PROFILE)
NAME = Path(PROFILE).stem
DATA = os.path.abspath(config["data"]) if config.get("data") else ""
# executed notebooks of another data folder are other notebooks
KEY = NAME + (f"-{hashlib.sha256(DATA.encode()).hexdigest()[:6]}" if DATA else "")
EXECUTED = f"runs/{NAME}/executed/{KEY}"
BIN = os.path.dirname(sys.executable)
NOTEBOOKS = sorted(p.stem for p in Path("notebooks").glob("*.ipynb"))
# what was measured of the weights is shown in the book, and changes nothing else
FIGURES = sorted(map(str, Path("src/latentclap/weights/mini").glob("[qs]*.json")))
SOURCE = sorted(
    str(p)
    for p in Path("src").rglob("*")
    if p.suffix in (".py", ".toml", ".safetensors", ".json") and p.is_file() and str(p) not in FIGURES
)
PROSE = sorted(
    str(p)
    for p in Path("book").rglob("*")
    if p.suffix in (".md", ".yml", ".bib", ".css", ".js", ".svg", ".html")
    and not {"_build", "generated", "notebooks", "audio"} & set(p.parts)
)
# what a notebook leaves for another one to find; running them in this order only saves time
AFTER = {"03_finetune": ["00_data"], "04_table1": ["00_data"], "02_ablation": ["00_data"], "06_fig3": ["00_data"],
         "01_latent_clap": ["00_data"], "07_efficiency": ["04_table1"], "05_table2": [], "00_data": []}

Path(EXECUTED).mkdir(parents=True, exist_ok=True)
# where `make book` finds the timings of what it just ran
Path(f"runs/{NAME}/executed/latest").write_text(EXECUTED + "\n")

os.environ["LATENTCLAP_DATA"] = DATA
if config.get("runs"):  # a pod's own disk goes with the pod: checkpoints belong on a volume
    os.environ["LATENTCLAP_RUNS"] = config["runs"]
# one core per notebook; two run at a time
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1" if PROFILE != "paper" else "0")


rule book:
    input:
        notebooks=expand(f"{EXECUTED}/{{name}}.done", name=NOTEBOOKS),
        figures=FIGURES,
        card="src/latentclap/weights/mini/model_card.json",
        similarity=f"{EXECUTED}/similarity.json",
        fidelity="tests/fidelity/results.json",
        mistakes="book/runs/bad_input.json",
        rates="book/runs/rates.json",
        cache="book/runs/cache_rate.json",
        full=sorted(map(str, Path("book/runs").glob("cache_rate_*.json"))),
        speed=sorted(map(str, Path("book/runs").glob("speed*.json"))),
        family=sorted(map(str, Path("book/runs").glob("family.json"))),
        prose=PROSE,
    output:
        "book/_build/html/index.html",
    benchmark:
        f"{EXECUTED}/book.tsv"
    params:
        notebooks=expand(f"{EXECUTED}/{{name}}.ipynb", name=NOTEBOOKS),
        executed=EXECUTED,
        key=KEY,
        times="book/runs/family.json",
        records=lambda w, input: " ".join(f"--speed {record}" for record in input.speed),
    log:
        f"{EXECUTED}/book.log",
    shell:
        # a page of another profile's run must not stay behind: the folders are made anew
        "echo 'building the book' >&2; rm -rf book/notebooks book/generated book/_static/audio book/_build && {{ "
        "{BIN}/python -m latentclap.book collect {params.notebooks} --out book/notebooks && "
        "{BIN}/python -m latentclap.book listening $(cat {params.executed}/04_table1.listening) --scale {input.similarity} && "
        "{BIN}/python -m latentclap.book modelcard {input.card} --times {params.times} $(test -f {params.executed}/03_finetune.listening "
        "&& echo --listen $(cat {params.executed}/03_finetune.listening)) && "
        "{BIN}/python -m latentclap.book fidelity {input.fidelity} && "
        "{BIN}/python -m latentclap.book badinput {input.mistakes} && "
        "{BIN}/python -m latentclap.book cost {input.rates} {params.records} && "
        "{BIN}/python -m latentclap.book cache {input.cache} && "
        "{BIN}/python -m latentclap.book speed {input.speed} && "
        "{BIN}/jupyter-book build book -W -n --keep-going --quiet; }} > {log} 2>&1 "
        "|| {{ rm -rf book/_build; tail -n 40 {log} >&2; exit 1; }}"


rule similarity:
    input:
        source=SOURCE,
        after=f"{EXECUTED}/00_data.done",
    output:
        f"{EXECUTED}/similarity.json",
    params:
        profile=PROFILE,
        data=DATA,
    threads: 1
    shell:
        "{BIN}/python -m latentclap.book similarity --profile {params.profile:q} --data {params.data:q} --out {output} > /dev/null"


rule notebook:
    input:
        notebook="notebooks/{name}.ipynb",
        source=SOURCE,
        after=lambda w: [f"{EXECUTED}/{name}.done" for name in AFTER.get(w.name, [])],
    output:
        # the executed notebook is a log, not an output: Snakemake deletes the outputs of a failed job,
        # and a notebook that failed is what one wants to read
        f"{EXECUTED}/{{name}}.done",
    log:
        notebook=f"{EXECUTED}/{{name}}.ipynb",
        text=f"{EXECUTED}/{{name}}.log",
    benchmark:
        f"{EXECUTED}/{{name}}.tsv"
    params:
        profile=PROFILE,
    threads: 1
    shell:
        "{BIN}/papermill {input.notebook} {log.notebook} -k python3 -p profile {params.profile} --cwd . "
        "> {log.text} 2>&1 || {{ echo \"{wildcards.name} failed; read {log.notebook}\" >&2; "
        "tail -n 25 {log.text} >&2; exit 1; }}; echo \"{wildcards.name} done\" >&2; "
        "{BIN}/python -m latentclap.workflow artefacts {log.notebook} --listening > /dev/null && touch {output}"


# the long ones first, so that no core waits at the end for the last of them
use rule notebook as long_notebook with:
    wildcard_constraints:
        name="02_ablation|04_table1|06_fig3",
    priority: 10


ruleorder: long_notebook > notebook


# --------------------------------------------------------------------------------------------- sweep


def grid():
    """λ x tuning layer x seed of Fig. 3, from the profile."""
    import pandas as pd
    from latentclap.profiles import load_profile

    sweep = load_profile(PROFILE).sweep
    lams = sorted({0.0, *sweep.lams})
    return pd.DataFrame(
        [
            {"lam": lam, "tuning": tuning, "seed": seed, "epochs": sweep.epochs}
            for seed in sweep.seeds
            for tuning in (False, True)
            for lam in lams
        ]
    )


SPACE = Paramspace(grid(), filename_params="*") if "sweep" in sys.argv else None

if SPACE is not None:

    rule sweep:
        input:
            [f"runs/{NAME}/sweep/{KEY}/{point}/metrics.json" for point in SPACE.instance_patterns],

    rule point:
        input:
            notebook="notebooks/03_finetune.ipynb",
        output:
            f"runs/{NAME}/sweep/{KEY}/{SPACE.wildcard_pattern}/metrics.json",
        log:
            notebook=f"runs/{NAME}/sweep/{KEY}/{SPACE.wildcard_pattern}/03_finetune.ipynb",
            text=f"runs/{NAME}/sweep/{KEY}/{SPACE.wildcard_pattern}/03_finetune.log",
        params:
            point=SPACE.instance,
            profile=PROFILE,
        threads: 1
        resources:
            # one GPU a job where the executor knows about them
            gpu=1 if PROFILE == "paper" else 0,
        shell:
            "{BIN}/papermill {input.notebook} {log.notebook} -k python3 --cwd . -p profile {params.profile} "
            "-p lam {params.point[lam]} -p tuning {params.point[tuning]} -p seed {params.point[seed]} "
            "-p epochs {params.point[epochs]} > {log.text} 2>&1 || {{ tail -n 25 {log.text} >&2; exit 1; }}; "
            "cp \"$({BIN}/python -m latentclap.workflow artefacts {log.notebook})/metrics.json\" {output}"
