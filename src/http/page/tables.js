// The running tasks and those that have ended: rows are kept, and only what changed in them is written.

import { Chart } from "./charts.js";
import { duration, figure, short } from "./format.js";

/** Rows that are drawn at most. */
const MOST_ROWS = 400;

export const byId = (id) => document.getElementById(id);

/** Writes `text`, if it is not there. */
export function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** A task under its job: most orchestrators begin the one's id with the other's, which says nothing when both stand there. */
function names(task) {
  const inside = task.task_id.startsWith(`${task.job_id}-`) ? task.task_id.slice(task.job_id.length + 1) : task.task_id;
  return [make("span", { title: task.task_id }, make("span", { "aria-hidden": "true" }, short(inside, 80)), make("span", { class: "unseen" }, task.task_id)),
    make("small", {}, short(task.job_id, 60))];
}

const near = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    const row = entry.target.row;
    row.seen = entry.isIntersecting;
    if (row.seen) row.write();
  }
}, { rootMargin: "160px" });

class TaskRow {
  seen = true;
  task = null;
  #parts = {};

  constructor(task, cancel) {
    const cell = (name, label, ...children) => {
      const label_ = label ? [make("span", { class: "label", "aria-hidden": "true" }, label)] : [];
      return make("div", { role: "cell", "data-cell": name, ...(NUMERIC.has(name) ? { class: "n" } : {}) }, ...label_, ...children);
    };
    const part = (name, element) => (this.#parts[name] = element);
    const name = cell("name", "", ...names(task));
    name.classList.add("name");
    this.element = make("div", { class: "task", role: "row" },
      name,
      cell("model", "", make("span", {}, task.model_type), part("epoch", make("small"))),
      cell("progress", "", make("div", { class: "steps" }, part("phase", make("span")), part("steps", make("span"))),
        part("bar", make("progress", { max: "100", value: "0", "aria-label": `Progress of task ${task.task_id}` }))),
      cell("eta", "Time left", part("eta", make("span"))),
      cell("loss", "Loss", part("loss", make("span"))),
      cell("accuracy", "Accuracy", part("accuracy", make("span"))),
      cell("curve", "", part("spark", make("span", { class: "spark" }))),
      cell("cancel", "", ...(cancel ? [part("cancel", make("button", { type: "button", class: "small danger", "aria-label": `Cancel task ${task.task_id}` }, "Cancel"))] : [])),
    );
    this.#parts.cancel?.addEventListener("click", () => cancel(this.task));
    this.chart = new Chart(this.#parts.spark, { kind: "spark", series: [{ column: 1, colour: "loss" }, { column: 2, colour: "accuracy" }] });
    this.element.row = this;
    near.observe(this.element);
  }

  set(task) {
    this.task = task;
    if (this.seen) this.write();
  }

  write() {
    const { task } = this;
    if (!task) return;
    const parts = this.#parts;
    const share = task.total_steps > 0 ? (100 * task.step) / task.total_steps : 0;
    write(parts.epoch, `epoch ${task.epoch}${task.attempt > 1 ? `, attempt ${task.attempt}` : ""}${task.retries ? `, retry ${task.retries}` : ""}`);
    if (task.simulated && !parts.tag) parts.epoch.after(parts.tag = make("span", { class: "tag" }, "simulated"));
    const inLine = task.phase === "running" && !task.total_steps;
    write(parts.phase, inLine ? "waits for its turn" : task.phase === "running" ? `${Math.floor(share)} %` : task.phase);
    write(parts.steps, task.total_steps ? `${task.step} of ${task.total_steps}` : "");
    if (parts.bar.value !== share) parts.bar.value = share;
    write(parts.eta, duration(task.eta_seconds));
    write(parts.loss, task.step ? figure(task.loss) : "–");
    write(parts.accuracy, task.step ? figure(task.accuracy) : "–");
    this.chart.set(task.curve);
  }

  remove() {
    near.unobserve(this.element);
    this.chart.remove();
    this.element.remove();
  }
}

const NUMERIC = new Set(["eta", "loss", "accuracy"]);

export class TaskList {
  #rows = new Map();
  #cancel = null;

  constructor(cancel) {
    this.cancel = cancel;
  }

  show(state) {
    const cancel = state.status.control === "token" ? this.cancel : null;
    if (cancel !== this.#cancel) {
      // The other kind of row.
      for (const row of this.#rows.values()) row.remove();
      this.#rows.clear();
      this.#cancel = cancel;
    }
    const drawn = state.tasks.slice(0, MOST_ROWS);
    const wanted = new Set(drawn.map((task) => task.key));
    for (const [key, row] of this.#rows) {
      if (!wanted.has(key)) { row.remove(); this.#rows.delete(key); }
    }
    const body = byId("tasks");
    const fresh = document.createDocumentFragment();
    for (const task of drawn) {
      let row = this.#rows.get(task.key);
      if (!row) {
        row = new TaskRow(task, cancel);
        this.#rows.set(task.key, row);
        fresh.append(row.element);
      }
      row.set(task);
    }
    if (fresh.childElementCount) body.append(fresh);
    byId("tasks-table").hidden = drawn.length === 0;
    byId("tasks-empty").hidden = drawn.length > 0;
    byId("tasks-table").classList.toggle("may-cancel", cancel !== null);
    const more = state.tasks.length - drawn.length;
    byId("tasks-more").hidden = more <= 0;
    write(byId("tasks-more"), more > 0 ? `and ${more} more at /api/v1/tasks` : "");
    write(byId("tasks-count"), state.tasks.length ? `${state.tasks.length} held` : "");
  }
}

const TONES = { completed: "ok", failed: "bad", timed_out: "bad", cancelled: "quiet" };

const keyOf = (outcome) => `${outcome.task_id}\n${outcome.attempt}\n${outcome.status}\n${outcome.duration_seconds}`;

/** The rows of one outcome: its figures, and its reason where there is one. */
function outcomeRows(outcome) {
  const td = (label, name, ...children) => make("td", { ...(label ? { "data-label": label } : {}), ...(name ? { class: name } : {}) }, ...children);
  const small = (text) => make("small", {}, text);
  const row = make("tr", { class: outcome.status === "failed" || outcome.status === "timed_out" ? "failed" : "ended" },
    td("", "", make("span", { class: "pill", "data-tone": TONES[outcome.status] ?? "quiet" }, outcome.status.replace("_", " ")),
      ...(outcome.error_code ? [small(outcome.error_code)] : []), ...(outcome.simulated ? [" ", make("span", { class: "tag" }, "simulated")] : [])),
    td("", "name wide", ...names(outcome)),
    td("Model", "", outcome.model_type, small(`epoch ${outcome.epoch}${outcome.attempt > 1 ? `, attempt ${outcome.attempt}` : ""}`)),
    td("Loss", "n", figure(outcome.loss)),
    td("Accuracy", "n", figure(outcome.accuracy)),
    td("Validation loss", "n", figure(outcome.validation_loss)),
    td("Validation accuracy", "n", figure(outcome.validation_accuracy)),
    td("Took", "n", duration(outcome.duration_seconds)),
    td("Where", "", outcome.backend ?? "–", ...(outcome.device && outcome.device !== outcome.backend ? [small(short(outcome.device, 40))] : [])),
  );
  if (!outcome.message) return [row];
  return [row, make("tr", { class: "because" }, make("td", { class: "reason", colspan: "9" }, outcome.message))];
}

/** Outcomes that are drawn until somebody asks for all. */
const FEW = 12;

export class OutcomeTable {
  #rows = new Map();
  #all = false;

  constructor() {
    byId("recent-more").addEventListener("click", () => {
      this.#all = !this.#all;
      if (this.state) this.show(this.state);
    });
  }

  show(state) {
    this.state = state;
    const body = byId("recent");
    const drawn = this.#all ? state.recent : state.recent.slice(-FEW);
    const wanted = new Set(drawn.map(keyOf));
    for (const [key, rows] of this.#rows) {
      if (!wanted.has(key)) { rows.forEach((row) => row.remove()); this.#rows.delete(key); }
    }
    // Newest first; what is there already keeps its place.
    let before = null;
    for (const outcome of drawn) {
      const key = keyOf(outcome);
      let rows = this.#rows.get(key);
      if (!rows) {
        rows = outcomeRows(outcome);
        this.#rows.set(key, rows);
        for (const row of rows) body.insertBefore(row, before);
      }
      before = rows[0];
    }
    const more = byId("recent-more");
    more.hidden = state.recent.length <= FEW;
    write(more, this.#all ? "Show fewer" : `Show all ${state.recent.length}`);
    byId("recent-scroll").hidden = state.recent.length === 0;
    byId("recent-empty").hidden = state.recent.length > 0;
    write(byId("recent-count"), state.recent.length ? "newest first" : "");
  }
}
