"use strict";
// Figures in words.
const NOTHING = "–";
const whole = (value) => Math.round(value).toLocaleString("en");
const share = (value) => `${(100 * value).toFixed(0)} %`;

function seconds(value) {
  if (!(value >= 0 && value < Infinity)) return NOTHING;
  if (value < 0.0995) return `${(1000 * value).toFixed(0)} ms`;
  return `${value.toFixed(value < 9.995 ? 2 : value < 99.95 ? 1 : 0)} s`;
}

function brief(value) {
  const size = Math.abs(value);
  if (size >= 999500) return `${(value / 1e6).toPrecision(3)}M`;
  if (size >= 9995) return `${(value / 1e3).toPrecision(3)}k`;
  return size >= 999.5 ? whole(value) : `${Number(value.toPrecision(3))}`;
}

function clock(t) {
  const tenths = Math.floor(10 * t + 1e-6), minutes = Math.floor(tenths / 600);
  return `${minutes}:${((tenths % 600) / 10).toFixed(1).padStart(4, "0")}`;
}

function score(value) {
  if (!Number.isFinite(value)) return NOTHING;
  return Math.abs(value) >= 99999.5 ? value.toExponential(2) : `${Number(value.toPrecision(4))}`;
}

// A feature's value; at the upper bound of a time there is none.
function measured(value, { unit, high }) {
  if (unit === "1") return share(value);
  if (unit === "s") return value >= high ? NOTHING : seconds(value);
  if (unit === "key") return value < 0 ? NOTHING : whole(value);
  if (unit === "0 or 1") return value ? "yes" : "no";
  return brief(value);
}

// "1st", "2nd", ...
function ordinal(number) {
  const tens = number % 100 > 10 && number % 100 < 14;
  return `${number}${tens ? "th" : ["th", "st", "nd", "rd"][number % 10] || "th"}`;
}

// An instance's name without what all GPUs of a maker have in common.
function short(name) {
  return name.replace(/^NVIDIA /, "").replace(/ \d+GB(?=-)/, "").replace(/-(\d+)$/, " #$1");
}

// A feature's name without what its value says.
function plain(name) {
  return name.replace(/^(num|frac)_/, "").replace(/(?<!_per)_s$/, "").replaceAll("_", " ");
}
