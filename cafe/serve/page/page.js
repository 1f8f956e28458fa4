// The page: what is shown at all times, predictions, history. browse.js has the grid of images.
import { openGrid, sendAgain } from "./browse.js";

export const $ = (id) => document.getElementById(id);

// texts of files and classes are strangers': they are set as text, never as HTML
export function el(tag, values = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(values)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name in made && typeof value !== "string") made[name] = value;
    else made.setAttribute(name === "className" ? "class" : name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

const STEERING = /[\u0000-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/g;

export const shown = (text) =>
  text.replace(STEERING, (c) => "\\u" + c.charCodeAt(0).toString(16).padStart(4, "0"));

export const named = (text, more = "") =>
  el("span", { className: `name ${more}`, title: shown(text) }, shown(text));

export const percent = (p) => (p === null || p === undefined ? "–" : p < 0.005 ? "<1\u00a0%"
  : `${(100 * p).toFixed(p < 0.9995 && p > 0.99 ? 1 : 0)}\u00a0%`);

export async function ask(path, options) {
  let reply;
  try {
    reply = await fetch(path, options);
  } catch {
    throw new Error("The server does not answer. Is 'cafe serve' still running?");
  }
  const values = await reply.json().catch(() => ({}));
  if (!reply.ok) {
    const detail = values.detail;
    throw Object.assign(new Error(typeof detail === "string" ? detail : `The server answered ${reply.status}.`), { status: reply.status });
  }
  return values;
}

export const send = (path, body) =>
  ask(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });

export function tell(text, isBad = false) {
  $("message").textContent = text;
  $("message").classList.toggle("bad", isBad);
}

// a small or large picture of a training image, or its place where it is not at hand
export function picture(row, edge = 144) {
  const frame = el("span", { className: "frame" });
  if (!app.state.pictures && !app.state.fresh) {
    frame.append("no picture");
    return frame;
  }
  const image = el("img", { src: `api/pictures/${row}?edge=${edge}`, alt: "", loading: "lazy", decoding: "async" });
  image.addEventListener("load", () => image.classList.toggle("tiny", image.naturalWidth <= 48));
  image.addEventListener("error", () => frame.replaceChildren("no picture"));
  frame.append(image);
  return frame;
}

// version and fits: of what is shown
export const app = { state: null, version: 0, fits: 0, classes: [], view: null, name: "" };

function showState(state) {
  const before = app.state;
  app.state = state;
  $("dataset").textContent = shown(state.dataset);
  document.title = `${shown(state.dataset)} – cafe`;
  $("about").textContent = `${state.method} on ${state.encoder}` +
    (state.images ? `, ${state.images.toLocaleString("en")} images` : "");
  $("percent").textContent = state.accuracy === null ? "not known" : `${state.accuracy.toFixed(1)} %`;
  $("accuracy").title = state.estimate;
  drawCurve(state.history.map((note) => note.accuracy).filter((value) => value !== null));
  $("train").disabled = Boolean(state.busy) || !state.images;
  const n = state.waiting;
  $("waiting").textContent = state.busy
    ? `${state.answers ? "measuring its accuracy" : state.looked ? "training" : "looking at the images"} …${share(state.busy)}`
    : n ? `${n} new ${n === 1 ? "label" : "labels"}` : "";
  $("saved").textContent = state.said
    ? `${state.said} ${state.said === 1 ? "image is" : "images are"} in ${shown(state.file)}` + (state.relabel ? `; ${shown(state.relabel)} applies it.` : ".") : "";
  if (state.error && (!before || before.error !== state.error)) tell(`It could not be trained: ${state.error}`, true);
  if (before && !before.answers && state.answers) tell("The new model answers already. Its accuracy follows.");
  if (before && before.busy && !state.busy && !state.error) {
    // the first look trains nothing; the history is longer some time before a fit ends
    tell(before.looked && state.history.length ? moved(state.history.at(-1)) : "");
  }
}

function share(busy) {
  const [, done, all] = /epoch (\d+) of (\d+)/.exec(busy) ?? [];
  if (!all) return "";
  return done === all ? " almost done" : ` ${Math.round((100 * done) / all)} %`; // closed forms come last
}

function moved(note) {
  if (note.accuracy === null) return "Trained.";
  const now = `Trained on ${note.images.toLocaleString("en")} images. Held-out accuracy ${note.accuracy.toFixed(1)} %`;
  return note.before === null ? `${now}.`
    : `${now}; the fit before has ${note.before.toFixed(1)} % by the labels of now.`;
}

function drawCurve(values) {
  const ns = "http://www.w3.org/2000/svg", svg = $("curve");
  svg.replaceChildren();
  if (values.length < 2) return;
  const low = Math.min(...values), high = Math.max(...values), span = high - low || 1;
  const points = values.map((v, i) => [4 + (112 * i) / (values.length - 1), 32 - (28 * (v - low)) / span]);
  const line = document.createElementNS(ns, "polyline");
  line.setAttribute("points", points.map((p) => p.join(",")).join(" "));
  const end = document.createElementNS(ns, "circle");
  for (const [name, value] of [["cx", points.at(-1)[0]], ["cy", points.at(-1)[1]], ["r", 3.5]]) end.setAttribute(name, value);
  svg.append(line, end);
}

export async function refresh() {
  const before = app.state, state = await ask("api/state");
  if (app.state !== before) return; // a label that was sent meanwhile has a newer answer
  const isFitted = state.fits !== app.fits, isNew = isFitted || state.version !== app.version;
  app.version = state.version;
  app.fits = state.fits;
  showState(state);
  if (before && isNew) {
    app.classes = await ask("api/classes");
    await app.view?.changed?.(isFitted);
  }
}

export function changedHere(state) {
  if (state.version === app.version + 1) app.version = state.version; // else another tab's words are to be shown too
  showState(state);
}

$("train").addEventListener("click", async () => {
  try {
    tell("The model as it was goes on answering until the new one is ready.");
    showState(await send("api/train", {}));
  } catch (error) {
    tell(error.message, true);
  }
});

// other tabs and the fit that is running change what is shown
async function watch() {
  if (!document.hidden) {
    try {
      await sendAgain();
      await refresh();
      if ($("message").textContent.startsWith("The server does not answer")) tell("");
    } catch (error) {
      tell(error.message, true);
    }
  }
  setTimeout(watch, app.state?.busy ? 500 : 3000);
}

// predictions

const kept = el("div", { className: "answers" }); // stays while other views are looked at

function openPredict(main) {
  const input = el("input", { type: "file", multiple: true, hidden: true, accept: "image/*", id: "files" });
  input.addEventListener("change", () => { predict([...input.files]); input.value = ""; });
  const drop = el("div", { className: "drop", id: "drop" },
    el("p", {}, "Drop or paste pictures here, or ", el("button", { onclick: () => input.click() }, "choose files")),
    el("p", { className: "muted" }, "They stay on the machine that runs 'cafe serve'."), input);
  main.replaceChildren(drop, kept);
  return {};
}

for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    $("drop")?.classList.toggle("over", kind === "dragover");
    if (kind === "drop" && event.dataTransfer.files.length) take([...event.dataTransfer.files]);
  });
}
document.addEventListener("paste", (event) => {
  if (event.clipboardData.files.length) take([...event.clipboardData.files]);
});

function take(files) {
  location.hash = "predict";
  predict(files);
}

const MOST = 60e6; // bytes of a request; the server takes 64 MiB

// requests that the server takes: of many images, or of few large ones
function* parts(files) {
  let some = [], bytes = 0;
  for (const file of files) {
    if (some.length && (some.length === 16 || bytes + file.size > MOST)) {
      yield some;
      some = [];
      bytes = 0;
    }
    some.push(file);
    bytes += file.size;
  }
  if (some.length) yield some;
}

async function predict(files) {
  const small = files.filter((file) => file.size <= MOST);
  const refused = files.filter((file) => file.size > MOST).map((file) =>
    answer({ image: file.name, reason: "A picture may have 60 MB.", nearest: [] }, file));
  kept.prepend(...refused);
  let done = 0;
  for (const some of parts(small)) {
    const form = new FormData();
    some.forEach((file) => form.append("files", file, file.name || "pasted"));
    tell(small.length > 1 ? `${done} of ${small.length} pictures …` : "looking …");
    done += some.length;
    try {
      const reply = await ask("predict?top=5", { method: "POST", body: form });
      const cards = reply.predictions.map((prediction, i) => answer(prediction, some[i]));
      kept.prepend(...cards);
      tell("");
    } catch (error) {
      tell(error.message, true);
      return;
    }
  }
}

function answer(prediction, file) {
  const image = el("img", { alt: "" }), frame = el("span", { className: "frame" }, image);
  const url = URL.createObjectURL(file);
  image.addEventListener("load", () => { image.classList.toggle("tiny", image.naturalWidth <= 48); URL.revokeObjectURL(url); });
  image.addEventListener("error", () => { frame.replaceChildren("no preview"); URL.revokeObjectURL(url); });
  if (prediction.reason) frame.replaceChildren("not read");
  else image.src = url;
  const text = el("div");
  if (prediction.reason) {
    text.append(el("h2", { className: "wrong" }, "not read"), el("p", {}, shown(prediction.reason)));
  } else {
    text.append(el("h2", { className: "label" }, shown(prediction.label)));
    for (const score of prediction.top) {
      text.append(el("div", { className: "row" }, el("meter", { value: score.probability }), named(score.label, "wraps"),
        el("span", { className: "number" }, percent(score.probability))));
    }
    const zero = prediction.zero_shot;
    if (zero) {
      text.append(el("p", { className: "muted texts" },
        `The texts alone say ${shown(zero.label)}, ${percent(zero.probability)}` +
        (prediction.text ? `: “${shown(prediction.text)}”` : "")));
    }
  }
  text.append(el("p", { className: "muted" }, shown(prediction.image)));
  const near = el("div", { className: "near" }, ...prediction.nearest.map((one) =>
    el("figure", {}, picture(one.row), named(one.label), el("span", { className: "number" }, one.cosine.toFixed(3)))));
  if (prediction.nearest.length) near.append(el("p", { className: "muted" }, "The nearest training images, with their cosine similarity"));
  return el("article", { className: "answer" }, frame, text, near);
}

// history

function openHistory(main) {
  const draw = () => {
    const notes = [...app.state.history].reverse(), sign = (v) => (v === null ? "–" : `${v.toFixed(1)}\u00a0%`);
    const rows = notes.map((note) => el("tr", {}, el("td", {}, new Date(note.created).toLocaleString(undefined, { dateStyle: "short", timeStyle: "short" })),
      el("td", {}, sign(note.accuracy)), el("td", {}, sign(note.before)), el("td", {}, note.low === null ? "–" : `${note.low.toFixed(1)} to ${note.high.toFixed(1)}`),
      el("td", {}, note.images.toLocaleString("en")), el("td", {}, String(note.corrections))));
    main.replaceChildren(
      el("p", { className: "lead" }, `Now: ${app.state.estimate}. Each image is judged by a head that was fitted without it. “Fit before” is the one before it, judged by the same, corrected labels.`),
      rows.length
        ? el("div", { className: "scroll" }, el("table", {}, el("thead", {}, el("tr", {}, ...["trained", "accuracy", "fit before", "95 %", "images", "labels changed"].map((h) => el("th", {}, h)))), el("tbody", {}, ...rows)))
        : el("p", { className: "empty" }, "It was not trained again yet. Correct some labels, then press Train again."));
  };
  draw();
  return { changed: draw };
}

function open() {
  const [name, query] = location.hash.slice(1).split("?");
  const known = ["predict", "browse", "check", "next", "history"];
  app.name = known.includes(name) ? name : "predict";
  for (const link of document.querySelectorAll("nav a")) {
    if (link.getAttribute("href") === `#${app.name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const main = $("main"), options = new URLSearchParams(query || "");
  app.view?.close?.();
  if (app.name === "predict") app.view = openPredict(main);
  else if (app.name === "history") app.view = openHistory(main);
  else app.view = openGrid(main, app.name, options);
}

window.addEventListener("hashchange", open);
document.querySelector("nav").addEventListener("click", () => { if (!app.state?.busy) tell(""); }); // what was said of an image of another view
try {
  app.classes = await ask("api/classes");
  await refresh();
  open();
} catch (error) {
  tell(error.message, true);
}
setTimeout(watch, 500);
