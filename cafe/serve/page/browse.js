// A grid of images, a page of them at a time, and a panel that says and changes the label of one.
import { app, ask, changedHere, el, named, percent, picture, send, shown, tell } from "./page.js";

const PAGE = 60;
const LEADS = {
  browse: "All images.",
  check: "Images that the model, fitted without them, labels otherwise: the surest first.",
  next: "Images that are worth a label, or a look, most.",
};
const KEYS = "Keys: ← → ↑ ↓ move, 1 to 3 choose a class, Enter keeps the label, c types a class, u takes back.";

// labels that could not be saved wait here, whatever view is open, until the file can be written
const unsaved = new Map();

// one request after another, so that the last word of an image is the last that is sent
let sent = Promise.resolve();
function inTurn(work) {
  const made = sent.then(work);
  sent = made.catch(() => {});
  return made;
}

const SENSELESS = 422; // what the server would refuse each time

async function save(changes) {
  try {
    changedHere(await send("api/labels", { changes: Object.fromEntries(changes) }));
  } catch (error) {
    if (error.status === SENSELESS && changes.length > 1) return saveEach(changes);
    if (error.status === SENSELESS) {
      unsaved.delete(changes[0][0]);
      error.message = `A label is not saved, and is not sent again: ${error.message}`;
      throw error;
    }
    for (const [row, label] of changes) unsaved.set(row, label);
    const many = unsaved.size === 1 ? "1 label is" : `${unsaved.size} labels are`;
    throw new Error(`${many} not saved yet, and sent again until saved: ${error.message}`);
  }
  for (const [row] of changes) unsaved.delete(row);
}

// of labels that are refused together, those that make sense
async function saveEach(changes) {
  const errors = [];
  for (const one of changes) await save([one]).catch((error) => errors.push(error));
  if (errors.length) throw errors.find((error) => error.status === SENSELESS) ?? errors.at(-1);
}

export const sendAgain = () => unsaved.size && inTurn(async () => {
  const count = unsaved.size;
  if (!count) return;
  try {
    await save([...unsaved]);
  } finally {
    if (unsaved.size < count) await app.view?.changed?.(false);
  }
  tell(count === 1 ? "The label that was not saved is saved now." : `The ${count} labels that were not saved are saved now.`);
});

window.addEventListener("beforeunload", (event) => { if (unsaved.size) event.preventDefault(); });

export function openGrid(main, name, options) {
  const view = { items: [], total: 0, at: 0, start: Number(options.get("start")) || 0 };
  let filter = { kind: name === "check" ? "suspicious" : name === "next" ? "next" : "all", label: null, guess: null };
  const grid = el("div", { className: "grid", role: "listbox", "aria-label": "Images" });
  const panel = el("aside", { className: "panel", "aria-label": "The chosen image" });
  const range = el("span", {}), back = el("button", { onclick: () => turn(-1), "aria-label": "previous page" }, "‹");
  const on = el("button", { onclick: () => turn(1), "aria-label": "next page" }, "›");
  const tools = el("div", { className: "tools" });
  main.replaceChildren(el("p", { className: "lead" }, `${LEADS[name]} `, el("span", { className: "keys" }, KEYS)), tools, el("div", { className: "work" }, grid, panel),
    el("datalist", { id: "names" }, ...app.classes.map((one) => el("option", { value: one.name })))); // once: there may be thousands
  const className = (c) => (c === null || c === undefined ? "no label" : app.classes[c]?.name ?? String(c));

  async function drawTools() {
    const made = [];
    if (name !== "next") {
      const pick = el("select", { "aria-label": "Class", id: "class" }, el("option", { value: "" }, "all classes"),
        ...app.classes.map((one, c) => el("option", { value: String(c) }, `${shown(one.name).slice(0, 60)} (${one.images})`)));
      pick.value = filter.label === null ? "" : String(filter.label);
      pick.addEventListener("change", () => { filter = { ...filter, label: pick.value === "" ? null : Number(pick.value), guess: null }; go(0); });
      made.push(pick);
    }
    if (name === "check") {
      const pairs = await ask("api/confusions");
      const pick = el("select", { "aria-label": "Confusion", id: "confusion" }, el("option", { value: "" }, "likely label errors"),
        ...pairs.map((p) => el("option", { value: `${p.label},${p.guess}` },
          `${shown(className(p.label)).slice(0, 40)} taken for ${shown(className(p.guess)).slice(0, 40)} (${p.count})`)));
      pick.value = filter.guess === null ? "" : `${filter.label},${filter.guess}`;
      pick.addEventListener("change", () => {
        const [label, guess] = pick.value.split(",").map(Number);
        filter = pick.value ? { kind: "confused", label, guess } : { kind: "suspicious", label: null, guess: null };
        go(0);
      });
      made.unshift(pick);
    }
    if (name === "browse") {
      const pick = el("select", { "aria-label": "Which", id: "which" }, el("option", { value: "all" }, "all images"), el("option", { value: "said" }, "corrected or confirmed"));
      pick.value = filter.kind;
      pick.addEventListener("change", () => { filter = { ...filter, kind: pick.value }; go(0); });
      made.unshift(pick);
    }
    tools.replaceChildren(...made, el("span", { className: "end" }, range, back, on));
  }

  let asked = 0;
  async function load() {
    const mine = ++asked, query = new URLSearchParams({ view: filter.kind, start: view.start, count: PAGE });
    if (filter.label !== null) query.set("label", filter.label);
    if (filter.guess !== null) query.set("guess", filter.guess);
    try {
      const found = await ask(`api/images?${query}`);
      if (mine !== asked) return;
      app.fits = found.fits;
      if (!found.items.length && found.total && view.start) return go(Math.max(0, Math.floor((found.total - 1) / PAGE) * PAGE));
      view.items = found.items;
      view.total = found.total;
      view.at = 0;
    } catch (error) {
      return tell(error.message, true);
    }
    draw();
  }

  // the same images in the same order: a person who works through a page keeps it
  async function reload() {
    if (!view.items.length) return load();
    const mine = asked, query = new URLSearchParams(view.items.map((one) => ["rows", one.row]));
    const found = await ask(`api/images?${query}`);
    if (mine !== asked) return;
    found.items.forEach(put);
    drawPanel();
  }

  // an image as it is now, wherever it is on the page
  function put(item) {
    const place = view.items.findIndex((one) => one.row === item.row);
    if (place < 0 || JSON.stringify(item) === JSON.stringify(view.items[place])) return;
    const hadFocus = grid.children[place] === document.activeElement;
    view.items[place] = item;
    grid.children[place].replaceWith(card(item, place));
    if (hadFocus) grid.children[place].focus({ preventScroll: true });
  }

  function draw() {
    const empty = !app.state.images ? "The images of this model are not at hand: its cache is not here."
      : name === "check" && !app.state.looked ? "Looking at the images …" : "No image is left here.";
    grid.replaceChildren(...(view.items.length ? view.items.map(card) : [el("p", { className: "empty" }, empty)]));
    const last = view.start + view.items.length;
    range.textContent = view.total ? `${(view.start + 1).toLocaleString("en")}–${last.toLocaleString("en")} of ${view.total.toLocaleString("en")}` : "";
    back.disabled = view.start === 0;
    on.disabled = last >= view.total;
    drawPanel();
  }

  function card(item, place) {
    const guess = item.top[0]?.label, differs = item.label !== null && guess !== undefined && guess !== item.label && !item.said;
    const note = item.said ? named(item.said === "confirmed" ? "confirmed" : item.said === "label" ? `was ${className(item.given)}` : "labelled", "right")
      : differs ? named(`${className(guess)}? ${percent(item.top[0].probability)}`, "wrong") : null;
    return el("button", { className: "card", role: "option", "aria-selected": String(place === view.at), tabindex: place === view.at ? "0" : "-1",
      onclick: () => choose(place) },
    picture(item.row), el("span", { className: "said" }, named(className(item.label)), note));
  }

  function choose(place, focus = false) {
    const cards = grid.children;
    if (place < 0 || place >= view.items.length) return;
    cards[view.at]?.setAttribute("aria-selected", "false");
    cards[view.at]?.setAttribute("tabindex", "-1");
    view.at = place;
    cards[place].setAttribute("aria-selected", "true");
    cards[place].setAttribute("tabindex", "0");
    if (focus) cards[place].focus({ preventScroll: true });
    cards[place].scrollIntoView({ block: "nearest" });
    drawPanel();
  }

  function drawPanel() {
    const item = view.items[view.at];
    panel.hidden = !item;
    if (!item) return;
    const input = el("input", { list: "names", placeholder: "another class", "aria-label": "Another class", id: "other", autocomplete: "off" });
    input.addEventListener("keydown", (event) => {
      event.stopPropagation();
      if (event.key === "Escape") grid.children[view.at]?.focus();
      if (event.key !== "Enter") return;
      const found = app.classes.findIndex((one) => one.name === input.value);
      if (found >= 0) say(found);
      else tell(`There is no class '${shown(input.value)}'.`, true);
    });
    const keep = item.label === null ? null : el("button", { className: "keep", onclick: () => say(item.label) },
      el("kbd", {}, "Enter"), named(`keep ${shown(className(item.label))}`, "wraps"), el("span", { className: "number" }, item.own == null ? "" : percent(item.own)));
    const others = item.top.map((one, i) => (one.label === item.label ? null : el("button", { onclick: () => say(one.label) },
      el("kbd", {}, String(i + 1)), named(className(one.label), "wraps"), el("span", { className: "number" }, percent(one.probability)))));
    const texts = item.label === null ? [] : app.classes[item.label]?.texts ?? [];
    panel.replaceChildren(picture(item.row, 640),
      el("div", {}, el("h2", { className: "name wraps", title: shown(className(item.label)) }, shown(className(item.label))),
        el("p", { className: "muted id", title: shown(item.id) }, `${shown(item.id)}, ${item.split}`),
        texts.length ? el("p", { className: "muted texts" }, `“${shown(texts[0])}”`) : null),
      el("div", { className: "choices" }, keep, ...others.filter(Boolean)),
      el("div", { className: "more tools" }, input,
        item.said ? el("button", { className: "undo", onclick: () => say(null) }, "take back") : null));
  }

  // the next image is chosen at once: keys are quicker than answers
  function say(label, row = view.items[view.at]?.row) {
    if (row === undefined) return;
    const place = view.items.findIndex((one) => one.row === row);
    view.last = row;
    if (place >= 0) choose(label === null || place + 1 >= view.items.length ? place : place + 1, true);
    inTurn(() => write(label, row)).catch((error) => tell(error.message, true));
  }

  async function write(label, row) {
    await save([[row, label]]);
    const item = await ask(`api/images/${row}`);
    put(item);
    if (view.items[view.at]?.row === row) drawPanel();
    tell(label === null ? `${shown(item.id)}: taken back.` : `${shown(item.id)} is ${shown(className(label))}. u takes it back.`);
  }

  function go(start) {
    view.start = start;
    load();
  }

  function turn(by) {
    const start = view.start + by * PAGE;
    if (start >= 0 && start < view.total) { go(start); window.scrollTo({ top: 0 }); }
  }

  function keys(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
    const item = view.items[view.at], columns = getComputedStyle(grid).gridTemplateColumns.split(" ").length;
    const moves = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns };
    const isCard = event.target === document.body || grid.contains(event.target);
    if (event.key in moves) choose(view.at + moves[event.key], true);
    else if (event.key === "PageDown") turn(1);
    else if (event.key === "PageUp") turn(-1);
    else if (/^[1-9]$/.test(event.key) && item?.top[event.key - 1]) say(item.top[event.key - 1].label);
    else if (event.key === "Enter" && isCard && item && item.label !== null) say(item.label);
    else if (event.key === "c" && item) panel.querySelector("#other").focus();
    else if (event.key === "u" && view.last !== undefined) say(null, view.last);
    else return;
    event.preventDefault();
  }

  document.addEventListener("keydown", keys);
  drawTools().catch((error) => tell(error.message, true));
  load();
  return {
    close: () => document.removeEventListener("keydown", keys),
    // another tab's words change what is shown; a new fit also which images, and in which order
    changed: async (isFitted) => {
      if (document.activeElement?.id === "other") return;
      await drawTools();
      await (isFitted ? load() : reload());
    },
  };
}
