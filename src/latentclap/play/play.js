// The page of `latentclap play`: asks for clips, shows how far they are, and plays what is there.
"use strict";

const get = (id) => document.getElementById(id);
const form = get("ask");
const field = (name) => form.elements[name];
let about = null; // the model, and what can be chosen
let state = null; // what goes on
let clips = []; // as the lists show them, the newest first
let before = null; // those of earlier sessions: all that changes of them is stars, and which are there
let source = null; // the clip or sound that takes are made of
let shown = -1; // revision of the list
let asking = false;
let failed = ""; // what the last job ended with, said once
let heard = []; // the players that were heard last, the last one first

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
  remember();
};

// --- what is chosen, in the address -----------------------------------------------------------------------------

const FIELDS = ["what", "prompt", "towards", "strength", "n", "seed", "sampler", "steps", "guidance_scale", "seconds", "loop", "fade",
  "lufs", "sampling_rate"];
const TICKS = ["on", "play", "keys"];
let usual = {}; // what all fields have when the page is new

const values = () => Object.fromEntries([...FIELDS.map((name) => [name, field(name).value]),
  ...TICKS.map((name) => [name, get(name).checked ? "yes" : "no"])]);

// Only what is not as usual: the model's own steps stay its own when another model is played.
const remember = () => {
  if (!about) return;
  const told = Object.entries(values()).filter(([name, value]) => value !== usual[name]);
  history.replaceState(null, "", `#${new URLSearchParams(told)}`);
};

const recall = () => {
  const told = { ...usual, ...Object.fromEntries(new URLSearchParams(location.hash.slice(1))) };
  FIELDS.forEach((name) => {
    const before = field(name).value;
    field(name).value = told[name];
    if ((name === "what" || name === "sampler") && field(name).value !== told[name]) field(name).value = before;
  });
  TICKS.forEach((name) => { get(name).checked = told[name] === "yes"; });
  unfold();
  showWhat();
  showStrength();
  showStarred();
};

// What is not as usual is seen.
const SAMPLING = ["sampler", "steps", "guidance_scale"];
const FINISH = ["seconds", "loop", "fade", "lufs", "sampling_rate"];
const unfold = () => [SAMPLING, FINISH].forEach((names, k) => {
  if (names.some((name) => field(name).value !== usual[name])) form.querySelectorAll("details")[k].open = true;
});

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
    remember();
    soon();
  } catch (error) {
    say(error);
  } finally {
    asking = false;
  }
};

const give = async (files) => {
  if (!files.length || !about) return;
  say("");
  const failures = [];
  for (const file of files) await giveOne(file).catch((error) => failures.push(error));
  if (failures.length) say(failures[0]);
  if (state) show(state);
};

const giveOne = async (file) => {
  if (file.size > about.most_bytes) throw new Error(`${file.name}: at most ${about.most_bytes / 1e6} MB; cut out what is to be varied.`);
  get("status").textContent = `Reading ${file.name}.`;
  const told = await call(`/api/sound?name=${encodeURIComponent(file.name)}`,
    { method: "POST", headers: { "Content-Type": "application/octet-stream" }, body: file });
  await list();
  choose(clips.find((clip) => clip.id === told.id) || null);
};

// --- the list ---------------------------------------------------------------------------------------------------

// A browser has a limit of players, a phone one of forty: those far from the window get their sound when they come near.
// A player has many parts that are slow to make: one of an earlier session is made when it comes near.
const PLAYERS = 30;
const ready = (player) => { if (!player.hasAttribute("src")) player.src = player.dataset.sound; };
const near = new IntersectionObserver((seen) => seen.forEach(({ target, isIntersecting }) => {
  if (isIntersecting) return ready(playerOf(target.closest("li")));
  const player = target.firstElementChild;
  if (!player?.hasAttribute("src")) return;
  const full = document.querySelectorAll("#clips audio[src]").length > PLAYERS;
  if (full && player.paused && !heard.includes(player)) {
    player.removeAttribute("src");
    player.load();
  }
}), { rootMargin: "600px" });

const clipOf = (item) => clips.find((one) => one.id === Number(item.dataset.id));
const nameOf = (clip) => (clip.kind === "sound" ? `your sound: ${clip.title}` : `${clip.title}, seed ${clip.seed}`);

const playerOf = (item) => {
  const at = item.querySelector(".player");
  if (!at.firstElementChild) at.append(newPlayer(clipOf(item)));
  return at.firstElementChild;
};

const newPlayer = (clip) => {
  const player = get("player").content.firstElementChild.cloneNode(true);
  player.dataset.sound = clip.sound;
  player.loop = Boolean(clip.loop);
  player.setAttribute("aria-label", nameOf(clip));
  return player;
};

const showStar = (item, clip) => {
  item.classList.toggle("starred", clip.starred);
  item.querySelector(".star")?.setAttribute("aria-pressed", clip.starred);
  if (item.querySelector(".star")) item.querySelector(".star").textContent = clip.starred ? "★" : "☆";
};

const star = (item) => {
  const clip = clipOf(item);
  if (clip && clip.kind !== "sound") post("/api/star", { id: clip.id, starred: !clip.starred }).then(list).catch(say);
};

// Numbers of the clips that are seen, and what there is to download.
const showStarred = () => {
  get("clips").classList.toggle("only", get("only").checked);
  document.querySelectorAll("#clips h3[data-place]").forEach((heading) => heading.removeAttribute("data-place"));
  seen().slice(0, 9).forEach((item, k) => { item.querySelector("h3").dataset.place = k + 1; });
  const count = clips.filter((clip) => clip.starred).length;
  get("zip").hidden = !count;
  get("zip").textContent = `Download ${count} starred (zip)`;
};

const like = (item) => {
  const clip = clipOf(item);
  if (!clip) return;
  choose(clip);
  toForm(field("strength"));
};

const toForm = (part) => {
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  form.scrollIntoView({ behavior: calm ? "auto" : "smooth", block: "start" });
  part.focus({ preventScroll: true });
};

// How a clip was made, as the form has it; what was not asked for is empty.
const reuse = (item) => {
  const clip = clipOf(item);
  if (!clip) return;
  const asked = { prompt: "", towards: "", ...clip.asked, seed: clip.seed };
  ["what", "prompt", "towards", "strength", "seed", ...SAMPLING, ...FINISH].forEach((name) => {
    if (name !== "strength" || asked.strength) field(name).value = asked[name] ?? "";
  });
  if (asked.what === "sound") choose(clips.find((one) => one.id === asked.source) || null);
  unfold();
  showWhat();
  showStrength();
  remember();
  toForm(get("make").disabled ? field("seed") : get("make"));
};

// Its neighbour's button gets the focus: whoever has no mouse goes on from there.
const remove = async (item) => {
  const other = item.nextElementSibling || item.previousElementSibling;
  const focused = item.contains(document.activeElement);
  await post("/api/remove", { id: Number(item.dataset.id) });
  await list();
  if (focused) (other?.querySelector(".drop") || get("make")).focus();
};

const caption = (clip) => {
  if (clip.kind === "sound") {
    return `${clip.seconds.toFixed(2)} s, as the model hears it${clip.cut ? ": its beginning" : ""}`;
  }
  const beyond = clip.seconds > about.seconds + 0.005 ? " (the picture shows its beginning)" : "";
  return `${clip.seconds.toFixed(2)} s at ${clip.rate / 1000} kHz${beyond} · ${clip.how}`;
};

const card = (clip) => {
  const item = get("card").content.firstElementChild.cloneNode(true);
  const find = (selector) => item.querySelector(selector);
  const name = nameOf(clip);
  item.dataset.id = clip.id;
  find("h3").textContent = clip.kind === "sound" ? name : `${clip.title} `;
  if (clip.kind !== "sound") find("h3").append(Object.assign(document.createElement("span"), { textContent: `seed ${clip.seed}` }));
  if (clip.by === undefined) find(".player").append(newPlayer(clip));
  near.observe(find(".player"));
  find("h3").id = `clip-${clip.id}`;
  item.querySelectorAll("button, .get").forEach((part) => part.setAttribute("aria-describedby", `clip-${clip.id}`));
  Object.assign(find("img"), { src: clip.picture, alt: `Log-mel spectrogram: ${name}` });
  find(".lc-caption").textContent = caption(clip);
  find(".like").addEventListener("click", () => like(item));
  find(".drop").addEventListener("click", () => remove(item).catch(say));
  if (clip.kind === "sound") {
    find(".star").remove();
    find(".get").remove();
    find(".line").remove();
    return item;
  }
  Object.assign(find(".get"), { href: clip.sound, download: clip.file });
  find(".line code").textContent = clip.command;
  find(".copy").addEventListener("click", () => copy(find(".line code"), find(".copy")));
  find(".reuse").addEventListener("click", () => reuse(item));
  find(".star").addEventListener("click", () => star(item));
  if (clip.by) find(".by").textContent = `made by ${clip.by}`;
  return item;
};

// navigator.clipboard is there for this machine's own address only.
const copy = async (code, button) => {
  const done = await navigator.clipboard?.writeText(code.textContent).then(() => true, () => false);
  if (!done) getSelection().selectAllChildren(code);
  button.textContent = done ? "Copied" : "Selected";
  setTimeout(() => { button.textContent = "Copy"; }, 1500);
};

// Cards of one list. What is there stays where it is: a player that is moved falls silent.
const place = (into, told) => {
  const known = new Map(Array.from(into.children, (item) => [Number(item.dataset.id), item]));
  const there = new Set(told.map((clip) => clip.id));
  known.forEach((item, id) => {
    if (there.has(id)) return;
    near.unobserve(item.querySelector(".player"));
    heard = heard.filter((player) => !item.contains(player));
    item.remove();
  });
  let after = null;
  [...told].reverse().forEach((clip) => {
    const item = known.get(clip.id) || card(clip);
    if (!known.has(clip.id)) into.insertBefore(item, after);
    showStar(item, clip);
    after = item;
  });
};

const list = async () => {
  const told = await call("/api/clips");
  const first = shown < 0;
  const old = new Set(clips.map((clip) => clip.id));
  const fresh = told.clips.filter((clip) => !old.has(clip.id) && clip.kind !== "sound");
  if (!before) before = Object.keys(told.earlier).length ? (await call("/api/earlier")).clips : [];
  before = before.filter((clip) => clip.id in told.earlier);
  before.forEach((clip) => { clip.starred = told.earlier[clip.id]; });
  shown = told.revision;
  clips = [...told.clips, ...before];
  place(get("now"), told.clips);
  place(get("before"), before);
  get("earlier").hidden = !before.length;
  get("many").textContent = `${before.length}, the newest first`;
  const there = new Set(clips.map((clip) => clip.id));
  if (source && !there.has(source.id)) { source = null; choose(null); }
  const made = told.clips.filter((clip) => clip.kind !== "sound").length;
  get("count").textContent = made ? `${made}, the newest first` : "none yet";
  showWhat();
  showStarred();
  if (!first && get("play").checked && fresh.length && Array.from(document.querySelectorAll("#clips audio")).every((player) => player.paused)) {
    startFrom(playerOf(get("now").querySelector(`[data-id="${fresh[fresh.length - 1].id}"]`)), 0);
  }
};

// --- what goes on -----------------------------------------------------------------------------------------------

let pressed = false;
const left = (job) => {
  if (job.left === null || job.left < 2) return "";
  return job.left < 90 ? `; about ${Math.round(job.left)} s left` : `; about ${Math.round(job.left / 60)} min left`;
};

const show = (told) => {
  state = told;
  const job = told.job;
  // a button that is switched off loses the focus, and has it again afterwards
  if (job && document.activeElement === get("make")) pressed = true;
  get("make").disabled = Boolean(job) || !about;
  if (!job && pressed) {
    pressed = false;
    if (document.activeElement === document.body) get("make").focus();
  }
  get("stop").disabled = !job || job.stopping;
  get("bar").classList.toggle("busy", Boolean(job));
  if (job) {
    const part = job.steps ? Math.min(job.step / job.steps, 1) * 0.9 : 0;
    get("bar").value = Math.min((job.clip - 1 + part) / job.clips, 1);
    const step = job.step ? `step ${job.step} of ${job.steps}` : "beginning";
    get("status").textContent = `${job.title}: clip ${Math.min(job.clip, job.clips)} of ${job.clips}, ${job.stopping ? "stopping" : step + left(job)}`;
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
    ? `Every clip is saved in ${about.out}, with a record of how it was made; Remove deletes its file.${about.found ? ` The folder holds ${about.found}.` : ""}`
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
  takeOwn();
  usual = values();
  recall();
  if (!text("seed")) field("seed").value = randomSeed();
  remember();
  return true;
};

// --- players ----------------------------------------------------------------------------------------------------

// The clips that are seen.
const seen = () => Array.from(document.querySelectorAll(get("only").checked ? "#clips .starred" : "#clips li"));
const hearing = (player) => {
  if (heard[0] !== player) heard = [player, ...heard.slice(0, 1)];
};
const startFrom = (player, seconds) => {
  hearing(player); // from now on: the next key may come before the player says that it plays
  ready(player);
  player.currentTime = seconds;
  player.play().catch((error) => { // else it is broken off by the next one
    if (error.name === "NotAllowedError") say("The browser lets no page begin to play by itself: press the player, or allow it for this site.");
  });
};

const line = (player) => {
  const picture = player.closest("li")?.querySelector(".lc-picture");
  if (!picture) return;
  picture.style.setProperty("--at", player.currentTime / about.seconds);
  if (!player.paused) requestAnimationFrame(() => line(player));
};

document.addEventListener("play", (event) => {
  hearing(event.target);
  document.querySelectorAll("#clips audio").forEach((other) => {
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
  const player = playerOf(picture.closest("li"));
  const clip = clipOf(picture.closest("li"));
  const at = about.seconds * (event.clientX - box.left) / box.width;
  startFrom(player, clip && at < clip.seconds ? at : 0);
});

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || event.repeat) return;
  if (event.key === "Escape" && state?.job) return void post("/api/stop", {}).then(show).catch(say);
  const typing = event.target.closest("input:not([type=radio], [type=checkbox], [type=range]), textarea, select");
  if (event.key === "Enter" && !event.target.closest("button, a, summary, audio, select, code, [type=file]")) {
    event.preventDefault();
    return void make();
  }
  if (typing || !get("keys").checked) return;
  const key = event.key.toLowerCase();
  const asked = /^[1-9]$/.test(key) ? seen()[Number(key) - 1] : null;
  const last = event.target.closest("#clips li") || heard[0]?.closest("li");
  if (asked) {
    const player = playerOf(asked);
    if (player.paused) startFrom(player, 0);
    else player.pause();
  } else if (key === "x" && heard[1]) {
    // while one plays the other goes on where it is: a sound that lasts is compared at one place
    startFrom(heard[1], heard[0].paused ? 0 : Math.min(heard[0].currentTime, heard[1].duration || 0));
  } else if (key === "s" && last) star(last);
  else if (key === "m" && last) {
    event.preventDefault();
    like(last);
  }
});

// --- the rest ---------------------------------------------------------------------------------------------------

form.addEventListener("submit", (event) => { event.preventDefault(); make(); });
form.addEventListener("change", (event) => { if (event.target.name === "what") showWhat(); });
document.addEventListener("change", remember);
window.addEventListener("hashchange", () => { if (about) recall(); });
get("only").addEventListener("change", showStarred);
field("strength").addEventListener("input", showStrength);
field("sampler").addEventListener("change", () => {
  // another sampler than the model's own has other steps
  field("steps").value = field("sampler").value === about.sampling.sampler ? about.sampling.steps : about.paper_steps;
});
get("stop").addEventListener("click", () => post("/api/stop", {}).then(show).catch(say));
get("new").addEventListener("click", () => { field("seed").value = randomSeed(); remember(); });
get("own").addEventListener("click", () => { takeOwn(); remember(); });
get("file").addEventListener("change", () => { give([...get("file").files]); get("file").value = ""; });
["dragover", "dragleave", "drop"].forEach((name) => document.addEventListener(name, (event) => {
  const files = event.dataTransfer.types.includes("Files"); // words may be dropped into a field
  document.body.classList.toggle("over", files && name === "dragover");
  if (!files) return;
  event.preventDefault();
  if (name === "drop") give([...event.dataTransfer.files]);
}));
soon();
