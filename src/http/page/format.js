// Figures and times as people read them; pure functions.

const known = (value) => typeof value === "number" && Number.isFinite(value);

/** Loss or accuracy with four decimals, large values shorter; a dash where there is none. */
export function figure(value) {
  if (!known(value)) return "–";
  const size = Math.abs(value);
  return size >= 10000 ? value.toExponential(2) : value.toFixed(size >= 1000 ? 0 : size >= 100 ? 2 : 4);
}

export function percent(ratio) {
  return known(ratio) ? `${Math.round(ratio * 100)} %` : "–";
}

/** A count with thin groups: 12 345. */
export function count(value) {
  return known(value) ? Math.round(value).toString().replace(/\B(?=(\d{3})+$)/g, "\u202f") : "–";
}

export function bytes(value) {
  if (!known(value)) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) { value /= 1024; unit += 1; }
  return `${value >= 100 || unit === 0 ? Math.round(value) : value.toFixed(1)} ${units[unit]}`;
}

/** Seconds as 0.4 s, 12 s, 3 m 05 s, 2 h 07 m. */
export function duration(seconds) {
  if (!known(seconds) || seconds < 0) return "–";
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  const pad = (n) => String(n).padStart(2, "0");
  if (whole < 3600) return `${Math.floor(whole / 60)} m ${pad(whole % 60)} s`;
  return `${Math.floor(whole / 3600)} h ${pad(Math.floor((whole % 3600) / 60))} m`;
}

/** Milliseconds since 1970 as the clock on the wall: 14:05:09. */
export function clock(ms) {
  const date = new Date(ms);
  return [date.getHours(), date.getMinutes(), date.getSeconds()].map((n) => String(n).padStart(2, "0")).join(":");
}

/** `text` with its end cut off beyond `most` characters. */
export function short(text, most) {
  return text.length > most ? `${text.slice(0, most - 1)}…` : text;
}
