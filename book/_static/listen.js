// Listening grids: one player at a time, number keys that switch within a row at the same position, and pictures that
// show what moment is heard. Without this script the players still play; nothing else depends on it.
(function () {
  "use strict";
  let current = null; // what keys and pictures speak of: started, or focused
  let started = null;
  const wanted = new WeakMap(); // where a player is to begin that cannot go there yet

  const rowOf = (player) => player && player.closest(".lc-row");
  const playersOf = (row) => Array.from(row.querySelectorAll("audio"));
  const isOurs = (node) => node instanceof HTMLAudioElement;
  const pictureOf = (player) => player.closest("td") && player.closest("td").querySelector(".lc-picture");
  const secondsOf = (picture) => Number(picture.closest(".lc-listen").dataset.seconds) || 4;

  document.documentElement.classList.add("lc-script"); // pictures can be clicked on

  const takeOver = (player) => {
    document.querySelectorAll("audio").forEach((other) => {
      if (other === player) return;
      other.pause();
      if (pictureOf(other)) pictureOf(other).style.removeProperty("--lc-at");
    });
    current = started = player;
  };

  const playFrom = (player, position) => {
    wanted.set(player, position);
    takeOver(player);
    player.currentTime = position;
    player.play().catch(() => {}); // broken off by the next one
    // WebKitGTK's players stand still now and then where they begin within a file that comes as a whole
    setTimeout(() => { if (started === player && !player.paused && player.currentTime <= position) takeCopy(player); }, 1500);
  };

  // The line in the picture: a player's own bar is short, and its steps are a quarter of a second.
  const draw = () => {
    const picture = current && pictureOf(current);
    if (!picture) return;
    picture.style.setProperty("--lc-at", Math.min(current.currentTime / secondsOf(picture), 1));
    if (!current.paused) requestAnimationFrame(draw);
  };

  document.addEventListener("play", (event) => {
    if (!isOurs(event.target) || event.target.paused) return; // it was stopped before its event came
    takeOver(event.target);
    if (current.closest("td")) current.closest("td").classList.add("lc-playing");
    draw();
  }, true);

  // Whoever was started last is heard: one that took its copy meanwhile does not come in again.
  document.addEventListener("playing", (event) => {
    if (isOurs(event.target) && started && event.target !== started) event.target.pause();
  }, true);

  ["pause", "ended"].forEach((name) => document.addEventListener(name, (event) => {
    if (isOurs(event.target) && event.target.closest("td")) {
      event.target.closest("td").classList.remove("lc-playing");
    }
  }, true));

  ["seeking", "timeupdate"].forEach((name) => document.addEventListener(name, (event) => {
    if (event.target === current && current.paused) draw();
  }, true));

  // The up and down keys change one player's volume; clips are compared, so that the others follow.
  document.addEventListener("volumechange", (event) => {
    if (event.target !== current) return;
    document.querySelectorAll("audio").forEach((other) => {
      other.volume = current.volume;
      other.muted = current.muted;
    });
  }, true);

  // A server that gives whole files only, as Python's does, lets no player seek, and Safari plays nothing from it. Such a
  // player takes a copy.
  const takeCopy = async (player) => {
    if (!/^https?:/.test(player.currentSrc)) return;
    const begun = player.error && !player.paused; // Chromium and WebKit pause what has failed
    const answer = await fetch(player.currentSrc).catch(() => null);
    if (!answer || !answer.ok) return;
    const copy = URL.createObjectURL(await answer.blob());
    const position = Math.max(player.currentTime, wanted.get(player) || 0);
    const paused = (player.paused && !begun) || player !== started;
    player.src = copy;
    player.currentTime = position;
    if (!paused) player.play().catch(() => {});
  };
  document.addEventListener("loadedmetadata", (event) => {
    if (isOurs(event.target) && !(event.target.seekable.length && event.target.seekable.end(0) > 0)) takeCopy(event.target);
  }, true);
  document.addEventListener("error", (event) => { if (isOurs(event.target)) takeCopy(event.target); }, true);

  document.addEventListener("focusin", (event) => {
    if (isOurs(event.target)) current = event.target;
  });

  document.addEventListener("click", (event) => {
    const picture = event.target.closest(".lc-picture");
    const player = picture && picture.closest("td").querySelector("audio");
    if (!player) return;
    const box = picture.getBoundingClientRect();
    playFrom(player, ((event.clientX - box.left) / box.width) * secondsOf(picture));
  });

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !/^[1-9]$/.test(event.key)) return;
    if (event.target.closest("input, textarea, select, [contenteditable='true']")) return;
    const row = rowOf(current);
    const next = row && playersOf(row)[Number(event.key) - 1];
    if (!next) return;
    event.preventDefault();
    playFrom(next, next === current || current.ended ? 0 : current.currentTime);
    next.focus({ preventScroll: true });
    next.closest("td").scrollIntoView({ block: "nearest", inline: "nearest" });
  });
})();
