// The worker as this page knows it: follows /api/v1/events and keeps what it hears, in bounded memory.

const TASK_POINTS = 128;
const JOB_POINTS = 512;
const READINGS = 300;
const RECENT = 50;
const READING_INTERVAL_MS = 2000;

/** Adds a point; a full curve keeps every second one, and always its newest. */
function grow(points, point, most) {
  points.push(point);
  if (points.length <= most) return points;
  return points.filter((_, index) => index % 2 === 0 || index === points.length - 1);
}

export class State {
  status = null;
  atMs = 0;
  tasks = [];
  jobs = [];
  recent = [];
  gpus = [];
  host = [];
  nvml = "absent";
  #curves = new Map();
  #jobs = new Map();
  #gpus = new Map();

  /** Takes in everything. */
  replace(whole) {
    this.#common(whole);
    this.#curves = new Map(whole.tasks.map((task) => [keyOf(task), task.curve]));
    this.#jobs = new Map(whole.jobs.map((job) => [job.job_id, job.curve]));
    this.#gpus = new Map(whole.gpus.map((gpu) => [gpu.uuid, gpu.history ?? []]));
    this.host = whole.host;
    this.recent = whole.recent;
    this.#link(whole);
  }

  /** Takes in what changed. */
  change(update) {
    this.#common(update);
    const curves = new Map();
    for (const task of update.tasks) {
      const key = keyOf(task);
      let curve = this.#curves.get(key) ?? [];
      const last = curve.at(-1);
      if (last && task.step < last[0]) curve = [];
      if (task.step > 0 && task.step !== curve.at(-1)?.[0]) {
        curve = grow(curve, [task.step, task.loss, task.accuracy, null, null], TASK_POINTS);
      }
      curves.set(key, curve);
    }
    this.#curves = curves;
    const jobs = new Map();
    for (const job of update.jobs) {
      let curve = this.#jobs.get(job.job_id) ?? [];
      for (const point of job.curve) curve = grow(curve, point, JOB_POINTS);
      jobs.set(job.job_id, curve);
    }
    this.#jobs = jobs;
    for (const gpu of update.gpus) {
      const history = this.#gpus.get(gpu.uuid) ?? [];
      if (update.at_ms - (history.at(-1)?.[0] ?? 0) >= READING_INTERVAL_MS) {
        history.push([update.at_ms, gpu.utilization_ratio, gpu.memory_used_bytes, gpu.temperature_celsius, gpu.power_watts]);
        if (history.length > READINGS) history.shift();
      }
      this.#gpus.set(gpu.uuid, history);
    }
    if (update.at_ms - (this.host.at(-1)?.[0] ?? 0) >= READING_INTERVAL_MS) {
      this.host.push([update.at_ms, update.status.cpu_usage, update.status.memory_usage]);
      if (this.host.length > READINGS) this.host.shift();
    }
    if (update.ended.length) this.recent = this.recent.concat(update.ended).slice(-RECENT);
    this.#link(update);
  }

  #common(event) {
    this.status = event.status;
    this.atMs = event.at_ms;
    this.nvml = event.nvml;
  }

  #link(event) {
    this.tasks = event.tasks.map((task) => ({ ...task, key: keyOf(task), curve: this.#curves.get(keyOf(task)) ?? [] }));
    this.jobs = event.jobs.map((job) => ({ ...job, curve: this.#jobs.get(job.job_id) ?? [] }));
    this.gpus = event.gpus.map((gpu) => ({ ...gpu, history: this.#gpus.get(gpu.uuid) ?? [] }));
  }
}

const keyOf = (task) => `${task.task_id}\n${task.attempt}`;

/**
 * Follows the events for ever, and tells `hear(kind, data)`: "state", "update", "lost" (no answer, or none for 5 s),
 * "locked" (the worker asks for a token, or for a certificate). By fetch, since EventSource cannot send a token. The function that it returns
 * tries again at once; while locked nothing else does.
 */
export function follow(token, hear) {
  let waitMs = 500;
  let stop = new AbortController();
  let watchdog = 0;
  let again = () => {};
  const silence = () => {
    clearTimeout(watchdog);
    watchdog = setTimeout(() => { hear("lost"); stop.abort(); }, 5000);
  };
  const once = async () => {
    stop = new AbortController();
    silence();
    const headers = token() ? { Authorization: `Bearer ${token()}` } : {};
    const answer = await fetch("/api/v1/events", { headers, cache: "no-store", signal: stop.signal });
    if (answer.status === 401) {
      clearTimeout(watchdog);
      hear("locked", answer.headers.has("WWW-Authenticate") ? "token" : "certificate");
      await new Promise((resolve) => { again = resolve; });
      waitMs = 0;
      return;
    }
    let heard = false;
    if (!answer.ok) throw new Error(`${answer.status}`);
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) {
        // The worker ends each answer after a while, which is no loss of it.
        if (heard) waitMs = 0;
        return;
      }
      heard = true;
      silence();
      waitMs = 500;
      text += value;
      let end;
      while ((end = text.indexOf("\n\n")) >= 0) {
        const event = text.slice(0, end);
        text = text.slice(end + 2);
        const [kind, data] = [/^event: (.*)$/m.exec(event)?.[1], /^data: (.*)$/m.exec(event)?.[1]];
        if (kind && data) hear(kind, JSON.parse(data));
      }
    }
  };
  const run = async () => {
    for (;;) {
      if (document.hidden) {
        await new Promise((resolve) => document.addEventListener("visibilitychange", resolve, { once: true }));
        continue;
      }
      try { await once(); } catch { /* the worker is away, or this page was hidden: told below */ }
      clearTimeout(watchdog);
      if (document.hidden) continue;
      if (waitMs > 0) hear("lost");
      await new Promise((resolve) => { again = resolve; setTimeout(resolve, waitMs); });
      waitMs = Math.min(waitMs * 2 || 500, 5000);
    }
  };
  // A page that nobody sees costs the worker nothing.
  let hiding = 0;
  document.addEventListener("visibilitychange", () => {
    clearTimeout(hiding);
    if (document.hidden) hiding = setTimeout(() => stop.abort(), 30000);
  });
  run();
  return () => again();
}
