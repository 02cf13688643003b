// The live page in a real Chromium, in front of real workers. Run by tests/page.rs: node page.mjs PROGRAM FOLDER NVML
//
// NVML is a library that plays two GPUs, the second of which is lost.
//
// Prints one line a check that holds; ends with 1 at the first that does not. Screenshots go to FOLDER.

import { spawn } from "node:child_process";
import { createRequire } from "node:module";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { chromium } from "playwright-core";

const [program, pictures, nvml] = process.argv.slice(2);
const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const folder = mkdtempSync(join(tmpdir(), "page-test-"));
const children = new Set();
const TOKEN = "a-token-for-this-test";
/** For what has to happen; generous, since machines of a build farm are slow. */
const PATIENCE = 60_000;

function assert(holds, what, found) {
  if (!holds) throw new Error(`${what}: ${JSON.stringify(found)}`);
  console.log(`ok ${what}${found === undefined ? "" : ` (${JSON.stringify(found)})`}`);
}

/** Starts the program and waits for what it says. */
function start(args, env, says) {
  const child = spawn(program, args, { env: { LOG_FORMAT: "json", LD_LIBRARY_PATH: process.env.LD_LIBRARY_PATH ?? "", ...env } });
  children.add(child);
  return new Promise((resolve, reject) => {
    let heard = "";
    const hear = (data) => {
      heard += data;
      const found = says.exec(heard);
      if (found) resolve({ child, found });
    };
    child.stdout.on("data", hear);
    child.stderr.on("data", hear);
    child.on("exit", (code) => { children.delete(child); reject(new Error(`${args} ended with ${code}: ${heard}`)); });
  });
}

const orchestrator = async (args = ["--listen", "127.0.0.1:0"]) => {
  const { child, found } = await start(["orchestrator", ...args], {}, /127\.0\.0\.1:(\d+)/);
  return { child, address: `127.0.0.1:${found[1]}` };
};

let workers = 0;
const worker = async (address, env) => {
  workers += 1;
  const all = { ORCHESTRATOR_ADDRESS: address, WORKER_PORT: "0", METRICS_PORT: "0", STATE_DIR: join(folder, `state-${workers}`), WORKER_ID: `worker-${workers}`, ...env };
  const { child, found } = await start(["run"], all, /"http":"[^"]*:(\d+)"/);
  return { child, url: `http://127.0.0.1:${found[1]}` };
};

const submit = (address, args) => start(["submit", "--orchestrator", address, ...args], {}, /./).catch(() => {});

/** A page that counts what must not happen. */
async function open(browser, url, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 1000 }, colorScheme: "light", reducedMotion: "reduce" });
  const page = await context.newPage();
  const wrong = [];
  page.on("console", (message) => { if (["error", "warning"].includes(message.type())) wrong.push(`console: ${message.text()}`); });
  page.on("pageerror", (error) => wrong.push(`exception: ${error}`));
  page.on("request", (request) => { if (!request.url().startsWith(url) && !request.url().startsWith("data:")) wrong.push(`request: ${request.url()}`); });
  let ended = 0;
  if (options.ends) {
    await page.addInitScript(() => {
      globalThis.lostSaid = false;
      new MutationObserver(() => { globalThis.lostSaid ||= document.getElementById("notices")?.textContent.includes("lost the worker") ?? false; })
        .observe(document, { childList: true, subtree: true, characterData: true });
    });
    await page.route("**/api/v1/events", (route) => {
      if (ended === options.ends) return route.continue();
      ended += 1;
      return route.fulfill({ contentType: "text/event-stream", body: "event: pause\ndata: {}\n\n" });
    });
  }
  await page.goto(url);
  if (options.locked) await unlock(page, wrong);
  await page.waitForFunction(() => document.getElementById("worker-id").textContent.includes("up "), null, { timeout: PATIENCE });
  return { page, wrong, context, ended: () => ended };
}

/** Shows the worker the right token, after a wrong one. */
async function unlock(page, wrong) {
  await page.getByRole("button", { name: "Enter the token" }).click();
  await page.locator("#ask-token").fill("wrong");
  await page.keyboard.press("Enter");
  await page.waitForFunction(() => document.getElementById("ask-error").textContent.includes("not the token"), null, { timeout: PATIENCE });
  assert(!(await page.locator("#worker-id").textContent()).includes("rack-7"), "without its token the worker shows nothing");
  await accessible(page, "with the dialog");
  // What the browser says of answers with 401 is all there may be.
  const refused = wrong.splice(0);
  assert(refused.length > 0 && refused.every((text) => text.includes("401")), "a wrong token is refused", refused.length);
  await page.locator("#ask-token").fill(TOKEN);
  await page.keyboard.press("Enter");
}

const points = (page) => page.evaluate(() => [...document.querySelectorAll("#jobs .chart")].map((chart) => Number(/(\d+) points/.exec(chart.getAttribute("aria-label"))?.[1] ?? 0)));

async function accessible(page, what) {
  // As a file of this browser's own, past the page's policy, which lets nothing else in.
  const findings = await page.evaluate(`(() => { ${axe}; return axe.run(document, { resultTypes: ["violations"] }); })()`);
  const bad = findings.violations.filter(({ impact }) => impact === "serious" || impact === "critical");
  assert(bad.length === 0, `axe-core finds nothing serious or critical, ${what}`, bad.map(({ id, nodes }) => [id, nodes.slice(0, 3).map((node) => node.html)]));
}

const noSideways = async (page, what) => {
  const [scroll, client] = await page.evaluate(() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]);
  assert(scroll <= client, `no horizontal scroll, ${what}`, [scroll, client]);
};

async function real(browser) {
  const board = await orchestrator();
  writeFileSync(join(folder, "token"), TOKEN);
  const { child, url } = await worker(board.address, { TRAINING_BACKEND: "cpu", MAX_CONCURRENT_TASKS: "4", DRAIN_TIMEOUT: "2s", AUTH_TOKEN_FILE: join(folder, "token"), WORKER_ID: "rack-7", NVML_LIBRARY: nvml });
  const long = ["--set", "batch_size=16", "--set", "hidden_layers=64,32"];
  submit(board.address, ["--model-type", "neural_network", "--dataset", "synthetic:classification?rows=20000&features=40&classes=5&seed=1", "--epochs", "60", ...long]);
  submit(board.address, ["--model-type", "xgboost", "--dataset", "builtin:digits", "--epochs", "40"]);
  submit(board.address, ["--model-type", "cnn", "--dataset", "builtin:digits", "--epochs", "40"]);
  submit(board.address, ["--model-type", "neural_network", "--dataset", "nowhere.csv", "--epochs", "1"]);
  const { page, wrong } = await open(browser, url, { locked: true });

  await page.waitForFunction(() => document.querySelectorAll("#jobs canvas").length >= 4, null, { timeout: PATIENCE });
  const before = await points(page);
  await page.waitForFunction((least) => [...document.querySelectorAll("#jobs .chart")].some((chart) => Number(/(\d+) points/.exec(chart.getAttribute("aria-label"))?.[1]) >= least),
    Math.max(...before) + 5, { timeout: PATIENCE });
  assert(true, "curves grow while tasks train", [Math.max(...before), Math.max(...await points(page))]);
  await page.waitForFunction(() => document.getElementById("failed").textContent.match(/^[1-9]\d* failed/), null, { timeout: PATIENCE });
  assert(true, "a failure is counted");
  await page.waitForSelector("#tasks .task progress", { timeout: PATIENCE });
  assert(await page.locator("#tasks .tag, #recent .tag, #jobs .pill:not([hidden])", { hasText: "simulated" }).count() === 0, "what is trained is not marked as simulated");
  assert(await page.locator("#speed-sub").textContent() === "samples a second", "nor is its speed");
  assert(await page.locator("#recent tr").count() > 0, "ended tasks are listed");

  // By the keyboard alone: skip link, theme, cancel with the token.
  // From the top, not from where the question for the token was.
  await page.evaluate(() => { document.body.tabIndex = -1; document.body.focus(); document.body.removeAttribute("tabindex"); });
  await page.keyboard.press("Tab");
  const stop = await page.evaluate(() => document.activeElement.outerHTML.slice(0, 200));
  assert(stop.includes("\"skip\""), "the first stop of the keyboard skips to the content", stop);
  await page.getByRole("button", { name: /^Theme/ }).focus();
  await page.keyboard.press("Enter");
  await page.keyboard.press("Enter");
  assert(await page.evaluate(() => document.documentElement.dataset.theme) === "dark", "the theme can be chosen by keyboard");
  await accessible(page, "dark");
  await page.setViewportSize({ width: 1280, height: 1640 });
  await page.waitForTimeout(700);
  await page.screenshot({ path: join(pictures, "page-dark.png") });
  await page.setViewportSize({ width: 1280, height: 1000 });
  await page.keyboard.press("Enter");
  assert(await page.evaluate(() => document.documentElement.dataset.theme) === undefined, "and left to the system again");
  await accessible(page, "light");
  await page.setViewportSize({ width: 1280, height: 1640 });
  await page.waitForTimeout(700);
  await page.screenshot({ path: join(pictures, "page-light.png") });

  await page.setViewportSize({ width: 360, height: 780 });
  await page.waitForTimeout(700);
  await noSideways(page, "360 pixels wide");
  await accessible(page, "on a phone");
  await page.screenshot({ path: join(pictures, "page-phone.png") });
  await page.setViewportSize({ width: 1280, height: 1000 });

  // A task is cancelled by whoever knows the token, by the keyboard alone. The last in line is there for longest.
  await page.locator("#tasks button").last().focus();
  await page.keyboard.press("Enter");
  await page.waitForSelector("dialog[open]", { state: "visible" });
  assert(await page.locator("#ask-token").isHidden(), "a token that was taken is not asked for again");
  await confirm(page);
  await page.waitForFunction(() => /stops at its next batch|had ended before/.test(document.getElementById("notices").textContent), null, { timeout: PATIENCE });
  assert(await page.locator("#ask").isHidden(), "a task can be cancelled", await page.locator("#notices").textContent());

  // Two GPUs, one of them lost.
  const cards = page.locator("#gpus article");
  await page.waitForFunction(() => document.querySelectorAll("#gpus article").length === 2, null, { timeout: PATIENCE });
  assert(true, "each GPU has its card");
  console.log("lose a GPU");
  await page.waitForFunction(() => document.querySelector("#gpus article:nth-child(2)").textContent.includes("lost"), null, { timeout: PATIENCE });
  assert((await cards.nth(0).textContent()).includes("healthy"), "a lost GPU is told from a healthy one");
  await cards.nth(0).scrollIntoViewIfNeeded();
  await page.waitForFunction(() => document.querySelectorAll("#gpus article:first-child canvas").length === 4, null, { timeout: PATIENCE });
  assert(/\d+ %.*GiB.*°C.*W/s.test(await cards.nth(0).textContent()), "with utilisation, memory, temperature and power");
  await cards.nth(0).screenshot({ path: join(pictures, "page-gpu.png") });

  // The orchestrator goes away.
  const killed = Date.now();
  board.child.removeAllListeners("exit");
  board.child.kill("SIGKILL");
  await page.waitForFunction(() => document.getElementById("link").textContent === "disconnected" || document.getElementById("notices").textContent.includes("does not answer"), null, { timeout: PATIENCE, polling: 20 });
  const shown = Date.now() - killed;
  assert(shown <= 2000, "a killed orchestrator shows within 2 s (ms)", shown);
  await accessible(page, "without an orchestrator");
  await page.screenshot({ path: join(pictures, "page-lost.png") });

  // It comes back.
  await orchestrator(["--listen", board.address]);
  await page.waitForFunction(() => document.getElementById("link").textContent === "connected" && !document.getElementById("notices").textContent.includes("does not answer"), null, { timeout: PATIENCE });
  assert(true, "an orchestrator that is back is shown, and the notice is gone");

  // The worker is drained from the page and ends.
  child.removeAllListeners("exit");
  const ended = new Promise((resolve) => child.on("exit", (code) => { children.delete(child); resolve(code); }));
  await page.locator("#drain").focus();
  await page.keyboard.press("Enter");
  await page.waitForSelector("dialog[open]", { state: "visible" });
  await confirm(page);
  assert(wrong.length === 0, "no error in the console, no request elsewhere", wrong);
  assert(await ended === 0, "the button drains the worker, which ends with 0");
}

/** Says yes to the open question, by the keyboard alone. */
async function confirm(page) {
  for (let stop = 0; stop < 6 && await page.evaluate(() => document.activeElement.id) !== "ask-yes"; stop += 1) await page.keyboard.press("Tab");
  assert(await page.evaluate(() => document.activeElement.id) === "ask-yes", "the keyboard comes to the answer");
  await page.keyboard.press("Enter");
}

/** What a person sees of `job`: rows of running and ended tasks and its card, each with whether it has figures, and a mark. */
const shown = (page, job) => page.evaluate((job) => {
  const seen = (element) => element.checkVisibility({ checkVisibilityCSS: true, checkOpacity: true });
  const marked = (box) => [...box.querySelectorAll(".tag, .pill")].some((mark) => mark.textContent === "simulated" && seen(mark));
  const known = (box, cells) => [...box.querySelectorAll(cells)].some((cell) => /\d/.test(cell.textContent));
  const of = (boxes, cells) => [...document.querySelectorAll(boxes)].filter((box) => box.textContent.includes(job) && seen(box))
    .map((box) => ({ figures: known(box, cells), marked: marked(box) }));
  return {
    running: of("#tasks .task", '[data-cell="loss"], [data-cell="accuracy"]'),
    ended: of("#recent tr:not(.because)", 'td[data-label="Loss"]'),
    cards: of("#jobs .card", ".keys b"),
    charts: [...document.querySelectorAll("#jobs .card")].filter((card) => card.textContent.includes(job))
      .flatMap((card) => [...card.querySelectorAll(".chart")].map((chart) => chart.getAttribute("aria-label") ?? "")
        .map((label) => ({ figures: /training -?\d/.test(label), marked: label.includes("simulated") }))),
  };
}, job);

const PLACES = ["running", "ended", "cards", "charts"];

/** Looks until figures of `job` were seen in `places`, and each time whether all of them were marked as they have to be. */
async function marks(page, job, { simulated, places = PLACES }) {
  const met = Object.fromEntries(places.map((place) => [place, 0]));
  for (const until = Date.now() + 2 * PATIENCE; places.some((place) => met[place] === 0);) {
    if (Date.now() > until) throw new Error(`figures of ${job} were not seen everywhere: ${JSON.stringify(met)}`);
    const now = await shown(page, job);
    for (const place of places) {
      const wrong = now[place].filter((box) => simulated ? box.figures && !box.marked : box.marked);
      if (wrong.length > 0) throw new Error(`${place} of ${job}: ${JSON.stringify(now)}`);
      met[place] += now[place].filter((box) => box.figures).length;
    }
    await page.evaluate(() => new Promise(requestAnimationFrame));
  }
  return met;
}

/** The time left as the page writes it, in seconds. */
function seconds(text) {
  const unit = { h: 3600, m: 60, s: 1 };
  return [...text.matchAll(/([\d.]+) ([hms])/g)].reduce((sum, [, value, name]) => sum + Number(value) * unit[name], 0);
}

/** Follows the first running row of `job` that tells the time left, to its end: when (seconds before the end) it told what. */
async function timeLeft(page, job) {
  const told = await page.evaluate(([job, patience]) => new Promise((resolve, reject) => {
    const told = [];
    const until = performance.now() + patience;
    const eta = (row) => row.querySelector('[data-cell="eta"] > span:last-child').textContent;
    let row = null;
    requestAnimationFrame(function look(now) {
      row ??= [...document.querySelectorAll("#tasks .task")].find((row) => row.textContent.includes(job) && eta(row) !== "–") ?? null;
      if (row && !row.isConnected) return resolve(told.map(({ at, text }) => ({ text, before: (now - at) / 1000 })));
      if (row && told.at(-1)?.text !== eta(row)) told.push({ at: now, text: eta(row) });
      if (now > until) return reject(new Error(`no task of ${job} ended: ${JSON.stringify(told)}`));
      requestAnimationFrame(look);
    });
  }), [job, 3 * PATIENCE]);
  return told.filter(({ text }) => text !== "–").map(({ text, before }) => ({ left: seconds(text), before }));
}

/** What trains and what is simulated, side by side in one worker. */
async function mixed(browser) {
  const board = await orchestrator();
  const { child, url } = await worker(board.address, { TRAINING_BACKEND: "cpu", ANALYTIC_EPOCH_DELAY: "5s", MAX_CONCURRENT_TASKS: "40" });
  const job = (id, epochs, ...settings) => submit(board.address, ["--job-id", id, "--epochs", String(epochs), ...settings]);
  // Wide layers make a task of several seconds.
  job("slow-real", 1, "--dataset", "synthetic:classification?rows=20000&features=64&classes=5&seed=1", "--set", "batch_size=512", "--set", "hidden_layers=1024,1024");
  job("drawn-curve", 4, "--set", "backend=analytic");
  job("quick-real", 1, "--model-type", "xgboost");
  const { page, wrong } = await open(browser, url);
  await page.setViewportSize({ width: 1280, height: 3000 });
  const [simulated, slow, quick, left, waits] = await Promise.all([
    marks(page, "drawn-curve", { simulated: true }),
    marks(page, "slow-real", { simulated: false }),
    marks(page, "quick-real", { simulated: false, places: ["ended", "cards", "charts"] }),
    timeLeft(page, "slow-real"),
    // Tasks of one job train one after the other.
    page.waitForFunction(() => {
      const rows = [...document.querySelectorAll("#tasks .task")].filter((row) => row.textContent.includes("waits for its turn"));
      return rows.length > 0 && rows.map((row) => row.querySelector('[data-cell="eta"] > span:last-child').textContent);
    }, null, { timeout: PATIENCE }).then((found) => found.jsonValue()),
    page.waitForFunction(() => document.getElementById("speed-sub").textContent === "samples a second, in part simulated", null, { timeout: PATIENCE }),
  ]);
  assert(true, "figures from a curve are marked in rows, outcomes, cards and charts", simulated);
  assert(true, "figures of real training are marked nowhere", [slow, quick]);
  assert(waits.every((text) => text === "–"), "a task that has not begun tells no time left", waits.length);
  // Early enough that steps and not the validation at the end make most of it.
  const early = left.find(({ before }) => before <= 0.75 * left[0].before);
  const falls = left.filter(({ left: now }, index) => index > 0 && now < left[index - 1].left).length;
  assert(left.length >= 4 && left.at(-1).left < left[0].left / 2 && falls > (left.length - 1) / 2, "the time left falls while a task trains", left.map((told) => told.left));
  assert(early.left > early.before / 3 && early.left < 3 * early.before + 1, "and is about the time that it takes (told, taken)", [early.left, early.before]);
  assert(true, "a speed of simulated tasks is marked");
  await page.setViewportSize({ width: 360, height: 3000 });
  await marks(page, "drawn-curve", { simulated: true, places: ["ended", "cards", "charts"] });
  await marks(page, "slow-real", { simulated: false, places: ["ended", "cards", "charts"] });
  assert(true, "the marks are there on a phone");
  assert(wrong.length === 0, "no error in the console, no request elsewhere", wrong);
  child.removeAllListeners("exit");
  child.kill("SIGKILL");
}

async function crowd(browser) {
  const board = await orchestrator();
  const { child, url } = await worker(board.address, { TRAINING_BACKEND: "analytic", ANALYTIC_EPOCH_DELAY: "600s", MAX_CONCURRENT_TASKS: "200", TASK_TIMEOUT: "1h" });
  for (let job = 0; job < 20; job += 1) submit(board.address, ["--model-type", "resnet50", "--dataset", "datasets/imagenet", "--epochs", "1"]);
  const { page, wrong } = await open(browser, url);
  await page.waitForFunction(() => document.querySelectorAll("#tasks .task").length === 200, null, { timeout: PATIENCE });
  assert(true, "200 tasks are listed");
  assert(await page.locator("#drain").isHidden() && await page.locator("#tasks button").count() === 0, "without a token there is nothing to press");
  assert((await page.locator("#notices").textContent()).includes("Simulated"), "what is simulated is marked as such");
  const busy = await page.evaluate(async () => {
    // The page's own work: from the beginning of a frame's callbacks to the end of what they caused, layout included.
    const client = new PerformanceObserver(() => {});
    client.observe({ entryTypes: ["longtask"] });
    const gaps = [];
    let last = performance.now();
    const until = last + 6000;
    await new Promise((resolve) => requestAnimationFrame(function tick(now) {
      gaps.push(now - last);
      last = now;
      window.scrollTo(0, (now / 3) % 6000);
      if (now < until) requestAnimationFrame(tick); else resolve();
    }));
    gaps.sort((a, b) => a - b);
    return { frames: gaps.length, median: Math.round(gaps[gaps.length >> 1]), p95: Math.round(gaps[Math.floor(gaps.length * 0.95)]), long: client.takeRecords().filter((task) => task.duration > 200).length };
  });
  assert(busy.median <= 34 && busy.p95 <= 100, "frames stay short while 200 tasks are scrolled and updated (ms)", busy);
  await noSideways(page, "with 200 tasks");
  assert(wrong.length === 0, "no error in the console, no request elsewhere", wrong);

  // The worker ends each answer after a while; the page asks again and makes no fuss.
  const planned = await open(browser, url, { ends: 2 });
  const fuss = await planned.page.evaluate(() => globalThis.lostSaid);
  assert(planned.ended() === 2 && fuss === false, "an answer that ends in order is no loss of the worker", [planned.ended(), fuss]);
  await planned.context.close();

  // The worker itself goes away, and the page says so.
  child.removeAllListeners("exit");
  child.kill("SIGKILL");
  await page.waitForFunction(() => document.getElementById("notices").textContent.includes("has lost the worker"), null, { timeout: PATIENCE });
  assert(true, "a lost worker is said");
}

let browser;
let failed = false;
try {
  browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: ["--no-sandbox", "--disable-dev-shm-usage"] });
  await real(browser);
  await mixed(browser);
  await crowd(browser);
} catch (error) {
  failed = true;
  console.log(`not ok ${error.stack}`);
} finally {
  await browser?.close();
  for (const child of children) { child.removeAllListeners("exit"); child.kill("SIGKILL"); }
  rmSync(folder, { recursive: true, force: true });
}
process.exit(failed ? 1 : 0);
