// A blind listening test: one clip at a time, in an order of the rater's own, two questions from 0 to 10. Answers are
// kept in this browser as they are given, and leave it only as the file that the rater saves, or as a survey sends it.
(function () {
  "use strict";

  const add = (parent, name, attributes = {}, ...children) => {
    const node = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) {
      if (typeof value === "function") node.addEventListener(key, value);
      else if (value !== false && value !== undefined) node.setAttribute(key, value === true ? "" : value);
    }
    node.append(...children);
    parent.append(node);
    return node;
  };

  // An order that depends on the rater's name alone, so that a page that is opened again goes on where it was.
  const random = (text) => {
    let state = 2166136261;
    for (const sign of text) state = Math.imul(state ^ sign.codePointAt(0), 16777619);
    return () => { // mulberry32
      state = (state + 0x6d2b79f5) | 0;
      let t = Math.imul(state ^ (state >>> 15), 1 | state);
      t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
      return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
    };
  };
  const shuffled = (list, draw) => {
    const out = list.slice();
    for (let i = out.length - 1; i > 0; i--) {
      const j = Math.floor(draw() * (i + 1));
      [out[i], out[j]] = [out[j], out[i]];
    }
    return out;
  };

  const csv = (rows) => rows.map((row) => row.map((cell) => {
    const text = String(cell === undefined || cell === null ? "" : cell);
    return /[",\r\n]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text;
  }).join(",")).join("\n") + "\n";

  function survey(root) {
    const study = JSON.parse(root.querySelector("script").textContent);
    const open = study.clips.length > 0 && study.clips[0].model !== undefined; // the page knows which clip is whose
    const [low, high] = study.scale;
    const memory = `latentclap-survey-${study.study}`;
    const box = add(root, "div", { class: "lc-rate-box" });
    let state = { rater: "", cls: "", raters: {} }; // several people may rate in one browser, one after the other
    const answersOf = (rater) => (Object.hasOwn(state.raters, rater) ? state.raters[rater] : {});
    const answered = (clip) => answersOf(state.rater)[clip.id] || {};
    let remembers = true;

    const remember = () => {
      try {
        localStorage.setItem(memory, JSON.stringify(state));
      } catch {
        remembers = false; // a private window: what was rated lasts as long as the page
      }
    };
    try {
      state = { ...state, ...JSON.parse(localStorage.getItem(memory) || "{}") };
    } catch {
      remembers = false;
    }

    // Class after class, as in the paper's surveys, each of which had one; both orders are the rater's own.
    const ordered = () => {
      const draw = random(`${state.rater}/${study.study}`);
      const classes = shuffled(study.classes.map((c) => c.name), draw);
      const every = classes.flatMap((name) => shuffled(study.clips.filter((clip) => clip.cls === name), draw));
      return state.cls ? every.filter((clip) => clip.cls === state.cls) : every;
    };
    const labelOf = (name) => study.classes.find((c) => c.name === name).label;
    const isRated = (clip) => study.questions.every((q) => answered(clip)[q.name] !== undefined);
    const isDone = (clip) => isRated(clip) || answered(clip).broken;

    const table = () => {
      const names = study.questions.map((q) => q.name);
      const whose = open ? ["class", "model", "item"] : ["class"];
      const rows = [["study", "rater", "clip", ...whose, ...names, "order", "plays", "when"]];
      ordered().forEach((clip, place) => {
        const answer = answered(clip);
        if (!isRated(clip)) return;
        rows.push([study.study, state.rater, clip.id, ...whose.map((key) => clip[key === "class" ? "cls" : key]),
          ...names.map((name) => answer[name]), place + 1, answer.plays, answer.when]);
      });
      return csv(rows);
    };
    const save = () => {
      const file = URL.createObjectURL(new Blob([table()], { type: "text/csv" }));
      const which = state.cls || (study.classes.length === 1 ? study.classes[0].name : "all");
      const link = add(box, "a", { href: file, download: `ratings-${which}-${state.rater}.csv`, hidden: true });
      link.click();
      link.remove();
      setTimeout(() => URL.revokeObjectURL(file), 60000);
    };

    const show = (title, scroll) => {
      box.replaceChildren();
      const heading = add(box, "h2", { tabindex: "-1" }, title);
      if (scroll) {
        heading.focus({ preventScroll: true });
        if (box.getBoundingClientRect().top < 0) box.scrollIntoView({ block: "start" });
      }
      return heading;
    };
    const progress = (done, all) => {
      const bar = add(box, "progress", { max: all, value: done, "aria-label": "clips rated" });
      add(box, "p", { class: "lc-rate-small" }, `${done} of ${all} clips rated`);
      return bar;
    };

    function start(scroll) {
      show(study.title, scroll);
      study.intro.forEach((text) => add(box, "p", {}, text));
      const form = add(box, "form", { submit: (event) => {
        event.preventDefault();
        state.rater = naming.value.trim() || Math.random().toString(36).slice(2, 8);
        state.raters[state.rater] = answersOf(state.rater);
        state.cls = choice ? choice.value : "";
        remember();
        next();
      } });
      const naming = add(add(form, "label", {}, "Your name or number "), "input", {
        name: "rater", maxlength: 40, autocomplete: "off", placeholder: "a random one", value: state.rater,
      });
      let choice = null;
      if (study.classes.length > 1) {
        choice = add(add(form, "label", {}, "Sounds of "), "select", { name: "class" });
        add(choice, "option", { value: "" }, `all classes (${study.clips.length} clips)`);
        study.classes.forEach((c) => {
          const count = study.clips.filter((clip) => clip.cls === c.name).length;
          add(choice, "option", { value: c.name, selected: state.cls === c.name }, `${c.label} (${count} clips)`);
        });
      }
      const done = study.clips.filter(isDone).length;
      add(form, "button", { type: "submit" }, done ? "Go on" : "Begin");
      if (done) {
        add(form, "button", { type: "button", click: () => {
          if (!window.confirm(`Forget what ${state.rater} has rated?`)) return;
          delete state.raters[state.rater];
          remember();
          start(true);
        } }, "Forget my answers");
        progress(done, study.clips.length);
      }
      if (!remembers) add(box, "p", { class: "lc-rate-small" }, "This browser keeps nothing: do not reload the page.");
    }

    function next(from = -1) {
      const order = ordered();
      const place = order.findIndex((clip, i) => i > from && !isDone(clip));
      if (place >= 0) return trial(order, place);
      const left = order.findIndex((clip) => !isDone(clip));
      return left >= 0 ? trial(order, left) : finish(order);
    }

    function trial(order, place) {
      const clip = order[place];
      const answer = { plays: 0, ...answered(clip) };
      show(`Clip ${place + 1} of ${order.length}: ${labelOf(clip.cls)}`, true);
      let heard = isRated(clip);
      const audio = add(box, "audio", {
        controls: true, controlslist: "nodownload noplaybackrate", preload: "auto", src: clip.src,
        "aria-label": `clip ${place + 1}`,
        play: () => { answer.plays += 1; },
        ended: () => { heard = true; ready(); },
        error: () => {
          status.textContent = "This clip cannot be played here; it is left out.";
          answer.broken = true;
          ready();
        },
      });
      const form = add(box, "form", { submit: (event) => {
        event.preventDefault();
        if (go.disabled) return;
        state.raters[state.rater][clip.id] = { ...answer, when: new Date().toISOString() };
        remember();
        next(place);
      } });
      study.questions.forEach((q) => {
        const set = add(form, "fieldset");
        add(set, "legend", {}, q.text.replace("{class}", labelOf(clip.cls)));
        const line = add(set, "div", { class: "lc-rate-scale" });
        add(line, "span", { class: "lc-rate-end" }, q.low);
        for (let value = low; value <= high; value++) {
          const mark = add(line, "label");
          add(mark, "input", {
            type: "radio", name: q.name, value, checked: answer[q.name] === value,
            change: () => { answer[q.name] = value; ready(); },
          });
          mark.append(String(value));
        }
        add(line, "span", { class: "lc-rate-end" }, q.high);
      });
      const status = add(form, "p", { class: "lc-rate-small", role: "status" });
      const back = add(form, "button", { type: "button", click: () => trial(order, place - 1) }, "Back");
      back.disabled = place === 0;
      const go = add(form, "button", { type: "submit" }, "Next");
      add(form, "button", { type: "button", click: () => { audio.pause(); finish(order); } }, "Stop here");
      const ready = () => {
        const rated = study.questions.every((q) => answer[q.name] !== undefined);
        go.disabled = !(answer.broken || (heard && rated));
        if (answer.broken) return;
        if (!heard) status.textContent = "Hear the clip to its end, as often as you like, then answer.";
        else status.textContent = rated ? "" : "Now answer both questions.";
      };
      ready();
      progress(order.filter(isDone).length, order.length);
      audio.play().catch(() => {}); // where the browser asks for a click, the player has one
    }

    const spread = (values) => { // mean, and half of its 95 % interval over clips
      const n = values.length;
      const mean = values.reduce((a, b) => a + b, 0) / n;
      const sd = Math.sqrt(values.reduce((a, b) => a + (b - mean) ** 2, 0) / (n - 1));
      return { n, mean, half: n > 1 ? (study.t[Math.min(n - 1, study.t.length) - 1] * sd) / Math.sqrt(n) : NaN };
    };

    function reveal(order) {
      const rated = order.filter(isRated);
      const models = [...new Set(study.clips.map((clip) => clip.model))];
      const grid = add(add(box, "div", { class: "lc-scroll" }), "table", { class: "lc-rate-table" });
      const head = add(add(grid, "thead"), "tr");
      ["system", "clips", ...study.questions.flatMap((q) => [q.name, `${q.name}, paper`])].forEach((text) => {
        add(head, "th", { scope: "col" }, text);
      });
      const body = add(grid, "tbody");
      models.forEach((model) => {
        const own = rated.filter((clip) => clip.model === model);
        const row = add(body, "tr");
        add(row, "th", { scope: "row" }, model);
        add(row, "td", {}, String(own.length));
        study.questions.forEach((q) => {
          const { mean, half } = spread(own.map((clip) => answered(clip)[q.name]));
          const width = own.length > 2 ? ` ± ${half.toFixed(1)}` : "";
          add(row, "td", {}, own.length ? `${mean.toFixed(1)}${width}` : "–");
          const told = (study.paper[model] || {})[q.name];
          add(row, "td", {}, told === undefined ? "–" : told.toFixed(2));
        });
      });
      add(box, "p", { class: "lc-rate-small" }, study.caveat);
    }

    function finish(order) {
      const left = order.filter((clip) => !isDone(clip)).length;
      const rated = order.filter(isRated).length;
      show(left ? "So far" : "Thank you", true);
      const status = add(box, "p", { role: "status" });
      const words = `${rated} clip${rated === 1 ? "" : "s"} rated`;
      status.textContent = left ? `${words}, ${left} left.` : `${words}.`;
      if (open && rated) reveal(order);
      if (study.thanks) add(box, "p", {}, study.thanks);
      if (left) add(box, "button", { type: "button", click: () => next() }, "Go on");
      const keep = add(box, "button", { type: "button", click: save }, "Save my ratings (csv)");
      keep.disabled = !rated;
      add(box, "button", { type: "button", click: () => start(true) }, "To the start");
      if (study.send && rated && !left) send(status, words);
    }

    function send(status, words) {
      status.textContent = `${words}; sending them …`;
      fetch(study.send, { method: "POST", headers: { "Content-Type": "text/csv" }, body: table() })
        .then((answer) => { if (!answer.ok) throw new Error(`the server answers ${answer.status}`); })
        .then(() => { status.textContent = `${words} and sent. You may close this page.`; })
        .catch((error) => {
          status.textContent = `${words}, but they could not be sent (${error.message}): save the file and send it`
            + " to whoever invited you.";
        });
    }

    root.querySelectorAll("noscript").forEach((node) => node.remove());
    start(false);
  }

  document.querySelectorAll(".lc-rate").forEach(survey);
})();
