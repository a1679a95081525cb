// The page of `latentclap play`: asks for clips, shows how far they are, and plays what is there.
"use strict";

const get = (id) => document.getElementById(id);
const form = get("ask");
const field = (name) => form.elements[name];
let about = null; // the model, and what can be chosen
let state = null; // what goes on
let clips = []; // as the list shows them, the newest first
let source = null; // the clip or sound that takes are made of
let shown = -1; // revision of the list
let asking = false;
let failed = ""; // what the last job ended with, said once

// --- asking the server ------------------------------------------------------------------------------------------

const call = async (path, options) => {
  const answer = await fetch(path, options).catch(() => null);
  if (!answer) throw new Error("The command behind this page has ended; start latentclap play again.");
  const told = await answer.json().catch(() => ({ error: `The server says ${answer.status}.` }));
  if (!answer.ok) throw Object.assign(new Error(told.error), { status: answer.status });
  return told;
};
const post = (path, told) =>
  call(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(told) });
const say = (error) => { get("error").textContent = error ? error.message || String(error) : ""; };

// --- the form ---------------------------------------------------------------------------------------------------

const what = () => field("what").value;
const randomSeed = () => Math.floor(Math.random() * 1e6);
const text = (name) => field(name).value.trim();

// An empty field is no number: the server has its default. What is no number at all, the server is told as it is.
const number = (name) => {
  if (field(name).validity.badInput) return "no number";
  return text(name) === "" ? null : Number(text(name));
};

const wish = () => {
  const told = { n: number("n"), seed: number("seed"), sampler: field("sampler").value };
  for (const name of ["steps", "guidance_scale", "seconds", "loop", "fade", "lufs", "sampling_rate"]) told[name] = number(name);
  if (what() === "sound") {
    if (!source) throw new Error("Choose a sound first: More like this on a clip, or a file of your own.");
    told.sound = source.id;
    told.strength = number("strength");
    if (text("towards")) told.prompt = text("towards");
    return told;
  }
  if (what() === "prompt") told.prompt = text("prompt");
  else told.class = what();
  return told;
};

const showWhat = () => {
  const kind = what();
  form.querySelector(".for-prompt").hidden = kind !== "prompt";
  form.querySelector(".for-sound").hidden = kind !== "sound";
  document.querySelectorAll("#clips li").forEach((card) =>
    card.classList.toggle("chosen", kind === "sound" && source !== null && Number(card.dataset.id) === source.id));
};

const showStrength = () => {
  const value = Number(field("strength").value);
  const words = value <= 0.25 ? "hardly another take" : value < 0.7 ? "another take" : "little but its kind is left";
  get("how-far").textContent = `${value.toFixed(2)}: ${words}`;
};

const takeOwn = () => {
  field("sampler").value = about.sampling.sampler;
  field("steps").value = about.sampling.steps;
  field("guidance_scale").value = about.sampling.guidance_scale;
};

const choose = (clip) => {
  source = clip;
  get("source").textContent = clip ? `Like ${clip.seed === undefined ? clip.title : `${clip.title}, seed ${clip.seed}`}.` : "No sound yet.";
  field("what").value = "sound";
  if (clip && about.steered_not && !text("towards")) field("towards").value = clip.text || "";
  showWhat();
};

const make = async () => {
  say("");
  if (get("make").disabled || asking) return;
  asking = true;
  try {
    const told = wish();
    show(await post("/api/make", told));
    if (get("on").checked) {
      const next = (told.seed || 0) + (told.n || 1);
      field("seed").value = next > about.largest_seed ? randomSeed() : next;
    }
    soon();
  } catch (error) {
    say(error);
  } finally {
    asking = false;
  }
};

const give = async (file) => {
  if (!file || !about) return;
  say("");
  try {
    if (file.size > about.most_bytes) throw new Error(`${file.name}: at most ${about.most_bytes / 1e6} MB; cut out what is to be varied.`);
    get("status").textContent = `Reading ${file.name}.`;
    const told = await call(`/api/sound?name=${encodeURIComponent(file.name)}`,
      { method: "POST", headers: { "Content-Type": "application/octet-stream" }, body: file });
    await list();
    choose(clips.find((clip) => clip.id === told.id) || null);
  } catch (error) {
    say(error);
  }
  if (state) show(state);
};

// --- the list ---------------------------------------------------------------------------------------------------

const caption = (clip) => {
  if (clip.kind === "sound") {
    return `${clip.seconds.toFixed(2)} s, as the model hears it${clip.cut ? ": its beginning" : ""}`;
  }
  return `${clip.seconds.toFixed(2)} s at ${clip.rate / 1000} kHz · ${clip.how}`;
};

const card = (clip) => {
  const item = get("card").content.firstElementChild.cloneNode(true);
  const find = (selector) => item.querySelector(selector);
  const name = clip.kind === "sound" ? `your sound: ${clip.title}` : `${clip.title}, seed ${clip.seed}`;
  item.dataset.id = clip.id;
  find("h3").textContent = clip.kind === "sound" ? name : `${clip.title} `;
  if (clip.kind !== "sound") find("h3").append(Object.assign(document.createElement("span"), { textContent: `seed ${clip.seed}` }));
  Object.assign(find("audio"), { src: clip.sound, loop: Boolean(clip.loop) });
  find("audio").setAttribute("aria-label", name);
  Object.assign(find("img"), { src: clip.picture, alt: `Log-mel spectrogram: ${name}` });
  find(".lc-caption").textContent = caption(clip);
  find(".like").addEventListener("click", () => {
    choose(clip);
    form.scrollIntoView({ behavior: "smooth", block: "start" });
    field("strength").focus({ preventScroll: true });
  });
  find(".drop").addEventListener("click", () => post("/api/remove", { id: clip.id }).then(list).catch(say));
  if (clip.kind === "sound") {
    find(".get").remove();
    find(".line").remove();
    return item;
  }
  Object.assign(find(".get"), { href: clip.sound, download: clip.file });
  find(".line code").textContent = clip.command;
  find(".copy").addEventListener("click", () => copy(find(".line code"), find(".copy")));
  return item;
};

// navigator.clipboard is there for this machine's own address only.
const copy = async (code, button) => {
  const done = await navigator.clipboard?.writeText(code.textContent).then(() => true, () => false);
  if (!done) getSelection().selectAllChildren(code);
  button.textContent = done ? "Copied" : "Selected";
  setTimeout(() => { button.textContent = "Copy"; }, 1500);
};

const list = async () => {
  const told = await call("/api/clips");
  const first = shown < 0;
  const known = new Map(Array.from(get("clips").children, (item) => [Number(item.dataset.id), item]));
  const fresh = told.clips.filter((clip) => !known.has(clip.id) && clip.kind !== "sound");
  shown = told.revision;
  clips = told.clips;
  const there = new Set(clips.map((clip) => clip.id));
  known.forEach((item, id) => { if (!there.has(id)) item.remove(); });
  // what is there stays where it is: a player that is moved falls silent
  let before = null;
  [...clips].reverse().forEach((clip) => {
    const item = known.get(clip.id) || card(clip);
    if (!known.has(clip.id)) get("clips").insertBefore(item, before);
    before = item;
  });
  if (source && !there.has(source.id)) { source = null; choose(null); }
  const made = clips.filter((clip) => clip.kind !== "sound").length;
  get("count").textContent = made ? `${made}, the newest first` : "none yet";
  showWhat();
  if (!first && get("play").checked && fresh.length && players().every((player) => player.paused)) {
    get("clips").querySelector(`[data-id="${fresh[fresh.length - 1].id}"] audio`).play().catch(() => {});
  }
};

// --- what goes on -----------------------------------------------------------------------------------------------

const show = (told) => {
  state = told;
  const job = told.job;
  get("make").disabled = Boolean(job) || !about;
  get("stop").disabled = !job || job.stopping;
  get("bar").classList.toggle("busy", Boolean(job));
  if (job) {
    const part = job.steps ? Math.min(job.step / job.steps, 1) * 0.9 : 0;
    get("bar").value = Math.min((job.clip - 1 + part) / job.clips, 1);
    const step = job.step ? `step ${job.step} of ${job.steps}` : "beginning";
    get("status").textContent = `${job.title}: clip ${Math.min(job.clip, job.clips)} of ${job.clips}, ${job.stopping ? "stopping" : step}`;
  } else get("status").textContent = told.note ? `Note: ${told.note}` : "";
  if (told.error && told.error !== failed) say(told.error);
  failed = told.error;
};

let timer = 0;
const soon = (after = 0) => { clearTimeout(timer); timer = setTimeout(look, after); };

const look = async () => {
  let next = 1500;
  try {
    if (!about && !(await begin())) return soon(500); // the model is being loaded
    const told = await call("/api/state");
    if (told.session !== about.session) location.reload(); // the command was started again: clips are others
    if (get("error").dataset.gone) { delete get("error").dataset.gone; say(""); }
    if (told.revision !== shown) await list();
    show(told);
    next = told.job ? 250 : 1500;
  } catch (error) {
    get("make").disabled = true;
    get("error").dataset.gone = "yes";
    say(error);
  }
  return soon(next);
};

const begin = async () => {
  const told = await call("/api/about");
  if (told.loading) return false;
  about = told;
  get("about").textContent = `Model: ${about.model} on ${about.device}, clips of ${about.seconds.toFixed(2)} s at ${about.sampling_rate / 1000} kHz. ${about.card}`;
  get("kept").textContent = about.out
    ? `Every clip is saved in ${about.out}, with a record of how it was made; Remove deletes its file.`
    : "Nothing is saved: clips are gone when the command ends, so download those that you want (or start it with --out FOLDER).";
  get("across").textContent = `${about.seconds.toFixed(2)} s`;
  const words = get("classes").firstElementChild;
  about.classes.forEach((cls, k) => {
    const chip = words.cloneNode(true);
    Object.assign(chip.querySelector("input"), { value: cls.name, checked: k === 0 });
    chip.querySelector("span").textContent = cls.label;
    get("classes").insertBefore(chip, words);
  });
  about.samplers.forEach((name) => field("sampler").add(new Option(name, name)));
  get("knows").hidden = !about.shipped;
  field("n").max = about.most_clips;
  field("steps").max = about.most_steps;
  field("seconds").placeholder = about.seconds.toFixed(2);
  field("sampling_rate").placeholder = about.sampling_rate;
  field("seed").value = randomSeed();
  takeOwn();
  showWhat();
  showStrength();
  return true;
};

// --- players ----------------------------------------------------------------------------------------------------

const players = () => Array.from(document.querySelectorAll("#clips audio"));
const startFrom = (player, seconds) => {
  player.currentTime = seconds;
  player.play().catch(() => {}); // broken off by the next one
};

const line = (player) => {
  const picture = player.closest("li")?.querySelector(".lc-picture");
  if (!picture) return;
  picture.style.setProperty("--at", player.currentTime / about.seconds);
  if (!player.paused) requestAnimationFrame(() => line(player));
};

document.addEventListener("play", (event) => {
  players().forEach((other) => {
    if (other === event.target) return;
    other.pause();
    other.closest("li").querySelector(".lc-picture").style.removeProperty("--at");
  });
  event.target.closest("li").classList.add("playing");
  line(event.target);
}, true);
["pause", "ended"].forEach((name) => document.addEventListener(name, (event) => event.target.closest?.("li")?.classList.remove("playing"), true));
document.addEventListener("seeking", (event) => line(event.target), true);

get("clips").addEventListener("click", (event) => {
  const picture = event.target.closest(".lc-picture");
  if (!picture) return;
  const box = picture.getBoundingClientRect();
  const player = picture.closest("li").querySelector("audio");
  const clip = clips.find((one) => one.id === Number(picture.closest("li").dataset.id));
  const at = about.seconds * (event.clientX - box.left) / box.width;
  startFrom(player, clip && at < clip.seconds ? at : 0);
});

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Escape" && state?.job) return void post("/api/stop", {}).then(show).catch(say);
  const typing = event.target.closest("input:not([type=radio], [type=checkbox], [type=range]), textarea, select");
  if (event.key === "Enter" && !event.target.closest("button, a, summary, audio")) {
    event.preventDefault();
    return void make();
  }
  if (typing || !/^[1-9]$/.test(event.key)) return;
  const player = players()[Number(event.key) - 1];
  if (!player) return;
  if (player.paused) startFrom(player, 0);
  else player.pause();
});

// --- the rest ---------------------------------------------------------------------------------------------------

form.addEventListener("submit", (event) => { event.preventDefault(); make(); });
form.addEventListener("change", (event) => { if (event.target.name === "what") showWhat(); });
field("strength").addEventListener("input", showStrength);
field("sampler").addEventListener("change", () => {
  // another sampler than the model's own has other steps
  field("steps").value = field("sampler").value === about.sampling.sampler ? about.sampling.steps : about.paper_steps;
});
get("stop").addEventListener("click", () => post("/api/stop", {}).then(show).catch(say));
get("new").addEventListener("click", () => { field("seed").value = randomSeed(); });
get("own").addEventListener("click", takeOwn);
get("file").addEventListener("change", () => { give(get("file").files[0]); get("file").value = ""; });
["dragover", "dragleave", "drop"].forEach((name) => document.addEventListener(name, (event) => {
  event.preventDefault();
  document.body.classList.toggle("over", name === "dragover" && event.dataTransfer.types.includes("Files"));
  if (name === "drop") give(event.dataTransfer.files[0]);
}));
soon();
