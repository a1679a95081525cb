"""The DAG: data -> executed notebooks -> book.   snakemake --cores 2 --config profile=quick

The same file runs a sweep in parallel, here or on a cluster:
    snakemake sweep --cores 2 --config profile=mini
    snakemake sweep --config profile=paper --profile data_scripts/profiles/slurm
config: profile=name or .toml file, data=folder in DCASE layout, runs=folder for artefacts, root=folder that holds
checkpoints/, data/ and runs/ where the working folder is only a copy of the sources, as in a pod.
Notebooks run alone too (papermill notebooks/03_finetune.ipynb out.ipynb -p lam 1000): nothing below is needed for that.
"""

import contextlib
import functools
import hashlib
import os
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

# this folder's package, whatever else is installed: a pod has the sources that it was sent, beside its image's
sys.path.insert(0, os.path.abspath("src"))
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [os.path.abspath("src"), os.environ.get("PYTHONPATH")]))

from latentclap import gpus
from latentclap.errors import InputError

unknown = sorted(set(config) - {"profile", "data", "runs", "root"})
if unknown:
    raise WorkflowError(f"--config {', '.join(unknown)}: unknown; there are profile, data, runs and root")

# Snakemake reads what --config is given as YAML: a folder named 2023 arrives as a number, nothing at all as None
config.update({name: "" if value is None else str(value) for name, value in config.items()})
ROOT = os.path.abspath(config["root"]) if config.get("root") else ""
if ROOT:  # profiles name these folders from the working folder on
    if not os.path.isdir(ROOT):
        raise WorkflowError(f"root={ROOT}: no such folder")
    for name in ("checkpoints", "data", "runs"):
        os.makedirs(os.path.join(ROOT, name), exist_ok=True)
        there = os.path.join(ROOT, name)
        with contextlib.suppress(FileExistsError):  # the root is this folder, or another job was first
            os.symlink(there, name)
        if not os.path.samefile(there, name):
            raise WorkflowError(
                f"root={ROOT}: this folder has a {name} of its own, which jobs elsewhere would not see;"
                f" move it to {there}"
            )

PROFILE = config.get("profile") or "quick"
if PROFILE.endswith(".toml"):  # a profile of one's own
    PROFILE = os.path.abspath(PROFILE)
NAME = Path(PROFILE).stem
DATA = os.path.abspath(os.path.join(ROOT, os.path.expanduser(config["data"]))) if config.get("data") else ""
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
    if p.suffix in (".md", ".yml", ".bib", ".css", ".js", ".svg", ".html", ".py")
    and not {"_build", "generated", "notebooks", "audio"} & set(p.parts)
)
# whose --help the book has
SCRIPTS = sorted(map(str, Path("data_scripts").rglob("*.py")))
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


def chosen():
    """The profile, or one line on what is wrong with it."""
    from latentclap.profiles import load_profile

    try:
        return load_profile(PROFILE)
    except InputError as error:
        raise WorkflowError(str(error)) from None


@functools.cache
def outside():
    """A hash of what decides notebooks and is not in this folder: a profile and a data folder of one's own, checkpoints."""
    from latentclap.needs import outside as files
    from latentclap.runs import config_hash

    return config_hash([chosen().as_dict(), files(chosen(), DATA)])


def offline():
    """Whether the hub is left alone: it is asked for nothing but models that a profile names."""
    from latentclap.needs import uses_hub

    return PROFILE != "paper" and not uses_hub(chosen())


os.environ.setdefault("HF_HUB_OFFLINE", "1" if offline() else "0")

# A GPU for a job, where there is one; profile paper cannot do without. Where a cluster starts the jobs, it is the
# Snakemake profile that says so (set-resources): the machine that submits may have none.
GPUS = len(gpus.visible())
GPU = 1 if GPUS or PROFILE == "paper" else 0
if GPU and workflow.is_main_process and workflow.resource_settings.nodes is None:
    # jobs on this machine: one at a time on each GPU, unless --resources gpu=... says otherwise
    workflow.global_resources.setdefault("gpu", max(1, GPUS))


#: pages of runs that are too long for `make book`, and their records
LONGER = {
    "longer": "book/runs/table1_evening.json",
    "longer_eq3": "book/runs/ablation_evening.json",
    "longer_fig3": "book/runs/fig3_evening.json",
}


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
        longer=list(LONGER.values()),
        own="book/runs/own/own.json",
        vary="book/runs/vary/vary.json",
        lora="book/runs/lora.json",
        forgetting="book/runs/forgetting.json",
        compare="book/runs/compare_evening.json",
        real="book/runs/compare_real.json",
        measures="book/runs/measures.json",
        scripts=SCRIPTS,
        prose=PROSE,
    output:
        "book/_build/html/index.html",
    benchmark:
        f"{EXECUTED}/book.tsv"
    params:
        notebooks=expand(f"{EXECUTED}/{{name}}.ipynb", name=NOTEBOOKS),
        executed=EXECUTED,
        key=KEY,
        profile=PROFILE,
        times="book/runs/family.json",
        table1=LONGER["longer"],
        fig3=LONGER["longer_fig3"],
        longer=" && ".join(
            f"{BIN}/python -m latentclap.book longer {record} --out book/generated/{page}.md"
            for page, record in LONGER.items()
        ),
        records=lambda w, input: " ".join(f"--speed {record}" for record in input.speed),
    log:
        f"{EXECUTED}/book.log",
    shell:
        # a page of another profile's run must not stay behind: the folders are made anew
        "echo 'building the book' >&2; rm -rf book/notebooks book/generated book/_static/audio book/_build && {{ "
        "{BIN}/python -m latentclap.book collect {params.notebooks} --out book/notebooks && "
        "{BIN}/python -m latentclap.book listening $(cat {params.executed}/04_table1.listening) --scale {input.similarity} && "
        "{BIN}/python -m latentclap.book start $(cat {params.executed}/04_table1.listening) --record {params.table1} --sweep {params.fig3} && "
        "{BIN}/python -m latentclap.book rate $(cat {params.executed}/04_table1.listening) && "
        "{BIN}/python -m latentclap.book loops $(cat {params.executed}/04_table1.listening) && "
        "{BIN}/python -m latentclap.book modelcard {input.card} --times {params.times} $(test -f {params.executed}/03_finetune.listening "
        "&& echo --listen $(cat {params.executed}/03_finetune.listening)) && "
        "{BIN}/python -m latentclap.book fidelity {input.fidelity} && "
        "{BIN}/python -m latentclap.book badinput {input.mistakes} && "
        "{BIN}/python -m latentclap.book cost {input.rates} {params.records} --built {params.profile:q} "
        "--own $({BIN}/python -m latentclap.workflow artefacts {params.executed}/07_efficiency.ipynb) && "
        "{BIN}/python -m latentclap.book cache {input.cache} && "
        "{BIN}/python -m latentclap.book speed {input.speed} && "
        "{params.longer} && "
        "{BIN}/python -m latentclap.book own $(dirname {input.own}) && "
        "{BIN}/python -m latentclap.book vary $(dirname {input.vary}) && "
        "{BIN}/python -m latentclap.book lora {input.lora} && "
        "{BIN}/python -m latentclap.book forgetting {input.forgetting} && "
        "{BIN}/python -m latentclap.book compare {input.compare} {input.real} {input.measures} && "
        "{BIN}/python -m latentclap.book predictions && "
        "{BIN}/python -m latentclap.book commands && "
        "{BIN}/jupyter-book build book -W -n --keep-going --quiet && {BIN}/python -m latentclap.book downloads book/_build/html; }} > {log} 2>&1 "
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
        decides=lambda w: outside(),
    threads: 1
    resources:
        gpu=GPU,
    shell:
        "{BIN}/python -m latentclap.gpus {BIN}/python -m latentclap.book similarity --profile {params.profile:q} --data={params.data:q} --out {output} > /dev/null"


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
        decides=lambda w: outside(),
    threads: 1
    resources:
        gpu=GPU,
    shell:
        "{BIN}/python -m latentclap.gpus {BIN}/papermill {input.notebook} {log.notebook} -k python3 -p profile {params.profile:q} --cwd . "
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


# Jobs that an executor starts read this file anew, with nothing but the point's name: what follows depends on no target.
POINT = f"runs/{NAME}/sweep/{KEY}/lam~{{lam}}_tuning~{{tuning}}_seed~{{seed}}"


def points(wildcards):
    """The results of Fig. 3's points. What all of them would miss is told here, before any of them is queued."""
    from latentclap.needs import missing
    from latentclap.point import grid

    lacking = missing(chosen(), DATA)
    if lacking:
        raise WorkflowError(f"profile {NAME} names what is not there: {'; '.join(lacking)}")
    return [
        f"{POINT}/metrics.json".format(lam=lam, tuning=tuning, seed=seed)
        for lam, tuning, seed in grid(chosen())
    ]


def decides(wildcards):
    """A hash of what decides a point's result beside its name: code, profile, weights, data.

    By content, not as input files: those an executor without a shared file system would copy one by one to each job.
    """
    from latentclap.files import file_sha256
    from latentclap.runs import code_hash, config_hash

    weights = [file_sha256(path) for path in SOURCE if path.endswith(".safetensors")]
    return config_hash([code_hash(), outside(), weights])


rule sweep:
    input:
        points,


rule point:
    output:
        f"{POINT}/metrics.json",
    log:
        f"{POINT}/log.txt",
    wildcard_constraints:
        lam="[^/_]+",
        tuning="True|False",
        seed=r"\d+",
    params:
        profile=PROFILE,
        data=DATA,
        tuning=lambda w: "--tuning" if w.tuning == "True" else "--no-tuning",
        # trained points lie by their own hash, so that one that this changed for nothing is found and only scored
        decides=decides,
    threads: 1
    resources:
        gpu=GPU,
    shell:
        # a cluster's profile gives a job more cores (set-threads); here a point has one, and its neighbours the others
        "OMP_NUM_THREADS=$(( {threads} > 1 ? {threads} : OMP_NUM_THREADS )) "
        "{BIN}/python -m latentclap.gpus {BIN}/python -m latentclap.point --profile {params.profile:q} --data={params.data:q} "
        "--lam {wildcards.lam} {params.tuning} --seed {wildcards.seed} --out {output} "
        "> {log} 2>&1 || {{ tail -n 25 {log} >&2; exit 1; }}"
