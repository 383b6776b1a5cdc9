"use strict";
// Tabs, filters and figures of the report. What filters do to which element stands in its data-tag-* attributes.
(() => {
  const tabs = [...document.querySelectorAll("[role=tab]")];
  const panels = tabs.map((tab) => document.getElementById(tab.getAttribute("aria-controls")));
  const narrow = matchMedia("(max-width: 640px)");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const touch = matchMedia("(pointer: coarse)");
  const specs = new WeakMap(); // figure -> what plotly is to draw
  const tagged = new Map(); // panel -> [[element, its tags]]

  // --- filters ---

  const matches = (tags, chosen) =>
    Object.entries(chosen).every(([name, value]) => !value || !(name in tags) || tags[name] === value);

  const tagsOf = (element) =>
    Object.fromEntries(
      [...element.attributes]
        .filter(({ name }) => name.startsWith("data-tag-"))
        .map(({ name, value }) => [name.slice("data-tag-".length), value]),
    );

  const chosenIn = (panel) =>
    Object.fromEntries([...panel.querySelectorAll("select")].map((held) => [held.dataset.filter, held.value]));

  function show(panel) {
    if (!tagged.has(panel)) {
      const all = [...panel.querySelectorAll("*")].map((element) => [element, tagsOf(element)]);
      tagged.set(panel, all.filter(([, tags]) => Object.keys(tags).length));
    }
    const chosen = chosenIn(panel);
    for (const [element, tags] of tagged.get(panel)) element.hidden = !matches(tags, chosen);
    for (const figure of panel.querySelectorAll("figure")) {
      if (figure.offsetParent !== null) draw(figure, chosen);
    }
  }

  // --- figures ---

  function cut(trace, rows, columns, chosen) {
    const places = (names, tags) =>
      names.map((name, place) => (name in tags && !matches(tags[name], chosen) ? -1 : place)).filter((at) => at >= 0);
    const pick = (list, kept) => kept.map((place) => list[place]);
    const [down, across] = [places(trace.y, rows), places(trace.x, columns)];
    if (trace.type === "heatmap") {
      const grid = (values) => pick(values, down).map((row) => pick(row, across));
      const [x, y] = [pick(trace.x, across), pick(trace.y, down)];
      return { ...trace, x, y, z: grid(trace.z), customdata: grid(trace.customdata) };
    }
    const kept = down.filter((place) => across.includes(place));
    const shorter = { ...trace, x: pick(trace.x, kept), y: pick(trace.y, kept) };
    if (trace.text) shorter.text = pick(trace.text, kept);
    if (trace.textfont) shorter.textfont = { ...trace.textfont, color: pick(trace.textfont.color, kept) };
    if (trace.error_x) {
      const { array, arrayminus } = trace.error_x;
      shorter.error_x = { ...trace.error_x, array: pick(array, kept), arrayminus: pick(arrayminus, kept) };
    }
    return shorter;
  }

  // Round figures for a logarithmic axis, written out.
  function ticks(values) {
    const known = values.filter((value) => value > 0);
    if (!known.length) return {};
    const [least, most] = [Math.min(...known), Math.max(...known)];
    const digits = most / least > 8 ? [1, 2, 5] : [1, 1.5, 2, 3, 4, 5, 7];
    const tickvals = [];
    for (let power = Math.floor(Math.log10(least)) - 1; power <= Math.log10(most) + 1; power++) {
      for (const digit of digits) tickvals.push(Number((digit * 10 ** power).toPrecision(2)));
    }
    return { tickvals, ticktext: tickvals.map(String) };
  }

  // A long name over several lines.
  function wrapped(name) {
    const lines = [""];
    for (const part of name.split(/(?<=[ _+,/])/)) {
      if (lines.at(-1) && (lines.at(-1) + part).length > 20) lines.push("");
      lines[lines.length - 1] += part;
    }
    return lines.join("<br>");
  }

  // A frame around a cell of a heat map, black and white, to be seen on every colour.
  function frames(x, y) {
    if (x < 0 || y < 0) return [];
    const place = { type: "rect", x0: x - 0.46, x1: x + 0.46, y0: y - 0.42, y1: y + 0.42 };
    return [["#000000", 4], ["#ffffff", 2]].map(([color, width]) => ({ ...place, line: { color, width } }));
  }

  function draw(figure, chosen) {
    if (!specs.has(figure)) specs.set(figure, JSON.parse(figure.querySelector("script").textContent));
    const spec = structuredClone(specs.get(figure));
    const { rows = {}, columns = {}, marked = [], row_height: rowHeight } = spec.layout.meta || {};
    let data = spec.data.filter((trace) => matches(trace.meta || {}, chosen));
    if (rowHeight) data = data.map((trace) => cut(trace, rows, columns, chosen));
    const isHeat = data.some((trace) => trace.type === "heatmap");
    const ofTheme = getComputedStyle(document.documentElement);
    const [ink, line, card] = ["--ink", "--line", "--card"].map((name) => ofTheme.getPropertyValue(name).trim());
    const inLegend = data.filter((trace) => trace.showlegend !== false).length;
    const layout = {
      ...spec.layout,
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: ofTheme.getPropertyValue("font-family") || "sans-serif", size: 12, color: ink },
      hoverlabel: { bgcolor: card, bordercolor: line, font: { color: ink }, align: "left" },
      margin: { l: 8, r: 12, t: 8, b: 8 },
      dragmode: touch.matches ? false : "zoom",
      showlegend: !isHeat && inLegend > 1,
      legend: narrow.matches || inLegend < 10
        ? { orientation: "h", yref: "container", y: 0, yanchor: "bottom", x: 0 }
        : {},
    };
    for (const name of ["xaxis", "yaxis"]) {
      layout[name] = { gridcolor: line, zerolinecolor: line, linecolor: line, automargin: true, ...layout[name] };
      if (layout[name].type === "log") Object.assign(layout[name], ticks(data.flatMap((trace) => trace[name[0]])));
    }
    if (rowHeight) {
      const shown = new Set(data.flatMap((trace) => trace.y));
      layout.height = rowHeight * Math.max(shown.size, 1) * (narrow.matches ? 1.3 : 1) + (isHeat ? 130 : 110);
      if (narrow.matches) {
        const names = [...shown].map(String);
        Object.assign(layout.yaxis, { tickvals: names, ticktext: names.map(wrapped), tickfont: { size: 11 } });
      }
    }
    if (narrow.matches && layout.showlegend) layout.height += 22 * Math.ceil(inLegend / 2);
    else if (inLegend >= 10) layout.height = Math.max(layout.height, 60 + 24 * inLegend);
    if (isHeat) {
      const [map] = data;
      const width = (0.6 * figure.clientWidth) / map.x.length; // of a column, about
      const isTight = width < 46; // no room for text in the cells
      layout.xaxis.range = [-0.5, map.x.length - 0.5];
      layout.yaxis.range = [map.y.length - 0.5, -0.5];
      delete layout.yaxis.autorange;
      layout.shapes = marked.flatMap(([row, column]) => frames(map.x.indexOf(column), map.y.indexOf(row)));
      if (isTight) {
        data = data.filter((trace) => trace.mode !== "text");
        Object.assign(layout.xaxis, { tickvals: map.x, ticktext: width < 26 ? map.x : map.x.map(wrapped), tickangle: -90 });
      }
    }
    if (!data.some((trace) => (trace.x || []).length && (trace.y || []).length)) {
      const text = "Nothing matches these filters.";
      layout.annotations = [{ text, showarrow: false, xref: "paper", yref: "paper", x: 0.5, y: 0.5 }];
    }
    const plot = figure.querySelector(".plot");
    Plotly.react(plot, data, layout, { responsive: true, displayModeBar: false, displaylogo: false });
  }

  // --- tabs ---

  function select(place, isAsked) {
    tabs.forEach((tab, at) => {
      tab.setAttribute("aria-selected", String(at === place));
      tab.tabIndex = at === place ? 0 : -1;
      panels[at].hidden = at !== place;
    });
    if (isAsked) {
      history.replaceState(null, "", `#${panels[place].id}`);
      const strip = tabs[place].parentElement;
      strip.scrollLeft = tabs[place].offsetLeft - strip.clientWidth / 3;
      if (panels[place].getBoundingClientRect().top < 0) panels[place].scrollIntoView();
    }
    show(panels[place]);
  }

  const current = () => tabs.findIndex((tab) => tab.getAttribute("aria-selected") === "true");
  const named = () => panels.findIndex((panel) => `#${panel.id}` === location.hash);

  tabs.forEach((tab, place) => {
    tab.addEventListener("click", () => select(place, true));
    tab.addEventListener("keydown", (event) => {
      const steps = { ArrowRight: place + 1, ArrowLeft: place - 1, Home: 0, End: tabs.length - 1 };
      if (!(event.key in steps)) return;
      event.preventDefault();
      const next = (steps[event.key] + tabs.length) % tabs.length;
      select(next, true);
      tabs[next].focus();
    });
  });
  for (const panel of panels) {
    panel.addEventListener("change", () => show(panel));
    panel.addEventListener("toggle", () => show(panel), true);
  }
  for (const query of [narrow, dark, touch]) query.addEventListener("change", () => show(panels[current()]));
  addEventListener("hashchange", () => named() >= 0 && select(named(), false));
  select(Math.max(named(), 0), false);
})();
