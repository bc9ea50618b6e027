"use strict";
// Everything that comes from the app, a user or the service is shown by textContent, never as HTML.

const $ = (id) => document.getElementById(id);
let leaving = null; // an AbortController while an answer streams

function add(role, text) {
  const item = document.createElement("li");
  item.className = role;
  const steps = item.appendChild(document.createElement("ul"));
  const paragraph = item.appendChild(document.createElement("p"));
  paragraph.textContent = text;
  $("messages").append(item);
  return { item, steps, paragraph, byId: new Map() };
}

function note(text, again) {
  const { item } = add("note", text);
  if (!again) return;
  const button = item.appendChild(document.createElement("button"));
  button.textContent = "Ask again";
  button.onclick = () => say(again);
}

const interrupted = (text) =>
  note("The answer to this was interrupted. The app may have run; it was not asked again.", text);

// fetch, because EventSource can only GET, and asks again by itself when a connection breaks.
async function* eventsOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let buffer = ""; ; ) {
    const { done, value } = await reader.read();
    if (done) return;
    const events = (buffer + value).split("\n\n");
    buffer = events.pop();
    for (const event of events) {
      const [name, data] = event.split("\n");
      if (name.startsWith("event: ")) yield [name.slice(7), JSON.parse(data.slice(6))];
    }
  }
}

function showStep(answer, step) {
  let line = answer.byId.get(step.id);
  if (!line) {
    line = { element: answer.steps.appendChild(document.createElement("li")), text: "" };
    answer.byId.set(step.id, line);
  }
  line.text += step.text;
  line.element.dataset.status = step.event === "error" ? "✗" : step.event === "end" ? "✓" : "…";
  line.element.textContent = line.text ? `${step.name}: ${line.text}` : step.name;
}

async function show(response, text) {
  const answer = add("ai", "");
  for await (const [name, data] of eventsOf(response)) {
    if (name === "text") answer.paragraph.textContent += data.text;
    else if (name === "step") showStep(answer, data);
    else if (name === "done") return;
    else if (name === "error") {
      note(`${data.message} (${data.type}, the request: ${data.request_state})`);
      if (data.taken_back) $("text").value = text;
      else interrupted(text);
      return;
    }
  }
  interrupted(text); // the stream ended without `done`
}

async function refused(response, text) {
  const { detail } = await response.json();
  const after = response.headers.get("Retry-After");
  const words = typeof detail === "string" ? detail : response.statusText;
  note(`Not sent: ${words}${after ? `; try again in ${after} s` : ""}`);
  $("text").value = text;
}

async function threadId() {
  if (!location.hash) {
    const made = await (await fetch("api/threads", { method: "POST" })).json();
    history.replaceState(null, "", `#${made.thread_id}`);
  }
  return location.hash.slice(1);
}

async function say(text) {
  if (leaving) return;
  leaving = new AbortController();
  $("send").disabled = !($("stop").hidden = false);
  for (const button of document.querySelectorAll(".note button")) button.remove();
  add("human", text);
  $("text").value = "";
  let sent = false;
  try {
    const path = `api/threads/${await threadId()}/messages`;
    const headers = { "Content-Type": "application/json" };
    const body = JSON.stringify({ text });
    sent = true;
    const response = await fetch(path, { method: "POST", headers, body, signal: leaving.signal });
    await (response.ok ? show : refused)(response, text);
  } catch {
    if (sent) interrupted(text);
    else $("text").value = text;
  } finally {
    leaving = null;
    $("send").disabled = !($("stop").hidden = true);
  }
}

async function load() {
  if (!location.hash) return;
  const response = await fetch(`api/threads/${location.hash.slice(1)}`);
  if (!response.ok) return;
  const thread = await response.json();
  for (const message of thread.messages) add(message.role, message.text);
  if (thread.unanswered) interrupted(thread.messages.at(-1).text);
  if (thread.answering) note("This is being answered in another window.");
}

$("form").onsubmit = (event) => {
  event.preventDefault();
  say($("text").value);
};
$("text").onkeydown = (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    $("form").requestSubmit();
  }
};
$("stop").onclick = () => leaving?.abort();
load();
