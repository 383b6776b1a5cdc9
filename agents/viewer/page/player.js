"use strict";
// Time, and who turns it: buttons, the scrubber, keys.
const SPEEDS = [0.25, 0.5, 1, 2, 5, 10, 20, 50, 100];
const WATCHED_S = 90; // an episode takes about so long at the speed at which it begins
const JUMP_S = 10;
const MOST_FRAME_S = 0.1;
const DETAIL_MS = 120; // between two looks at the decision in detail while time runs

class Player {
  constructor({ about, statuses, instance_features: features, request_features: requestFeatures, episodes }) {
    this.episodes = episodes.map((held) => new Episode(held, statuses, features));
    this.end_s = Math.max(...this.episodes.map(({ endedAt_s }) => endedAt_s));
    this.t = 0;
    this.focus = 0;
    this.isPlaying = false;
    this.detailedAt = -Infinity;
    this.last = this.episodes.map(() => -1); // decision of each that is shown
    this.tones = colours();
    const scales = laneScales(this.episodes);
    this.fleets = this.episodes.map((episode, place) => new Fleet(episode, place, scales));
    byId("fleets").append(...this.fleets.map(({ section }) => section));
    this.curves = new Curves(byId("curves"), this.episodes, this.end_s);
    this.decisions = new Decisions(byId("list"), byId("detail"), this.episodes, features, requestFeatures,
      (decision) => this.choose(decision));
    this.introduce(about);
    this.listen();
    this.setSpeed(SPEEDS.find((each) => each * WATCHED_S >= this.end_s) ?? SPEEDS.at(-1));
    this.fit();
    this.setFocus(0);
    this.recall();
  }

  introduce(about) {
    document.title = about.title;
    put(byId("title"), about.title);
    const names = this.episodes.map(({ policy }, place) => make("b", { class: `side${place}` }, policy));
    const key = (kind, words) => make("span", { class: "key" }, make("i", { class: kind }), words);
    byId("legend").append(
      make("span", { class: "key" }, "Waiting for a first token: ", ...names.flatMap((name, place) => (place ? [", ", name] : [name])),
        "; the area is the sum of all TTFTs"),
      key("wait", "prompt waiting"), key("late", "past its objective"), key("answer", "answer under way"), key("out", "instance out"),
    );
    const keys = "Keys: space plays; left and right go from decision to decision, with shift by 10 s; up and down change the speed; " +
      "n goes to the next late request; home and end; 1 and 2 choose whose decisions are listed.";
    const { at_s: looks } = this.episodes[0].fleet;
    const seen = about.is_replayed
      ? `Running, waiting and KV cache are the engines' own, looked at every ${seconds(looks[1] - looks[0])}; features are as old as the policy had them.`
      : "Running, waiting and KV cache are as the router had scraped them at its last decision; nobody else looked.";
    byId("about").append(
      ...[
        `Requests: ${about.notes.join("; ")}. All count here, also those of the first ${about.warmup_s} s, which the run's own table leaves out.`,
        seen, keys,
      ].map((text) => make("p", {}, text)),
      make("p", {}, "Made by ", make("code", {}, about.command)),
    );
  }

  listen() {
    const on = (id, event, act) => byId(id).addEventListener(event, act);
    on("play", "click", () => this.toggle());
    on("back", "click", () => this.step(-1));
    on("forward", "click", () => this.step(1));
    on("late", "click", () => this.toNextLate());
    on("scrub", "input", () => this.moveTo((this.end_s * byId("scrub").value) / byId("scrub").max));
    byId("speed").append(...SPEEDS.map((each) => make("option", { value: each }, `${each}×`)));
    on("speed", "change", () => this.setSpeed(Number(byId("speed").value)));
    this.fleets.forEach(({ button }, place) => button.addEventListener("click", () => this.setFocus(place)));
    document.addEventListener("keydown", (event) => this.key(event));
    const scheme = matchMedia("(prefers-color-scheme: dark)");
    scheme.addEventListener("change", () => { this.tones = colours(); this.fit(); this.show(); });
    new ResizeObserver(() => { this.fit(); this.show(); }).observe(byId("fleets"));
    addEventListener("hashchange", () => this.recall());
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.tagName === "SELECT") return;
    const speed = SPEEDS.indexOf(this.speed);
    const acts = {
      " ": () => this.toggle(),
      ArrowLeft: () => (event.shiftKey ? this.moveTo(this.t - JUMP_S) : this.step(-1)),
      ArrowRight: () => (event.shiftKey ? this.moveTo(this.t + JUMP_S) : this.step(1)),
      ArrowUp: () => this.setSpeed(SPEEDS[Math.min(speed + 1, SPEEDS.length - 1)]),
      ArrowDown: () => this.setSpeed(SPEEDS[Math.max(speed - 1, 0)]),
      Home: () => this.moveTo(0),
      End: () => this.moveTo(this.end_s),
      n: () => this.toNextLate(),
      1: () => this.setFocus(0),
      2: () => this.setFocus(this.episodes.length - 1),
    };
    if (!acts[event.key]) return;
    event.preventDefault(); // the scrubber has keys of its own, buttons the space bar
    acts[event.key]();
  }

  setSpeed(speed) {
    this.speed = speed;
    byId("speed").value = String(speed);
  }

  setFocus(place) {
    this.focus = place;
    this.fleets.forEach(({ button }, each) => button.setAttribute("aria-pressed", String(each === place)));
    this.show();
  }

  toggle() {
    this.isPlaying = !this.isPlaying;
    byId("play").classList.toggle("on", this.isPlaying);
    byId("play").setAttribute("aria-label", this.isPlaying ? "Pause" : "Play");
    if (!this.isPlaying) {
      this.remember();
      this.show();
      return;
    }
    if (this.t >= this.end_s) this.moveTo(0);
    let before = performance.now();
    const frame = (now) => {
      if (!this.isPlaying) return;
      const passed_s = Math.min((now - before) / 1000, MOST_FRAME_S);
      before = now;
      this.moveTo(this.t + this.speed * passed_s);
      if (this.t >= this.end_s) this.toggle();
      else requestAnimationFrame(frame);
    };
    requestAnimationFrame(frame);
  }

  moveTo(t) {
    this.t = Math.min(Math.max(t, 0), this.end_s);
    this.last = this.episodes.map((episode) => episode.decisionAt(this.t));
    this.show();
  }

  // To the instant of a decision of the policy in focus, of several at one instant to this one.
  choose(decision) {
    if (this.isPlaying) this.toggle();
    const { at_s, num } = this.episodes[this.focus], place = Math.min(Math.max(decision, 0), num - 1);
    this.moveTo(at_s[place]);
    this.last[this.focus] = place;
    this.remember();
    this.show();
  }

  // So that the page's address leads to this instant.
  remember() {
    history.replaceState(null, "", `#t=${this.t.toFixed(4)}`);
  }

  recall() {
    this.moveTo(Number(new URLSearchParams(location.hash.slice(1)).get("t")) || 0);
  }

  step(by) {
    const next = this.last[this.focus] + by;
    if (next >= -1) this.choose(next); // before the first there is none to go back to
  }

  toNextLate() {
    const { slo_met: met, num } = this.episodes[this.focus];
    for (let each = this.last[this.focus] + 1; each < num; each += 1) {
      if (!met[each]) {
        this.choose(each);
        return;
      }
    }
  }

  fit() {
    this.fleets.forEach((fleet) => fleet.rows.forEach((row) => row.fit()));
    this.curves.draw();
  }

  show() {
    this.fleets.forEach((fleet, place) => fleet.show(this.t, this.last[place], this.tones));
    const now = performance.now();
    if (!this.isPlaying || now - this.detailedAt > DETAIL_MS) {
      this.decisions.show(this.focus, this.last[this.focus]);
      this.detailedAt = now;
    }
    const scrub = byId("scrub"), told = `${clock(this.t)} / ${clock(this.end_s)}`;
    scrub.value = Math.round((scrub.max * this.t) / this.end_s);
    scrub.setAttribute("aria-valuetext", told);
    put(byId("clock"), told);
  }
}

let player = null; // for the console, and for tests

unpackedAll(JSON.parse(byId("data").textContent)).then(
  (data) => { player = new Player(data); },
).catch((error) => {
  put(byId("trouble"), `This page cannot be shown: ${error.message}. It needs a browser of 2023 or later.`);
  byId("trouble").hidden = false;
  throw error;
});
