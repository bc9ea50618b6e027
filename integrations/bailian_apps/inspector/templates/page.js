(() => {
"use strict";
const zh = /^zh\b/i.test(navigator.language || "");
const t = (text) => (zh && ZH[text]) || text;
const runs = JSON.parse(document.getElementById("data").textContent);
const LIMIT = 20000, FORMAT_LIMIT = 200000, PIECE = 4000;
const all = (selector, root = document) => [...root.querySelectorAll(selector)];

function el(tag, props = {}, ...kids) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value == null) continue;
    if (name === "on") made.addEventListener("click", value);
    else made.setAttribute(name, value);
  }
  made.append(...kids.filter((kid) => kid != null && kid !== ""));
  return made;
}

/* Text of an app, with a sign for each character that cannot be seen. It is never markup. */
const UNSEEN = /[UNSEEN_RANGES]/gu;
function shown(text) {
  text = text.replace(/\r\n?/g, "\n");
  const parts = document.createDocumentFragment();
  let done = 0;
  for (const found of text.matchAll(UNSEEN)) {
    const code = found[0].codePointAt(0);
    const sign = "U+" + code.toString(16).toUpperCase().padStart(4, "0");
    parts.append(text.slice(done, found.index), el("span", { class: "ctl" }, sign));
    done = found.index + found[0].length;
  }
  parts.append(text.slice(done));
  return parts;
}

/* JSON on several lines. Its numbers and strings stay as they are written. */
function formatted(text) {
  const out = [];
  let depth = 0, before = "";
  const line = () => "\n" + "  ".repeat(depth);
  for (const [token] of text.matchAll(/"(?:[^"\\]|\\.)*"|[{}[\],:]|[^\s{}[\],:"]+/g)) {
    if (token === "}" || token === "]") { depth--; out.push(before === "{" || before === "[" ? "" : line(), token); }
    else {
      if (before === "{" || before === "[" || before === ",") out.push(line());
      out.push(token === ":" ? ": " : token);
      if (token === "{" || token === "[") depth++;
    }
    before = token;
  }
  return out.join("");
}
function isJson(text) {
  if (text.length > FORMAT_LIMIT || !/^\s*[[{]/.test(text)) return false;
  try { JSON.parse(text); return true; } catch { return false; }
}

async function copy(text, button) {
  try { await navigator.clipboard.writeText(text); }
  catch {
    const area = el("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  button.classList.add("ok");
  setTimeout(() => button.classList.remove("ok"), 1200);
}
const copyButton = (text) => { const made = el("button", { type: "button", class: "copy", "aria-label": t("Copy"), title: t("Copy") }); made.addEventListener("click", () => copy(text, made)); return made; };

/* A text's beginning without the half of a pair, of a line's end or of a citation that it ends with. */
const untorn = (text) => text.replace(/(?:[\ud800-\udbff]|\r|<(?:\/?r?e?f?|ref>[^<]{0,64}(?:<\/?r?e?f?)?))$/, "");
/* A long text in pieces that end with a line, if they can: a browser takes a minute to lay out a
   line of 200,000 characters, and lays out no piece that is out of sight. */
function pieces(text, render) {
  if (text.length <= LIMIT) return [render(text)];
  const made = [];
  for (let at = 0, end; at < text.length; at = end) {
    let piece = text.slice(at, at + PIECE);
    if (at + PIECE < text.length) piece = piece.slice(0, piece.lastIndexOf("\n") + 1) || untorn(piece);
    end = at + piece.length;
    made.push(el("span", { class: "piece" }, render(piece)));
  }
  return made;
}

/* One text under a heading. */
function part(title, text, { kind = "", render = shown, prose = false } = {}) {
  const box = el("section", { class: "part " + kind });
  const pre = el("pre", { class: prose ? "prose" + (kind.includes("dim") ? " dim" : "") : null, tabindex: prose ? null : "0" });
  const head = el("header", {}, el("h2", {}, t(title)), el("small", {}, text.length.toLocaleString() + (prose ? " " + t("characters") : "")), copyButton(text));
  const json = isJson(text);
  let raw = !json, whole = false;
  const more = el("button", { type: "button", class: "more" }, t("Show all"), " (" + text.length.toLocaleString() + ")");
  const draw = () => {
    const words = raw ? text : formatted(text);
    const cut = !whole && words.length > LIMIT;
    pre.replaceChildren(...(cut ? [render(untorn(words.slice(0, LIMIT)) + "…")] : pieces(words, render)));
    more.hidden = !cut;
  };
  more.addEventListener("click", () => { whole = true; draw(); });
  if (json) {
    const toggle = el("button", { type: "button", class: "flat" }, t("Raw"));
    toggle.addEventListener("click", () => { raw = !raw; toggle.textContent = t(raw ? "Format" : "Raw"); draw(); });
    head.append(toggle);
  }
  draw();
  box.append(head, pre, more);
  return box;
}

const isLink = (url) => /^https?:\/\//i.test(url);
function doc(item, id) {
  const where = el("div", { class: "where" });
  if (item.name) where.append(el("span", {}, shown(item.name)));
  if (item.pages) where.append(el("span", {}, t("Page") + " " + item.pages));
  if (item.url) {
    let host = item.url;
    try { host = new URL(item.url).host; } catch { /* it is shown as it is */ }
    where.append(isLink(item.url) ? el("a", { href: item.url, target: "_blank", rel: "noopener noreferrer nofollow" }, shown(host), " ↗") : el("span", {}, shown(item.url)));
  }
  const box = el("div", { class: "doc", id },
    el("header", {}, item.n ? el("span", { class: "n" }, "[" + item.n + "]") : null, el("b", {}, shown(item.title || item.url || "")),
      item.score ? el("span", { class: "score" }, t("Score") + " " + item.score) : null));
  if (item.text) box.append(el("p", {}, shown(item.text)));
  if (where.childNodes.length) box.append(where);
  if (item.rest) box.append(el("div", { class: "where" }, el("code", {}, shown(item.rest))));
  return box;
}
const docs = (title, items, run) => el("section", { class: "part wide" }, el("header", {}, el("h2", {}, t(title)), el("small", {}, String(items.length))),
  el("div", { class: "docs" }, ...items.map((item) => doc(item, run == null || !item.n ? null : "doc-" + run + "-" + item.n))));

/* The answer, with its citation marks as links to the documents. */
function cited(run) {
  const known = new Set((runs[run].docs || []).map((item) => item.n));
  return (text) => {
    const parts = document.createDocumentFragment();
    let done = 0;
    for (const mark of text.matchAll(/<ref>([[\]\d,，、\s]{1,64})<\/ref>/g)) {
      parts.append(shown(text.slice(done, mark.index)));
      const links = (mark[1].match(/\d+/g) || []).map((n) => {
        if (!known.has(n)) return "[" + n + "]";
        const id = "doc-" + run + "-" + n;
        return el("a", { href: "#" + id, on: (event) => { event.preventDefault(); flash(document.getElementById(id)); } }, "[" + n + "]");
      });
      parts.append(el("sup", {}, ...links));
      done = mark.index + mark[0].length;
    }
    parts.append(shown(text.slice(done)));
    return parts;
  };
}
function flash(box, block = "center") {
  box.tabIndex = -1;
  box.scrollIntoView({ block });
  box.focus({ preventScroll: true });
  box.classList.add("flash");
  setTimeout(() => box.classList.remove("flash"), 1600);
}

function fill(box) {
  const at = Number(box.dataset.run), run = runs[at];
  if (box.childNodes.length) return;
  if (run.prompt) box.append(part("Prompt", run.prompt, { kind: "prompt", prose: true }));
  const rest = box.closest(".run").querySelector(".rest") || box; /* a small page has the answer above the steps */
  if (run.reasoning) rest.append(part("Reasoning", run.reasoning, { kind: "dim", prose: true }));
  const answer = part("Answer", run.answer || "", { kind: "answer", prose: true, render: cited(at) });
  if (!run.answer) answer.querySelector("pre").replaceChildren(el("span", { class: "quiet" }, t("The answer is empty.")));
  box.append(answer);
  if (run.docs) rest.append(docs("Cited documents", run.docs, at));
  if (run.final) rest.append(part("Final text of the cloud", run.final));
  if (run.request) rest.append(el("details", {}, el("summary", {}, t("Request body")), part("JSON", run.request)));
}

/* The rows of steps. */
const rows = [];
for (const section of all(".run")) {
  const run = Number(section.dataset.run);
  all(".grid > .row:not(.head)", section).forEach((row, at) => {
    const known = { row, section, run, step: runs[run].steps[at], level: Number(row.getAttribute("aria-level")), detail: null, parent: row.hasAttribute("aria-expanded"), folded: false };
    if (!known.parent && !row.hasAttribute("data-answer")) row.setAttribute("aria-expanded", "false");
    rows.push(known);
    row.known = known;
    row.index = rows.length - 1;
  });
}
let current = 0, query = "";
const stops = new Map(); /* the row of each run that Tab reaches */
for (const known of rows) if (!stops.has(known.section)) stops.set(known.section, known);

function detail(known) {
  const step = known.step;
  const meta = el("dl", { class: "meta" });
  const fact = (name, value) => { if (value != null) meta.append(el("div", {}, el("dt", {}, t(name)), el("dd", {}, shown(String(value))))); };
  fact("Took", step.took);
  fact("First word", step.first);
  fact("From – to", step.span);
  fact("Cloud’s own time", step.cloud);
  for (const [model, given, written] of step.models || []) fact("Model", model + "  " + given.toLocaleString() + " → " + written.toLocaleString());
  fact("Id", step.id);
  fact("Parent", step.parent);
  const parts = el("div", { class: "parts" });
  if (step.error) parts.append(part("Error", step.error, { kind: "wide bad" }));
  if (step.input) parts.append(part("Input", step.input));
  if (step.reasoning) parts.append(part("Reasoning", step.reasoning));
  if (step.output && step.output !== step.error) parts.append(part("Output", step.output));
  if (step.docs) parts.append(docs("Documents", step.docs));
  const narrow = all(":scope > .part:not(.wide)", parts);
  if (narrow.length === 1) narrow[0].classList.add("wide");
  if (!parts.childNodes.length) parts.append(el("p", { class: "note" }, t("No input, output or error was reported.")));
  return el("div", { class: "detail", role: "row", "aria-level": known.level + 1, "aria-label": t("Details of") + " " + known.row.querySelector(".label").textContent }, el("div", { role: "gridcell", "aria-colspan": 5 }, meta, parts));
}
function open(known, yes) {
  if (known.row.hasAttribute("data-answer")) {
    if (yes) flash(known.section.querySelector(".said .answer"), "nearest");
    return;
  }
  if (yes && !known.detail) {
    known.detail = detail(known);
    known.row.after(known.detail);
  }
  if (known.detail) known.detail.hidden = !yes || known.row.hidden;
  known.row.classList.toggle("open", yes);
  if (!known.parent) known.row.setAttribute("aria-expanded", String(yes));
}
const isOpen = (known) => known.row.classList.contains("open");

function matches(known) {
  if (!query) return true;
  known.words ??= (known.row.textContent + "\n" + Object.values(known.step).map((v) => (typeof v === "string" ? v : JSON.stringify(v))).join("\n")).toLowerCase();
  return known.words.includes(query) || named(known.section);
}
/* Whether the line of one run among several has what is looked for. */
const named = (section) => section.tagName === "DETAILS" && section.querySelector(".what").textContent.toLowerCase().includes(query);
/* Shows the rows that match, with those that they are below of, and none of what is folded. */
function sift() {
  let hits = 0, section = null;
  const above = [], keep = new Set();
  for (const known of rows) {
    if (known.section !== section) { section = known.section; above.length = 0; }
    above.length = known.level - 1;
    above[known.level - 1] = known;
    if (matches(known)) { hits++; above.forEach((each) => keep.add(each)); }
  }
  let folded = Infinity;
  section = null;
  const counts = new Map();
  for (const known of rows) {
    if (known.section !== section) { section = known.section; folded = Infinity; }
    if (known.level <= folded) folded = Infinity;
    const hide = !keep.has(known) || (known.level > folded && !query);
    if (folded === Infinity && known.folded) folded = known.level;
    known.row.hidden = hide;
    if (known.detail) known.detail.hidden = hide || !isOpen(known);
    if (!hide) counts.set(section, (counts.get(section) || 0) + 1);
  }
  for (const each of all(".pair")) each.hidden = Boolean(query) && !each.textContent.toLowerCase().includes(query);
  for (const each of all("details.run")) each.hidden = Boolean(query) && !counts.get(each) && !named(each);
  document.getElementById("hits").textContent = query ? hits + " " + t("found") : "";
  for (const [each, stop] of stops) if (stop.row.hidden) { const next = rows.findIndex((known) => known.section === each && !known.row.hidden); if (next >= 0) rove(next, false); }
}
function fold(known, yes) {
  if (!known.parent) return;
  known.folded = yes;
  known.row.setAttribute("aria-expanded", String(!yes));
  sift();
}
function rove(index, focus = true) {
  current = index;
  const known = rows[current];
  stops.get(known.section).row.tabIndex = -1;
  stops.set(known.section, known);
  known.row.tabIndex = 0;
  if (focus) { known.row.focus({ preventScroll: true }); known.row.scrollIntoView({ block: "nearest" }); }
}
function visible(known) { return !known.row.hidden && (known.section.tagName !== "DETAILS" || known.section.open); }
function move(by) {
  for (let at = current + by; at >= 0 && at < rows.length; at += by) if (visible(rows[at])) return rove(at);
}
/* To the row where the reader was, else to the first one, else to the line of a run that is closed. */
function toFound() {
  const at = rows[current] && visible(rows[current]) ? current : rows.findIndex(visible);
  if (at >= 0) rove(at);
  else all("details.run:not([hidden]) > summary")[0]?.focus();
}
function openAll(yes) {
  for (const each of all("details.pair")) if (!each.hidden) each.open = yes;
  for (const each of all("details.run")) if (yes && !each.hidden) each.open = true;
  for (const known of rows) if (!known.row.hidden && !known.row.hasAttribute("data-answer")) open(known, yes);
}

const search = document.getElementById("q"), help = document.getElementById("keys");
let waiting;
search.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(() => { query = search.value.trim().toLowerCase(); sift(); }, 60); });
document.getElementById("open-all").addEventListener("click", () => openAll(true));
document.getElementById("close-all").addEventListener("click", () => openAll(false));
document.getElementById("help").addEventListener("click", () => help.showModal());

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-copy]");
  if (button) return copy(button.dataset.copy, button);
  const row = event.target.closest(".grid > .row:not(.head)");
  if (!row || String(getSelection())) return;
  rove(row.index);
  if (event.target.closest(".twist")) fold(row.known, !row.known.folded);
  else open(row.known, !isOpen(row.known));
});
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || help.open) return;
  if (event.target === search) {
    if (event.key === "Escape") { search.value = query = ""; sift(); search.blur(); }
    else if (event.key === "ArrowDown" || event.key === "Enter") { event.preventDefault(); toFound(); }
    return;
  }
  const inRow = event.target.closest?.(".grid > .row"), run = event.target.closest?.(".run");
  if (inRow) current = inRow.index;
  const known = rows[current];
  const here = (each) => visible(each) && (!run || each.section === run);
  const step = (by) => {
    if (inRow) return move(by);
    const at = here(known) ? current : rows.findIndex(here);
    if (at >= 0) rove(at);
  };
  const does = {
    "/": () => search.focus(), "?": () => help.showModal(), e: () => openAll(true), c: () => openAll(false),
    j: () => step(1), k: () => step(-1), Escape: () => { search.value = query = ""; sift(); },
  };
  const inGrid = {
    ArrowDown: () => move(1), ArrowUp: () => move(-1),
    Home: () => { const at = rows.findIndex(visible); if (at >= 0) rove(at); },
    End: () => { for (let at = rows.length - 1; at >= 0; at--) if (visible(rows[at])) return rove(at); },
    Enter: () => open(known, !isOpen(known)), " ": () => open(known, !isOpen(known)),
    ArrowRight: () => { if (known.folded) fold(known, false); else if (known.parent) move(1); else if (known.row.getAttribute("aria-expanded") === "false") open(known, true); },
    ArrowLeft: () => {
      if (known.row.getAttribute("aria-expanded") === "true") return known.parent ? fold(known, true) : open(known, false);
      for (let at = current - 1; at >= 0; at--) if (rows[at].section === known.section && rows[at].level < known.level) return rove(at);
    },
  };
  const act = (rows.length || event.key === "/" || event.key === "?") && ((inRow && inGrid[event.key]) || does[event.key]);
  if (act) { event.preventDefault(); act(); }
});

/* Paper shows everything. */
let unprinted = null;
function beforePrint() {
  if (unprinted) return;
  unprinted = { open: rows.filter(isOpen), sections: all("details").filter((each) => each.open) };
  for (const each of all("details")) each.open = true;
  openAll(true);
}
function afterPrint() {
  if (!unprinted) return;
  const before = unprinted;
  unprinted = null;
  for (const known of rows) open(known, before.open.includes(known));
  for (const each of all("details")) each.open = before.sections.includes(each);
}
addEventListener("beforeprint", beforePrint);
addEventListener("afterprint", afterPrint);
matchMedia("print").addEventListener("change", (media) => (media.matches ? beforePrint() : afterPrint()));

/* The reader's language. */
document.documentElement.classList.add("scripted");
if (zh) {
  document.documentElement.lang = "zh-CN";
  for (const each of all("[data-t]")) each.textContent = t(each.textContent);
  for (const each of all("[data-tl]")) { each.setAttribute("aria-label", t(each.dataset.tl)); if (each.title) each.title = t(each.title); }
  for (const each of all("[data-tp]")) each.placeholder = t(each.dataset.tp);
}
for (const section of all(".run")) {
  const box = section.querySelector(".fill");
  if (section.tagName !== "DETAILS" || section.open) fill(box);
  section.addEventListener("toggle", () => section.open && fill(box));
}
function follow() {
  const target = document.getElementById(location.hash.slice(1));
  if (target && target.tagName === "DETAILS") target.open = true;
}
addEventListener("hashchange", follow);
follow();
})();
