import copy
import dataclasses
import math
import shutil
from types import SimpleNamespace as Namespace

import librosa
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from latentclap import FoleySystem, LatentCLAP, models
from latentclap.classes import CLASSES
from latentclap.embeddings import JudgeEmbedding
from latentclap.errors import InputError
from latentclap.files import read_json
from latentclap.models import size
from latentclap.pretrain import corpus as corpora
from latentclap.pretrain import inputs, prepare, tasks
from latentclap.pretrain.condition import carry_condition
from latentclap.pretrain.corpus import Corpus
from latentclap.pretrain.export import earlier, export
from latentclap.pretrain.stages import STAGES, run_stage
from latentclap.pretrain.widen import copies, separate, widen, widening
from latentclap.pretrain.work import Work


def test_equal_texts_are_all_right_answers():
    """Two clips with one prompt: logits that prefer either are right, and the least loss is that of the spread."""
    ids = torch.tensor([0, 0, 1])
    sure = torch.full((3, 3), -50.0)
    sure[:2, :2] = sure[2, 2] = 0.0
    loss, hit = tasks.contrastive(sure, ids)
    assert hit == 1 and loss.item() == pytest.approx(2 / 3 * math.log(2), abs=1e-5)
    loss, hit = tasks.contrastive(20 * torch.eye(3), torch.arange(3))
    assert hit == 1 and loss.item() < 1e-6
    assert tasks.contrastive(20 * torch.eye(3).roll(1, 0), torch.arange(3))[1] == 0
    # an audio that knows which of two equal texts stands beside it knows nothing more: the target is their mean
    apart = torch.tensor([[50.0, 0.0, -50.0], [0.0, 50.0, -50.0], [-50.0, -50.0, 50.0]])
    assert tasks.contrastive(apart, ids)[0].item() == pytest.approx(2 / 3 * 25, abs=1e-4)
    # a fourth text to choose from: wrong where it is liked best, right where it is the clip's own text again
    logits = torch.cat([20 * torch.eye(3), torch.tensor([[40.0], [0.0], [0.0]])], 1)
    assert tasks.contrastive(logits, torch.tensor([0, 1, 2, 3]))[1].item() == pytest.approx(2 / 3)
    assert tasks.contrastive(logits, torch.tensor([0, 1, 2, 0]))[1] == 1


def test_the_family_loads(tiny_family):
    system = FoleySystem.from_pretrained(tiny_family)
    assert system.generate(["rain"], 1, steps=2).shape == (1, size("tiny")["frames"] * 160)
    # posterior samples of the training clips have unit spread by the scale factor (facts A3)
    assert 0.01 < system.vae.config.scaling_factor < 100
    phi = LatentCLAP.from_pretrained(tiny_family / "latent_clap")
    assert phi(torch.zeros(1, *system.latent_shape)).shape == (1, 512)
    judge = JudgeEmbedding(tiny_family / "judge")
    assert judge.classify(np.zeros((1, 16000), np.float32)).shape == (1, 7)


def test_the_card_says_what_it_was_trained_on(tiny_family):
    card = read_json(tiny_family / "model_card.json")
    assert set(card["stages"]) == set(STAGES)
    assert sum(row["clips"] for row in card["corpus"]) == 7 * 3
    assert card["real_clips"] == 0
    for name, digest in card["files"].items():
        from latentclap.files import file_sha256

        assert file_sha256(tiny_family / name) == digest


def test_corpus_round_trip_and_prompts(tiny_family):
    corpus = corpora.load(tiny_family.parent / "work" / "corpus.safetensors")
    assert corpus.wave.dtype == torch.int16
    assert len(set(map(bytes, corpus.wave.numpy()))) == len(corpus)
    texts = corpus.texts()
    assert all(pair[1].startswith("This is a sound of ") for pair in texts)
    assert len({pair[0] for pair in texts}) > len(corpus) // 2
    assert len(corpus.subset(lambda i: corpus.cls[i] == "rain")) == 3


def test_stages_refuse_what_is_missing(tmp_path):
    corpus = Corpus(torch.zeros(2, 10240, dtype=torch.int16), ["rain"] * 2, ["rain"] * 2, ["procedural"] * 2)
    with pytest.raises(InputError, match="stage 'vae' has left no weights"):
        run_stage("ldm", Work(tmp_path, "tiny", corpus), steps=1)
    with pytest.raises(InputError, match="unknown stage"):
        run_stage("ldn", Work(tmp_path, "tiny", corpus))


def test_an_empty_corpus(tmp_path):
    with pytest.raises(InputError, match="would be empty"):
        corpora.build(tmp_path / "c.safetensors", samples=100, per_class=0, workers=1)


def test_stft_loss_is_zero_for_itself_and_grows():
    x = torch.randn(2, 8000, generator=torch.Generator().manual_seed(0))
    losses = [tasks.stft_loss(x + a * torch.randn_like(x), x).item() for a in (0, 0.1, 1)]
    assert losses[0] == pytest.approx(0, abs=1e-5)
    assert losses == sorted(losses)


def test_stft_loss_is_librosa_s():
    """Spectral convergence relative to the target, and the distance of log magnitudes above 1e-5."""
    rng = np.random.default_rng(0)
    wave, target = rng.standard_normal((2, 2, 2000)) * np.array([1.0, 0.2])[:, None]
    expected = 0.0
    for n_fft, hop in ((512, 128), (256, 64)):
        a, b = (
            np.abs(librosa.stft(x, n_fft=n_fft, hop_length=hop, pad_mode="reflect")).clip(1e-5)
            for x in (wave, target)
        )
        norms = [np.linalg.norm(bi - ai) / np.linalg.norm(bi) for ai, bi in zip(a, b, strict=True)]
        expected += (np.mean(norms) + np.abs(np.log(a / b)).mean()) / 2
    found = tasks.stft_loss(*(torch.from_numpy(x).float() for x in (wave, target)), ((512, 128), (256, 64)))
    assert found.item() == pytest.approx(expected, rel=1e-4)


def test_answers_beyond_the_batch_are_not_asked_for_audio():
    """Of nothing known: a choice among four texts, and among three clips, one of which has its text twice."""
    loss, _ = tasks.contrastive(torch.zeros(3, 4), torch.tensor([0, 1, 2, 0]))
    assert loss.item() == pytest.approx((math.log(4) + math.log(3)) / 2)
    # each clip is sure of the first text, and each text of no clip
    logits = torch.tensor([[9.0, 0.0], [9.0, 0.0]])
    expected = ((math.log1p(math.exp(-9)) + math.log1p(math.exp(9))) / 2 + math.log(2)) / 2
    assert tasks.contrastive(logits, torch.arange(2))[0].item() == pytest.approx(expected, rel=1e-5)


class Given(torch.nn.Module):
    """A VAE that gives a posterior and a log-mel handed in."""

    def __init__(self, mel):
        super().__init__()
        self.mel = mel

    def encode(self, mel):
        kl = torch.tensor([3.0, 5.0])
        mean = torch.zeros(2, 4, 2, 2)
        return Namespace(latent_dist=Namespace(mean=mean, std=mean + 1, kl=lambda: kl))

    def decode(self, z):
        return Namespace(sample=self.mel)


def test_the_vae_s_loss_by_hand():
    """A ramp of 2 a frame and 3 a bin against silence, and 4 nats over the 16 numbers of a latent."""
    ramp = 2 * torch.arange(6.0)[:, None] + 3 * torch.arange(4.0)
    task = tasks.VAETask(Given(ramp.expand(2, 1, 6, 4)), crop_frames=6, kl_weight=0.5)
    terms = task({"mel": torch.zeros(2, 6, 4)}, rngs(2))
    assert (terms["l1"].item(), terms["kl"].item()) == (5 + 4.5, 4 / 16)
    assert terms["loss"].item() == pytest.approx(9.5 + 0.25 * (2 + 3) + 0.5 * 0.25)


def test_the_vocoder_s_target_is_the_corpus_s_wave():
    """Full scale is 32767: a vocoder that gives the wave back has nothing left to learn; and its terms add up."""
    ints = torch.randint(-32767, 32768, (2, 64 * 160), generator=torch.Generator().manual_seed(0)).short()
    batch = {"mel": torch.zeros(2, 64, 64), "wave": ints}
    task = tasks.VocoderTask(lambda mel: ints.float() / 32767, crop_frames=64)
    terms = task(batch, rngs(2))
    assert terms["stft"].item() == pytest.approx(0, abs=1e-6) and terms["mel_l1"].item() < 1e-6
    options = {"mel_weight": 3.0, "critic_weight": 0.5, "feature_weight": 2.0}
    task = tasks.VocoderTask(lambda mel: ints.flip(1).float() / 32767, crop_frames=64, **options)
    t = {name: value.item() for name, value in task(batch, rngs(2)).items()}
    expected = t["stft"] + 3 * t["mel_l1"] + t["critic"] + 0.5 * t["deceive"] + 2 * t["features"]
    assert t["loss"] == pytest.approx(expected, rel=1e-5)


class Seen(torch.nn.Module):
    """A UNet that keeps what it is shown, and gives it back times k."""

    def __init__(self, k=0.3):
        super().__init__()
        self.k = k

    def forward(self, s, n, *, encoder_hidden_states, class_labels):
        self.s, self.n, self.E = s, n, class_labels
        return Namespace(sample=self.k * s)


def test_latents_are_rolled_in_time_and_either_embedding_is_shown(tiny):
    unet, many = Seen(), 200
    mean = torch.zeros(many, 1, 8, 4)
    mean[:, :, 0] = 1e6  # the noise is nothing beside
    batch = {
        "mean": mean,
        "logvar": torch.zeros_like(mean),
        "E": torch.arange(2.0)[:, None].expand(many, 2, 512),
    }
    tasks.LDMTask(unet, torch.zeros(512), tiny.schedule, drop=0.0)(batch, rngs(many))
    places = unet.s.abs().amax(3)[:, 0].argmax(1)
    assert places.bincount().tolist() == pytest.approx([many / 8] * 8, abs=20)
    assert (unet.s.abs() > 1e3).sum((1, 2, 3)).tolist() == [4] * many
    assert unet.E[:, 0].mean().item() == pytest.approx(0.5, abs=0.15)


def test_eq_1_is_weighted_item_by_item(tiny):
    """A level's error counts by min(SNR + 1, 5) / SNR, at most 200."""
    unet, zero = Seen(), torch.zeros(50, 2, 8, 4)
    batch = {"mean": zero, "logvar": zero - 90, "E": torch.zeros(50, 1, 512)}
    terms = tasks.LDMTask(unet, torch.zeros(512), tiny.schedule)(batch, rngs(50))
    abar = np.cumprod(1 - np.linspace(0.0015**0.5, 0.0195**0.5, 1000) ** 2)[unet.n]
    snr, s = abar / (1 - abar), unet.s.numpy()
    errors = ((0.3 * s - s / np.sqrt(1 - abar)[:, None, None, None]) ** 2).mean((1, 2, 3))
    assert terms["ddpm"].item() == pytest.approx(errors.mean(), rel=1e-4)
    weights = np.minimum(np.minimum(snr + 1, 5) / snr, 200)
    assert terms["loss"].item() == pytest.approx((weights * errors).mean(), rel=1e-4)


def test_a_clip_is_judged_by_the_mean_of_its_windows_probabilities():
    """Two clips of two windows, of which one is sure and the other says nothing; clips weigh as they are told."""
    logits = torch.zeros(4, 7)
    logits[0, 3] = logits[2, 5] = 30.0
    task = tasks.JudgeTask(lambda patches: (None, logits), windows=2)
    batch = {
        "patches": torch.zeros(2, 2, 96, 64),
        "label": torch.tensor([3, 1]),
        "weight": torch.tensor([1.0, 3.0]),
    }
    terms = task(batch, rngs(2))
    right, wrong = -math.log((1 + 1 / 7) / 2), -math.log(1 / 14)
    assert terms["loss"].item() == pytest.approx((right + 3 * wrong) / 4, rel=1e-5)
    assert terms["accuracy"] == 0.5


def test_clap_hears_another_time_and_level_but_the_same_spectrum():
    task = tasks.ClapTask(torch.nn.Identity(), mask_time=0.0, mask_mel=0.0)
    spectrum = torch.arange(5.0).expand(3, 1, 40, 5).clone()
    spectrum[:, :, 0] -= 50
    out = task.augment(spectrum.clone(), rngs(3))
    for x in out[:, 0]:
        level = x[:, 0].max()
        quiet = x[:, 0].argmin().item()
        assert -6 <= level <= 6 and quiet != 0
        torch.testing.assert_close(x.roll(-quiet, 0) - level, spectrum[0, 0])


def rngs(count):
    return [torch.Generator().manual_seed(i) for i in range(count)]


def test_random_draws_are_per_item():
    assert torch.equal(tasks.uniform(rngs(3), 2)[:2], tasks.uniform(rngs(2), 2))
    like = torch.zeros(2, 3, 4)
    assert tasks.normal(rngs(2), like).shape == like.shape
    assert tasks.randint(rngs(50), 3).unique().tolist() == [0, 1, 2]


def test_crops_of_mel_and_wave_are_aligned():
    """The vocoder's target is the wave under the mel frames that it is given."""
    frames = torch.arange(20.0)[None, :, None].expand(2, 20, 1)
    starts = torch.tensor([0, 7])
    mel = tasks.crop(frames, starts, 5)[..., 0]
    wave = tasks.crop(frames[..., 0].repeat_interleave(160, dim=1), starts * 160, 5 * 160)
    assert torch.equal(wave.view(2, 5, 160)[..., 0], mel)


def test_guidance_drop_rate(tiny):
    """About a tenth of the conditions are the empty prompt's (facts A4)."""
    seen = []

    class Spy(torch.nn.Module):
        def forward(self, s, n, *, encoder_hidden_states, class_labels):
            seen.append(class_labels)
            return type("Out", (), {"sample": s})

    empty = torch.full((512,), 7.0)
    task = tasks.LDMTask(Spy(), empty, tiny.schedule)
    batch = {
        "mean": torch.zeros(600, 8, 4, 4),
        "logvar": torch.zeros(600, 8, 4, 4),
        "E": torch.zeros(600, 2, 512),
    }
    task(batch, rngs(600))
    assert (seen[0][:, 0] == 7).float().mean().item() == pytest.approx(0.1, abs=0.04)


def write_other(folder, rows):
    import csv

    import soundfile as sf

    rng = np.random.default_rng(0)
    for name, *_ in rows:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        sf.write(folder / name, rng.uniform(-0.5, 0.5, 8000), 16000)
    with open(folder / "meta.csv", "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["file", "class", "source", "licence", "author", "recording"])
        writer.writerows([(n, n.split("/")[0], "somewhere", "CC-BY", a, r) for n, a, r in rows])


def test_other_recordings_are_split_by_recording_and_credited(tmp_path):
    """Two cuts of one recording are on one side, and CC-BY's authors reach the card."""
    rows = [(f"sea_waves/{i:03}.wav", f"author {i // 2}", f"rec{i // 2}") for i in range(40)]
    write_other(tmp_path, rows)
    dev, held = (corpora.other_recordings(tmp_path, side, 0) for side in ("dev", "eval"))
    assert len(dev) + len(held) == 40 and len(dev) > len(held)
    assert not {r.recording for r in dev} & {r.recording for r in held}
    assert dev[0].caption == "the sound of sea waves"
    (row,) = corpora.attribution(dev)
    assert row["files"] == len(dev) and row["licence"] == "CC-BY"
    assert row["authors"] == sorted({r.author for r in dev})
    built = corpora.build(
        tmp_path / "c.safetensors", samples=8000, per_class=0, other=[tmp_path], real_copies=2, workers=1
    )
    assert len(built) == 2 * len(dev) and set(built.cls) == {"sea_waves"}
    # asked for again it is read; asked for otherwise it is not what was asked for
    same = {"samples": 8000, "per_class": 0, "other": [tmp_path], "real_copies": 2, "workers": 1}
    assert corpora.build(tmp_path / "c.safetensors", **same).digest == built.digest
    for changes in ({"real_copies": 1}, {"seed": 1}, {"other": []}, {"samples": 4000}):
        (name,) = changes
        with pytest.raises(InputError, match=rf"c.safetensors was made with {name}=.*: take another --work"):
            corpora.build(tmp_path / "c.safetensors", **same | changes)


def test_a_recording_held_out_anywhere_is_trained_on_nowhere(tmp_path):
    """Folders are split by themselves, and their tables name one recording differently."""
    import csv

    import soundfile as sf

    rng = np.random.default_rng(0)

    def make(name, own, url, classes=CLASSES, caption="a"):
        folder = tmp_path / name
        rows = []
        for n, (cls, i) in enumerate((cls, i) for cls in classes for i in range(5)):
            (folder / cls).mkdir(parents=True, exist_ok=True)
            sf.write(folder / cls / f"{i}.wav", rng.uniform(-0.5, 0.5, 8000), 16000)
            page = f"https://freesound.org/people/a/sounds/{7000 + url(n)}/"
            rows.append((f"{cls}/{i}.wav", cls, own(n), page, "CC0", "me", f"{caption} {n}"))
        with open(folder / "meta.csv", "w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(["file", "class", "recording", "url", "licence", "author", "caption"])
            writer.writerows(rows)
        return folder

    one = make("one", lambda n: f"BBC take {n}", lambda n: n, caption="first line\n and the second,")
    two = make("two", lambda n: "", lambda n: (4 * n + 3) % 35)
    fire = make("fire", lambda n: "", lambda n: n, ["crackling_fire"] * 4)
    (two / "rain" / "copy.wav").write_bytes(b"")  # what cannot be read is no clip
    held = {key for f in (one, two) for clip in corpora.dcase_recordings(f, "eval", 0) for key in clip.keys}
    assert len(held) > 20
    dev = corpora._recordings([one, two], [fire], 0)
    assert len(dev) > 20 and {clip.path.parents[1].name for clip in dev} == {"one", "two", "fire"}
    assert not held & {key for clip in dev for key in clip.keys}
    # the same samples under other names
    shutil.copytree(one, tmp_path / "again")
    (tmp_path / "again" / "meta.csv").unlink()
    eval_ = {clip.path.relative_to(one) for clip in corpora.dcase_recordings(one, "eval", 0)}
    dev = corpora._recordings([one, tmp_path / "again"], [], 0)
    assert not eval_ & {
        clip.path.relative_to(tmp_path / "again") for clip in dev if "again" in clip.path.parts
    }
    # and captions of several lines stay with their clips
    options = {"samples": 8000, "per_class": 0, "real": [one], "workers": 1}
    built, read = (corpora.build(tmp_path / "lines.safetensors", **options) for _ in range(2))
    assert built.caption == read.caption and built.digest == read.digest
    assert all(c.startswith("first line and the second, ") for c in built.caption)


def test_words_that_are_not_those_of_the_clips(tmp_path):
    wave = {"wave": torch.zeros(2, 8, dtype=torch.int16)}
    whole = {"cls": "rain\nrain", "caption": "a\nb", "kind": "real\nreal"}
    save_file(wave, tmp_path / "earlier.safetensors", metadata=whole)
    assert corpora.load(tmp_path / "earlier.safetensors").caption == ["a", "b"]
    save_file(wave, tmp_path / "cut.safetensors", metadata=whole | {"caption": "a\nb\nc"})
    save_file({"mel": torch.zeros(1)}, tmp_path / "other.safetensors")
    for name in ("cut", "other"):
        with pytest.raises(InputError, match="remove it, and make it again"):
            corpora.load(tmp_path / f"{name}.safetensors")


def test_other_recordings_need_a_table(tmp_path):
    with pytest.raises(InputError, match=r"no meta.csv"):
        corpora.other_recordings(tmp_path, "dev", 0)


def test_a_condition_is_carried_to_other_embeddings(tiny):
    """Turned and shifted embeddings mean to the UNet what the old ones did."""
    unet = copy.deepcopy(tiny.unet)
    g = torch.Generator().manual_seed(0)
    old = torch.randn(2000, 512, generator=g)
    turn = torch.linalg.qr(torch.randn(512, 512, generator=g))[0]
    new = old @ turn * 0.7 + 0.3
    s, n = torch.randn(2, *tiny.latent_shape, generator=g), torch.tensor([10, 900])

    def told(E):
        with torch.no_grad():
            return unet(s, n, encoder_hidden_states=None, class_labels=E[:2]).sample

    before, confused = told(old), told(new)
    assert carry_condition(unet, old, new) > 0.999
    assert (told(new) - before).abs().max() < 1e-3 < (confused - before).abs().max()
    # embeddings that say nothing of the old ones explain nothing, and then the mean is what is shown
    assert carry_condition(unet, old, torch.zeros_like(old)) == pytest.approx(0, abs=1e-6)


def test_what_was_computed_with_other_weights_is_made_anew(tiny_family, tmp_path):
    corpus = corpora.load(tiny_family.parent / "work" / "corpus.safetensors")
    work = Work(tmp_path / "work", "tiny", corpus)
    work.begin_with(tiny_family)
    first = inputs.latents(work)
    run_stage("clap", work, steps=1)
    run_stage("ldm", work, steps=1)
    second = inputs.latents(work)
    assert torch.equal(first["mean"], second["mean"])
    assert not torch.equal(first["E_audio"], second["E_audio"])
    assert 0 < read_json(work.folder / "ldm" / "condition.json")["explained"] <= 1
    stamp = (work.folder / "embeddings.safetensors").stat().st_mtime_ns
    inputs.latents(work)
    assert (work.folder / "embeddings.safetensors").stat().st_mtime_ns == stamp
    # the decoder may learn on without the latents' being made anew
    stamp = (work.folder / "latents.safetensors").stat().st_mtime_ns
    decoder = copy.deepcopy(work.system().vae.decoder.state_dict())
    run_stage("vae_decoder", work, steps=1)
    alone = copy.deepcopy(work.system().vae.decoder.state_dict())
    assert any(not torch.equal(v, decoder[k]) for k, v in alone.items())
    run_stage("vae_critic", work, steps=1)
    decoder = alone
    inputs.latents(work)
    assert any(not torch.equal(v, decoder[k]) for k, v in work.system().vae.decoder.state_dict().items())
    assert (work.folder / "latents.safetensors").stat().st_mtime_ns == stamp


def test_what_was_computed_of_other_clips_is_made_anew(tiny_family, tmp_path):
    """A work folder whose corpus was replaced: log-mels, features and embeddings are of the clips that it holds."""
    corpus = corpora.load(tiny_family.parent / "work" / "corpus.safetensors")
    turned = dataclasses.replace(corpus, wave=corpus.wave.flip(0))
    renamed = dataclasses.replace(corpus, caption=[c + "!" for c in corpus.caption])
    assert len({c.digest for c in (corpus, turned, renamed)}) == 3
    work = Work(tmp_path / "work", "tiny", corpus)
    work.begin_with(tiny_family)

    def computed():
        features = prepare.clap_stage(work)[1].tensors["features"]
        return {"mel": inputs.mels(work), "features": features} | inputs.latents(work)

    first, work.corpus = computed(), turned
    second, work.corpus = computed(), renamed
    third = computed()
    for name in ("mel", "features", "mean", "E_audio"):
        assert torch.allclose(second[name].float(), first[name].flip(0).float(), atol=2e-2), name
        assert not torch.allclose(second[name].float(), first[name].float(), atol=2e-2), name
        assert torch.equal(third[name], first[name])
    assert not torch.equal(third["E_text"], first["E_text"])


def test_every_stage_goes_on_from_its_checkpoint(tiny_family, tmp_path):
    """What a stage leaves when it is stopped is what the same command takes."""
    shutil.copytree(tiny_family.parent / "work", tmp_path / "work")
    work = Work(tmp_path / "work", "tiny", corpora.load(tmp_path / "work" / "corpus.safetensors"))
    for stage in STAGES:
        assert run_stage(stage, work, steps=2).step == 2, stage


def test_prompts_weigh_more_than_captions():
    """CLAP's loss is the mean over its texts, the last of which counts prompt_weight times."""

    class Given(torch.nn.Module):
        """Embeddings that are handed in: audio by features, text by its first token."""

        logit_scale_a = torch.tensor(1.0)
        table = torch.randn(8, 16, generator=torch.Generator().manual_seed(0))

        def get_audio_features(self, *, input_features):
            return Namespace(pooler_output=self.table[:4] + input_features.mean())

        def get_text_features(self, *, input_ids, attention_mask):
            return Namespace(pooler_output=self.table[input_ids[:, 0]])

    tokens = torch.tensor([[0, 4], [1, 4], [2, 5], [3, 5]])
    batch = {
        "features": torch.zeros(4, 1, 8, 8),
        "tokens": tokens[..., None],
        "mask": torch.ones_like(tokens)[..., None],
        "text_id": tokens,
    }

    def out(weight):
        rngs = [torch.Generator().manual_seed(i) for i in range(4)]
        return tasks.ClapTask(Given(), prompt_weight=weight)(batch, rngs)

    captions, even, double = (out(weight) for weight in (0.0, 1.0, 2.0))
    prompts = 2 * even["loss"] - captions["loss"]
    assert prompts > captions["loss"] + 0.1  # captions' embeddings are the audio's own here
    torch.testing.assert_close(double["loss"], (captions["loss"] + 2 * prompts) / 3)
    assert double["accuracy"] == 1 and double["prompt_accuracy"] < 1


def test_training_goes_on_from_a_family(tiny_family, tmp_path):
    """A start gives its weights to parts of the same shapes, and its tokenizer with its CLAP."""
    corpus = corpora.load(tiny_family.parent / "work" / "corpus.safetensors")
    work = Work(tmp_path / "work", "tiny", corpus)
    work.begin_with(tiny_family)
    begun, ours = FoleySystem.from_pretrained(tiny_family), work.system()
    for part in ("unet", "vae", "vocoder", "clap"):
        a, b = (getattr(s, part).state_dict() for s in (begun, ours))
        assert all(torch.equal(a[k], b[k]) for k in a), part
    assert ours.vae.config.scaling_factor == begun.vae.config.scaling_factor
    assert ours.tokenizer.get_vocab() == begun.tokenizer.get_vocab()
    work.need("vae", "clap")  # no stage has run here, and none needs to
    run_stage("ldm", work, steps=1)
    a, b = begun.unet.state_dict(), work.system().unet.state_dict()
    assert any(not torch.equal(a[k], b[k]) for k in a)
    work.begin_with(tiny_family)  # the same again is no error
    # the learning rate that was asked for is the one that the card will name
    run_stage("latent_clap", work, steps=1, lr=3e-5)
    assert read_json(work.folder / "latent_clap" / "summary.json")["lr"] == 3e-5
    phi = dict(LatentCLAP.from_pretrained(tiny_family / "latent_clap").float().named_parameters())
    went_on = load_file(work.result("latent_clap"))
    assert all(torch.allclose(went_on[name], value, atol=1e-3) for name, value in phi.items())
    # the next card names the rounds before it once, and their data where it is not its own
    (tmp_path / "work" / "corpus.json").write_text('{"real": [{"source": "elsewhere"}]}')
    card = export(work, tmp_path / "second")
    before = read_json(tmp_path / "work" / "start" / "model_card.json")
    assert [r["stages"] for r in card["earlier"]] == [before["stages"]]
    assert card["earlier"][0]["real_sources"] == before["real_sources"]
    assert card["corpus"] == before["corpus"] and "corpus" not in card["earlier"][0]
    third = Work(tmp_path / "third_work", "tiny", corpus)
    third.begin_with(tmp_path / "second")
    (tmp_path / "third_work" / "corpus.json").write_text('{"real": [{"source": "elsewhere"}]}')
    latest, first = earlier(third)
    assert latest["stages"] == card["stages"] and "real_sources" not in latest
    assert first == card["earlier"][0]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "model_card.json").write_text("{}")
    with pytest.raises(InputError, match="begun with another family"):
        work.begin_with(tmp_path / "other")


@pytest.mark.parametrize("factor", [2, 3])
def test_a_wider_vae_computes_what_the_narrower_one_does(factor):
    torch.manual_seed(0)
    narrow, wide = (
        models.build_vae({"vae": {"block_out_channels": tuple(k * c for c in (8, 16, 16))}}).eval()
        for k in (1, factor)
    )
    # GroupNorm's weights and the biases begin as ones and zeros, with which a wrong order would not show
    for parameter in narrow.parameters():
        torch.nn.init.normal_(parameter, std=0.3) if parameter.ndim == 1 else None
    narrow.register_to_config(scaling_factor=0.7)
    assert widening(narrow, wide) == factor
    widen(narrow, wide)
    assert wide.config.scaling_factor == 0.7
    mel = torch.randn(2, 1, 32, 64)
    with torch.no_grad():
        a, b = narrow.encode(mel).latent_dist, wide.encode(mel).latent_dist
        torch.testing.assert_close(b.mean, a.mean, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(b.logvar, a.logvar, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(
            wide.decode(a.mean).sample, narrow.decode(a.mean).sample, rtol=1e-4, atol=1e-4
        )
        # the encoder's copies are alike, until it is to be trained
        assert copies(narrow.encoder) == 1 and copies(wide.encoder) == factor
        assert separate(wide.encoder) == factor
        c = wide.encode(mel).latent_dist
        torch.testing.assert_close(c.mean, a.mean, rtol=1e-4, atol=1e-4)
    wide.encode(mel).latent_dist.mean.square().mean().backward()
    gradient = wide.encoder.conv_in.weight.grad.unflatten(0, (-1, factor))
    assert (gradient[:, 0] - gradient[:, 1]).abs().max() > 1e-3 * gradient.abs().max()
    # copies of a channel are told apart by the decoder's gradients
    wide.decode(a.mean).sample.square().mean().backward()
    gradient = wide.decoder.conv_in.weight.grad.unflatten(0, (-1, factor))
    assert (gradient[:, 0] - gradient[:, 1]).abs().max() > 1e-3 * gradient.abs().max()


def test_a_vae_that_is_no_multiple_is_not_widened():
    def vae(*channels, **more):
        return models.build_vae({"vae": {"block_out_channels": channels, **more}})

    narrow = vae(8, 8, 8)
    assert widening(narrow, narrow) == 1
    assert widening(narrow, vae(16, 16, 16, act_fn="relu")) == 0
    for wide in (vae(16, 16, 8), vae(16, 24, 24)):
        assert widening(narrow, wide) == 0
        with pytest.raises(ValueError, match="cannot be widened"):
            widen(narrow, wide)


def test_a_start_s_narrower_vae_is_widened_and_its_decoder_goes_on(tiny_family, tmp_path, monkeypatch):
    """The parts that no stage has trained here are the start's: the latents are still theirs."""
    monkeypatch.setitem(models.SIZES["tiny"], "vae", {"block_out_channels": (16, 16, 16)})
    corpus = corpora.load(tiny_family.parent / "work" / "corpus.safetensors")
    work = Work(tmp_path / "work", "tiny", corpus)
    work.begin_with(tiny_family)
    (tmp_path / "work" / "corpus.json").write_text('{"real": []}')
    work.need("vae", "unet")
    begun = FoleySystem.from_pretrained(tiny_family)
    run_stage("vae_decoder", work, steps=2)
    card = export(work, tmp_path / "wide")
    assert card["stages"].keys() == {"vae_decoder"}
    wide = FoleySystem.from_pretrained(tmp_path / "wide")
    assert tuple(wide.vae.config.block_out_channels) == (16, 16, 16)
    assert wide.vae.config.scaling_factor == begun.vae.config.scaling_factor
    waves = corpus.wave[:2].float().numpy() / 32767
    torch.testing.assert_close(wide.encode(waves), begun.encode(waves), rtol=1e-2, atol=1e-2)
    for part in ("unet", "clap", "vocoder"):
        a, b = (getattr(s, part).state_dict() for s in (begun, wide))
        assert all(torch.equal(a[k], b[k]) for k in a), part
    for part in ("latent_clap", "judge"):
        a, b = (load_file(next((f / part).glob("*.safetensors"))) for f in (tiny_family, tmp_path / "wide"))
        assert all(torch.equal(a[k], b[k]) for k in a), part
    # diffusion model and φ are right for the CLAP that they were trained with
    run_stage("clap", work, steps=1)
    with pytest.raises(InputError, match="'ldm' has to go on too"):
        export(work, tmp_path / "third")
    run_stage("ldm", work, steps=1)
    with pytest.raises(InputError, match="'latent_clap' has left no weights"):
        export(work, tmp_path / "third")


def test_authors_of_a_table_that_is_none(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "meta.csv").write_bytes(b"file,author\n\xff.wav,x\n")
    assert corpora.authors(tmp_path / "set") == {}  # the folder above is not ours
    with pytest.raises(InputError, match=r"meta\.csv: not a readable csv table"):
        corpora.authors(tmp_path)


def test_a_corpus_that_is_none(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"x")
    save_file({"wave": torch.zeros(1, 3)}, tmp_path / "b.safetensors")
    for name in "ab":
        with pytest.raises(InputError, match=rf"{name}\.safetensors: damaged, or no corpus \(.*: remove it"):
            corpora.load(tmp_path / f"{name}.safetensors")
