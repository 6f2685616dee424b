"use strict";
(() => {
  const study = JSON.parse(document.getElementById("study").textContent);
  const CONDITIONS = ["image", "adv", "flip", "false"];
  const at = id => document.getElementById(id);
  const frame = () => new Promise(resolve => requestAnimationFrame(resolve));
  const median = values => [...values].sort((a, b) => a - b)[values.length >> 1];
  const show = (id, on) => at(id).classList.toggle("on", on);
  const answers = [];
  let session = {};

  // Fisher and Yates
  function shuffled(items) {
    const out = [...items];
    for (let i = out.length - 1; i > 0; i--) {
      const j = Math.floor(Math.random() * (i + 1));
      [out[i], out[j]] = [out[j], out[i]];
    }
    return out;
  }

  // every condition equally often, and each picture in another one for the next group of people
  function trials() {
    const group = Math.floor(Math.random() * CONDITIONS.length);
    return shuffled(study.items.map((item, i) => {
      const condition = CONDITIONS[(i + group) % CONDITIONS.length];
      const pair = condition === "false" ? [item.target, item.other] : [item.label, item.target];
      return { number: i, item, condition, choices: shuffled(pair), source: condition === "false" ? item.adv : item[condition] };
    }));
  }

  function noise() {
    const canvas = at("mask"), context = canvas.getContext("2d");
    const data = context.createImageData(canvas.width, canvas.height);
    for (let y = 0; y < canvas.height; y++) for (let x = 0; x < canvas.width; x++) {
      const i = 4 * (y * canvas.width + x), value = Math.random() * 256;
      data.data[i] = data.data[i + 1] = data.data[i + 2] = value;
      data.data[i + 3] = 255;
    }
    context.putImageData(data, 0, 0);
  }

  async function interval() {
    const gaps = [];
    let before = await frame();
    for (let i = 0; i < 40; i++) { const now = await frame(); gaps.push(now - before); before = now; }
    return median(gaps);
  }

  async function wait(milliseconds) {
    const begin = await frame();
    while (await frame() - begin < milliseconds);
  }

  function choice(limit) {
    return new Promise(resolve => {
      const begun = performance.now();
      const end = index => {
        clearTimeout(timer);
        removeEventListener("keydown", key);
        at("left").onclick = at("right").onclick = null;
        resolve({ index, reaction: index === null ? null : performance.now() - begun });
      };
      const key = event => {
        const index = { f: 0, arrowleft: 0, j: 1, arrowright: 1 }[event.key.toLowerCase()];
        if (index !== undefined && !event.repeat) { event.preventDefault(); end(index); }
      };
      addEventListener("keydown", key);
      at("left").onclick = () => end(0);
      at("right").onclick = () => end(1);
      const timer = setTimeout(() => end(null), limit);
    });
  }

  async function run(trial, position, total) {
    at("progress").textContent = `${position} of ${total}`;
    at("picture").src = trial.source;
    await at("picture").decode();
    noise();
    show("cross", true);
    await wait(500 + 300 * Math.random());
    // what is changed in one frame's callback is on the screen from the next refresh on
    const stamps = [await frame()];
    show("cross", false);
    show("picture", true);
    for (let i = 0; i < session.frames; i++) stamps.push(await frame());
    show("picture", false);
    show("mask", true);
    at("left").textContent = trial.choices[0];
    at("right").textContent = trial.choices[1];
    show("choices", true);
    const given = await choice(study.limit);
    show("choices", false);
    show("mask", false);
    answers.push({
      participant: session.participant, trial: position, picture: trial.number, condition: trial.condition,
      label: trial.item.label, target: trial.item.target, left: trial.choices[0], right: trial.choices[1],
      choice: given.index === null ? "" : trial.choices[given.index],
      reaction_ms: given.reaction, exposure_ms: stamps[stamps.length - 1] - stamps[0], frames: session.frames,
      stamps_ms: stamps.map(stamp => stamp - stamps[0]),
    });
  }

  function save(text, type, ending) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type }));
    link.download = `human-study-${session.participant.replace(/[^A-Za-z0-9_-]/g, "_")}.${ending}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }

  function cell(value) {
    let text = Array.isArray(value) ? value.map(v => v.toFixed(2)).join(" ") : value === null ? "" : String(value);
    // a spreadsheet takes text that begins so for a formula
    if (typeof value === "string" && /^[=+\-@\t\r]/.test(text)) text = "'" + text;
    return `"${text.replace(/"/g, '""')}"`;
  }

  async function begin() {
    session.participant = at("participant").value.trim();
    at("welcome").hidden = true;
    at("trial").hidden = false;
    session.refresh_ms = await interval();
    session.frames = Math.max(1, Math.round(study.exposure / session.refresh_ms));
    session.begun = new Date().toISOString();
    const order = trials();
    for (const [i, trial] of order.entries()) await run(trial, i + 1, order.length);
    at("trial").hidden = true;
    at("thanks").hidden = false;
    const late = answers.filter(answer => answer.choice === "").length;
    at("summary").textContent = `${answers.length} pictures, ${late} without an answer in time.`;
  }

  const ready = () => { at("start").disabled = !(at("consent").checked && at("participant").value.trim()); };
  at("consent").addEventListener("input", ready);
  at("participant").addEventListener("input", ready);
  at("start").addEventListener("click", begin);
  at("json").addEventListener("click", () => save(
    JSON.stringify({ study: "casemate human study", ...session, screen: [screen.width, screen.height], agent: navigator.userAgent, answers }, null, 1),
    "application/json", "json"));
  at("csv").addEventListener("click", () => {
    const columns = Object.keys(answers[0]);
    save([columns.map(cell), ...answers.map(answer => columns.map(column => cell(answer[column])))].map(row => row.join(",")).join("\r\n"), "text/csv", "csv");
  });
})();
