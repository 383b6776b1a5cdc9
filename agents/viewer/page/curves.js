"use strict";
// The whole episode at a glance: requests that wait for their first token. The area below is the sum of all TTFTs.
const LEFT = 44, RIGHT = 8, TOP = 12, BOTTOM = 18, OUT = 6;
const STEPS_S = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400];

class Curves {
  constructor(canvas, episodes, end_s) {
    this.canvas = canvas;
    this.episodes = episodes;
    this.end_s = end_s;
    canvas.setAttribute("aria-label", "Requests waiting for their first token, over the episode");
  }

  // Where an instant lies, in pixels from the left.
  across(t) {
    return LEFT + (this.width - LEFT - RIGHT) * (t / this.end_s);
  }

  // The mean number waiting in each of so many columns.
  columns({ waiting: { times, sums } }, num) {
    const means = new Float64Array(num), width_s = this.end_s / num;
    let event = 0;
    for (let column = 0; column < num; column += 1) {
      let from = column * width_s, area = 0;
      const until = from + width_s;
      while (event < times.length && times[event] < until) {
        area += sums[event] * (times[event] - from);
        from = times[event];
        event += 1;
      }
      means[column] = (area + sums[event] * (until - from)) / width_s;
    }
    return means;
  }

  draw() {
    const tones = colours(), { context, width, height } = fitted(this.canvas);
    this.width = width;
    const inner = Math.max(width - LEFT - RIGHT, 1), num = Math.max(Math.floor(inner), 1), base = height - BOTTOM;
    const curves = this.episodes.map((episode) => this.columns(episode, num));
    const most = Math.max(1, ...curves.map((means) => means.reduce((a, b) => Math.max(a, b))));
    context.clearRect(0, 0, width, height);
    context.font = "11px system-ui, sans-serif";
    context.fillStyle = tones.out;
    for (const [from, until] of this.outages()) {
      context.fillRect(this.across(from), 2, Math.max(this.across(until) - this.across(from), 2), OUT);
    }
    context.fillStyle = tones.soft;
    context.textAlign = "right";
    context.fillText(brief(most), LEFT - 6, TOP + 8);
    context.fillText("0", LEFT - 6, base);
    context.strokeStyle = tones.line;
    context.strokeRect(LEFT, base, inner, 0);
    context.textAlign = "center";
    const step = STEPS_S.find((each) => (inner * each) / this.end_s >= 56) ?? 86400;
    for (let t = 0; t <= this.end_s; t += step) {
      const label = clock(t).replace(/\.0$/, "");
      context.fillText(label, Math.min(Math.max(this.across(t), LEFT + 8), width - 16), height - 4);
      context.strokeRect(this.across(t), base, 0, 3);
    }
    curves.forEach((means, place) => {
      context.beginPath();
      means.forEach((mean, column) => context.lineTo(LEFT + column + 0.5, base - (base - TOP) * (mean / most)));
      context.strokeStyle = context.fillStyle = [tones.one, tones.other][place];
      context.lineWidth = 1.5;
      context.stroke();
      context.lineTo(LEFT + num, base);
      context.lineTo(LEFT, base);
      context.globalAlpha = 0.12;
      context.fill();
      context.globalAlpha = 1;
      context.lineWidth = 1;
    });
  }

  // Stretches of time in which some instance that had served did not.
  outages() {
    const found = [];
    for (const episode of this.episodes) {
      const { at_s } = episode.fleet;
      for (let instance = 0; instance < episode.numInstances; instance += 1) {
        let wasUp = false, since = null;
        for (let look = 0; look < at_s.length; look += 1) {
          const isUp = episode.status(instance, look) === "up";
          if (isUp && since !== null) {
            found.push([since, at_s[look]]);
            since = null;
          } else if (!isUp && wasUp && since === null) since = at_s[look];
          wasUp ||= isUp;
        }
        if (since !== null) found.push([since, at_s.at(-1)]);
      }
    }
    return found;
  }
}
