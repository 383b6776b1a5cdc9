"use strict";
// What can be told of an episode at any instant.

// How many of the ascending times are past at t.
function numBy(times, t) {
  let low = 0, high = times.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (times[middle] <= t) low = middle + 1;
    else high = middle;
  }
  return low;
}

// Running totals: of(t) is the sum of what came by t, of [time, amount].
function totals(pairs) {
  const sorted = [...pairs].sort((one, other) => one[0] - other[0]);
  const times = Float64Array.from(sorted, ([time]) => time), sums = new Float64Array(sorted.length + 1);
  sorted.forEach(([, amount], place) => { sums[place + 1] = sums[place] + amount; });
  return { times, sums, of: (t) => sums[numBy(times, t)] };
}

class Episode {
  constructor(held, statuses, features) {
    Object.assign(this, held, held.decisions);
    this.statuses = statuses;
    this.num = this.at_s.length;
    this.numInstances = this.names.length;
    this.cachedShare = this.instances[features.findIndex(({ name }) => name === "frac_prefix_hit")];
    this.of = this.names.map(() => []); // instance -> its decisions
    this.instance.forEach((instance, decision) => this.of[instance].push(decision));
    this.endedAt_s = Math.max(...[this.ended_at_s, this.at_s, this.fleet.at_s].map((all) => all.reduce((a, b) => Math.max(a, b))));
    const last = [...this.at_s.keys()].filter((decision) => !this.is_retried[decision]); // of each request
    const told = (decisions, time, amount) => totals(decisions.map((each) => [time(each), amount(each)]));
    const one = () => 1, ended = (each) => this.ended_at_s[each];
    const known = (each) => (this.ttft_s[each] < 0 ? ended(each) : this.arrived_at_s[each] + this.ttft_s[each]);
    const served = last.filter((each) => !this.failure[each]);
    this.numServed = told(served, known, one);
    this.sumTtft_s = told(served, known, (each) => this.ttft_s[each]);
    this.numTokens = told(last, known, (each) => this.num_prompt_tokens[each]);
    this.numCached = told(last, known, (each) => this.num_cached_tokens[each]);
    const isTooLate = (each) => this.ttft_s[each] < 0 || this.ttft_s[each] > this.slo_ttft_s[each];
    const judged = (each) => Math.min(ended(each), isTooLate(each) ? this.arrived_at_s[each] + this.slo_ttft_s[each] : Infinity);
    this.numJudged = told(last, judged, one);
    this.numMet = told(last, judged, (each) => this.slo_met[each]);
    this.numFailed = told(last.filter((each) => this.failure[each]), ended, one);
    this.numRetried = told([...this.at_s.keys()].filter((each) => this.is_retried[each]), ended, one);
    this.waiting = totals(last.flatMap((each) => [[this.arrived_at_s[each], 1], [known(each), -1]]));
  }

  // The last decision by t; -1 before the first.
  decisionAt(t) {
    return numBy(this.at_s, t) - 1;
  }

  // The last look at the fleet by t.
  lookAt(t) {
    return Math.max(numBy(this.fleet.at_s, t) - 1, 0);
  }

  ofFleet(name, instance, look) {
    return this.fleet[name][instance * this.fleet.at_s.length + look];
  }

  status(instance, look) {
    return this.statuses[this.ofFleet("status", instance, look)];
  }

  // A value of an instance at a decision, of an array [num_instances, num_decisions].
  seen(array, instance, decision) {
    return array[instance * this.num + decision];
  }

  isWaiting(decision, t) {
    return this.ttft_s[decision] < 0 || t < this.arrived_at_s[decision] + this.ttft_s[decision];
  }

  isLate(decision, t) {
    return t - this.arrived_at_s[decision] > this.slo_ttft_s[decision];
  }

  // Prompt tokens that its instance has to compute.
  numToCompute(decision) {
    return this.num_prompt_tokens[decision] - this.num_cached_tokens[decision];
  }

  // Calls back with each decision whose request the instance has at t, the oldest first.
  inFlight(instance, t, callback) {
    for (const decision of this.of[instance]) {
      if (this.at_s[decision] > t) return;
      if (this.ended_at_s[decision] > t) callback(decision);
    }
  }

  // The place of the chosen instance's score among those that could be chosen, from 1, and their number.
  rank(decision) {
    const score = (instance) => this.seen(this.scores, instance, decision);
    const own = score(this.instance[decision]);
    const others = this.names.map((_, instance) => instance).filter((each) => this.seen(this.mask, each, decision));
    return [1 + others.filter((each) => score(each) > own).length, others.length];
  }
}
