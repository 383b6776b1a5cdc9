"use strict";
// The decisions, one by one: a list around the present one, and all that is known of that.
const NUM_ROWS = 21;
const CLASSES = {
  scraped: "as scraped from the instance",
  router: "counted by the router",
  profile: "known before the first request",
};

class Decisions {
  constructor(list, detail, episodes, features, requestFeatures, choose) {
    Object.assign(this, { list, detail, episodes, features, requestFeatures, choose });
    this.shown = [null, null];
    this.title = make("h2", {});
    this.body = make("tbody", {});
    this.head = make("thead", {});
    list.append(this.title, make("div", { class: "wide" }, make("table", {}, this.head, this.body)));
  }

  // Shows a decision of the policy at a place; -1: there is none yet.
  show(place, decision) {
    if (this.shown[0] === place && this.shown[1] === decision) return;
    this.shown = [place, decision];
    for (const part of [this.list, this.detail]) {
      part.classList.toggle("side0", place === 0);
      part.classList.toggle("side1", place === 1);
    }
    this.showList(place, decision);
    this.showDetail(place, Math.max(decision, 0), decision < 0);
  }

  showList(place, decision) {
    const episode = this.episodes[place], other = this.episodes[1 - place];
    put(this.title, `Decisions of ${episode.policy}`);
    const number = (name) => make("th", { scope: "col", class: "number" }, name);
    const fate = () => [make("th", { scope: "col", class: "sent" }, "sent to"), number("TTFT")];
    const policy = (each, side) => make("th", { colspan: 2, scope: "colgroup", class: `sent of${side}` }, each.policy);
    this.head.replaceChildren(
      make("tr", {}, make("td", { colspan: 4 }), policy(episode, place), ...(other ? [policy(other, 1 - place)] : [])),
      make("tr", {}, number(""), number("at"), number("prompt"), number("cached"), ...fate(), ...(other ? fate() : [])),
    );
    const first = Math.max(0, Math.min(decision - (NUM_ROWS >> 1), episode.num - NUM_ROWS));
    const rows = [];
    for (let each = first; each < Math.min(first + NUM_ROWS, episode.num); each += 1) {
      const cells = [
        make("td", { class: "number quiet" }, make("button", { "aria-label": `Decision ${each}` }, String(each))),
        make("td", { class: "number" }, clock(episode.at_s[each])),
        make("td", { class: "number" }, brief(episode.num_prompt_tokens[each])),
        make("td", { class: "number" }, share(episode.num_cached_tokens[each] / episode.num_prompt_tokens[each])),
        make("td", { class: "sent" }, short(episode.names[episode.instance[each]]), this.again(episode, each)),
        this.ttft(episode, each),
      ];
      const partner = episode.partner[each];
      if (other && partner >= 0) {
        const alike = other.instance[partner] === episode.instance[each];
        cells.push(make("td", { class: alike ? "sent quiet" : "sent" }, short(other.names[other.instance[partner]])), this.ttft(other, partner));
      } else if (other) cells.push(make("td", { class: "sent" }, NOTHING), make("td", { class: "number" }, NOTHING));
      const row = make("tr", each === decision ? { class: "now", "aria-current": "true" } : {}, ...cells);
      row.addEventListener("click", () => this.choose(each));
      rows.push(row);
    }
    this.body.replaceChildren(...rows);
  }

  again(episode, decision) {
    const number = episode.num_retries[decision];
    return number ? make("span", { class: "badge", title: "Sent again after a failure" }, `again${number > 1 ? ` ${number}` : ""}`) : "";
  }

  ttft(episode, decision) {
    if (episode.failure[decision]) {
      const text = episode.is_retried[decision] ? "failed, sent again" : "failed";
      return make("td", { class: "number late", title: episode.failures[episode.failure[decision]] }, text);
    }
    const value = episode.ttft_s[decision];
    return make("td", { class: value > episode.slo_ttft_s[decision] ? "number late" : "number" }, seconds(value));
  }

  showDetail(place, decision, isBefore) {
    const episode = this.episodes[place], other = this.episodes[1 - place];
    const request = `request ${whole(episode.request_id[decision])}`;
    const turn = episode.turn[decision] > 1 ? `, turn ${episode.turn[decision]} of its session` : "";
    const router = episode.router.some((each) => each > 0) ? ` on router ${episode.router[decision]}` : "";
    const name = short(episode.names[episode.instance[decision]]);
    const said = [
      `${isBefore ? "The first to come" : "At"} ${clock(episode.at_s[decision])}${router}, ${request}${turn}: ` +
        `${whole(episode.num_prompt_tokens[decision])} prompt tokens, sent to ${name}. ${this.thought(episode, decision)}`,
      this.outcome(episode, decision),
    ];
    const partner = episode.partner[decision];
    if (other && partner >= 0) {
      const elsewhere = short(other.names[other.instance[partner]]);
      said.push(`${other.policy} sent it to ${elsewhere}: ${this.fate(other, partner)}.`);
    }
    const features = this.requestFeatures.slice(1).map((feature, number) =>
      `${plain(feature.name)} ${measured(episode.request[number + 1][decision], feature)}`);
    said.push(`Seen of the request: ${features.join(", ")}.`);
    this.detail.replaceChildren(
      make("h2", {}, `Decision ${whole(decision)} of ${episode.policy}`),
      ...said.map((text) => make("p", {}, text)),
      make("div", { class: "wide" }, this.table(episode, decision)),
    );
  }

  thought(episode, decision) {
    const [rank, number] = episode.rank(decision), chance = episode.propensity[decision];
    const sure = chance > 0.9995 ? "" : `, chosen with probability ${Number(chance.toPrecision(2))}`;
    if (number === 1) return `No other could be chosen.`;
    if (rank === 1) return `Its score was the best of ${number}${sure}.`;
    return `Its score was only the ${ordinal(rank)} of ${number}${sure}: chance, exploration or a fallback decided.`;
  }

  outcome(episode, decision) {
    const accepted = `accepted: ${seconds(episode.slo_ttft_s[decision])}`;
    if (episode.failure[decision]) {
      const next = episode.is_retried[decision] ? ", and it was sent again" : "";
      return `It failed at ${clock(episode.ended_at_s[decision])} (${episode.failures[episode.failure[decision]]})${next}.`;
    }
    const cached = share(episode.num_cached_tokens[decision] / episode.num_prompt_tokens[decision]);
    const preempted = episode.num_preemptions[decision];
    return `Outcome: ${this.fate(episode, decision)} (${accepted}); ${cached} of the prompt was cached there; ` +
      `${whole(episode.num_output_tokens[decision])} tokens at ${seconds(episode.tpot_s[decision])} each, ` +
      `done at ${clock(episode.ended_at_s[decision])}${preempted ? `, preempted ${preempted} times` : ""}.`;
  }

  fate(episode, decision) {
    if (episode.failure[decision]) return `it failed (${episode.failures[episode.failure[decision]]})`;
    return `first token after ${seconds(episode.ttft_s[decision])}`;
  }

  table(episode, decision) {
    const instances = [...episode.names.keys()], chosen = episode.instance[decision];
    const kind = (instance) =>
      `number${instance === chosen ? " chosen" : ""}${episode.seen(episode.mask, instance, decision) ? "" : " masked"}`;
    const line = (name, title, values, form) => {
      const finite = values.filter(Number.isFinite), least = Math.min(...finite), most = Math.max(...finite);
      return make("tr", {}, make("th", { scope: "row", title }, name), ...values.map((value, instance) => {
        const cell = make("td", { class: kind(instance) }, form(value, instance));
        if (most > least && Number.isFinite(value)) cell.style.setProperty("--heat", ((value - least) / (most - least)).toFixed(2));
        return cell;
      }));
    };
    const of = (array) => instances.map((instance) => episode.seen(array, instance, decision));
    const head = make("tr", {}, make("th", { scope: "col" }, ""), ...instances.map((instance) =>
      make("th", { scope: "col", class: kind(instance), title: episode.names[instance] }, short(episode.names[instance]))));
    const rows = [
      line("score", "The higher the better; only the order counts", of(episode.scores),
        (value, instance) => (episode.seen(episode.mask, instance, decision) ? score(value) : "masked")),
      line("probability", "Of choosing it", of(episode.propensities), (value) => `${Number(value.toFixed(3))}`),
    ];
    for (const [staleness, words] of Object.entries(CLASSES)) {
      rows.push(make("tr", { class: "class" }, make("th", { colspan: instances.length + 1, scope: "colgroup" }, words)));
      this.features.forEach((feature, number) => {
        if (feature.staleness !== staleness) return;
        const unit = ["1", "0 or 1", "s"].includes(feature.unit) ? "" : `, ${feature.unit}`;
        rows.push(line(plain(feature.name), `${feature.name}: ${feature.source}${unit}`, of(episode.instances[number]), (value) => measured(value, feature)));
      });
    }
    return make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows));
  }
}
