// Listening grids: one player at a time, and number keys that switch within a row at the same position.
// Without this script the players still play; nothing else depends on it.
(function () {
  "use strict";
  let current = null;

  const rowOf = (player) => player && player.closest(".lc-row");
  const playersOf = (row) => Array.from(row.querySelectorAll("audio"));
  const isOurs = (node) => node instanceof HTMLAudioElement;

  document.addEventListener("play", (event) => {
    if (!isOurs(event.target)) return;
    document.querySelectorAll("audio").forEach((other) => {
      if (other !== event.target) other.pause();
    });
    current = event.target;
    if (current.closest("td")) current.closest("td").classList.add("lc-playing");
  }, true);

  ["pause", "ended"].forEach((name) => document.addEventListener(name, (event) => {
    if (isOurs(event.target) && event.target.closest("td")) {
      event.target.closest("td").classList.remove("lc-playing");
    }
  }, true));

  document.addEventListener("focusin", (event) => {
    if (isOurs(event.target)) current = event.target;
  });

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !/^[1-9]$/.test(event.key)) return;
    if (event.target.closest("input, textarea, select, [contenteditable='true']")) return;
    const row = rowOf(current);
    const next = row && playersOf(row)[Number(event.key) - 1];
    if (!next) return;
    event.preventDefault();
    const position = next === current || current.ended ? 0 : current.currentTime;
    next.currentTime = position;
    next.play();
    next.focus({ preventScroll: true });
    next.closest("td").scrollIntoView({ block: "nearest", inline: "nearest" });
  });
})();
