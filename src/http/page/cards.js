// Overview, jobs and GPUs.

import { Chart, fromZero, ratio } from "./charts.js";
import { bytes, clock, count, duration, figure, percent, short } from "./format.js";
import { byId, make, write } from "./tables.js";

/** Jobs that are drawn at most; those with running tasks first. */
const MOST_JOBS = 12;

/** Blocks that are drawn at most. */
const MOST_BLOCKS = 60;

const PHASES = { IDLE: "ok", BUSY: "busy", DRAINING: "warn", DEGRADED: "bad" };

function tone(element, name) {
  if (element.dataset.tone !== name) element.dataset.tone = name;
}

export class Overview {
  #cpu = new Chart(byId("cpu-chart"), { kind: "spark", series: [{ column: 1, colour: "accent" }], range: () => [0, 100] });
  #memory = new Chart(byId("memory-chart"), { kind: "spark", series: [{ column: 2, colour: "accent" }], range: fromZero });

  show(state) {
    const { status } = state;
    write(byId("worker-id"), `${status.worker_id} · up ${status.uptime}`);
    document.title = `${status.status} · ${short(status.worker_id, 24)} · TensorFleet worker`;
    const phase = byId("phase");
    write(phase, status.status);
    tone(phase, PHASES[status.status] ?? "quiet");
    byId("tile-link").dataset.link = status.orchestrator_connection;
    write(byId("link"), status.orchestrator_connection);
    const heard = status.last_heartbeat ? (state.atMs - Date.parse(status.last_heartbeat)) / 1000 : null;
    const since = heard === null ? "not heard yet" : heard < 2 ? "heard just now" : `heard ${duration(heard)} ago`;
    const where = status.orchestrator.replace(/^https?:\/\//, "");
    write(byId("link-where"), where);
    byId("link-where").title = status.orchestrator;
    write(byId("link-heard"), since);
    const { busy, total, polling } = status.slots;
    write(byId("slots"), `${busy} of ${total} busy`);
    this.#blocks(busy, polling, total);
    write(byId("speed"), count(status.samples_per_second));
    const counted = state.tasks.filter((task) => task.samples_per_second > 0);
    const simulated = counted.filter((task) => task.simulated).length;
    write(byId("speed-sub"), `samples a second${simulated === 0 ? "" : simulated === counted.length ? ", simulated" : ", in part simulated"}`);
    write(byId("completed"), count(status.completed_tasks));
    const waiting = status.outbox_pending ? ` · ${count(status.outbox_pending)} to report` : "";
    write(byId("failed"), `${count(status.failed_tasks)} failed${waiting}`);
    write(byId("cpu"), percent(status.cpu_usage / 100));
    write(byId("memory"), bytes(status.memory_usage));
    this.#cpu.set(state.host);
    this.#memory.set(state.host);
    write(byId("version"), `Version ${status.version}, trains by default on: ${status.backend}.`);
  }

  #blocks(busy, polling, total) {
    const box = byId("slot-blocks");
    const drawn = Math.min(total, MOST_BLOCKS);
    while (box.childElementCount < drawn) box.append(make("i"));
    while (box.childElementCount > drawn) box.lastChild.remove();
    [...box.children].forEach((block, index) => {
      const state = index < busy ? "busy" : index < busy + polling ? "polling" : "idle";
      if (block.dataset.state !== state) block.dataset.state = state;
    });
  }
}

/** A chart with its caption, whose figures follow the cursor. */
class Figure {
  constructor(title, colour, [train, validation], range) {
    this.columns = [train, validation];
    this.title = title;
    this.points = [];
    const key = (name, dashed) => make("span", { class: `key ${colour}${dashed ? " dashed" : ""}` }, `${name} `, make("b"));
    this.keys = [key("training", false), key("validation", true)];
    this.when = make("span");
    this.box = make("div", { class: "chart", role: "img" });
    this.element = make("figure", {}, make("figcaption", {}, make("strong", {}, title), " ", this.when, make("span", { class: "keys" }, this.keys[0], " ", this.keys[1])), this.box);
    this.chart = new Chart(this.box, {
      kind: "time", range, hover: (index) => this.#read(index),
      series: [{ column: train, colour }, { column: validation, colour, dash: [5, 4] }],
    });
  }

  /** Draws `points`; `simulated` also tells those who hear of the chart without its card. */
  set(points, simulated) {
    this.points = points;
    this.simulated = simulated;
    this.chart.set(points);
    if (!this.reading) this.#read(null);
  }

  #read(index) {
    this.reading = index !== null;
    const at = (column) => (this.reading ? this.points[index]?.[column] : this.points.findLast((point) => point[column] !== null)?.[column]);
    const [train, validation] = this.columns.map(at);
    write(this.keys[0].lastChild, figure(train));
    write(this.keys[1].lastChild, figure(validation));
    write(this.when, this.reading && this.points[index] ? clock(this.points[index][0]) : "");
    if (!this.reading) {
      const label = `${this.title} over time${this.simulated ? ", simulated" : ""}: ${this.points.length} points, training ${figure(train)}, validation ${figure(validation)} at last`;
      if (this.box.getAttribute("aria-label") !== label) this.box.setAttribute("aria-label", label);
    }
  }
}

class JobCard {
  constructor(job) {
    this.state = make("span", { class: "pill" });
    this.mark = make("span", { class: "pill", "data-tone": "warn", hidden: "" }, "simulated");
    this.sub = make("p", { class: "sub" });
    this.loss = new Figure("Loss", "loss", [1, 3]);
    this.accuracy = new Figure("Accuracy", "accuracy", [2, 4], ratio);
    this.element = make("article", { class: "card", "aria-label": `Job ${job.job_id}` },
      make("div", { class: "title" }, make("h3", {}, job.model_type), make("span", { class: "mono" }, short(job.job_id, 60)), make("span", { class: "pills" }, this.mark, " ", this.state)),
      this.sub, this.charts = make("div", { class: "pair" }, this.loss.element, this.accuracy.element));
  }

  set(job) {
    write(this.state, job.running_tasks ? "training" : "quiet");
    tone(this.state, job.running_tasks ? "busy" : "quiet");
    if (this.mark.hidden === job.simulated) this.mark.hidden = !job.simulated;
    const failed = job.failed_tasks ? `, ${count(job.failed_tasks)} without result` : "";
    const running = job.running_tasks ? ` · ${job.running_tasks} running` : "";
    write(this.sub, `epoch ${job.epoch} · ${count(job.completed_tasks)} tasks done here${failed}${running}`);
    // A job all of whose tasks failed has nothing to draw.
    if (this.charts.hidden === job.curve.length > 0) this.charts.hidden = job.curve.length === 0;
    this.loss.set(job.curve, job.simulated);
    this.accuracy.set(job.curve, job.simulated);
  }

  remove() {
    this.loss.chart.remove();
    this.accuracy.chart.remove();
    this.element.remove();
  }
}

/** Keeps one card an item, in the order of the items. */
function reconcile(box, cards, items, keyOf, create) {
  const wanted = new Set(items.map(keyOf));
  for (const [key, card] of cards) {
    if (!wanted.has(key)) { card.remove(); cards.delete(key); }
  }
  items.forEach((item, index) => {
    const key = keyOf(item);
    let card = cards.get(key);
    if (!card) cards.set(key, card = create(item));
    if (box.children[index] !== card.element) box.insertBefore(card.element, box.children[index] ?? null);
    card.set(item);
  });
}

export class Jobs {
  #cards = new Map();

  show(state) {
    const newest = [...state.jobs].reverse();
    // What trains first, what has nothing to draw last.
    const rank = (job) => (job.running_tasks ? 0 : job.curve.length ? 1 : 2);
    const ordered = newest.sort((a, b) => rank(a) - rank(b));
    const drawn = ordered.slice(0, MOST_JOBS);
    reconcile(byId("jobs"), this.#cards, drawn, (job) => job.job_id, (job) => new JobCard(job));
    byId("jobs-empty").hidden = drawn.length > 0;
    const running = newest.filter((job) => job.running_tasks).length;
    const more = ordered.length > drawn.length ? `, ${drawn.length} of ${ordered.length} shown` : "";
    write(byId("jobs-count"), ordered.length ? `${running} ${running === 1 ? "job" : "jobs"} in training${more}` : "");
  }
}

const GPU_CHARTS = [
  { title: "Utilisation", column: 1, range: () => [0, 1], value: (gpu) => percent(gpu.utilization_ratio) },
  { title: "Memory", column: 2, range: (gpu) => (min, max) => [0, gpu.memory_total_bytes ?? (max || 1)], value: (gpu) => bytes(gpu.memory_used_bytes), of: (gpu) => gpu.memory_total_bytes && `of ${bytes(gpu.memory_total_bytes)}` },
  { title: "Temperature", column: 3, range: () => [20, 100], value: (gpu) => (gpu.temperature_celsius === null ? "–" : `${Math.round(gpu.temperature_celsius)} °C`) },
  { title: "Power", column: 4, range: (gpu) => (min, max) => [0, gpu.power_limit_watts ?? ((max ?? 1) * 1.1 || 1)], value: (gpu) => (gpu.power_watts === null ? "–" : `${Math.round(gpu.power_watts)} W`), of: (gpu) => gpu.power_limit_watts && `of ${Math.round(gpu.power_limit_watts)} W` },
];

class GpuCard {
  constructor(gpu) {
    this.health = make("span", { class: "pill" });
    this.sub = make("p", { class: "sub" });
    this.parts = GPU_CHARTS.map(({ title, column, range }) => {
      const value = make("b");
      const of = make("span");
      const box = make("div", { class: "chart", role: "img" });
      const bounds = range.length ? range(gpu) : range;
      const chart = new Chart(box, { kind: "spark", series: [{ column, colour: "accent" }], range: bounds });
      return { value, of, box, chart, title, element: make("figure", {}, make("figcaption", {}, title, make("span", { class: "keys" }, value, " ", of)), box) };
    });
    this.element = make("article", { class: "card", "aria-label": `GPU ${gpu.index}` },
      make("div", { class: "title" }, make("h3", {}, `${gpu.index}: ${gpu.name}`), ...(gpu.mig ? [make("span", { class: "mono" }, "MIG")] : []), make("span", { class: "pills" }, this.health)),
      this.sub, make("div", { class: "quad" }, ...this.parts.map((part) => part.element)));
  }

  set(gpu) {
    write(this.health, gpu.health);
    tone(this.health, { healthy: "ok", lost: "bad" }[gpu.health] ?? "warn");
    const facts = [gpu.uuid, gpu.driver_version && `driver ${gpu.driver_version}`, gpu.xid_errors && `${gpu.xid_errors} Xid errors`,
      gpu.throttle_reasons.length && `held down by ${gpu.throttle_reasons.join(", ").replaceAll("_", " ")}`,
      gpu.adapter_matched === false && "no Vulkan adapter: it cannot train"];
    write(this.sub, facts.filter(Boolean).join(" · "));
    this.parts.forEach((part, index) => {
      const { value, of } = GPU_CHARTS[index];
      write(part.value, value(gpu));
      write(part.of, of?.(gpu) || "");
      part.chart.set(gpu.history);
      const label = `${part.title} over the last minutes, now ${value(gpu)}`;
      if (part.box.getAttribute("aria-label") !== label) part.box.setAttribute("aria-label", label);
    });
  }

  remove() {
    this.parts.forEach((part) => part.chart.remove());
    this.element.remove();
  }
}

const NVML = {
  absent: "No GPU: there is no NVIDIA driver here, or this container does not see it. Training runs on the CPU, or is simulated.",
  starting: "Looking for GPUs …",
  running: "The driver answers, and lists no GPU.",
  stalled: "The NVIDIA driver does not answer; readings are withdrawn until it does.",
  driver_gone: "The NVIDIA driver is not loaded, or went away.",
  version_mismatch: "NVIDIA's library and kernel module are of different versions; a restart of the machine mends that.",
  failed: "NVML, which tells of GPUs, fails.",
};

export class Gpus {
  #cards = new Map();

  show(state) {
    reconcile(byId("gpus"), this.#cards, state.gpus, (gpu) => gpu.uuid, (gpu) => new GpuCard(gpu));
    byId("gpus-empty").hidden = state.gpus.length > 0;
    write(byId("gpus-empty"), NVML[state.nvml] ?? state.nvml);
    const healthy = state.gpus.filter((gpu) => gpu.health === "healthy").length;
    write(byId("gpus-count"), state.gpus.length ? `${healthy} of ${state.gpus.length} healthy, the last ten minutes` : "");
  }
}
