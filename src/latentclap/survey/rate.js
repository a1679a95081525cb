// A blind listening test: one clip at a time, in an order of the rater's own, two questions from 0 to 10. Answers are
// kept in this browser as they are given, and leave it only as the file that the rater saves, or as a survey sends it.
// A study's address may name the rater, ?rater=17, as platforms for listeners do.
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

  // One spelling of a name on every keyboard, and none that a spreadsheet takes for a formula when it opens the file.
  const tidy = (name) => name.normalize("NFC").slice(0, 40).replace(/[\p{Cc}\p{Cs}]/gu, " ")
    .replace(/^[\s=+@-]+/, "").replace(/\s+/g, " ").trim();

  function survey(root) {
    const study = JSON.parse(root.querySelector("script").textContent);
    const open = study.clips.length > 0 && study.clips[0].model !== undefined; // the page knows which clip is whose
    const [low, high] = study.scale;
    const box = add(root, "div", { class: "lc-rate-box" });
    const memory = `latentclap-survey-${study.study}`;
    const held = new Map(); // lasts as long as the page, where the browser keeps nothing: in some private windows
    let remembers = true;
    const remember = (key, value) => {
      held.set(key, value);
      try {
        localStorage.setItem(key, JSON.stringify(value));
      } catch {
        remembers = false;
      }
    };
    const remembered = (key) => {
      let found = held.get(key);
      try {
        if (remembers) found = JSON.parse(localStorage.getItem(key));
      } catch {} // not ours
      return found instanceof Object ? found : {};
    };

    // Several people may rate in one browser: each one's answers are kept by themselves.
    let { rater, cls } = { rater: "", cls: "", ...remembered(memory) };
    rater = tidy(new URLSearchParams(location.search).get("rater") || (typeof rater === "string" ? rater : ""));
    const shelf = () => `${memory}/${rater}`;
    let answers = remembered(shelf());
    remember(memory, { rater, cls });

    const broken = new Set(); // clips that could not be played; a page that is loaded again tries them again
    const answered = (clip) => (answers[clip.id] instanceof Object ? answers[clip.id] : {});
    const keep = (clip, answer) => {
      answers = { ...remembered(shelf()), ...answers, [clip.id]: { ...answer } }; // another tab may have added some
      remember(shelf(), answers);
    };
    const has = (answer, q) => Number.isInteger(answer[q.name]) && answer[q.name] >= low && answer[q.name] <= high;
    const isAnswered = (answer) => study.questions.every((q) => has(answer, q));
    const isRated = (clip) => Boolean(answered(clip).when) && isAnswered(answered(clip));
    const isDone = (clip) => isRated(clip) || broken.has(clip.id);
    const ratings = () => study.clips.filter(isRated).sort((a, b) => answered(a).order - answered(b).order);

    // Class after class, as in the paper's surveys, each of which had one; both orders are the rater's own.
    const ordered = () => {
      const draw = random(`${rater}/${study.study}`);
      const classes = shuffled(study.classes.map((c) => c.name), draw);
      const every = classes.flatMap((name) => shuffled(study.clips.filter((clip) => clip.cls === name), draw));
      return cls ? every.filter((clip) => clip.cls === cls) : every;
    };
    const labelOf = (name) => study.classes.find((c) => c.name === name).label;

    const table = () => { // everything that this rater has rated, of whatever class
      const names = study.questions.map((q) => q.name);
      const whose = open ? ["class", "model", "item"] : ["class"];
      const rows = ratings().map((clip) => {
        const answer = answered(clip);
        return [study.study, rater, clip.id, ...whose.map((key) => clip[key === "class" ? "cls" : key]),
          ...names.map((name) => answer[name]), answer.order, answer.plays, answer.when];
      });
      return csv([["study", "rater", "clip", ...whose, ...names, "order", "plays", "when"], ...rows]);
    };
    const save = () => {
      const file = URL.createObjectURL(new Blob([table()], { type: "text/csv" }));
      const link = add(box, "a", { href: file, download: `ratings-${study.study}-${rater}.csv`, hidden: true });
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
    };
    const progress = (done, all) => {
      add(box, "progress", { max: all, value: done, "aria-label": "clips rated" });
      add(box, "p", { class: "lc-rate-small" }, `${done} of ${all} clips rated`);
      if (!remembers) add(box, "p", { class: "lc-rate-small" }, "This browser keeps nothing: do not reload the page.");
    };

    function start(scroll) {
      show(study.title, scroll);
      study.intro.forEach((text) => add(box, "p", {}, text));
      if (study.send) add(box, "p", {}, `When all clips are rated, your ratings are sent to ${study.send}`);
      const form = add(box, "form", { submit: (event) => {
        event.preventDefault();
        rater = tidy(naming.value) || Math.random().toString(36).slice(2, 8);
        cls = choice ? choice.value : "";
        remember(memory, { rater, cls });
        answers = remembered(shelf());
        broken.clear();
        next();
      } });
      const naming = add(add(form, "label", {}, "Your name or number "), "input", {
        name: "rater", maxlength: 40, placeholder: "a random one", value: rater,
        autocomplete: "off", autocapitalize: "off", spellcheck: "false",
        input: () => { go.textContent = done && tidy(naming.value) === rater ? "Go on" : "Begin"; },
      });
      let choice = null;
      if (study.classes.length > 1) {
        choice = add(add(form, "label", {}, "Sounds of "), "select", { name: "class" });
        add(choice, "option", { value: "" }, `all classes (${study.clips.length} clips)`);
        study.classes.forEach((c) => {
          const count = study.clips.filter((clip) => clip.cls === c.name).length;
          add(choice, "option", { value: c.name, selected: cls === c.name }, `${c.label} (${count} clips)`);
        });
      }
      const done = study.clips.filter(isDone).length;
      const go = add(form, "button", { type: "submit" }, done ? "Go on" : "Begin");
      if (done) {
        add(form, "button", { type: "button", click: () => {
          if (!window.confirm(`Forget what ${rater} has rated?`)) return;
          answers = {};
          remember(shelf(), answers);
          start(true);
        } }, "Forget my answers");
      }
      progress(done, study.clips.length);
    }

    function next(from = -1) {
      const order = ordered();
      const place = order.findIndex((clip, i) => i > from && !isDone(clip));
      if (place >= 0) return trial(order, place);
      const left = order.findIndex((clip) => !isDone(clip));
      return left >= 0 ? trial(order, left) : finish(order);
    }

    // Safari plays nothing from a server that gives whole files only, as Python's does: such a clip is fetched as a copy.
    const takeCopy = async (clip, audio) => {
      const asked = audio.getAttribute("src") === clip.src && /^https?:/.test(audio.currentSrc);
      const answer = asked && await fetch(audio.currentSrc).catch(() => null);
      if (!answer || !answer.ok) return false;
      audio.src = URL.createObjectURL(await answer.blob());
      if (audio.isConnected) audio.play().catch(() => {});
      return true;
    };

    function trial(order, place) {
      const clip = order[place];
      const answer = { plays: 0, ...answered(clip) };
      broken.delete(clip.id);
      show(`Clip ${place + 1} of ${order.length}: ${labelOf(clip.cls)}`, true);
      let heard = isRated(clip);
      const listen = () => { // whoever moved to the end has not heard what is before
        let seconds = 0;
        for (let i = 0; i < audio.played.length; i++) seconds += audio.played.end(i) - audio.played.start(i);
        if (heard || !(seconds >= 0.95 * audio.duration)) return;
        heard = true;
        ready();
      };
      const audio = add(box, "audio", {
        controls: true, controlslist: "nodownload noplaybackrate", preload: "auto", src: clip.src,
        "aria-label": `clip ${place + 1}`,
        timeupdate: listen,
        ended: () => { answer.plays += 1; listen(); },
        error: () => takeCopy(clip, audio).then((taken) => { if (!taken) { broken.add(clip.id); ready(); } }),
      });
      const form = add(box, "form", { submit: (event) => {
        event.preventDefault();
        if (go.disabled) return;
        if (!broken.has(clip.id)) {
          keep(clip, { order: ratings().length + 1, ...answer, when: new Date().toISOString() });
        }
        next(place);
      } });
      study.questions.forEach((q) => {
        const set = add(form, "fieldset");
        add(set, "legend", {}, q.text.replace("{class}", () => labelOf(clip.cls)));
        const line = add(set, "div", { class: "lc-rate-scale" });
        add(line, "span", { class: "lc-rate-end" }, q.low);
        for (let value = low; value <= high; value++) {
          const mark = add(line, "label");
          add(mark, "input", {
            type: "radio", name: q.name, value, checked: answer[q.name] === value,
            "aria-label": { [low]: `${low}, ${q.low}`, [high]: `${high}, ${q.high}` }[value],
            change: () => {
              answer[q.name] = value;
              if (answer.when) answer.when = new Date().toISOString(); // rated before: this is another rating
              keep(clip, answer);
              ready();
            },
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
        const rated = isAnswered(answer);
        go.disabled = !(broken.has(clip.id) || (heard && rated));
        if (broken.has(clip.id)) {
          status.textContent = "This clip cannot be played now: go on without it, or load the page again.";
        } else if (!heard) status.textContent = "Hear the clip to its end, as often as you like, then answer.";
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
      const there = new Set(study.clips.map((clip) => clip.model));
      const models = [...new Set([...Object.keys(study.paper), ...there])].filter((model) => there.has(model));
      const frame = add(box, "div", { class: "lc-scroll", tabindex: "0", role: "region", "aria-label": "means" });
      const grid = add(frame, "table", { class: "lc-rate-table" });
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
      const lost = order.length - left - rated;
      show(left ? "So far" : "Thank you", true);
      const status = add(box, "p", { role: "status" });
      const words = `${rated} clip${rated === 1 ? "" : "s"} rated${lost ? `, ${lost} could not be played` : ""}`;
      status.textContent = left ? `${words}, ${left} left.` : `${words}.`;
      if (open && rated) reveal(order);
      if (!left) study.thanks.forEach((text) => add(box, "p", {}, text));
      if (study.saving) add(box, "p", {}, study.saving);
      if (left) add(box, "button", { type: "button", click: () => next() }, "Go on");
      const keeping = add(box, "button", { type: "button", click: save }, "Save my ratings (csv)");
      keeping.disabled = !rated;
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
            + " to whoever invited you, or ";
          add(status, "button", { type: "button", click: () => send(status, words) }, "try again");
        });
    }

    root.querySelectorAll("noscript").forEach((node) => node.remove());
    start(false);
  }

  document.querySelectorAll(".lc-rate").forEach(survey);
})();
