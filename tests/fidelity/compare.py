"""Run every comparison with implementations that are not ours and write results.json, which the book shows.

    python tests/fidelity/compare.py            # what the tests run, and 200 sampling steps: minutes
    python tests/fidelity/compare.py --full     # and audioldm-m-full's sizes: 12 GB of memory, 5 GB of disk

The organisers' statistics are looked for in ../shared/data, beside the repository; without them their row of an
earlier run stays.
"""

import argparse
import dataclasses
import tempfile
import time
from pathlib import Path

import checks
import originals

from latentclap.convert import convert_audioldm
from latentclap.files import read_json, write_json
from latentclap.models import random_system, train_tokenizer

RESULTS = Path(__file__).with_name("results.json")
STATISTICS = Path(__file__).parents[3] / "shared" / "data" / "dcase_eval_vggish_stats.npz"
WORDS = [
    "a dog bark",
    "rain",
    "a gun shot",
    "someone using keyboard",
    "foot steps",
    "a man cough",
    "a moving motor",
]

#: Groups in the order of the book's tables.
ORDER = (
    "mel",
    "audioldm",
    "ema",
    "audioldm-full",
    "laion-tiny",
    "laion-base",
    "laion-full",
    "cnn10",
    "diffusers",
    "vggish",
    "fad",
    "organisers",
)


def tokenizer(folder):
    """A small tokenizer in a folder."""
    train_tokenizer(WORDS, 400, max_length=512).save_pretrained(folder)
    return folder


def quick(folder):
    """(key, row) of everything but the full sizes, and notes."""
    words = tokenizer(folder / "roberta-base")
    converted = checks.convert_tiny(folder, words, ema=False)
    groups = {
        "mel": checks.mel(),
        "audioldm": checks.audioldm(converted.system, "tiny", long=True),
        "ema": checks.ema(checks.convert_tiny(folder, words)),
        "laion-tiny": checks.laion("HTSAT-tiny"),
        "laion-base": checks.laion("HTSAT-base"),
        "diffusers": checks.pipeline(random_system("tiny", seed=1), folder / "pipeline"),
        "cnn10": checks.cnn10(),
        "vggish": checks.vggish(),
        "fad": checks.fad(),
    }
    if STATISTICS.is_file():
        groups["organisers"] = checks.organisers(STATISTICS)
    rows = {name: list(group) for name, group in groups.items()}
    return rows, {"eight_heads_tiny": checks.eight_heads(converted.system, "tiny")}


def full(folder):
    """The same for files of the full sizes, with the time that a conversion takes."""
    path = originals.write_ckpt(folder / "audioldm-m-full.ckpt", originals.original_state("m_full"))
    words = tokenizer(folder / "roberta-base")
    start = time.perf_counter()
    converted = convert_audioldm(path, tokenizer=words, ema=False)
    seconds = time.perf_counter() - start
    rows = {"audioldm-full": list(checks.audioldm(converted.system, "m_full", long=True))}
    notes = {
        "eight_heads_m_full": checks.eight_heads(converted.system, "m_full"),
        "file_bytes": path.stat().st_size,
        "convert_seconds": seconds,
        "reports": [{k: v for k, v in r.as_dict().items() if k != "benign"} for r in converted.reports],
    }
    path.unlink()
    rows["laion-full"] = list(checks.laion("HTSAT-base", checks.FULL_TEXT, text_name="12 layers"))
    return rows, notes


def main():
    """Compare, print, and write what was measured over the results of earlier runs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="audioldm-m-full's sizes instead")
    run = full if parser.parse_args().full else quick
    with tempfile.TemporaryDirectory() as folder:
        rows, notes = run(Path(folder))
    known = read_json(RESULTS) if RESULTS.is_file() else {"groups": {}, "notes": {}}
    groups = known["groups"] | {name: [dataclasses.asdict(r) for r in group] for name, group in rows.items()}
    known["groups"] = {name: groups[name] for name in ORDER if name in groups}
    known["notes"] |= notes
    write_json(RESULTS, known)
    for name, group in rows.items():
        for r in group:
            told = "holds" if r.holds else "FAILS"
            numbers = f"{r.difference:9.1e} of {r.scale:8.3g}, at most {r.tolerance:.1e}"
            print(f"{told}  {name:<14}{r.what:<44}{r.size:<18}{numbers}")
    raise SystemExit(0 if all(r.holds for group in rows.values() for r in group) else 1)


if __name__ == "__main__":
    main()
