// The playground: calls an app, and shows its text as it streams.

import { choose, rows } from "./list.js";
import { $, duration, path, showPanel, soon, texts } from "./tools.js";

const isAnswer = (type) => type === "End" || String(type).toLowerCase().includes("output");

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

// The answer so far: of an app's own text, of the nodes that say the answer, or an error.
class LiveAnswer {
  constructor(isDeltas) {
    Object.assign(this, { isDeltas, whole: null, error: "", session: "", parts: new Map(), steps: new Map() });
  }

  get text() {
    return this.error || (this.whole ?? [...this.parts.values()].join(""));
  }

  async read(answer, changed) {
    if (!answer.headers.get("content-type")?.startsWith("text/event-stream")) {
      const text = await answer.text();
      const value = parsed(text);
      if (value) this.take(value);
      else this.error = text;
      return;
    }
    const decoder = new TextDecoder();
    let rest = "";
    for (const reader = answer.body.getReader(); ; ) {
      const { value, done } = await reader.read();
      if (done) return;
      const events = (rest + decoder.decode(value, { stream: true })).split(/\r\n\r\n|\n\n|\r\r/);
      rest = events.pop();
      for (const event of events) {
        const lines = event.split(/\r\n|\n|\r/).filter((line) => line.startsWith("data:"));
        const frame = parsed(lines.map((line) => line.slice(5)).join("\n"));
        if (frame) this.take(frame);
      }
      changed();
    }
  }

  take(frame) {
    const output = frame.output ?? {};
    if (frame.code && !frame.output) this.error = `${frame.code}: ${frame.message ?? ""}`;
    this.session = output.session_id || this.session;
    (output.thoughts ?? []).forEach((thought, index) => {
      const node = parsed(thought.response);
      if (!node?.nodeId) return void this.steps.set(index, thought.action_name || thought.action_type || "");
      const result = parsed(node.nodeResult)?.result;
      this.takeNode(node.nodeId, node.nodeName, node.nodeType, node.nodeStatus, result);
    });
    const { node_id, node_name, node_type, node_status, message } = output.workflow_message ?? {};
    if (node_id) this.takeNode(node_id, node_name, node_type, node_status, message?.content);
    if (!output.text) return;
    const isLast = ![undefined, null, "", "null"].includes(output.finish_reason);
    const isWhole = isLast && (this.parts.size > 1 || this.steps.size || output.text.startsWith(this.text));
    if (isWhole) this.whole = output.text;
    else this.put("", output.text);
  }

  takeNode(id, name, type, status, text) {
    this.steps.set(id, `${{ executing: "…", success: "✓" }[status] ?? status} ${name}`);
    if (isAnswer(type) && typeof text === "string") this.put(id, text);
  }

  put(id, text) {
    this.parts.set(id, this.isDeltas ? (this.parts.get(id) ?? "") + text : text);
  }
}

const running = { aborter: null, live: null, note: "", app: "", after: 0 };

const draw = soon(() => {
  const { live, note } = running;
  $("play-text").textContent = live.text;
  $("play-text").classList.toggle("problem", Boolean(live.error));
  $("play-steps").textContent = [...live.steps.values()].join("   ");
  $("play-facts").textContent = [note, live.session].filter(Boolean).join(" · ");
});

// Shows the playground, filled in.
export function tryApp(app, prompt, bizParams) {
  showPanel("playground");
  $("play-app").value = app;
  if (prompt !== undefined) $("play-prompt").value = prompt;
  $("play-biz").value = Object.keys(bizParams ?? {}).length ? JSON.stringify(bizParams) : "";
  $("play-prompt").focus();
}

function refuse(field, problem) {
  $("play-problem").textContent = problem;
  field.setAttribute("aria-invalid", true);
  field.focus();
  return null;
}

function bodyOfCall() {
  for (const name of ["play-prompt", "play-biz"]) $(name).removeAttribute("aria-invalid");
  $("play-problem").textContent = "";
  const input = { prompt: $("play-prompt").value };
  if (!input.prompt.trim()) return refuse($("play-prompt"), texts.no_prompt);
  if ($("play-biz").value.trim()) {
    try {
      input.biz_params = JSON.parse($("play-biz").value);
    } catch (error) {
      return refuse($("play-biz"), texts.bad_json + error.message);
    }
    const isObject = input.biz_params?.constructor === Object;
    if (!isObject) return refuse($("play-biz"), texts.not_object);
  }
  const session = $("play-session").value.trim();
  if (session) input.session_id = session;
  const parameters = { has_thoughts: $("play-thoughts").checked };
  if ($("play-answer").value === "deltas") parameters.incremental_output = true;
  if ($("play-mode").value) parameters.flow_stream_mode = $("play-mode").value;
  return { input, parameters };
}

async function run() {
  const body = running.aborter ? null : bodyOfCall();
  if (!body) return;
  const app = $("play-app").value;
  const live = new LiveAnswer(body.parameters.incremental_output === true);
  Object.assign(running, { aborter: new AbortController(), live, note: "…", app, after: Math.max(0, ...rows.keys()) });
  $("play-result").hidden = $("play-stop").hidden = false;
  $("play-run").disabled = $("play-show").hidden = true;
  draw();
  const started = performance.now();
  try {
    const answer = await fetch(`${path}/apps/${encodeURIComponent(app)}/completion`, {
      method: "POST",
      headers: {
        "Content-Type": "application/json",
        ...($("play-answer").value !== "json" && { "X-DashScope-SSE": "enable" }),
      },
      body: JSON.stringify(body),
      signal: running.aborter.signal,
    });
    running.note = String(answer.status);
    await live.read(answer, draw);
  } catch (error) {
    running.note = error.name === "AbortError" ? texts.cut : texts.lost;
  }
  running.aborter = null;
  running.note += ` · ${duration(performance.now() - started)}`;
  draw();
  $("play-stop").hidden = true;
  $("play-run").disabled = $("play-show").hidden = false;
  if (live.session && $("play-continue").checked) $("play-session").value = live.session;
}

function showEntry(tries = 50) {
  const entry = [...rows.values()].find((row) => row.n > running.after && row.app === running.app);
  if (entry) choose(entry.n);
  else if (tries) setTimeout(showEntry, 100, tries - 1); // its row is on its way
}

export function setUp() {
  $("play").addEventListener("submit", (event) => {
    event.preventDefault();
    run();
  });
  $("play").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) run();
  });
  $("play-stop").addEventListener("click", () => running.aborter?.abort());
  $("play-show").addEventListener("click", () => showEntry());
}
