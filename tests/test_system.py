import copy
import json
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from latentclap import FoleySystem
from latentclap.audio import clap_features
from latentclap.diffusion import randn_per_item
from latentclap.errors import InputError
from latentclap.models import random_system
from latentclap.system import encoders, generator, item_seed, tuning_layer


@pytest.fixture(scope="module")
def tuned():
    """A tiny system with a tuning layer that is not the identity."""
    system = random_system("tiny", seed=1)
    torch.manual_seed(2)
    system.tuning = tuning_layer()
    with torch.no_grad():
        system.tuning.weight.add_(0.05 * torch.randn(512, 512))
        system.tuning.bias.add_(0.5 * torch.randn(512))
    return system.eval()


@pytest.fixture(scope="module")
def saved(tuned, tmp_path_factory):
    return tuned.save_pretrained(tmp_path_factory.mktemp("systems") / "tuned")


def latents(system, seeds=(3,), **options):
    return system.generate_latents(["rain"] * len(seeds), list(seeds), **{"steps": 6, **options})


def test_waves_of_several_lengths_are_refused_in_words(tiny):
    waves = [np.zeros(8000, np.float32), np.zeros(16000, np.float32)]
    for encode in (tiny.encode_audio, tiny.log_mel):
        with pytest.raises(InputError, match="waves of several lengths make no array"):
            encode(waves)


def test_generate_shape_rate_and_seed(tiny):
    waves = tiny.generate(classes=["rain", "DogBark"], n=2, steps=3, seed=5)
    assert waves.shape == (4, tiny.frames * 160)
    assert waves.dtype == np.float32
    assert tiny.sampling_rate == 16000
    assert np.array_equal(waves, tiny.generate(classes=["rain", "dog_bark"], n=2, steps=3, seed=5))


def test_an_item_does_not_depend_on_its_company(tiny):
    texts = tiny.texts(["rain", "gunshot"])
    seeds = [item_seed(0, t, 0) for t in texts]
    both = tiny.generate_latents(texts, seeds, steps=4, batch_size=2)
    alone = tiny.generate_latents(texts[1:], seeds[1:], steps=4)
    torch.testing.assert_close(both[1:], alone, rtol=1e-4, atol=1e-4)
    by_one = tiny.generate_latents(texts, seeds, steps=4, batch_size=1)  # a batch after the first
    torch.testing.assert_close(by_one, both, rtol=1e-4, atol=1e-4)


def test_clips_are_in_the_order_of_their_classes(tiny):
    """All of the first class, then all of the next, each as it is by itself."""
    both = tiny.generate(["rain", "gunshot"], 2, steps=2)
    apart = np.concatenate([tiny.generate([name], 2, steps=2) for name in ("rain", "gunshot")])
    far = np.abs(apart[:, None] - apart[None]).max(2) + np.eye(4)
    assert np.abs(both - apart).max() < 0.01 * far.min()


@pytest.mark.parametrize("sampler", ["ddim", "dpmsolver++"])
def test_a_system_is_sampled_by_its_own_schedule_s_steps(tiny, monkeypatch, sampler):
    """``steps_offset`` of its scheduler says where they end."""
    called, own = [], copy.copy(tiny)
    own.scheduler = type(tiny.scheduler).from_config(tiny.scheduler.config, steps_offset=0)
    monkeypatch.setattr(
        type(tiny), "eps_theta", lambda self, s, n, E: called.append(n[0].item()) or torch.zeros_like(s)
    )
    latents(own, steps=4, sampler=sampler, guidance_scale=1.0)
    assert called == [750, 500, 250, 0]


def test_what_the_vocoder_adds_at_the_end_is_cut_off_there(tiny):
    """Its odd upsampling factors: a cut at the beginning would shift every clip against its log-mel."""
    own = copy.copy(tiny)
    own.polish, own.vocoder = None, lambda mel: torch.arange(mel.shape[1] * 160 + 7.0).expand(len(mel), -1)
    wave = own.vocode(torch.zeros(2, 1, 20, 64))
    assert np.array_equal(wave, np.tile(np.arange(20 * 160), (2, 1)))


def test_reconstruction_is_of_the_posterior_s_mean(tiny, monkeypatch):
    """What the system can sound like at its best: without the noise of a sample."""
    waves = 0.1 * np.random.default_rng(0).standard_normal((1, tiny.samples)).astype(np.float32)
    monkeypatch.setattr(type(tiny), "decode", lambda self, latents: latents)
    assert torch.equal(tiny.reconstruct(waves), tiny.posterior(waves)[0])


def test_first_goes_on_where_a_call_ended(tiny):
    three = tiny.generate(["rain"], 3, steps=2, seed=1)
    rest = tiny.generate(["rain"], 2, steps=2, seed=1, first=1)
    # an untrained vocoder is very quiet: what is alike is told by how far the clips lie apart
    apart = np.abs(three[0] - three[1]).max()
    assert apart > 0 and np.abs(three[1:] - rest).max() < 0.01 * apart


@pytest.mark.parametrize("options", [{"sampler": "euler"}, {"sampler": "unipc", "eta": 0.5}])
def test_a_sampler_s_refusal_is_a_user_s_mistake(tiny, options):
    """Latents by themselves are refused as clips are: the sampler raises a ValueError of its own."""
    with pytest.raises(InputError, match=r"unknown sampler|only ddim has an eta"):
        tiny.generate_latents(["rain"], [3], steps=2, **options)


def test_seeds_and_prompts_matter(tiny):
    a = latents(tiny)
    assert not torch.allclose(a, latents(tiny, seeds=(4,)))
    assert not torch.allclose(a, tiny.generate_latents(["a gun shot"], [3], steps=6, guidance_scale=5.0))


def test_eta_adds_noise_of_the_item_s_own(tiny):
    """Another clip than without, and the same one whatever is generated beside it."""
    plain, noisy = (tiny.generate_latents(["rain"], [3], steps=4, eta=eta) for eta in (0.0, 1.0))
    assert (plain - noisy).abs().max() > 0.1
    beside = tiny.generate_latents(["a dog", "rain"], [8, 3], steps=4, eta=1.0)
    torch.testing.assert_close(beside[1:], noisy, rtol=1e-4, atol=1e-4)


def test_eta_s_noise_is_not_the_first_noise_again(tiny, monkeypatch):
    """The generators that began an item go on with it: else what is taken away would be added once more."""
    seen = []

    def told(model, noise, schedule, *, generators, **options):
        seen.append((noise, randn_per_item(noise.shape, generators)))
        return noise

    monkeypatch.setattr(generator, "sample", told)
    tiny.generate_latents(["rain", "a dog"], [3, 8], steps=4, eta=1.0)
    ((first, then),) = seen
    for seed, a, b in zip((3, 8), first, then, strict=True):
        g = torch.Generator().manual_seed(seed)
        assert all(torch.equal(x, torch.randn(x.shape, generator=g)) for x in (a, b))


def test_latents_are_as_much_smaller_as_the_vae_says():
    """AudioLDM's has three levels and halves twice; each more halves again."""
    for levels, shape in ((3, (8, 256, 16)), (4, (8, 128, 8))):
        config = SimpleNamespace(block_out_channels=[8] * levels, latent_channels=8)
        told = SimpleNamespace(
            vae=SimpleNamespace(config=config), frames=1024, mel=SimpleNamespace(n_mels=64)
        )
        assert FoleySystem.latent_shape.fget(told) == shape


def test_guidance_below_one_is_guidance_too(tiny):
    """Zero asks for nothing of the text, a half for half of what it changes."""
    texts = [tiny.generate_latents([text], [3], steps=3, guidance_scale=0.0) for text in ("a dog", "rain")]
    assert torch.equal(*texts)
    half, one = (tiny.generate_latents(["rain"], [3], steps=3, guidance_scale=g) for g in (0.5, 1.0))
    assert not torch.allclose(half, one, rtol=1e-4, atol=1e-5) and not torch.allclose(half, texts[1])


def test_clap_hears_the_first_seconds_and_repeats_a_short_clip(tiny):
    """Its extractor would crop a long clip at random, and fill a short one with silence."""
    extractor, wave = tiny.feature_extractor, np.random.default_rng(0).standard_normal((1, 96_000))
    wave = wave.astype(np.float32)
    first = clap_features(extractor, wave[:, :64_000], 16_000)
    assert torch.equal(clap_features(extractor, wave, 16_000), first)
    twice = clap_features(extractor, np.tile(wave[:, :32_000], 2), 16_000)
    assert torch.equal(clap_features(extractor, wave[:, :32_000], 16_000), twice)


def test_a_tuning_layer_stays_free_to_train(tuned):
    own = copy.copy(tuned)
    own.tuning, own.unet = tuning_layer(512), copy.deepcopy(tuned.unet).requires_grad_(True)
    own.eval()
    assert all(p.requires_grad for part in (own.tuning, own.unet) for p in part.parameters())
    assert not any(p.requires_grad for p in own.vae.parameters())


def test_a_wave_is_polished_as_often_as_the_system_says(tiny, monkeypatch):
    asked, own = [], copy.copy(tiny)
    own.polish = 3
    monkeypatch.setattr(encoders, "polish", lambda wave, mel, n, config: asked.append(n) or wave)
    own.vocode(torch.randn(1, 1, 64, 64))
    assert asked == [3]


def test_guidance_one_is_the_conditional_model(tiny):
    # scale 1 runs one half of the batch: the same answer as the guided sum at weight one
    near = latents(tiny, guidance_scale=1 + 1e-7)
    torch.testing.assert_close(latents(tiny, guidance_scale=1.0), near, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": ["cat"]}, "unknown class 'cat'"),
        ({"classes": []}, "no class given"),
        ({"classes": ["rain"], "prompts": ["rain"]}, "not both"),
        ({"prompts": [" "]}, "not empty"),
        ({"classes": ["rain"], "n": 0}, "at least 1"),
        ({"classes": ["rain"], "steps": 0}, "between 1 and 1000"),
        ({"classes": ["rain"], "steps": 2.5}, "between 1 and 1000"),
        ({"classes": ["rain"], "n": 1.5}, "n=1.5: must be a whole number of at least 1"),
        ({"classes": ["rain"], "seed": -1}, "seed=-1: must be a whole number of at least 0"),
        ({"classes": ["rain"], "first": -1}, "first=-1: must be a whole number of at least 0"),
        ({"classes": ["rain"], "batch_size": 0}, "batch_size=0: must be a whole number of at least 1"),
        ({"classes": ["rain"], "eta": 3}, "eta=3: must be between 0"),
        ({"classes": ["rain"], "eta": -1.0}, "eta=-1.0: must be between 0"),
        ({"classes": ["rain"], "eta": float("nan")}, "eta=nan: must be between 0"),
        ({"classes": ["rain"], "guidance_scale": -1}, "zero or more"),
        ({"classes": ["rain"], "sampler": "euler", "steps": 2}, "unknown sampler"),
    ],
)
def test_bad_requests(tiny, options, message):
    with pytest.raises(InputError, match=message):
        tiny.generate(**options)


def test_latents_need_a_seed_for_each_text(tiny):
    for texts, seeds in ((["rain"], [1, 2]), (["rain", "rain"], [1]), ([], [])):
        with pytest.raises(InputError, match="give a seed for each text"):
            tiny.generate_latents(texts, seeds, steps=1)


def test_encode_decode_shapes(tiny):
    waves = np.random.default_rng(0).standard_normal((2, 4000)).astype(np.float32) * 0.1
    s_0 = tiny.encode(waves)
    assert s_0.shape == (2, *tiny.latent_shape)
    assert tiny.decode(s_0).shape == (2, tiny.samples)
    assert tiny.vocode(torch.zeros(2, 1, 20, 64)).shape == (2, 20 * 160)  # a log-mel of any length
    assert tiny.decode(s_0[:1]).shape == (1, tiny.samples)  # SpeechT5HifiGan squeezes a batch of one
    assert torch.equal(tiny.encode(waves, seed=1), tiny.encode(waves, seed=1))
    assert not torch.equal(tiny.encode(waves, seed=1), s_0)


def test_short_waves_are_repeated_and_all_are_encoded(tiny):
    """IV-A repeats a sound up to the clip's length; the last batch need not be full."""
    waves = 0.1 * np.random.default_rng(0).standard_normal((5, tiny.samples // 4)).astype(np.float32)
    assert torch.equal(tiny.log_mel(waves), tiny.log_mel(np.tile(waves, 4)))
    alone = torch.cat([tiny.encode(wave[None]) for wave in waves])
    torch.testing.assert_close(tiny.encode(waves, batch_size=2), alone, rtol=1e-4, atol=1e-5)


def test_clap_hears_waves_at_their_rate(tiny):
    waves = np.random.default_rng(0).standard_normal((1, 32_000)).astype(np.float32)
    E = tiny.embed_features(clap_features(tiny.feature_extractor, waves, tiny.sampling_rate))
    torch.testing.assert_close(tiny.encode_audio(waves), E)


def test_encode_scales(tiny):
    waves = np.random.default_rng(0).standard_normal((1, tiny.samples)).astype(np.float32) * 0.1
    plain = tiny.encode(waves)
    scaled = random_system("tiny", seed=0)
    scaled.vae.register_to_config(scaling_factor=2 * tiny.vae.config.scaling_factor)
    torch.testing.assert_close(scaled.encode(waves), 2 * plain)
    torch.testing.assert_close(scaled.decode_mel(2 * plain), tiny.decode_mel(plain))


def test_embeddings_are_unit_and_fixed(tiny):
    waves = np.random.default_rng(0).standard_normal((2, 80000)).astype(np.float32)
    E = tiny.encode_audio(waves)  # longer than CLAP's window: its extractor would crop at random
    assert torch.equal(E, tiny.encode_audio(waves))
    torch.testing.assert_close(E.norm(dim=1), torch.ones(2))
    torch.testing.assert_close(tiny.encode_text(["a", "b c"]).norm(dim=1), torch.ones(2))
    score = tiny.similarity(waves, ["rain", "rain"])
    assert score.shape == (2,)
    assert np.abs(score).max() <= 1


def test_similarity_is_of_each_wave_and_its_own_text(tiny, tuned):
    """E_audio . E_text of the judging CLAP, whose texts go through no tuning layer; texts in any order, and twice."""
    waves = np.random.default_rng(0).standard_normal((3, 16_000)).astype(np.float32)
    waves[1] = np.sin(np.arange(16_000) / 5)
    texts = ["rain", "a dog bark", "rain"]
    judged = copy.copy(tiny)
    judged.tuning = tuned.tuning
    E_audio, E_text = tiny.encode_audio(waves), tiny.encode_text(texts, judge=True)
    expected = (E_audio * E_text).sum(1).numpy()
    np.testing.assert_allclose(judged.similarity(waves, texts), expected, atol=1e-5)
    others = (E_audio @ E_text.T).numpy()
    assert abs(others[0, 0] - others[0, 1]) > 1e-3


def test_a_long_text_is_cut_where_the_tokenizer_says(tiny):
    """64 tokens here, of which the first and the last stand for beginning and end: 62 marks of one token count."""
    assert len(tiny.tokenizer("!?")["input_ids"]) == 4 and tiny.tokenizer.model_max_length == 64
    whole, *longer, other = tiny.encode_text([62 * "!", 62 * "!" + "?", 500 * "!", 61 * "!" + "?"])
    for E in longer:
        torch.testing.assert_close(E, whole, rtol=0, atol=1e-5)
    assert (other - whole).abs().max() > 1e-4


def test_frozen_parts_stay_frozen(tiny):
    trains = {name for name, part in tiny.parts.items() for p in part.parameters() if p.requires_grad}
    assert trains == {"unet"}


def test_without_clap_says_what_to_do(tiny):
    import copy

    system = copy.copy(tiny)
    system.clap = None
    with pytest.raises(InputError, match="judge="):
        system.similarity(np.zeros((1, 16000)), ["rain"])


def test_round_trip_is_exact(tuned, saved):
    again = FoleySystem.from_pretrained(saved)
    assert torch.equal(latents(tuned), latents(again))
    assert torch.equal(again.tuning.weight, tuned.tuning.weight)
    assert again.frames == tuned.frames
    assert torch.equal(tuned.encode_text(["rain"]), again.encode_text(["rain"]))


def test_diffusers_opens_it(tuned, saved):
    """Same noise, same mel within 1e-4, tuning layer included: it is folded into the class embedding."""
    from diffusers import AudioLDMPipeline

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline = AudioLDMPipeline.from_pretrained(saved)
    pipeline.set_progress_bar_config(disable=True)
    noise = torch.randn((1, *tuned.latent_shape), generator=torch.Generator().manual_seed(3))
    seen = {}
    # an untrained vocoder's waves are near zero whatever it is given: compare what it is given
    pipeline.mel_spectrogram_to_waveform = lambda mel: seen.setdefault("mel", mel)[:, 0, :, 0]
    for steps in (4, 7):
        seen.clear()
        pipeline(
            "rain",
            audio_length_in_s=tuned.seconds,
            num_inference_steps=steps,
            guidance_scale=2.0,
            latents=noise.clone(),
        )
        ours = tuned.decode_mel(latents(tuned, steps=steps))
        assert ours.std() > 0.01
        torch.testing.assert_close(seen["mel"], ours, rtol=1e-4, atol=1e-4)


def test_the_tuning_layer_matters(tuned):
    plain = random_system("tiny", seed=1)
    assert not torch.allclose(latents(plain), latents(tuned), atol=1e-3)


def test_identity_tuning_changes_nothing(tiny):
    import copy

    system = copy.copy(tiny)
    system.tuning = tuning_layer()
    torch.testing.assert_close(latents(system), latents(tiny))


def test_half_precision_folder_is_smaller(tuned, tmp_path):
    import os

    def size(folder):
        return sum(
            os.path.getsize(os.path.join(d, f)) for d, _, fs in os.walk(folder) for f in fs if "safe" in f
        )

    full = size(tuned.save_pretrained(tmp_path / "full"))
    half = size(tuned.save_pretrained(tmp_path / "half", dtype=torch.float16, pipeline=False))
    assert half < 0.75 * full  # the tuning factors stay float32
    again = FoleySystem.from_pretrained(tmp_path / "half")
    assert next(again.unet.parameters()).dtype == torch.float32
    torch.testing.assert_close(latents(again), latents(tuned), rtol=0.05, atol=0.05)


def test_saving_spares_other_folders(tiny, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="holds other things"):
        tiny.save_pretrained(tmp_path)
    assert (tmp_path / "thesis.txt").is_file()
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_what_is_not_there(tmp_path, saved):
    with pytest.raises(InputError, match="give a folder, 'mini', or a hub name"):
        FoleySystem.from_pretrained("maxi")
    with pytest.raises(InputError, match="unet, vae, vocoder"):
        FoleySystem.from_pretrained(tmp_path)
    with pytest.raises(InputError, match="hub did not give it"):
        FoleySystem.from_pretrained("nobody/nothing")


def test_model_index(saved):
    index = json.loads((saved / "model_index.json").read_text())
    assert index["_class_name"] == "AudioLDMPipeline"
    assert all((saved / part).is_dir() for part in index if not part.startswith("_"))


def test_item_seeds_differ():
    seeds = {item_seed(s, t, i) for s in range(3) for t in ("a", "b") for i in range(5)}
    assert len(seeds) == 30


def test_a_seed_s_clips_stay_what_they_are():
    """Numbers of an earlier version, on which the clips of every record rest; beyond 32 bits, so rarely alike."""
    assert item_seed(0, "This is a sound of rain.", 0) == 4688663811513164772
    assert item_seed(7, "This is a sound of a dog bark.", 3) == 1213364720080523619
