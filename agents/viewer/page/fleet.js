"use strict";
// One policy's fleet at an instant: a row per instance, and how its users fare.
const FIGURES = {
  ttft: ["mean TTFT", "Of all requests that were served and have had their first token by now"],
  waiting: ["waiting now", "Requests that wait for their first token"],
  met: ["SLO met", "Requests served within their objective, of those that are done, or past it, by now"],
  cached: ["cached", "Prompt tokens found in prefix caches by now, of all"],
  failed: ["failed, sent again", "Requests that failed for good by now, and attempts that failed and were made again"],
};
const COLUMNS = [
  ["instance", "", "What it is, and whether it is up"],
  ["prompts", "lane", "Requests before their first token, each as wide as the prompt tokens that it has to compute; below them a mark for each answer under way"],
  ["running", "number", "Requests in the engine's batch"],
  ["waiting", "number", "Requests in the engine's queue"],
  ["KV cache", "gauge", "Share of the KV cache in use"],
  ["cached", "gauge", "Share of the last request's prompt that is cached there, as the router believes"],
  ["score", "gauge", "What the policy thought of each instance for the last request; the higher the better, and only the order counts"],
];
const MARK = 4; // pixels from one answer to the next, where there is room
const QUANTILE = 0.98;

// Scales that all lanes have in common: prompt tokens to a lane's width, answers to it. What is beyond is told.
function laneScales(episodes) {
  const loads = [];
  let mostAnswers = 1;
  for (const episode of episodes) {
    const { at_s } = episode.fleet, every = Math.max(1, Math.floor(at_s.length / 300));
    for (let look = 0; look < at_s.length; look += every) {
      for (let instance = 0; instance < episode.numInstances; instance += 1) {
        let load = 0, answers = 0;
        episode.inFlight(instance, at_s[look], (decision) => {
          if (episode.isWaiting(decision, at_s[look])) load += episode.numToCompute(decision);
          else answers += 1;
        });
        if (load > 0) loads.push(load);
        mostAnswers = Math.max(mostAnswers, answers);
      }
    }
  }
  loads.sort((one, other) => one - other);
  const wanted = loads.length ? loads[Math.floor(QUANTILE * (loads.length - 1))] : 1;
  const power = 10 ** Math.floor(Math.log10(wanted));
  return { tokens: power * [1, 2, 5, 10].find((each) => each * power >= wanted), answers: mostAnswers };
}

class Fleet {
  constructor(episode, place, scales) {
    this.episode = episode;
    this.scales = scales;
    this.decision = this.look = null;
    this.numbers = {};
    const figures = Object.entries(FIGURES).map(([name, [label, title]]) => {
      this.numbers[name] = make("dd", {}, NOTHING);
      return make("div", { title }, make("dt", {}, label), this.numbers[name]);
    });
    this.failed = figures.at(-1);
    this.failed.hidden = !episode.numFailed.times.length && !episode.numRetried.times.length;
    this.button = make("button", { "aria-pressed": "false", title: `Show the decisions of ${episode.policy} (${place + 1})` });
    this.button.append(episode.policy);
    const head = make("tr", {}, ...COLUMNS.map(([name, kind, title]) => make("th", { scope: "col", class: kind, title }, name)));
    head.children[1].append(`, to ${brief(scales.tokens)} tokens`, make("br"), "answers under way");
    this.rows = episode.names.map((name) => new Row(name));
    this.section = make("section", { class: `fleet side${place}`, "aria-label": `Fleet of ${episode.policy}` },
      make("div", { class: "head" }, make("h2", {}, this.button), make("dl", {}, ...figures)),
      make("div", { class: "wide" }, make("table", {}, make("thead", {}, head), make("tbody", {}, ...this.rows.map((row) => row.line)))));
    if (episode.numInstances > 16) this.section.classList.add("many");
  }

  show(t, decision, tones) {
    const { episode } = this, look = episode.lookAt(t);
    if (look !== this.look) this.rows.forEach((row, instance) => row.showEngine(episode, instance, look));
    this.rows.forEach((row, instance) => row.draw(episode, instance, t, this.scales, tones));
    if (decision !== this.decision) this.showDecision(decision);
    const served = episode.numServed.of(t), judged = episode.numJudged.of(t), tokens = episode.numTokens.of(t);
    put(this.numbers.ttft, served ? seconds(episode.sumTtft_s.of(t) / served) : NOTHING);
    put(this.numbers.waiting, whole(episode.waiting.of(t)));
    put(this.numbers.met, judged ? share(episode.numMet.of(t) / judged) : NOTHING);
    put(this.numbers.cached, tokens ? share(episode.numCached.of(t) / tokens) : NOTHING);
    put(this.numbers.failed, `${whole(episode.numFailed.of(t))}, ${whole(episode.numRetried.of(t))}`);
    this.decision = decision;
    this.look = look;
  }

  showDecision(decision) {
    const { episode } = this;
    if (decision < 0) {
      this.rows.forEach((row) => row.forget());
      return;
    }
    const scores = this.rows.map((_, instance) => episode.seen(episode.scores, instance, decision));
    const finite = scores.filter(Number.isFinite), least = Math.min(...finite), most = Math.max(...finite);
    this.rows.forEach((row, instance) => row.showThought(
      episode.instance[decision] === instance,
      Boolean(episode.seen(episode.mask, instance, decision)),
      episode.seen(episode.cachedShare, instance, decision),
      scores[instance],
      most > least ? (scores[instance] - least) / (most - least) : 1,
    ));
  }
}

class Row {
  constructor(name) {
    this.status = make("span", { class: "status" });
    this.lane = make("canvas", { role: "presentation" });
    this.running = make("td", { class: "number" });
    this.waiting = make("td", { class: "number" });
    [this.kv, this.cached, this.score] = [0, 1, 2].map(() => new Gauge());
    this.line = make("tr", {}, make("th", { scope: "row", title: name }, short(name), this.status),
      make("td", { class: "lane" }, this.lane), this.running, this.waiting,
      this.kv.cell, this.cached.cell, this.score.cell);
  }

  showEngine(episode, instance, look) {
    const status = episode.status(instance, look), slowdown = episode.ofFleet("slowdown", instance, look);
    const isUp = status === "up", isSlow = slowdown > 1.005;
    this.isOut = status === "down" || status === "absent" || status === "starting";
    this.line.classList.toggle("out", !isUp);
    this.line.classList.toggle("slow", isSlow);
    put(this.status, isUp ? (isSlow ? `${Number(slowdown.toPrecision(3))}× slower` : "") : status);
    put(this.running, whole(episode.ofFleet("num_running", instance, look)));
    put(this.waiting, whole(episode.ofFleet("num_waiting", instance, look)));
    const usage = episode.ofFleet("frac_kv_cache_usage", instance, look);
    this.kv.show(share(usage), usage);
  }

  showThought(isChosen, mayBe, cached, value, height) {
    this.line.classList.toggle("chosen", isChosen);
    this.line.classList.toggle("masked", !mayBe);
    this.cached.show(share(cached), cached);
    this.score.show(mayBe ? score(value) : "masked", mayBe && Number.isFinite(value) ? height : 0);
  }

  forget() {
    this.line.classList.remove("chosen", "masked");
    this.cached.show(NOTHING, 0);
    this.score.show(NOTHING, 0);
  }

  // Sizes are asked for when the page changes its own, not in every frame.
  fit() {
    Object.assign(this, fitted(this.lane));
  }

  draw(episode, instance, t, scales, tones) {
    const { context, width, height } = this;
    const above = Math.round(0.58 * height), below = above + 2, mark = Math.min(MARK, width / scales.answers);
    const markWidth = mark < 2.5 ? mark : mark - 1; // no gaps where they would be all one sees
    context.clearRect(0, 0, width, height);
    if (this.isOut) {
      context.fillStyle = tones.out;
      context.fillRect(0, 0, width, height);
    }
    let tokens = 0, answers = 0, beyond = 0;
    episode.inFlight(instance, t, (decision) => {
      if (!episode.isWaiting(decision, t)) {
        context.fillStyle = tones.answer;
        context.fillRect(answers * mark, below, markWidth, height - below);
        answers += 1;
        return;
      }
      const from = (width * tokens) / scales.tokens;
      tokens += episode.numToCompute(decision);
      beyond += from >= width;
      const until = Math.max((width * tokens) / scales.tokens, from + 2);
      context.fillStyle = episode.isLate(decision, t) ? tones.late : tones.wait;
      context.fillRect(from, 0, Math.max(until - from - 1, 1), above);
    });
    if (beyond || tokens > scales.tokens) {
      const text = `${brief(tokens)} tokens ›`;
      context.font = "600 10px system-ui, sans-serif";
      context.textAlign = "right";
      context.fillStyle = tones.card;
      context.fillRect(width - context.measureText(text).width - 8, 0, width, above);
      context.fillStyle = tones.late;
      context.fillText(text, width - 3, above - 3);
    }
  }
}

class Gauge {
  constructor() {
    this.bar = make("i", {});
    this.text = make("span", {});
    this.cell = make("td", { class: "gauge" }, this.bar, this.text);
  }

  show(text, part) {
    put(this.text, text);
    this.bar.style.transform = `scaleX(${Math.min(Math.max(part, 0), 1).toFixed(3)})`;
  }
}
