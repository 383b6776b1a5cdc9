"use strict";
// Reads what agents/viewer/packing.py wrote: numbers in one typed array, the last axis closest together.
async function inflated(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

async function unpacked({ shape, step, data }) {
  const bytes = await inflated(data);
  if (step === null) return new Float32Array(bytes.buffer);
  const values = new Float64Array(shape.reduce((product, length) => product * length, 1)), row = shape.at(-1);
  const perOne = Math.round(1 / step); // by which a multiple is the number that its decimals are read as
  let place = 0, multiple = 0;
  for (let number = 0; number < values.length; number += 1) {
    let written = 0, weight = 1, byte;
    do {
      byte = bytes[place];
      place += 1;
      written += (byte & 127) * weight;
      weight *= 128;
    } while (byte > 127);
    if (number % row === 0) multiple = 0;
    multiple += written % 2 ? -(written + 1) / 2 : written / 2;
    values[number] = step < 1 ? multiple / perOne : multiple * step;
  }
  return values;
}

// The same value with every packed array in it unpacked.
async function unpackedAll(held) {
  if (held === null || typeof held !== "object") return held;
  if (typeof held.data === "string" && Array.isArray(held.shape)) return unpacked(held);
  if (Array.isArray(held)) return Promise.all(held.map(unpackedAll));
  const entries = Object.entries(held).map(async ([key, value]) => [key, await unpackedAll(value)]);
  return Object.fromEntries(await Promise.all(entries));
}
