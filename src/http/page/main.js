// Puts the page together: events in, one drawing an animation frame; theme, cancel and drain.

import { repaintAll } from "./charts.js";
import { Gpus, Jobs, Overview } from "./cards.js";
import { State, follow } from "./state.js";
import { OutcomeTable, TaskList, byId, make, write } from "./tables.js";

const state = new State();
const parts = [new Overview(), new Jobs(), new TaskList(askToCancel), new OutcomeTable(), new Gpus()];
let lost = false;
let locked = "";
let said = null;

let scheduled = 0;
function draw() {
  scheduled = 0;
  notices();
  if (!state.status) return;
  for (const part of parts) part.show(state);
  const mayChange = state.status.control !== "none";
  byId("drain").hidden = !mayChange || state.status.status === "DRAINING";
  write(byId("control-note"), mayChange ? "" : "Read-only: with AUTH_TOKEN_FILE set, tasks can be cancelled and the worker drained from here.");
}

function schedule() {
  scheduled ||= requestAnimationFrame(draw);
}

/** What a person has to know; written only when it changes, since a screen reader reads it aloud. */
function notices() {
  const { status } = state;
  const wanted = [];
  if (locked === "token") wanted.push(["warn", "This worker shows its state to those who know its token."]);
  else if (locked) wanted.push(["warn", "This worker shows its state to those whose browser has a certificate that it trusts (TLS_CLIENT_CA)."]);
  else if (lost) wanted.push(["bad", "This page has lost the worker. What it shows is the last that was heard; trying again."]);
  if (status && !lost) {
    if (status.orchestrator_connection === "disconnected") {
      wanted.push(["bad", `The orchestrator at ${status.orchestrator} does not answer. Tasks at hand go on; results wait on disk until it is back.`]);
    }
    if (status.status === "DRAINING") wanted.push(["warn", "Draining: no new task is taken; the worker ends when those at hand have ended."]);
    for (const reason of status.reasons) wanted.push([status.status === "DEGRADED" ? "bad" : "warn", reason]);
    if (status.simulated) {
      wanted.push(["warn", "Simulated: without a GPU, figures come from a curve and nothing is trained. TRAINING_BACKEND=cpu trains for real on the CPU."]);
    }
  }
  if (said) wanted.push([said.tone, said.text]);
  const box = byId("notices");
  const key = JSON.stringify(wanted);
  if (box.dataset.key === key) return;
  box.dataset.key = key;
  box.replaceChildren(...wanted.map(([tone, text]) => make("p", { class: "notice", "data-tone": tone }, text)));
  if (locked === "token") {
    const button = make("button", { type: "button" }, "Enter the token");
    button.addEventListener("click", () => ask({ title: "Token", text: "It is kept until this tab is closed.", yes: "Use it", act: unlock }));
    box.append(make("p", { class: "notice" }, button));
  }
}

function say(tone, text) {
  said = { tone, text };
  schedule();
  setTimeout(() => { if (said?.text === text) { said = null; schedule(); } }, 8000);
}

const token = () => { try { return sessionStorage.getItem("token") ?? ""; } catch { return ""; } };

/** Sends an order; the answer's message, or an Error that says why not. */
async function order(path) {
  const answer = await fetch(path, { method: "POST", headers: token() ? { Authorization: `Bearer ${token()}` } : {} });
  const body = await answer.json().catch(() => ({}));
  if (answer.status === 401) sessionStorage.removeItem("token");
  if (!answer.ok) throw Object.assign(new Error(body.error?.message ?? `HTTP ${answer.status}`), { status: answer.status });
  return body.message;
}

/** Whether the token lets in; then the events are followed. */
async function unlock() {
  const answer = await fetch("/api/v1/status", { headers: { Authorization: `Bearer ${token()}` } });
  if (answer.status === 401) {
    sessionStorage.removeItem("token");
    throw Object.assign(new Error("This is not the token of this worker."), { status: 401 });
  }
  tryAgain();
  return "";
}

/** Asks before something is done that cannot be undone, and for the token where there is none yet. */
function ask({ title, text, yes, act }) {
  const dialog = byId("ask");
  write(byId("ask-title"), title);
  write(byId("ask-text"), text);
  write(byId("ask-error"), "");
  write(byId("ask-yes"), yes);
  byId("ask-token").value = "";
  const byToken = (state.status?.control ?? "token") === "token";
  byId("ask-token-line").hidden = !byToken || token() !== "";
  byId("ask-form").onsubmit = async (event) => {
    event.preventDefault();
    if (!byId("ask-token-line").hidden) {
      if (!byId("ask-token").value.trim()) { write(byId("ask-error"), "Enter the token first."); return; }
      sessionStorage.setItem("token", byId("ask-token").value.trim());
    }
    write(byId("ask-error"), "");
    try {
      const message = await act();
      dialog.close();
      if (message) say("ok", message);
    } catch (error) {
      byId("ask-token-line").hidden = !byToken || error.status !== 401;
      write(byId("ask-error"), error.message);
    }
  };
  byId("ask-no").onclick = () => dialog.close();
  dialog.showModal();
}

function askToCancel(task) {
  ask({
    title: "Cancel this task?", text: `Task ${task.task_id} of job ${task.job_id} stops at its next batch and is reported as cancelled.`,
    yes: "Cancel the task", act: () => order(`/api/v1/tasks/${encodeURIComponent(task.task_id)}/cancel`),
  });
}

byId("drain").addEventListener("click", () => ask({
  title: "Drain this worker?", text: "It takes no more tasks, finishes those it has, and ends. It has to be started again to work on.",
  yes: "Drain the worker", act: () => order("/api/v1/drain"),
}));

const THEMES = ["system", "light", "dark"];
const themeNow = () => document.documentElement.dataset.theme ?? "system";
byId("theme").addEventListener("click", () => {
  const next = THEMES[(THEMES.indexOf(themeNow()) + 1) % THEMES.length];
  if (next === "system") delete document.documentElement.dataset.theme; else document.documentElement.dataset.theme = next;
  try { if (next === "system") localStorage.removeItem("theme"); else localStorage.setItem("theme", next); } catch { /* not kept */ }
  themed();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", themed);
function themed() {
  write(byId("theme"), `Theme: ${themeNow()}`);
  repaintAll();
}
themed();

const tryAgain = follow(token, (kind, data) => {
  if (kind === "state") state.replace(data);
  else if (kind === "update") state.change(data);
  lost = kind === "lost";
  if (kind !== "lost") locked = kind === "locked" ? data : "";
  schedule();
});
