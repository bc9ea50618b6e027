// What all parts of the page use. Everything that a server or an app says becomes text
// (`textContent`), never markup.

export const { path, kind } = document.body.dataset;
export const texts = JSON.parse(document.body.dataset.texts);
export const $ = (id) => document.getElementById(id);
export const all = (selector, from = document) => [...from.querySelectorAll(selector)];
export const say = (name, values) =>
  texts[name].replace(/\{(\w+)\}/g, (_, key) => values[key].toLocaleString());

export const bytes = (n) =>
  n < 1000 ? `${n} B` : n < 1e6 ? `${(n / 1000).toFixed(1)} kB` : `${(n / 1e6).toFixed(1)} MB`;
export const duration = (ms) =>
  ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(ms < 1e4 ? 2 : 1)} s`;

export function element(tag, fields = {}, ...children) {
  const made = Object.assign(document.createElement(tag), fields);
  made.append(...children);
  return made;
}

export async function ask(target, method = "GET", body) {
  const answer = await fetch(`/__emulator__${target}`, {
    method,
    headers: body ? { "Content-Type": "application/json" } : {},
    body: body && JSON.stringify(body),
  });
  const value = await answer.json();
  if (!answer.ok) throw new Error(value.message);
  return value;
}

export function toast(text) {
  $("toast").textContent = text;
  $("toast").hidden = false;
  clearTimeout(toast.timer);
  toast.timer = setTimeout(() => ($("toast").hidden = true), 1800);
}

// Runs a task with the next frame of the screen, once, however often it was asked for.
export function soon(task) {
  let waits = false;
  return () => {
    if (waits) return;
    waits = true;
    requestAnimationFrame(() => {
      waits = false;
      task();
    });
  };
}

function select(tabs, chosen) {
  for (const tab of tabs) {
    tab.setAttribute("aria-selected", tab === chosen);
    tab.tabIndex = tab === (chosen ?? tabs[0]) ? 0 : -1;
    $(tab.getAttribute("aria-controls")).hidden = tab !== chosen;
  }
}

// Shows a panel, which hears it as the event `shown`.
export function showPanel(name) {
  document.body.classList.add("open");
  select(all(".tabs [role=tab]"), $(`tab-${name}`));
  $(name).dispatchEvent(new Event("shown"));
}

export function closePanel() {
  document.body.classList.remove("open");
  select(all(".tabs [role=tab]"), undefined);
  $("grid").focus();
}

for (const list of all("[role=tablist]")) {
  const tabs = all("[role=tab]", list);
  const show = (tab) =>
    list.classList.contains("tabs") ? showPanel(tab.getAttribute("aria-controls")) : select(tabs, tab);
  for (const tab of tabs) tab.addEventListener("click", () => show(tab));
  if (!list.classList.contains("tabs")) show(tabs[0]);
  list.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -1, ArrowDown: 1 }[event.key];
    const at = tabs.indexOf(document.activeElement);
    if (!by || at < 0) return;
    event.preventDefault();
    const next = tabs[(at + by + tabs.length) % tabs.length];
    next.focus();
    show(next);
  });
}
