// The list of requests. Its rows have one height, and only those in sight exist.

import { $, bytes, duration, element, say, soon, texts } from "./tools.js";

const ROW_PX = 24;
const COLUMNS = ["n", "at", "app", "prompt", "biz", "status", "fault", "session", "bytes", "ms"];

export const rows = new Map(); // by number, in order
export let chosen = null; // a number
let visible = []; // the rows that match the filter
let words = [];
let dropped = 0;

export function statusOf(row) {
  if (row.state === "running") return texts.running;
  const status = [row.status ?? "–", row.event_status].filter(Boolean).join(" → ");
  return row.state === "cut" ? `${status} ${texts.cut}` : status;
}

function matches(row) {
  row.text ??= [row.n, row.app, row.prompt, row.biz, statusOf(row), row.fault, row.session]
    .join(" ")
    .toLowerCase();
  return words.every((word) =>
    word[0] === "-" && word[1] ? !row.text.includes(word.slice(1)) : row.text.includes(word),
  );
}

function refilter() {
  visible = [...rows.values()].filter(matches);
  draw();
}

export function add(news) {
  let newest = Math.max(0, visible.at(-1)?.n ?? 0);
  let inOrder = true;
  for (const row of news) {
    inOrder &&= !rows.has(row.n) && row.n > newest;
    newest = row.n;
    rows.set(row.n, row);
  }
  if (inOrder) {
    visible.push(...news.filter(matches));
    draw();
    return;
  }
  const ordered = [...rows.entries()].sort(([a], [b]) => a - b); // what changed stays at its place
  rows.clear();
  for (const [n, row] of ordered) rows.set(n, row);
  refilter();
}

export function clear() {
  rows.clear();
  chosen = null;
  refilter();
}

// Forgets the rows before a number, which the server keeps no longer.
export function forgetBefore(first, count) {
  dropped = count;
  let hasOlder = false;
  for (const n of rows.keys()) {
    if (n >= first) break;
    hasOlder = rows.delete(n);
  }
  if (hasOlder) refilter();
  else draw();
}

const draw = soon(() => {
  const grid = $("grid");
  $("rows").style.height = `${visible.length * ROW_PX}px`;
  if ($("follow").checked) grid.scrollTop = grid.scrollHeight;
  const start = Math.max(0, Math.floor(grid.scrollTop / ROW_PX) - 5);
  const shown = visible.slice(start, start + Math.ceil(grid.clientHeight / ROW_PX) + 10);
  const lines = $("rows").children;
  while (lines.length > shown.length) lines[lines.length - 1].remove();
  while (lines.length < shown.length) $("rows").append(line());
  shown.forEach((row, index) => fill(lines[index], row, start + index));
  $("empty").hidden = rows.size > 0;
  $("no-match").hidden = rows.size === 0 || visible.length > 0;
  grid.setAttribute("aria-rowcount", visible.length + 1);
  if (visible.some((row) => row.n === chosen)) grid.setAttribute("aria-activedescendant", `row-${chosen}`);
  count();
});

function line() {
  const cells = COLUMNS.map((name) => element("span", { className: name, role: "gridcell" }));
  return element("div", { role: "row" }, ...cells);
}

function fill(line, row, index) {
  const failed = row.state !== "running" && (row.event_status ?? row.status) !== 200;
  line.className = `row ${row.state} ${failed ? "bad" : ""}`;
  line.style.top = `${index * ROW_PX}px`;
  line.id = `row-${row.n}`;
  line.dataset.n = row.n;
  line.setAttribute("aria-rowindex", index + 2);
  line.setAttribute("aria-selected", row.n === chosen);
  const time = new Date(row.at).toLocaleTimeString("en-GB");
  const took = duration(row.ms ?? Math.max(0, Date.now() - row.at));
  const { n, app, prompt, biz, fault, session } = row;
  const values = [n, time, app, prompt, biz, statusOf(row), fault ?? "", session ?? "", bytes(row.bytes), took];
  values.forEach((value, column) => {
    const cell = line.children[column];
    if (cell.textContent !== String(value)) cell.textContent = cell.title = value;
  });
}

function count() {
  let running = 0;
  for (const row of rows.values()) running += row.state === "running";
  const parts = [say("count", { shown: visible.length, all: rows.size })];
  if (running) parts.push(say("count_running", { n: running }));
  if (dropped) parts.push(say("gone", { n: dropped }));
  if ($("count").textContent !== parts.join(" · ")) $("count").textContent = parts.join(" · ");
}

// Chooses a request; who shows it hears the event `choose` of the list.
export function choose(n, { open = true } = {}) {
  const index = visible.findIndex((row) => row.n === n);
  if (index < 0) return;
  chosen = n;
  const grid = $("grid");
  const top = index * ROW_PX;
  const below = top + 2 * ROW_PX - grid.clientHeight; // the head covers one row
  $("follow").checked &&= index === visible.length - 1;
  if (top < grid.scrollTop) grid.scrollTop = top;
  if (below > grid.scrollTop) grid.scrollTop = below;
  draw();
  grid.dispatchEvent(new CustomEvent("choose", { detail: { open } }));
}

function move(by) {
  if (!visible.length) return;
  const last = visible.length - 1;
  const found = visible.findIndex((row) => row.n === chosen);
  const at = found >= 0 ? found : by > 0 ? -1 : last + 1;
  choose(visible[Math.min(last, Math.max(0, at + by))].n, { open: false });
}

$("filter").addEventListener("input", () => {
  words = $("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  refilter();
});
$("filter").addEventListener("keydown", (event) => {
  if (event.key === "ArrowDown" || event.key === "Enter") $("grid").focus();
});
$("follow").addEventListener("change", draw);
$("grid").addEventListener("scroll", draw);
$("grid").addEventListener("wheel", (event) => {
  if (event.deltaY < 0) $("follow").checked = false;
}, { passive: true });
$("grid").addEventListener("click", (event) => {
  const line = event.target.closest("[data-n]");
  if (line) choose(Number(line.dataset.n));
});
$("grid").addEventListener("keydown", (event) => {
  const page = Math.max(1, Math.floor($("grid").clientHeight / ROW_PX) - 2);
  const by = {
    ...{ ArrowUp: -1, k: -1, ArrowDown: 1, j: 1 },
    ...{ PageUp: -page, PageDown: page, Home: -Infinity, End: Infinity },
  }[event.key];
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (by) {
    event.preventDefault();
    move(by);
  } else if (event.key === "Enter" && chosen) choose(chosen);
});
new ResizeObserver(draw).observe($("grid"));
setInterval(() => {
  for (const row of rows.values()) if (row.state === "running") return draw();
}, 500);
