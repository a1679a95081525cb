// What helps to read a page: folded cases opened at once, and boxes that show on which side there is more to see.
// Without this script everything is there: folds open by a click, and boxes scroll.
(function () {
  "use strict";
  const ready = (act) => {
    if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", act);
    else act();
  };

  // A button that opens and closes all folds that it names.
  const addFolds = () => document.querySelectorAll(".lc-folds").forEach((line) => {
    const button = line.querySelector("button");
    const folds = Array.from(document.querySelectorAll(button.dataset.folds));
    const told = () => {
      button.textContent = folds.every((fold) => fold.open) ? button.dataset.close : button.dataset.open;
    };
    button.addEventListener("click", () => {
      const open = !folds.every((fold) => fold.open);
      folds.forEach((fold) => { fold.open = open; });
    });
    folds.forEach((fold) => fold.addEventListener("toggle", told));
    line.hidden = false;
  });

  // Paper has no clicks: browsers that do not print what is folded get it opened for as long as they print.
  let opened = [];
  window.addEventListener("beforeprint", () => {
    opened = Array.from(document.querySelectorAll("article details:not([open])"));
    opened.forEach((fold) => { fold.open = true; });
  });
  window.addEventListener("afterprint", () => opened.forEach((fold) => { fold.open = false; }));

  // A link to a case opens the fold that it lies in, also in browsers that do not do so themselves.
  const reveal = () => {
    const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    const fold = target && target.closest("details:not([open])");
    if (!fold) return;
    fold.open = true;
    target.scrollIntoView();
  };
  window.addEventListener("hashchange", reveal);

  // Boxes that scroll sideways: a phone shows no bar until it is touched.
  const BOXES = "article :is(div.cell_output, div.cell_output .text_html, .pst-scrollable-table-container, .lc-scroll,"
    + " div.math, mjx-container[display=true], pre, a:has(> img.lc-figure))";
  const mark = (box) => {
    const rest = box.scrollWidth - box.clientWidth - box.scrollLeft;
    box.classList.toggle("lc-more-left", box.scrollLeft > 1 && box.scrollWidth > box.clientWidth + 1);
    box.classList.toggle("lc-more-right", rest > 1);
  };
  const seen = new WeakSet();
  const sizes = new ResizeObserver((changed) => changed.forEach((entry) => mark(entry.target)));
  const addMarks = () => document.querySelectorAll(BOXES).forEach((box) => {
    if (!seen.has(box)) {
      seen.add(box);
      box.addEventListener("scroll", () => mark(box), { passive: true });
      sizes.observe(box);
    }
    mark(box);
  });
  // pictures and formulas come later
  window.addEventListener("load", () => {
    addMarks();
    if (window.MathJax && MathJax.startup) MathJax.startup.promise.then(addMarks);
  });

  ready(() => { addFolds(); reveal(); addMarks(); });
})();
