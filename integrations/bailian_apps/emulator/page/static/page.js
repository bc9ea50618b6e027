// The page of the emulator and of the recorder: what is chosen, what arrives, and the keys.

import { add, choose, chosen, clear, forgetBefore, rows, statusOf } from "./list.js";
import * as panels from "./panels.js";
import * as playground from "./playground.js";
import { $, all, ask, closePanel, duration, element, kind, path, say, showPanel, texts, toast } from "./tools.js";

let details = null; // of the chosen request
let drawn = null; // the number of the request whose run is drawn
let asking = null;

async function showDetails() {
  if (!rows.has(chosen) || $("details").hidden) return;
  const n = chosen;
  if (asking === n) return;
  asking = n;
  try {
    const got = await ask(`/page/requests/${n}`);
    if (chosen === n) fillDetails(got);
    if (got.state === "running") setTimeout(showDetails, 400);
  } catch (error) {
    toast(rows.has(n) ? error.message : texts.gone_one);
  }
  if (asking === n) asking = null;
}

function fillDetails(got) {
  details = got;
  $("choose").hidden = true;
  $("chosen").hidden = false;
  $("title").textContent = `${got.app} #${got.n}`;
  const took = got.ms === null ? "" : duration(got.ms);
  const facts = [statusOf(got), took, say("frames", { n: got.frames }), got.fault];
  $("facts").textContent = facts.filter(Boolean).join(" · ");
  const headers = Object.entries(got.headers).flatMap(([name, value]) => [
    element("dt", { textContent: name }),
    element("dd", { textContent: value }),
  ]);
  $("headers").replaceChildren(...headers);
  for (const name of ["request", "response"]) {
    const { text, left_out } = got[name];
    const more = left_out ? say("left_out", { n: left_out }) : "";
    const isCut = name === "response" && got.is_cut ? texts.is_cut : "";
    const shown = [text, more, isCut].filter(Boolean).join("\n");
    if ($(`${name}-text`).textContent !== shown) $(`${name}-text`).textContent = shown;
  }
  const isRunning = got.state === "running";
  $("is-running").hidden = !isRunning;
  $("run").hidden = isRunning;
  if (!isRunning && drawn !== got.n) {
    drawn = got.n;
    $("run").contentWindow.location.replace(`${path}/requests/${got.n}/run`); // adds no history
  }
}

async function copyCurl() {
  if (!details) return;
  await navigator.clipboard.writeText(details.curl);
  toast(texts.copied);
}

function editAndRun() {
  let input = {};
  try {
    input = JSON.parse(details.request.text).input ?? {};
  } catch {} // too long to be shown whole
  playground.tryApp(details.app, input.prompt ?? details.prompt, input.biz_params);
}

// ---------------------------------------------------------------- what the server sends

function connect() {
  const source = new EventSource(`${path}/events`);
  const hear = (name, task) => source.addEventListener(name, (event) => task(JSON.parse(event.data)));
  const show = (isOn) => {
    $("connection").dataset.state = isOn ? "on" : "off";
    $("connection").textContent = isOn ? texts.connected : texts.disconnected;
  };
  source.addEventListener("open", () => show(true));
  source.addEventListener("error", () => {
    show(false);
    if (source.readyState === EventSource.CLOSED) setTimeout(connect, 1000);
  });
  hear("clear", clearAll);
  hear("rows", (news) => {
    add(news);
    if (news.some((row) => row.n === chosen)) showDetails();
  });
  hear("state", (state) => {
    forgetBefore(state.first, state.dropped);
    panels.drawState(state);
  });
}

function clearAll() {
  clear();
  details = drawn = null;
  $("choose").hidden = false;
  $("chosen").hidden = true;
}

// ---------------------------------------------------------------- the hands

$("grid").addEventListener("choose", (event) => {
  if (event.detail.open) showPanel("details");
  else showDetails();
});
$("details").addEventListener("shown", showDetails);
$("close").addEventListener("click", closePanel);
$("curl").addEventListener("click", copyCurl);
$("again")?.addEventListener("click", editAndRun);
$("clear").addEventListener("click", async () => {
  await ask("/page/requests", "DELETE");
  clearAll();
});
$("split").addEventListener("pointerdown", (down) => {
  $("split").setPointerCapture(down.pointerId);
  $("split").onpointermove = (event) => ($("panel").style.flexBasis = `${innerWidth - event.clientX}px`);
  $("split").onpointerup = () => ($("split").onpointermove = null);
});
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const field = event.target.closest("input, textarea, select");
  if (event.key === "Escape") return field ? field.blur() : closePanel();
  if (field) return;
  const task = {
    "/": () => $("filter").focus(),
    p: () => kind === "emulator" && playground.tryApp($("play-app").value),
    c: copyCurl,
  }[event.key];
  if (!task) return;
  event.preventDefault();
  task();
});

if (kind === "emulator") {
  playground.setUp();
  panels.setUp();
}
if (matchMedia("(min-width: 801px)").matches) showPanel(kind === "emulator" ? "playground" : "details");
else closePanel();
connect();
