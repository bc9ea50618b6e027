// The panels beside the list: faults, sessions and the clock, apps, recordings.

import { tryApp } from "./playground.js";
import { $, all, ask, element, say, texts, toast } from "./tools.js";

let state = { sessions: 0 };

const none = (name) => element("li", { className: "none", textContent: texts[name] });
const action = (text, task) => {
  const button = element("button", { type: "button", textContent: text });
  button.addEventListener("click", task);
  return button;
};

async function attempt(...request) {
  try {
    await ask(...request);
  } catch (error) {
    toast(error.message);
  }
}

// Fills a list with one line for each item.
function list(id, items, empty, line) {
  $(id)?.replaceChildren(...(items.length ? items.map(line) : [none(empty)]));
}

function text(tag, textContent) {
  return element(tag, { textContent });
}

export function drawState(next) {
  const before = state;
  state = next;
  const recordings = state.recordings ?? state.apps.flatMap((app) =>
    app.recordings.map((each) => ({ ...each, app: app.id })));
  badge("recordings", recordings.length);
  list("recording-list", recordings, "no_recordings", recordingLine);
  if (!state.apps) return;
  badge("faults", state.faults.length);
  badge("sessions", state.sessions);
  badge("apps", state.apps.length);
  list("app-list", state.apps, "no_apps", appLine);
  drawPending();
  for (const [id, first] of [["play-app", []], ["fault-app", [["", texts.any_app]]]]) {
    const value = $(id).value;
    const options = [...first, ...state.apps.map((app) => [app.id, app.id])];
    $(id).replaceChildren(...options.map(([value, label]) => element("option", { value, textContent: label })));
    if (options.some(([each]) => each === value)) $(id).value = value;
  }
  $("clock-now").textContent = state.clock_s
    ? texts.clock_now.replace("{n}", `${state.clock_s.toLocaleString()} s`)
    : texts.clock_none;
  if (before.sessions !== state.sessions || before.rounds !== state.rounds) showSessions();
}

function badge(name, count) {
  all(".badge", $(`tab-${name}`))[0].textContent = count || "";
}

function appLine(app) {
  const facts = [app.kind, app.source, app.modes.join(", ")].filter(Boolean).join(" · ");
  return element("li", {}, text("strong", app.id), text("span", facts), action(texts.try, () => tryApp(app.id)));
}

function recordingLine(recording) {
  const facts = [recording.app, recording.mode, recording.frames && say("frames", { n: recording.frames })];
  const tries = recording.app && state.apps
    ? [action(texts.try, () => tryApp(recording.app, recording.prompt || undefined, recording.biz_params))]
    : [];
  return element("li", {}, text("code", recording.file), text("span", recording.prompt ?? ""),
    element("span", { className: "quiet", textContent: facts.filter(Boolean).join(" · ") }), ...tries);
}

function drawPending() {
  const facts = (fault) =>
    [fault.app_id, fault.nth > 1 && `nth ${fault.nth}`, fault.share && `share ${fault.share}`,
      fault.left && say("left", { n: fault.left })].filter(Boolean).join(", ");
  const shown = state.faults.map((fault) =>
    element("span", {}, text("code", fault.name), ` ${facts(fault)}`));
  $("pending").replaceChildren(...(shown.length ? shown : [texts.none_pending]));
  $("clear-faults").disabled = !shown.length;
}

async function stage(name) {
  const fault = { name, times: Number($("fault-times").value) || 1 };
  if ($("fault-app").value) fault.app_id = $("fault-app").value;
  $("fault-problem").textContent = "";
  try {
    await ask("/faults", "POST", fault);
  } catch (error) {
    $("fault-problem").textContent = error.message;
  }
}

async function showSessions() {
  if ($("sessions").hidden) return;
  const { sessions } = await ask("/page/sessions");
  const isAll = sessions.length >= state.sessions;
  $("sessions-note").textContent = isAll ? "" : say("newest_sessions", { n: sessions.length });
  $("forget-all").disabled = !sessions.length;
  list("session-list", sessions, "no_sessions", (session) =>
    element("li", {}, text("code", session.id),
      text("span", `${session.app} · ${say("rounds", { n: session.rounds })}`),
      action(texts.continue, () => {
        tryApp(session.app);
        $("play-session").value = session.id;
      }),
      action(texts.forget, () => attempt(`/sessions?session_id=${encodeURIComponent(session.id)}`, "DELETE")),
      ...(session.rounds ? [element("span", {}, text("b", session.user), " → ", session.answer)] : [])));
}

export function setUp() {
  $("fault-filter").addEventListener("input", () => {
    const wanted = $("fault-filter").value.toLowerCase();
    for (const line of all("#fault-list li")) line.hidden = !line.textContent.toLowerCase().includes(wanted);
  });
  $("fault-list").addEventListener("click", (event) => {
    if (event.target.matches("button")) stage(event.target.closest("li").dataset.fault);
  });
  $("clear-faults").addEventListener("click", () => attempt("/faults", "DELETE"));
  $("sessions").addEventListener("shown", showSessions);
  $("forget-all").addEventListener("click", () => attempt("/sessions", "DELETE"));
  for (const button of all("[data-advance]"))
    button.addEventListener("click", () => attempt("/clock", "POST", { advance_s: Number(button.dataset.advance) }));
  $("clock").addEventListener("submit", (event) => {
    event.preventDefault();
    attempt("/clock", "POST", { advance_s: Number($("clock-seconds").value) });
  });
}
