"use strict";
// Asks /status once a second and shows it. Text is only ever set as text, never as markup.
const byId = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const INTERVAL_MS = 1000;
let token = "";
let timer = 0;

function cell(tag, value, isNumber, isBad) {
  const made = document.createElement(tag);
  made.textContent = value === null || value === undefined ? "–" : String(value);
  if (isNumber) made.classList.add("number");
  if (isBad) made.classList.add("bad");
  return made;
}

function fill(table, columns, rows) {
  const head = document.createElement("tr");
  for (const column of columns) {
    const made = cell("th", column.title, column.number);
    made.scope = "col";
    head.append(made);
  }
  const lines = rows.map((row) => {
    const line = document.createElement("tr");
    for (const column of columns) {
      const value = column.of(row);
      line.append(cell("td", value, column.number, column.bad && column.bad(row)));
    }
    return line;
  });
  table.replaceChildren(head, ...lines);
}

function line(svg, legend, points, series, unit) {
  const width = svg.clientWidth || 600, height = svg.clientHeight || 144, left = 46, bottom = 18;
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.replaceChildren();
  const values = points.flatMap((point) => series.map((each) => each.of(point))).filter((value) => value !== null);
  const most = Math.max(...values, 0);
  legend.textContent = values.length ? series.map((each) => `${each.dash} ${each.title}`).join("   ") : "Nothing yet.";
  if (!values.length) return;
  const add = (tag, attributes, text) => {
    const made = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    if (text !== undefined) made.textContent = text;
    svg.append(made);
  };
  const across = (place) => left + (width - left - 4) * (points.length > 1 ? place / (points.length - 1) : 1);
  const down = (value) => 6 + (height - bottom - 6) * (1 - value / (most || 1));
  add("line", { class: "axis", x1: left, x2: width, y1: height - bottom, y2: height - bottom });
  add("text", { x: 0, y: 14 }, `${most.toPrecision(3)} ${unit}`);
  add("text", { x: 0, y: height - bottom }, "0");
  for (const each of series) {
    let path = "", isDown = false;
    points.forEach((point, place) => {
      const value = each.of(point);
      if (value === null) { isDown = false; return; }
      path += `${isDown ? "L" : "M"}${across(place).toFixed(1)} ${down(value).toFixed(1)}`;
      isDown = true;
    });
    add("path", { class: each.style, d: path });
  }
}

const whole = (value) => value.toLocaleString("en");
const milliseconds = (value) => (value === null ? null : `${(1000 * value).toFixed(3)} ms`);

function show(status) {
  const policy = status.policy ? `${status.policy.name} ${status.policy.version}` : "no policy";
  byId("summary").textContent =
    `${status.state}; ${policy}, ${status.heuristic} stands by; breaker ${status.breaker}` +
    `${status.is_shadow ? "; shadow" : ""}; ${status.in_flight} under way; decisions p99 ` +
    `${milliseconds(status.decision_p99_s) ?? "–"}${status.last_error ? `; last error: ${status.last_error}` : ""}`;
  fill(byId("instances"), [
    { title: "instance", of: (row) => row.name },
    { title: "state", of: (row) => (row.is_leaving ? "leaving" : row.is_up ? "up" : "down"), bad: (row) => !row.is_up },
    { title: "in flight", number: true, of: (row) => row.in_flight },
    { title: "waiting", number: true, of: (row) => row.waiting },
    { title: "running", number: true, of: (row) => row.running },
    { title: "KV cache", number: true, of: (row) => `${(100 * row.kv_cache_usage).toFixed(0)} %` },
    { title: "age", number: true, of: (row) => `${row.age_s.toFixed(1)} s`, bad: (row) => row.age_s > 5 },
    { title: "served", number: true, of: (row) => whole(row.served) },
    { title: "failed", number: true, of: (row) => whole(row.failed), bad: (row) => row.failed > 0 },
    { title: "models", of: (row) => row.models.join(", ") },
  ], status.instances);
  const all = Object.values(status.decisions).reduce((sum, count) => sum + count, 0);
  const made = Object.entries(status.decisions).filter(([name, count]) => count > 0 || name === "policy");
  fill(byId("decisions"), [
    { title: "by", of: ([name]) => (name === "policy" ? "policy" : `heuristic: ${name}`) },
    { title: "decisions", number: true, of: ([, count]) => whole(count) },
    { title: "share", number: true, of: ([, count]) => (all ? `${(100 * count / all).toFixed(1)} %` : null) },
  ], made);
  line(byId("requests"), byId("requests-legend"), status.history, [
    { title: "all", dash: "—", style: "one", of: (point) => point.requests_per_s },
    { title: "decided by the heuristic", dash: "- -", style: "other", of: (point) => point.by_heuristic_per_s },
  ], "/s");
  line(byId("losses"), byId("losses-legend"), status.history, [
    { title: "policy", dash: "—", style: "one", of: (point) => point.policy_loss_s },
    { title: "heuristic", dash: "- -", style: "other", of: (point) => point.heuristic_loss_s },
  ], "s");
  const learning = status.learning;
  byId("learning").textContent = learning
    ? `Version ${learning.version ?? "–"}${learning.is_pinned ? " (pinned)" : ""} of ${learning.versions.join(", ") || "none"}; ` +
      `${whole(learning.counts.num_taught ?? 0)} samples taught, ${whole(learning.counts.num_dropped ?? 0)} dropped`
    : "This router does not learn.";
  line(byId("curve"), byId("curve-legend"), learning ? learning.curve : [], [
    { title: "samples learned from, by version", dash: "—", style: "one", of: (point) => point[1] },
  ], "");
  fill(byId("notices"), [
    { title: "instance", of: (row) => row.instance },
    { title: "what", of: (row) => row.reason },
    { title: "times", number: true, of: (row) => whole(row.times) },
  ], status.notices);
}

async function look() {
  try {
    const answer = await fetch("status", { headers: { Authorization: `Bearer ${token}` } });
    if (answer.status === 401) {
      clearInterval(timer);
      byId("main").hidden = true;
      byId("login").hidden = false;
      byId("summary").textContent = "This is not the token.";
      return;
    }
    show(await answer.json());
    byId("login").hidden = true;
    byId("main").hidden = false;
  } catch (error) {
    byId("summary").textContent = "The router does not answer.";
  }
}

byId("login").addEventListener("submit", (event) => {
  event.preventDefault();
  token = byId("token").value;
  clearInterval(timer);
  timer = setInterval(look, INTERVAL_MS);
  look();
});
